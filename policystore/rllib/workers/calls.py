"""All learners and workers of a running Algorithm, and how they are asked.

Actors are called directly, not through RLlib's ``foreach_env_runner``: that leaves out who is not
healthy or does not answer, and returns a shorter list without raising (``utils/actor_manager.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.worker_code.tensors import PolicyAccess
from policystore.rllib.workers.by_value import ship

__all__ = [
    "GROUPS",
    "GUARD",
    "Calls",
    "Deadline",
    "Worker",
    "is_new_stack",
    "learners_of",
    "send",
    "workers_of",
]

# Where a group's actor manager has its guard (restarts.py).
GUARD = "_policystore_guard"
GROUPS = (
    ("train", "env_runner_group"),
    ("eval", "eval_env_runner_group"),
    ("offline eval", "offline_eval_runner_group"),
)


@dataclass(frozen=True, eq=False)
class Worker:
    """A learner, or an env runner or rollout worker: in this process, or an actor.

    Attributes:
        name: as reports show it: ``learner 0``, ``train local``, ``eval 2``.
        group: ``learner``, ``train``, ``eval`` or ``offline eval``.
        leads: whether its weights are what the others should hold.
        idle: a local worker that only stands in for the remote ones.
    """

    name: str
    group: str
    local: PolicyAccess | None = None
    actor: Any = None
    manager: Any = None
    index: int | None = None
    leads: bool = False
    idle: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether it is an actor."""
        return self.actor is not None


class Deadline:
    """A point in time by which everything has to have happened."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())


def is_new_stack(algorithm: Algorithm) -> bool:
    """Whether an Algorithm has learners and RLModules."""
    return bool(algorithm.config.enable_rl_module_and_learner)


def workers_of(algorithm: Algorithm) -> list[Worker]:
    """Everyone who holds weights: learners first, then each group's local worker, then actors.

    On the old stack the local worker of the training group is what learns.

    Raises:
        InvalidInputError: not an Algorithm, or one that was stopped.
    """
    if not isinstance(algorithm, Algorithm):
        raise InvalidInputError(
            f"expected a running Algorithm of RLlib, found {type(algorithm).__qualname__}"
        )
    _refuse_stopped(algorithm)
    found = learners_of(algorithm)
    leads = not found
    for group, attribute in GROUPS:
        holder = getattr(algorithm, attribute, None)
        if holder is None:
            continue
        manager = holder._worker_manager
        actors = manager.actors()
        local = getattr(holder, "local_env_runner", None) or getattr(holder, "local_runner", None)
        if local is not None:
            found.append(
                Worker(
                    f"{group} local",
                    group,
                    local=PolicyAccess(local),
                    leads=leads and group == "train",
                    idle=bool(actors),
                )
            )
        found += [
            Worker(f"{group} {index}", group, actor=actor, manager=manager, index=index)
            for index, actor in actors.items()
        ]
    return found


def learners_of(algorithm: Algorithm) -> list[Worker]:
    """The learners alone, of the new stack; none on the old one."""
    group = algorithm.learner_group
    if group is None:
        return []
    if group.is_local:
        return [Worker("learner local", "learner", local=PolicyAccess(group._learner), leads=True)]
    return [
        Worker(f"learner {index}", "learner", actor=actor, index=index, leads=not number)
        for number, (index, actor) in enumerate(sorted(group._worker_manager.actors().items()))
    ]


def _refuse_stopped(algorithm: Algorithm) -> None:
    group = algorithm.learner_group
    stopped = group is not None and group._is_shut_down
    for attribute, wanted in (("env_runner_group", algorithm.config.num_env_runners),):
        holder = getattr(algorithm, attribute, None)
        if holder is not None and wanted and not holder._worker_manager.actor_ids():
            stopped = True
    if stopped or not ray.is_initialized():
        raise InvalidInputError(
            f"{algorithm} was stopped, or Ray was shut down: it has no workers any more. Nothing "
            "was changed."
        )


class Calls:
    """What was sent to several workers, and their answers.

    An answer is what the function returned: a dict, with ``error`` where it failed. Of who did not
    return anything it is ``{"pending": True}`` or ``{"unreachable": why}``.
    """

    def __init__(self, references: dict[Worker, Any], answers: dict[Worker, Any]) -> None:
        self.references = references
        self.answers = answers

    def collect(self, deadline: Deadline) -> dict[Worker, dict[str, Any]]:
        """Wait for the answers, each worker's being its own or why there is none."""
        waiting = {reference: worker for worker, reference in self.references.items()}
        ready: Sequence[Any] = ()
        if waiting:
            # At least a moment: a deadline that has passed still takes what is there.
            ready, _ = ray.wait(
                list(waiting), num_returns=len(waiting), timeout=max(deadline.left(), 0.01)
            )
        answered = set(ready)
        found = dict(self.answers)
        for reference, worker in waiting.items():
            found[worker] = (
                _result(reference, worker) if reference in answered else {"pending": True}
            )
        return found


def send(
    workers: Iterable[Worker],
    function: Callable[..., Any],
    arguments: Callable[[Worker], tuple[Any, ...]],
) -> Calls:
    """Call a function of ``worker_side`` with every worker; actors first, as they run beside.

    As with RLlib's own calls env runners first get what a restart took from them (``restarts.py``).

    Args:
        workers: whom to call.
        function: gets the worker, then its arguments.
        arguments: those of one worker; an ObjectRef arrives as what it refers to.
    """
    listed = list(workers)
    references = {
        worker: worker.actor.apply.remote(_guarded(worker, ship(function)), *arguments(worker))
        for worker in listed
        if worker.is_remote
    }
    answers = {
        worker: function(worker.local, *arguments(worker))
        for worker in listed
        if not worker.is_remote
    }
    return Calls(references, answers)


def _guarded(worker: Worker, function: Any) -> Any:
    guard = getattr(worker.manager, GUARD, None)
    return function if guard is None else guard.gated(function)


def _result(reference: Any, worker: Worker) -> dict[str, Any]:
    try:
        return ray.get(reference) or {}
    except RayActorError as error:
        if worker.manager is not None and worker.index in worker.manager.actor_ids():
            # So RLlib brings it back to what the local worker holds once it was restarted
            # (algorithms/algorithm.py:restore_env_runners), which it else might not notice.
            worker.manager.set_actor_state(worker.index, healthy=False)
        return {"unreachable": str(error).strip().splitlines()[0]}
    except RayError as error:
        return {"error": f"{type(error).__name__}: {error}"}
