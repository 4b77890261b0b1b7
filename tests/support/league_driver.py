"""A small driver of an opponent pool, which tests make fail on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import ray

from policystore import PolicyStore, Snapshot
from policystore.format.records.matches import Match
from policystore.league.pool.messages import (
    Candidate,
    Draws,
    DrawTable,
    EpisodeRecord,
    RunnerAnswer,
    RunnerRequest,
)
from policystore.league.pool.runner import PoolCallbacks, PoolSettings, exchange
from policystore.rllib import snapshot
from policystore.rllib.callbacks.factory import CallbackFactory
from tests.support.league_arena import Witness, fingerprint
from tests.support.league_oracle import Verdict, compare, player_prints

__all__ = ["LoneDriver", "TestDriver", "call", "callbacks_of", "runners_of"]


def callbacks_of(settings: PoolSettings, *others: Any) -> CallbackFactory:
    """Return the callbacks of a pool, with the witness before them and other callbacks after."""
    return CallbackFactory(PoolCallbacks, {"settings": settings}, [Witness, *others])


def runners_of(algo: Any) -> dict[str, Any]:
    """Return each env runner by name: the object itself, or its actor."""
    found: dict[str, Any] = {}
    for name, group in (("train", algo.env_runner_group), ("eval", algo.eval_env_runner_group)):
        if group is None:
            continue
        if group.local_env_runner is not None:
            found[f"{name} local"] = group.local_env_runner
        found |= {f"{name} {n}": each for n, each in group._worker_manager.actors().items()}
    return found


def call(worker: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function with one env runner, in its process."""
    if isinstance(worker, ray.actor.ActorHandle):
        return ray.get(worker.apply.remote(function, *arguments), timeout=120)
    return function(worker, *arguments)


