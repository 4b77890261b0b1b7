"""Record the matches of a training in its league: one batch an iteration, never twice."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from policystore._util.log import logger
from policystore.errors import StorageError
from policystore.format.records.matches import Match, Outcome, Returns
from policystore.league.pool.standings import Tally

if TYPE_CHECKING:
    from policystore.league.league import League

__all__ = ["DROPPED", "Book", "merged", "with_labels"]

DROPPED = "the store could not be reached"
"""Why episodes are unknown that waited too long for the store."""

_MOST_WAITING = 100_000  # matches


class Book:
    """Records matches in a league, and keeps the scores of the league at hand.

    A batch that could not be recorded, because the store did not answer, waits for the next call,
    and is then recorded as it is: the league so recognizes a batch that it has. Waiting batches are
    in no checkpoint: what a checkpoint has was recorded before.

    Args:
        league: the league.
        env: id and digest of the environment.
    """

    def __init__(self, league: League, env: tuple[str, str] = ("", "")) -> None:
        self._league = league
        self._env = env
        self._batches: list[list[Match]] = []
        self._untold = False
        self.tally = Tally()
        self.error: str | None = None
        self.matches = 0
        self.episodes = 0
        self.unknown: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """Matches that the league does not have yet."""
        return sum(map(len, self._batches))

    def read(self) -> None:
        """Read the scores of the whole league, also those that other processes have recorded.

        Raises:
            StorageError: the store cannot be read.
        """
        totals = self._league.totals()
        self.tally.restart(totals.matchups, [each for batch in self._batches for each in batch])

    def add(self, matches: Iterable[Match], iteration: int, unknown: Mapping[str, int]) -> None:
        """Add the matches of one iteration, and record everything that waits.

        Args:
            matches: new matches; equal ones become one match with several episodes.
            iteration: the training iteration.
            unknown: episodes that were played and are not recorded, by reason.
        """
        id_, digest = self._env
        batch = []
        for match in merged(matches):
            changes: dict[str, Any] = {"iteration": iteration}
            if not match.env:
                changes |= {"env": id_, "env_digest": digest}
            booked = dataclasses.replace(match, **changes)
            batch.append(booked)
            self.tally.add(booked)
            self.matches += 1
            self.episodes += booked.episodes
        if batch:
            self._batches.append(batch)
        self._lose(unknown)
        while self.waiting > _MOST_WAITING:
            self._lose({DROPPED: sum(match.episodes for match in self._batches.pop(0))})
        self.flush()

    def flush(self, *, last: bool = False) -> None:
        """Record everything that waits. If the store does not answer, everything goes on waiting.

        Args:
            last: whether to write a batch without matches, too, if one has to say what is unknown.
        """
        batches = self._batches
        if last and self._untold and not batches:
            batches.append([])
        try:
            while batches:
                self._league.record(batches[0])
                batches.pop(0)
                self._untold = False
        except StorageError as error:
            if self.error is None:
                logger.warning(
                    "opponent pool: %d matches wait, because the league did not take them: %s",
                    self.waiting,
                    error,
                )
            self.error = str(error)
            return
        self.error = None

    def end(self) -> None:
        """End the list of this process in the league, so that readers need not look for more.

        If the store does not answer, a reader ends the list after a day of rest.
        """
        try:
            self._league.seal()
        except StorageError as error:
            logger.warning("opponent pool: the list of matches was not ended: %s", error)

    def _lose(self, unknown: Mapping[str, int]) -> None:
        for reason, episodes in unknown.items():
            self._league.unknown(reason, episodes)
            self.unknown[reason] += episodes
            self._untold = True


def with_labels(match: Match, find: Callable[[str], str]) -> Match:
    """Return a match in which each player has a label that can have one.

    An env runner knows no label of a snapshot that was still being pushed.

    Args:
        match: the match.
        find: returns the ref of a player; "" for none.
    """
    found = {role: find(player) for role, player in match.players.items() if role not in match.refs}
    found = {role: ref for role, ref in found.items() if ref}
    return dataclasses.replace(match, refs={**match.refs, **found}) if found else match


def merged(matches: Iterable[Match]) -> list[Match]:
    """Join matches of the same players with the same weights to one match of several episodes."""
    groups: dict[Any, list[Match]] = {}
    for match in matches:
        key = (
            tuple(match.players.items()),
            tuple(sorted(match.teams.items())),
            tuple(sorted(match.played.items())),
            tuple(sorted(match.refs.items())),
            match.env,
            match.env_digest,
            tuple(sorted(match.returns)),
            match.iteration,
            match.writer,
            match.explore,
            match.max_steps,
        )
        groups.setdefault(key, []).append(match)
    return [_joined(group) for group in groups.values()]


def _joined(group: list[Match]) -> Match:
    first = group[0]
    if len(group) == 1:
        return first
    ends: Counter[tuple[int | None, ...]] = Counter()
    for match in group:
        for outcome in match.outcomes:
            ends[outcome.ranks] += outcome.episodes
    returns = {}
    for role in first.returns:
        each = [match.returns[role] for match in group]
        returns[role] = Returns(
            sum(one.episodes for one in each),
            sum((one.sum for one in each), start=each[0].sum * 0),
            sum((one.squares for one in each), start=each[0].squares * 0),
        )
    seeded = all(match.seeds for match in group)
    listed = [role for role in first.returns if all(role in m.episode_returns for m in group)]
    # None has no order among numbers: such ranks come last.
    order = sorted(ends, key=lambda ranks: [(rank is None, rank or 0) for rank in ranks])
    return dataclasses.replace(
        first,
        episodes=sum(match.episodes for match in group),
        outcomes=tuple(Outcome(ranks, ends[ranks]) for ranks in order),
        returns=returns,
        episode_returns={
            role: tuple(each for match in group for each in match.episode_returns[role])
            for role in listed
        },
        seeds=tuple(seed for match in group for seed in match.seeds) if seeded else (),
        time=max(match.time for match in group),
    )
