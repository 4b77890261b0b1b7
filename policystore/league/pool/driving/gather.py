"""Exchange draws and records with all env runners, without waiting for slow or dead ones.

An env runner keeps its records until the driver has said that it has them, so an answer that comes
late or never costs nothing but time. A restarted env runner has another life, and what its earlier
life had begun and not told is counted as lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.league.pool.messages import Draws, EpisodeRecord, RunnerAnswer, RunnerRequest
from policystore.rllib.workers.calls import Calls, Deadline, send
from policystore.rllib.workers.discovery import Worker, workers_of

__all__ = ["LOST", "Exchange", "Gathered", "Gatherer", "Life"]

LOST = "the env runner ended"
"""Why episodes are unknown that an env runner began and that its next life does not know."""

_WAIT = 2.0  # seconds in which the env runners of one round may answer
_MOST_CALLS = 3  # under way to one env runner
Exchange = Callable[[Any, RunnerRequest, Draws | None], RunnerAnswer]
"""Called with an env runner, a request without tables, and tables, in the env runner's process."""


@dataclass
class Life:
    """What the driver knows of one life of an env runner.

    Attributes:
        id: the id of the life; "" before the first answer.
        received: number of the last record that the driver has.
        unknown: episodes that could not be recorded, by reason, as last told.
        started: episodes that had started, as last told.
        swaps: loads of slots, as last told.
        failed: loads that failed, as last told.
        holding: slot -> what it held, as last told.
    """

    id: str = ""
    received: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    started: int = 0
    swaps: int = 0
    failed: int = 0
    holding: dict[str, str] = field(default_factory=dict)


@dataclass
class Gathered:
    """What one round brought.

    Attributes:
        records: new records, each episode once.
        unknown: episodes that are not recorded, by reason, since the last round.
        swaps: loads of slots since the last round.
        failed: loads that failed since the last round.
        silent: env runners that did not answer, with the reason.
    """

    records: list[EpisodeRecord] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    swaps: int = 0
    failed: int = 0
    silent: dict[str, str] = field(default_factory=dict)


class Gatherer:
    """Talks to the env runners of one Algorithm.

    Args:
        exchange: the function that is called with each env runner.
        workers: returns the env runners of the Algorithm.
    """

    def __init__(
        self, exchange: Exchange, workers: Callable[[Algorithm], list[Worker]] | None = None
    ) -> None:
        self._exchange = exchange
        self._workers = workers or _runners_of
        self._lives: dict[str, Life] = {}
        self._ended: set[str] = set()
        self._noted: set[str] = set()
        self._under_way: list[tuple[Calls[RunnerAnswer], set[Worker]]] = []
        self._slow: set[str] = set()

    @property
    def lives(self) -> dict[str, Life]:
        """Name of an env runner, such as ``train 1`` -> its present life."""
        return dict(self._lives)

    def tell(self, algorithm: Algorithm, draws: Draws) -> None:
        """Send tables to all env runners, and do not wait for them.

        Calls of one env runner run in order, so its next sample begins after it has the tables.
        """
        self._send(algorithm, draws)

    def gather(
        self, algorithm: Algorithm, *, draws: Draws | None = None, wait: float | None = None
    ) -> Gathered:
        """Ask all env runners for their records.

        Args:
            algorithm: the Algorithm.
            draws: tables to send along.
            wait: seconds in which the env runners may answer. Those that did not answer the last
                time are not waited for: what they answer later is in a later round.
        """
        self._send(algorithm, draws)
        gathered = Gathered()
        deadline = Deadline(_WAIT if wait is None else wait)
        rounds, self._under_way = self._under_way, []
        for calls, waiting in rounds:
            slow = {each for each in waiting if each.name in self._slow}
            answers = {**calls.collect(deadline, skip=_others(calls, waiting - slow))}
            if slow:
                answers |= calls.collect(Deadline(0), skip=_others(calls, slow))
            for worker, answer in answers.items():
                if answer.pending:
                    gathered.silent[worker.name] = answer.why
                    continue
                waiting.discard(worker)
                if answer.ok:
                    self._slow.discard(worker.name)
                    self._take(worker.name, answer.get(), gathered)
                else:
                    gathered.silent[worker.name] = answer.why
            if waiting:
                self._under_way.append((calls, waiting))
        self._slow = {each.name for _, waiting in self._under_way for each in waiting}
        return gathered

    def _send(self, algorithm: Algorithm, draws: Draws | None) -> None:
        busy = Counter(each.name for _, waiting in self._under_way for each in waiting)
        chosen = [each for each in self._workers(algorithm) if busy[each.name] < _MOST_CALLS]
        # Tables of thousands of opponents go to each node once, and not to each env runner.
        remote = draws is not None and any(each.is_remote for each in chosen)
        shared = ray.put(draws) if remote else None
        calls = send(
            chosen,
            self._exchange,
            lambda each: (self._request(each), shared if each.is_remote else draws),
        )
        self._under_way.append((calls, set(chosen)))

    def _request(self, worker: Worker) -> RunnerRequest:
        life = self._lives.get(worker.name, Life())
        return RunnerRequest(None, life.received, life.id)

    def _take(self, name: str, answer: RunnerAnswer, gathered: Gathered) -> None:
        if not answer.life:
            return  # an env runner without environments
        life = self._lives.get(name)
        if life is None or life.id != answer.life:
            if answer.life in self._ended:
                return
            if life is not None:
                self._end(life, gathered)
            life = self._lives[name] = Life(answer.life)
        for number, record in enumerate(answer.records, answer.first):
            if number <= life.received:
                continue
            life.received = number
            gathered.records.append(record)
        unknown = Counter(answer.unknown)
        # An answer to an earlier call may come after the answer to a later one.
        gathered.unknown.update(unknown - life.unknown)
        gathered.swaps += max(0, answer.swaps - life.swaps)
        life.unknown |= unknown
        life.started = max(life.started, answer.started)
        life.swaps = max(life.swaps, answer.swaps)
        life.holding = dict(answer.holding)
        gathered.failed += max(0, answer.failed - life.failed)
        life.failed = max(life.failed, answer.failed)
        for note in answer.notes:
            if note not in self._noted:
                self._noted.add(note)
                logger.warning("opponent pool, %s: %s", name, note)
        if answer.error:
            gathered.silent[name] = answer.error

    def _end(self, life: Life, gathered: Gathered) -> None:
        self._ended.add(life.id)
        lost = life.started - life.received - life.unknown.total()
        if lost > 0:
            gathered.unknown[LOST] += lost


def _runners_of(algorithm: Algorithm) -> list[Worker]:
    return [each for each in workers_of(algorithm) if not each.is_learner and not each.idle]


def _others(calls: Calls[RunnerAnswer], wanted: set[Worker]) -> set[Worker]:
    return set(calls.workers) - wanted
