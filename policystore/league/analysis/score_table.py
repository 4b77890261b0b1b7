"""Tell the mean returns of groups of players that played together: for cooperative games."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from policystore._util.messages import counted, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.display.pretty import print_text
from policystore.format.records.matches import MatchTotal, Returns
from policystore.league.analysis.counting import check_env, check_refs, is_wanted, list_totals
from policystore.league.analysis.intervals import (
    as_float,
    check_confidence,
    mean_interval,
    standard_error,
    student_quantile,
)
from policystore.league.analysis.labels import player_labels

__all__ = ["Score", "Scores", "scores"]

_MAX_SHOWN, _MAX_SHOWN_HTML = 20, 50


@dataclass(frozen=True)
class Score:
    """The mean return of one group of players.

    Attributes:
        players: role -> player.
        env: id of the environment.
        env_digest: digest of the environment.
        episodes: number of episodes with known returns: the smallest number of any role.
        mean: the mean over the roles of the roles' mean returns.
        low, high: the ends of its interval.
    """

    players: Mapping[str, str]
    env: str
    env_digest: str
    episodes: int
    mean: float
    low: float
    high: float


class Scores(list[Score]):
    """Hold the scores of groups, the highest first.

    Args:
        scores: the scores.
        refs: player -> ref.

    Attributes:
        refs: player -> ref.
    """

    def __init__(self, scores: Iterable[Score] = (), *, refs: Mapping[str, str] | None = None):
        super().__init__(scores)
        self.refs = dict(refs or {})

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each group, for ``pandas.DataFrame(records)``.

        The keys are ``players`` and ``refs`` (dicts with the roles as keys), ``env``,
        ``env_digest``, ``episodes``, ``mean_return``, ``low``, ``high``.
        """
        return [
            {
                "players": dict(each.players),
                "refs": {role: self.refs.get(player) for role, player in each.players.items()},
                "env": each.env,
                "env_digest": each.env_digest,
                "episodes": each.episodes,
                "mean_return": each.mean,
                "low": each.low,
                "high": each.high,
            }
            for each in self
        ]

    def __repr__(self) -> str:
        return f"<Scores: {counted(len(self), 'group')}>"

    _repr_pretty_ = print_text

    def _rows(self, most: int) -> list[list[str]]:
        shown = self[:most]
        players = dict.fromkeys(player for each in shown for player in each.players.values())
        labels = player_labels(tuple(players), self.refs)
        return [
            [
                ", ".join(f"{role}: {labels[player]}" for role, player in each.players.items()),
                each.env,
                f"{each.mean:.4g}",
                f"{each.low:.4g} to {each.high:.4g}",
                f"{each.episodes:,}",
            ]
            for each in shown
        ]

    def _rest(self, most: int) -> list[str]:
        if not self:
            return ["no known returns"]
        return [f"and {counted(len(self) - most, 'group')} more"] if len(self) > most else []

    def __str__(self) -> str:
        head = ["players", "environment", "mean return", "interval", "episodes"]
        lines = [text_table(head, self._rows(_MAX_SHOWN), {2, 3, 4})] if self else []
        return "\n".join([*lines, *self._rest(_MAX_SHOWN)])

    def _repr_html_(self) -> str:
        rows: list[list[str | Html | Cell]] = [
            [players, env, *(Cell(text, number=True) for text in numbers)]
            for players, env, *numbers in self._rows(_MAX_SHOWN_HTML)
        ]
        head = ["players", "environment", "mean return", "interval", "episodes"]
        parts = [table(head, rows)] if rows else []
        return block(
            [*parts, *(line(fact, faint=True) for fact in self._rest(_MAX_SHOWN_HTML))]
        ).source


def scores(
    totals: Iterable[MatchTotal],
    *,
    env: str | None = None,
    refs: Mapping[str, str] = MappingProxyType({}),
    confidence: float = 0.95,
) -> Scores:
    """Return the mean return of each group of players, for games that are played together.

    A group is the same players in the same roles of the same environment. Its score is the mean
    over its roles. The interval is Student's. If all roles get the same return, as in a cooperative
    game, the interval is exact. Else it is at least as wide as the right one, because the ledger
    does not know how the roles' returns vary together.

    Args:
        totals: the totals of a league.
        env: id or digest of the environment whose episodes count; None for all environments.
        refs: player -> ref, a label for reports.
        confidence: the confidence level of the intervals.

    Raises:
        InvalidInputError: an argument has the wrong form.
    """
    check_refs(refs)
    check_confidence(confidence)
    env = check_env(env)
    sums: dict[tuple[tuple[tuple[str, str], ...], str, str], dict[str, Returns]] = {}
    for total in list_totals(totals):
        if not is_wanted(total, env):
            continue
        group = (tuple(sorted(total.players.items())), total.env, total.env_digest)
        known = sums.setdefault(group, {})
        for role, more in total.returns.items():
            had = known.get(role, Returns(0, Fraction(0), Fraction(0)))
            known[role] = Returns(
                had.episodes + more.episodes, had.sum + more.sum, had.squares + more.squares
            )
    found = []
    for (players, env_id, digest), by_role in sorted(sums.items(), key=lambda each: each[0]):
        returns = [by_role[role] for role in sorted(by_role) if by_role[role].episodes]
        if returns:
            found.append(_score(dict(players), env_id, digest, returns, confidence))
    found.sort(key=lambda each: -each.mean)
    return Scores(found, refs=refs)


def _score(
    players: dict[str, str], env: str, digest: str, returns: list[Returns], confidence: float
) -> Score:
    episodes = min(each.episodes for each in returns)
    if len(returns) == 1:
        only = returns[0]
        mean, low, high = mean_interval(only.episodes, only.sum, only.squares, confidence)
        return Score(players, env, digest, episodes, mean, low, high)
    means = [each.sum / each.episodes for each in returns]
    mean = as_float(sum(means, Fraction(0)) / len(means))
    reach = float("inf")
    if episodes > 1:
        errors = [standard_error(each.episodes, each.sum, each.squares) for each in returns]
        reach = student_quantile(confidence, episodes - 1) * sum(errors) / len(errors)
    return Score(players, env, digest, episodes, mean, mean - reach, mean + reach)