class TestDriver:
    """Keeps the books of an opponent pool as the real driver should, one env runner at a time.

    Args:
        algo: the Algorithm.
        store: the store.
        learners: id of a learner -> name of its snapshots.
        candidates: opponents beside the snapshots of the learners.
    """

    __test__ = False  # no test class for pytest

    def __init__(
        self,
        algo: Any,
        store: PolicyStore,
        learners: Mapping[str, str],
        candidates: Sequence[Candidate] = (),
    ) -> None:
        self.algo, self.store, self.learners = algo, store, dict(learners)
        self.others = list(candidates)
        self.lineage: dict[str, list[str]] = {learner: [] for learner in learners}
        self.history: dict[str, list[str]] = {learner: [] for learner in learners}
        self.snaps: list[Snapshot] = []
        self.round = 0
        self.received: dict[str, tuple[str, int]] = {}  # env runner -> life, number
        self.answers: dict[str, dict[str, RunnerAnswer]] = {}  # env runner -> life -> the last one
        self.records: dict[tuple[str, int], EpisodeRecord] = {}
        self.seed = 7
        for learner in learners:
            self.note_weights(learner)

    def _runners(self) -> dict[str, Any]:
        return runners_of(self.algo)

    def _snapshot(self, learner: str) -> Snapshot:
        return snapshot(self.algo, learner)

    def _play(self) -> None:
        self.algo.train()

    # What a driver does ---------------------------------------------------------------------------

    def note_weights(self, learner: str) -> Snapshot:
        """Note the present weights of a learner, for the check of the lineage."""
        snap = self._snapshot(learner)
        names = snap.spec.acting or list(snap.weights)
        self.history[learner].append(fingerprint({name: snap.weights[name] for name in names}))
        return snap

    def take_snapshot(self, learner: str = "main") -> Snapshot:
        snap = self._snapshot(learner)
        self.store.push(snap, self.learners[learner])
        self.snaps.append(snap)
        if str(snap.digest) not in self.lineage[learner]:
            self.lineage[learner].append(str(snap.digest))
        return snap

    def draws(self) -> Draws:
        """Return new tables: all snapshots of all learners, and the other opponents."""
        self.round += 1
        own = [
            Candidate(digest, f"{self.learners[learner]}@{number}")
            for learner, digests in self.lineage.items()
            for number, digest in enumerate(digests, 1)
        ]
        live = {
            learner: Candidate(digests[-1], learner, policy_id=learner)
            for learner, digests in self.lineage.items()
        }
        tables = {
            learner: DrawTable((*own, *self.others, *(live[a] for a in live if a != learner)))
            for learner in self.learners
        }
        return Draws(
            round=self.round,
            seed=self.seed,
            tables=tables,
            shares=dict.fromkeys(self.learners, 1.0),
            players={learner: digests[-1] for learner, digests in self.lineage.items()},
        )

    def exchange(
        self,
        draws: Draws | None = None,
        *,
        lose_answers: Sequence[str] = (),
        skip: Sequence[str] = (),
    ) -> None:
        """Exchange with each env runner; some answers are thrown away, as if they were lost."""
        for name, worker in self._runners().items():
            if name in skip:
                continue
            life, number = self.received.get(name, ("", 0))
            try:
                answer = call(worker, exchange, RunnerRequest(draws, number, life))
            except ray.exceptions.RayActorError:
                continue
            if name in lose_answers or not answer.life:
                continue
            self._take(name, answer)

    def _take(self, name: str, answer: RunnerAnswer) -> None:
        assert not answer.error, answer.error
        life, number = self.received.get(name, ("", 0))
        if life != answer.life:
            number = 0
        if answer.records:
            assert answer.first <= number + 1, "a record was forgotten before it was received"
        for at, record in enumerate(answer.records, answer.first):
            known = self.records.setdefault((answer.life, at), record)
            assert known == record, "one number, two records"
            number = max(number, at)
        assert answer.started == number + sum(answer.unknown.values()) + answer.ongoing
        self.received[name] = (answer.life, number)
        self.answers.setdefault(name, {})[answer.life] = answer

    def train(self, iterations: int = 1, *, every: int = 2, **faults: Any) -> None:
        """Train, and exchange after each iteration; take a snapshot after every second one."""
        for _ in range(iterations):
            self._play()
            for learner in self.learners:
                self.note_weights(learner)
                if len(self.history[learner]) % every == 0:
                    self.take_snapshot(learner)
            self.exchange(self.draws(), **faults)

    def begin(self) -> None:
        for learner in self.learners:
            self.take_snapshot(learner)
        self.exchange(self.draws())

    # What tests ask -------------------------------------------------------------------------------

    @property
    def matches(self) -> list[Match]:
        return [record.match for record in self.records.values()]

    @property
    def unknown(self) -> Counter[str]:
        """Episodes that no runner recorded, by reason, of all lives."""
        found: Counter[str] = Counter()
        for lives in self.answers.values():
            for answer in lives.values():
                found.update(answer.unknown)
        return found

    @property
    def lives(self) -> dict[str, int]:
        """Env runner -> how many lives of it have answered."""
        return {name: len(lives) for name, lives in self.answers.items()}

    @property
    def swaps(self) -> int:
        return sum(each.swaps for lives in self.answers.values() for each in lives.values())

    def verdict(self, log: Any, **settings: Any) -> Verdict:
        ids = [(life, record.episode_id) for (life, _), record in self.records.items()]
        assert len(set(ids)) == len(ids), "an episode was recorded twice"
        settings.setdefault("history", self.history)
        settings.setdefault("unknown", self.ended_unknown)
        return compare(
            self.matches, log, player_prints(self.snaps), learners=self.lineage, **settings
        )

    @property
    def ended_unknown(self) -> int:
        """Episodes that ended, and were not recorded."""
        return sum(n for reason, n in self.unknown.items() if reason not in _NOT_ENDED)


class LoneDriver(TestDriver):
    """The same for one env runner without an Algorithm; its learners get random weights.

    Args:
        algo: the env runner.
    """

    def _runners(self) -> dict[str, Any]:
        return {"lone": self.algo}

    def _snapshot(self, learner: str) -> Snapshot:
        if hasattr(self.algo, "policy_map"):
            return snapshot(self.algo.policy_map[learner])
        return snapshot(self.algo.module[learner].unwrapped())

    def _play(self) -> None:
        self.algo.sample()
        rng = np.random.default_rng()
        snaps = {learner: self._snapshot(learner) for learner in self.learners}
        weights = {
            learner: {
                name: array + rng.normal(0, 0.1, array.shape).astype(array.dtype)
                for name, array in snap.weights.items()
            }
            for learner, snap in snaps.items()
        }
        if hasattr(self.algo, "policy_map"):
            self.algo.set_weights(weights)
        else:
            self.algo.set_state({"rl_module": weights})


_NOT_ENDED = ("unfinished at a reset", "environment failed")
