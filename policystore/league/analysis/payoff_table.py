"""Count how often each player of a league beat each other player."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from policystore.format.records.matches import MatchTotal
from policystore.league.analysis.counting import (
    Entry,
    PairCounts,
    check_env,
    check_refs,
    count_pairs,
)
from policystore.league.analysis.intervals import check_confidence, mean_of
from policystore.league.analysis.labels import find_players
from policystore.league.analysis.payoff_values import Payoffs, fixed

__all__ = ["payoffs", "results_of"]


def payoffs(
    totals: Iterable[MatchTotal],
    *,
    env: str | None = None,
    refs: Mapping[str, str] = MappingProxyType({}),
    players: Sequence[str] | None = None,
    by_role: bool = False,
    confidence: float = 0.95,
) -> Payoffs:
    """Return how often each player beat each other player.

    Each episode counts for each pair of its sides; a side is a team, or a role without a team. For
    such a pair, each player of the one side has a win, draw or loss against each player of the
    other side, by the ranks. A player with several roles of one side counts once. Two sides without
    a rank are not compared, because their order is unknown. Results of a player against itself are
    counted in ``with_itself`` alone. Episodes of cooperative environments have no results; see
    :func:`~policystore.league.analysis.scores`.

    The result is the same, bit for bit, for each order of the totals and on each machine. The
    intervals are those of :func:`~policystore.league.analysis.win_rate_interval`.

    Args:
        totals: the totals of a league.
        env: id or digest of the environment whose episodes count; None for all environments.
        refs: player -> ref, a label for reports.
        players: ids or refs of the players that the result has, in this order; others are left out,
            and a player without results has an empty row. None for all players, sorted by id.
        by_role: keep the roles of a player apart: then ``white`` and ``black`` of one policy are
            two players, which may also meet. For games in which roles differ.
        confidence: the confidence level of the intervals.

    Raises:
        InvalidInputError: an argument has the wrong form, a total contradicts itself, or a number
            of episodes is above 2^52.
        NotFoundError: ``players`` has a text that is neither an id nor a ref.
    """
    check_refs(refs)
    check_confidence(confidence)
    counts = count_pairs(totals, env=check_env(env), by_role=by_role)
    entries = sorted(counts.entries)
    if players is not None:
        known = {player for player, _ in entries}
        chosen = find_players(players, known, refs, what="players", unknown_ids=True)
        entries = _chosen(chosen, entries, by_role)
    return _table(counts, entries, refs, confidence, by_role)


def results_of(
    totals: Iterable[MatchTotal], *, env: str | None, refs: Mapping[str, str]
) -> Payoffs:
    """Do what :func:`payoffs` does, without returns: they take as long as all the rest."""
    check_refs(refs)
    counts = count_pairs(totals, env=env, with_returns=False)
    return _table(counts, sorted(counts.entries), refs, 0.95, False)


def _chosen(players: Sequence[str], entries: Sequence[Entry], by_role: bool) -> list[Entry]:
    if not by_role:
        return [(player, "") for player in players]
    places = {player: place for place, player in enumerate(players)}
    kept = [entry for entry in entries if entry[0] in places]
    return sorted(kept, key=lambda entry: (places[entry[0]], entry[1]))


def _table(
    counts: PairCounts,
    entries: Sequence[Entry],
    refs: Mapping[str, str],
    confidence: float,
    by_role: bool,
) -> Payoffs:
    places = {entry: place for place, entry in enumerate(entries)}
    one = np.array([places.get(pair[0], -1) for pair in counts.results], dtype=np.int64)
    other = np.array([places.get(pair[1], -1) for pair in counts.results], dtype=np.int64)
    results = np.array(list(counts.results.values()), dtype=np.int64).reshape(-1, 3)
    turned = other < one
    results[turned] = results[turned, ::-1]
    first, second = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((second, first))
    order = order[first[order] >= 0]  # both players were asked for
    wins, draws, losses = results[order].T.copy()
    players = tuple(player for player, _ in entries)
    return Payoffs(
        players=players,
        roles=tuple(role for _, role in entries),
        refs={player: refs[player] for player in dict.fromkeys(players) if player in refs},
        first=fixed(first[order]),
        second=fixed(second[order]),
        pair_wins=fixed(wins),
        pair_draws=fixed(draws),
        pair_losses=fixed(losses),
        returns={
            (places[player], places[opponent]): (number, mean_of(amount, number))
            for (player, opponent), (number, amount) in counts.returns.items()
            if player in places and opponent in places and number
        },
        with_itself=dict(sorted(counts.with_itself.items())),
        unranked=counts.unranked,
        in_other_environments=counts.in_other_environments,
        envs=tuple(sorted(counts.envs)),
        sides=counts.sides,
        confidence=confidence,
        by_role=by_role,
    )
