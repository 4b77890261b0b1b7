"""Make the tables from which env runners draw opponents: candidates, payoffs, sampler, in turn."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from policystore._util.log import logger
from policystore.errors import InvalidInputError
from policystore.league.pool.candidates import kept
from policystore.league.pool.driving.members import Members
from policystore.league.pool.driving.settings import Learner
from policystore.league.pool.driving.snapshots import Head
from policystore.league.pool.messages import Candidate, Draws, DrawTable
from policystore.league.pool.samplers import anchors_of, choose
from policystore.league.pool.standings import PoolPayoffs, Tally
from policystore.league.pool.triggers import Progress

__all__ = ["Tables"]

_CHOICES = 64  # how many opponents a sampler that returns one choice is asked for


class Tables:
    """Makes the tables of all learners of a pool.

    The same seed, round, members and scores give the same tables.

    Args:
        learners: the learners.
        members: the members of the pool.
        tally: the scores of the league.
        seed: seed of all draws.
        decay: weight of the episodes of a snapshot, relative to those of the next.
        same_for_all: whether all env runners draw one choice per round.
        round_: number of the last tables that were made.

    Attributes:
        round: number of the last tables that were made.
        counts: id of a learner -> how many candidates it had in them.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        members: Members,
        tally: Tally,
        *,
        seed: int,
        decay: float,
        same_for_all: bool,
        round_: int = 0,
    ) -> None:
        self._learners = {each.id: each for each in learners}
        self._members = members
        self._tally = tally
        self._seed = seed
        self._decay = decay
        self._same_for_all = same_for_all
        self.round = round_
        self.counts: dict[str, int] = {}
        self._last: dict[str, DrawTable] = {}

    def draws(self, heads: Mapping[str, Head]) -> Draws:
        """Return the tables of the next round.

        If all opponents of a learner were deleted, its last table stays.

        Raises:
            InvalidInputError: a sampler, or a function that keeps candidates, returned something of
                the wrong form; or a learner has never had an opponent.
        """
        self.round += 1
        return Draws(
            round=self.round,
            seed=self._seed,
            tables={pid: self._table(learner, heads) for pid, learner in self._learners.items()},
            shares={pid: learner.share for pid, learner in self._learners.items()},
            players={pid: heads[pid].player for pid in self._learners},
            same_for_all=self._same_for_all,
            refs={pid: self._ref(heads[pid].player) for pid in self._learners},
        )

    def _ref(self, player: str) -> str:
        """Return the ref of a learner's latest snapshot; "" while it is being pushed."""
        found = self._members.find(player)
        return "" if found is None else found.candidate.ref

    def candidates(self, learner: Learner, heads: Mapping[str, Head]) -> tuple[Candidate, ...]:
        """Return the opponents that a learner may get, oldest first, those in training last."""
        members = self._members.of(learner.against)
        snapshots = [each.candidate for each in members if each.learner]
        always = [each.candidate for each in members if not each.learner]
        wanted = {*anchors_of(learner.sampler)}
        payoffs = self._payoffs(learner.id, heads, snapshots)
        stored = kept(learner.candidates, payoffs, snapshots)
        anchors = []
        if wanted:
            there = {name for each in (*always, *stored) for name in (each.ref, each.player)}
            found = [self._members.find(ref) for ref in wanted - there]
            anchors = [each.candidate for each in found if each is not None]
        live = [
            Candidate(heads[other].player, f"{other} in training", policy_id=other)
            for other in learner.live
        ]
        return (*always, *sorted(anchors, key=lambda each: each.ref), *stored, *live)

    def payoffs(self, learner: Learner, heads: Mapping[str, Head]) -> PoolPayoffs:
        """Return what the league knows of a learner and its candidates."""
        return self._payoffs(learner.id, heads, self.candidates(learner, heads))

    def progress(
        self,
        learner: Learner,
        heads: Mapping[str, Head],
        iteration: int,
        result: Mapping[str, object],
    ) -> Progress:
        """Return what a trigger knows of a learner."""
        head = heads[learner.id]
        rates: dict[str, float] = {}
        total = 0.0
        row = self._tally.row(head.player)
        for candidate in self.candidates(learner, heads):
            wins, episodes = row.get(candidate.player, (0.0, 0.0))
            if episodes:
                rates[candidate.ref] = wins / episodes
                total += episodes
        return Progress(
            learner=learner.id,
            iteration=iteration,
            since=iteration - head.iteration,
            episodes=total,
            win_rate=sum(rates.values()) / len(rates) if rates else 0.5,
            win_rates=rates,
            result=result,
        )

    def _payoffs(
        self, learner: str, heads: Mapping[str, Head], candidates: Sequence[Candidate]
    ) -> PoolPayoffs:
        lineage = heads[learner].lineage
        return PoolPayoffs.of(self._tally, learner, lineage, candidates, decay=self._decay)

    def _table(self, learner: Learner, heads: Mapping[str, Head]) -> DrawTable:
        payoffs = self.payoffs(learner, heads)
        candidates = payoffs.candidates
        if not candidates and learner.id in self._last:
            logger.warning(
                "opponent pool: all opponents of %r were deleted; it plays the last ones until it "
                "has others",
                learner.id,
            )
            return self._last[learner.id]
        table = self._new_table(learner, payoffs, candidates)
        self._last[learner.id] = table
        return table

    def _new_table(
        self, learner: Learner, payoffs: PoolPayoffs, candidates: tuple[Candidate, ...]
    ) -> DrawTable:
        self.counts[learner.id] = len(candidates)
        if not candidates:
            against = "" if learner.against is None else f" among snapshots of {learner.against}"
            raise InvalidInputError(
                f"the learner {learner.id!r} has no opponent{against}: none of the stored "
                "snapshots fits a slot. Give heuristics=, opponents=, or Role(live=…)"
            )
        rng = np.random.default_rng([self._seed, self.round, zlib.crc32(learner.id.encode())])
        chosen = choose(learner.sampler, payoffs, candidates, rng)
        if isinstance(chosen, int):
            more = (choose(learner.sampler, payoffs, candidates, rng) for _ in range(_CHOICES - 1))
            sequence = [chosen, *(each for each in more if isinstance(each, int))]
            return DrawTable(candidates, sequence=tuple(sequence))
        # What is never drawn is not sent: tables of thousands of snapshots go to each env runner.
        drawn = [(each, weight) for each, weight in zip(candidates, chosen, strict=True) if weight]
        return DrawTable(
            tuple(each for each, _ in drawn), weights=tuple(float(weight) for _, weight in drawn)
        )
