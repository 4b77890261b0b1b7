"""Set which policies a running Algorithm has, which act and which are trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.checks.arguments import Changes, MappingFunction, Steering
from policystore.rllib.live.checks.compatibility import Compare
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.requested import change
from policystore.rllib.worker_code.messages.answers import ToTrain
from policystore.snapshot import Snapshot

__all__ = ["set_mapping", "set_policies"]


def set_mapping(
    algo: Algorithm,
    policy_mapping_fn: MappingFunction | None,
    *,
    evaluation_policy_mapping_fn: MappingFunction | None = None,
    policies_to_train: ToTrain | None = None,
    check_mapping: bool = True,
    timeout: float = 60.0,
) -> SyncReport:
    """Set which policy plays for which agent, on every worker at once.

    When the call returns, each worker has read back the new function. An env runner that is
    restarted or added later gets the function before it samples. Episodes that have begun keep
    their mapping. With several learners, these episodes start again instead.

    Args:
        algo: a multi-agent Algorithm of either API stack, while ``train()`` does not run.
        policy_mapping_fn: RLlib's function of agent id and episode, from now on. None keeps the
            present function. Evaluation workers get the function, too, unless the config gives
            evaluation a function of its own.
        evaluation_policy_mapping_fn: the function for evaluation alone, from now on.
        policies_to_train: ids of the policies that training updates from now on, or RLlib's
            function; None keeps the present choice.
        check_mapping: whether each env runner asks the function, before anything changes, which
            policies it names for the agents in new episodes. A function that draws random numbers
            is asked 64 times. The random number generators stay as they were. A function that
            reads what a callback has put into the episode may raise: a note in the report says so.
            False asks nothing.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy on each learner and worker.

    Raises:
        InvalidInputError: neither a function nor a choice of policies to train, a function that
            names policies that the Algorithm does not have or policies for other spaces, or, on the
            new stack, a single-agent Algorithm; nothing was changed.
        NotFoundError: ``policies_to_train`` names policies that the Algorithm does not have.
        SyncError: a worker did not take the function; all workers are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    steering = Steering(
        policy_mapping_fn, evaluation_policy_mapping_fn, policies_to_train, check_mapping
    )
    if not Changes(steering=steering).steers:
        raise InvalidInputError(
            "nothing to set: give policy_mapping_fn, evaluation_policy_mapping_fn= or "
            "policies_to_train="
        )
    return change(algo, timeout, steering=steering, failed="the mapping was not set")


def set_policies(
    algo: Algorithm,
    *,
    load: Mapping[str, Snapshot] | None = None,
    add: Mapping[str, Snapshot] | None = None,
    remove: Iterable[str] = (),
    policy_mapping_fn: MappingFunction | None = None,
    evaluation_policy_mapping_fn: MappingFunction | None = None,
    policies_to_train: ToTrain | None = None,
    config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    agent_ids: Mapping[str, Iterable[Any]] | None = None,
    spaces: Compare = "exact",
    trust: Trust = (),
    check_mapping: bool = True,
    timeout: float = 60.0,
) -> SyncReport:
    """Load, add and remove policies and set the mapping, in one step for all learners and workers.

    The Algorithm goes from the present policies to the wanted ones without a mapping in between:
    ``set_policies(algo, add={"v8": snap}, remove=["v1"], policy_mapping_fn=league)``. All changes
    are made on all learners and workers, or none is made on any. :func:`load_into
    <policystore.rllib.load_into>`, ``add_policy``, ``remove_policy`` and :func:`set_mapping` are
    special cases, and the
    arguments are as for these calls.

    Args:
        algo: an Algorithm of either API stack, while ``train()`` does not run. For all changes
            other than ``load``, the Algorithm must be a multi-agent Algorithm.
        load: id of a present policy -> snapshot to load into it.
        add: id of a new policy -> its snapshot.
        remove: ids of policies to remove.
        policy_mapping_fn, evaluation_policy_mapping_fn, policies_to_train, check_mapping: as for
            :func:`set_mapping`.
        config_overrides: id of a new policy -> settings that hold for it alone.
        agent_ids: id of a loaded or added policy -> agents whose filters get the statistics of its
            snapshot.
        spaces: as for ``load_into``.
        trust: as for ``add_policy``.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy that the Algorithm has afterwards, on each learner and worker. There
        are two exceptions, for calls that remove no policy: a call that loads policies and adds
        none returns rows of the loaded policies, and a call that adds one policy and loads none
        returns rows of the added policy.

    Raises:
        NotFoundError, InvalidInputError, MismatchError, UntrustedError: as the four calls, or an id
            that is named twice; nothing was changed.
        SyncError: a worker did not take a change; all learners and workers are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    return change(
        algo,
        timeout,
        load=load,
        add=add,
        remove=remove,
        steering=Steering(
            policy_mapping_fn, evaluation_policy_mapping_fn, policies_to_train, check_mapping
        ),
        config_overrides=config_overrides,
        agent_ids=agent_ids,
        spaces=spaces,
        trust=trust,
        failed="nothing was changed",
    )
