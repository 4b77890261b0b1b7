"""Call worker functions on learners and env runners, and collect their answers.

Actors are called directly, not through RLlib's ``foreach_env_runner``. RLlib's method leaves out
workers that are not healthy or do not answer, and returns a shorter list without raising
(``utils/actor_manager.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import ray
from ray.exceptions import RayActorError, RayError

from policystore.rllib.worker_code.messages.answers import ANSWERS
from policystore.rllib.worker_code.messages.wire import from_wire, run, to_wire
from policystore.rllib.workers.answers import Answer, Answers
from policystore.rllib.workers.by_value import ship_for_wire
from policystore.rllib.workers.discovery import Worker

__all__ = ["Calls", "Deadline", "Gate", "send"]

T = TypeVar("T")
Gate: TypeAlias = Callable[[Worker, Any], Any]
"""Takes a worker and the function to call on its actor; returns what is called instead."""


class Deadline:
    """A point in time until which answers are awaited."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())


class Calls(Generic[T]):
    """Calls under way to actors, and the answers of the workers of this process."""

    def __init__(
        self, references: dict[Worker, ray.ObjectRef], answers: dict[Worker, Answer[T]]
    ) -> None:
        self._references = references
        self._answers = answers

    @property
    def workers(self) -> list[Worker]:
        """The workers that were called."""
        return [*self._answers, *self._references]

    def collect(self, deadline: Deadline, skip: Iterable[Worker] = ()) -> Answers[T]:
        """Wait until a deadline; return for each worker its answer, or why there is none.

        Args:
            deadline: when waiting ends. Answers that have arrived are returned even after the
                deadline.
            skip: workers that are not waited for; they are missing in the returned answers.
        """
        skipped = set(skip)
        waiting = {ref: worker for worker, ref in self._references.items() if worker not in skipped}
        ready: Sequence[ray.ObjectRef] = ()
        if waiting:
            ready, _ = ray.wait(
                list(waiting), num_returns=len(waiting), timeout=max(deadline.left(), 0.01)
            )
        answered = set(ready)
        answers = Answers({w: each for w, each in self._answers.items() if w not in skipped})
        for reference, worker in waiting.items():
            answers[worker] = (
                _received(reference, worker) if reference in answered else Answer(pending=True)
            )
        return answers


def send(
    workers: Iterable[Worker],
    function: Callable[..., T],
    arguments: Callable[[Worker], tuple[Any, ...]],
    *,
    gate: Gate | None = None,
) -> Calls[T]:
    """Call a worker function with each worker; actors first, because they run in parallel.

    Args:
        workers: the workers to call.
        function: of ``worker_code``; gets the worker, then its arguments.
        arguments: returns the arguments for one worker; they may be messages. An ObjectRef arrives
            as the object that it refers to.
        gate: replaces the function of each call to an actor; None replaces nothing.
    """
    chosen = list(workers)
    shipped = ship_for_wire(function)
    references = {
        worker: worker.actor.apply.remote(
            shipped if gate is None else gate(worker, shipped),
            *(to_wire(each) for each in arguments(worker)),
        )
        for worker in chosen
        if worker.actor is not None
    }
    answers: dict[Worker, Answer[T]] = {
        worker: Answer(*run(function, worker.local, arguments(worker)))
        for worker in chosen
        if not worker.is_remote
    }
    return Calls(references, answers)


def _received(reference: ray.ObjectRef, worker: Worker) -> Answer[Any]:
    """Return an answer that has arrived, made of the driver's own classes."""
    try:
        value, error, pending = ray.get(reference)
        return Answer(from_wire(value, ANSWERS), error, pending)
    except RayActorError as error:
        if worker.manager is not None and worker.index in worker.manager.actor_ids():
            # After the restart, RLlib then gives the actor what the local worker holds
            # (algorithms/algorithm.py:restore_env_runners). Without this mark, RLlib might not
            # notice the restart.
            worker.manager.set_actor_state(worker.index, healthy=False)
        return Answer(unreachable=str(error).strip().splitlines()[0])
    except RayError as error:
        return Answer(error=f"{type(error).__name__}: {error}")
