"""Load weights into a running Algorithm, add policies and remove them.

RLlib's own calls do not do this. On the old stack, weights that are set on the driver reach no
remote worker (``algorithms/algorithm.py:set_weights``). On the new stack, runners drop weights
whose number is not higher than their own number (``env/single_agent_env_runner.py:610``), and keys
that do not fit are skipped silently (``core/rl_module/torch/torch_rl_module.py:153``).

Each call here checks everything before it sends anything. Then all workers change, and report which
weights they hold afterwards. If a worker does not change, all workers are put back
(``changes.py``, ``transaction.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.checks.arguments import MappingFunction, Steering
from policystore.rllib.live.checks.compatibility import Compare
from policystore.rllib.live.checks.filters import AgentIds
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.requested import change
from policystore.rllib.worker_code.messages.answers import ToTrain
from policystore.snapshot import Snapshot

__all__ = ["ToTrain", "add_policy", "load_into", "remove_policy"]


def load_into(
    algo: Algorithm,
    snaps: Mapping[str, Snapshot],
    *,
    agent_ids: AgentIds = None,
    spaces: Compare = "exact",
    timeout: float = 60.0,
) -> SyncReport:
    """Give policies of a running Algorithm the weights of snapshots, on every learner and worker.

    The weights are loaded into the learners (local or remote), the local worker, and all remote
    workers of the training, evaluation and offline evaluation groups. Filter statistics are loaded,
    too. When this function returns, each worker has reported that it holds exactly these weights.
    The next sample of every worker is drawn with these weights, and the next ``train()`` neither
    undoes nor delays the load. The call takes no CPU, actor or task slot.

    All learners and workers change, or none. If a worker refuses or does not answer in time, or a
    learner is dead, all workers get their old weights back, also workers that answer later. A dead
    env runner is no failure: its row reads ``unreachable``. An env runner that is restarted or
    added from now on gets the weights before it samples, even if RLlib does not notice the restart.
    For this, Ray's object store keeps one copy of the weights.

    With IMPALA and APPO, the call waits for updates that are under way. The weights get a number
    far above the numbers of older weights that are still on their way, so runners drop the older
    weights (``env/multi_agent_env_runner.py:771``). Optimizers keep their moments; a note
    says so if training updates the policy and the Algorithm has trained before. A lock of
    ``load_local`` ends. If a snapshot has no target networks, the target networks become copies of
    their networks.

    Args:
        algo: an Algorithm of either API stack, while ``train()`` does not run.
        snaps: id of a policy or module of the Algorithm -> the snapshot to load into it. Use the id
            ``"__all_modules__"`` for the snapshot of modules that share parts.
        agent_ids: policy id -> ids of the agents whose filters get the snapshot's statistics. For a
            single snapshot, a list of agent ids is enough. Only for multi-agent Algorithms of the
            new stack and snapshots with filter statistics.
        spaces: ``"exact"``: the snapshot's spaces must equal the policy's. ``"shape"``: the bounds
            of Boxes may differ, as in the next instance of a curriculum.
        timeout: seconds for the whole call.

    Returns:
        A row for each of these policies on each learner and worker.

    Raises:
        NotFoundError: no such policy; the message lists the policies of the Algorithm.
        MismatchError: names, shapes, dtypes, spaces or filters that differ; nothing was sent.
        InvalidInputError: a stopped Algorithm, or an argument of the wrong form.
        SyncError: a worker did not take the weights; all workers have their old weights again.
        StorageError: a learner did not answer before anything was sent.
    """
    if isinstance(snaps, Mapping) and not snaps:
        raise InvalidInputError("no snapshot was given: load_into(algo, {'main': snap})")
    return change(
        algo,
        timeout,
        load=snaps,
        agent_ids=agent_ids,
        spaces=spaces,
        failed="the weights were not loaded",
    )


def add_policy(
    algo: Algorithm,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: MappingFunction | None = None,
    evaluation_policy_mapping_fn: MappingFunction | None = None,
    policies_to_train: ToTrain | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    agent_ids: AgentIds = None,
    trust: Trust = (),
    check_mapping: bool = True,
    timeout: float = 60.0,
) -> SyncReport:
    """Add a policy to a running Algorithm, with its weights, on every learner and worker at once.

    The policy may have other spaces and another network than the other policies. Env runners of
    the new stack get an inference-only module. As with :func:`load_into`, all learners and workers
    change, or none. Episodes that have begun keep their mapping. With several learners, these
    episodes start again instead if ``policy_mapping_fn`` is given.

    Args:
        algo: a multi-agent Algorithm of either API stack, while ``train()`` does not run.
        policy_id: a new id.
        snap: a snapshot of the same API stack as ``algo``.
        policy_mapping_fn: as for ``set_mapping``. If None and if the present function does not
            name the new policy, a note in the report says so.
        evaluation_policy_mapping_fn: as for ``set_mapping``.
        policies_to_train: as for ``set_mapping``. If the present choice is all policies
            (RLlib's default), the new policy is trained, too.
        config_overrides: settings that hold for this policy alone, such as
            ``PPOConfig.overrides(lr=0.0001)``, as for RLlib's ``Algorithm.add_module``.
        agent_ids: as for ``load_into``.
        trust: classes outside of ``ray.rllib`` that the snapshot may name, as for
            :func:`rebuild_module <policystore.rllib.new_stack.rebuild.rebuild_module>`.
        check_mapping: as for ``set_mapping``.
        timeout: seconds for the whole call.

    Returns:
        A row for this policy on each learner and worker.

    Raises:
        InvalidInputError: an id that the Algorithm has already, a stopped Algorithm, a mapping
            function that does not fit, or a policy that RLlib cannot train or restore; new stack: a
            single-agent Algorithm, or aggregator actors; old stack: an Algorithm that learns from
            recorded samples. Nothing was changed.
        MismatchError: weights or filters that do not fit; nothing was changed.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
        SyncError: a worker did not take the policy; all learners and workers are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    return change(
        algo,
        timeout,
        add={policy_id: snap},
        steering=Steering(
            policy_mapping_fn, evaluation_policy_mapping_fn, policies_to_train, check_mapping
        ),
        config_overrides=None if config_overrides is None else {policy_id: config_overrides},
        agent_ids=agent_ids,
        trust=trust,
        failed="the policy was not added",
    )


def remove_policy(
    algo: Algorithm,
    policy_id: str,
    *,
    policy_mapping_fn: MappingFunction | None = None,
    evaluation_policy_mapping_fn: MappingFunction | None = None,
    policies_to_train: ToTrain | None = None,
    check_mapping: bool = True,
    timeout: float = 60.0,
) -> SyncReport:
    """Remove a policy from a running Algorithm, on every learner and worker.

    On the new stack all episodes that have begun start again; on the old stack, those in which the
    policy plays. Samples that are on their way to a learner are dropped, because these samples may
    name the removed policy.

    Args:
        algo: a multi-agent Algorithm of either API stack, while ``train()`` does not run.
        policy_id: id of the policy.
        policy_mapping_fn: as for ``set_mapping``; needed if the present function returns the
            removed policy.
        evaluation_policy_mapping_fn: as for ``set_mapping``; needed if evaluation has a
            function of its own that returns the removed policy.
        policies_to_train: as for ``set_mapping``; None keeps the present choice without this
            policy.
        check_mapping: as for ``set_mapping``.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy that is left, on each learner and worker.

    Raises:
        NotFoundError: no such policy; the message lists the policies of the Algorithm.
        InvalidInputError: the only policy, the only policy in training, a policy that a mapping
            function returns, or a policy that RLlib needs for another reason; nothing was changed.
        SyncError: a worker did not remove the policy; all workers that answer are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    return change(
        algo,
        timeout,
        remove=[policy_id],
        steering=Steering(
            policy_mapping_fn, evaluation_policy_mapping_fn, policies_to_train, check_mapping
        ),
        failed=f"policy {policy_id!r} was not removed",
    )
