"""Find all learners and workers of a running Algorithm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.worker_code.tensors import PolicyAccess
from policystore.rllib.workers.compat import (
    actor_manager,
    groups_of,
    is_offline,
    is_shut_down,
    local_learner,
    local_runner,
)

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.rllib.utils.actor_manager import FaultTolerantActorManager

__all__ = ["Worker", "learners_of", "workers_of"]


@dataclass(frozen=True, eq=False)
class Worker:
    """A learner, or an env runner or rollout worker: in this process, or an actor.

    Attributes:
        name: as reports show it: ``learner 0``, ``train local``, ``eval 2``.
        group: ``learner``, ``train``, ``eval`` or ``offline eval``.
        local: access to the worker's policies, where it is in this process.
        actor: Ray's handle, where it is an actor.
        manager: RLlib's manager of the actor; None for learners.
        index: RLlib's number of the actor.
        leads: whether the other workers should hold what this worker holds.
        idle: whether it is a local worker that does not sample: remote workers do, or the Algorithm
            learns from recorded samples.
    """

    name: str
    group: str
    local: PolicyAccess | None = None
    actor: ActorHandle | None = None
    manager: FaultTolerantActorManager | None = None
    index: int | None = None
    leads: bool = False
    idle: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether it is an actor."""
        return self.actor is not None

    @property
    def is_learner(self) -> bool:
        """Whether it is a learner of the new API stack."""
        return self.group == "learner"


def workers_of(algorithm: Algorithm) -> list[Worker]:
    """Return all workers with weights: learners, then each group's local worker and actors.

    On the old stack there are no learners: the local worker of the training group learns.

    Raises:
        InvalidInputError: not an Algorithm, or one that was stopped.
    """
    if not isinstance(algorithm, Algorithm):
        raise InvalidInputError(
            f"expected a running Algorithm of RLlib, found {type(algorithm).__qualname__}"
        )
    _refuse_stopped(algorithm)
    workers = learners_of(algorithm)
    has_learners = bool(workers)
    for name, group in groups_of(algorithm):
        manager = actor_manager(group)
        actors = manager.actors()
        local = local_runner(group)
        if local is not None:
            workers.append(
                Worker(
                    f"{name} local",
                    name,
                    local=PolicyAccess(local),
                    leads=name == "train" and not has_learners,
                    idle=bool(actors)
                    or (name == "train" and has_learners and is_offline(algorithm)),
                )
            )
        workers += [
            Worker(f"{name} {index}", name, actor=actor, manager=manager, index=index)
            for index, actor in actors.items()
        ]
    return workers


def learners_of(algorithm: Algorithm) -> list[Worker]:
    """Return the learners of an Algorithm; an empty list for one of the old stack."""
    group = algorithm.learner_group
    if group is None:
        return []
    if group.is_local:
        access = PolicyAccess(local_learner(group))
        return [Worker("learner local", "learner", local=access, leads=True)]
    return [
        Worker(f"learner {index}", "learner", actor=actor, index=index, leads=not number)
        for number, (index, actor) in enumerate(sorted(actor_manager(group).actors().items()))
    ]


def _refuse_stopped(algorithm: Algorithm) -> None:
    learners, runners = algorithm.learner_group, getattr(algorithm, "env_runner_group", None)
    stopped = learners is not None and is_shut_down(learners)
    if runners is not None and algorithm.config.num_env_runners:
        stopped = stopped or not actor_manager(runners).actor_ids()
    if stopped or not ray.is_initialized():
        raise InvalidInputError(
            f"{algorithm} was stopped, or Ray was shut down: it has no workers any more. Nothing "
            "was changed."
        )
