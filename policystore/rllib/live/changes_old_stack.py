"""Add policies to a running Algorithm of the old API stack, and remove them.

RLlib's ``add_policy`` gives every worker different random weights. RLlib's ``remove_policy`` does
not end episodes in which the removed policy plays, and all workers with such an episode then die
(``evaluation/episode_v2.py:131``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.checks.compatibility import prepare
from policystore.rllib.live.checks.trial_build import build_on_driver, check_supported, recipe_of
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.session import Session
from policystore.rllib.live.transaction import Payload, Transaction
from policystore.rllib.worker_code.messages.answers import WorkerInfo
from policystore.rllib.worker_code.messages.requests import (
    AddPolicyRequest,
    LoadRequest,
    MappingRequest,
    PolicyRecipe,
    RemoveRequest,
    ReplayEntry,
)
from policystore.rllib.worker_code.policies import add_policy, remove_policy
from policystore.rllib.worker_code.policy_mapping import check_mapping
from policystore.rllib.workers.compat import forget_old_policy
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

    from policystore.rllib.worker_code.messages.answers import ToTrain

__all__ = ["add_old", "remove_old"]

_NOTHING = "Nothing was changed."
_ADVICE = f"{_NOTHING} Pass a policy_mapping_fn= that returns only ids of the remaining policies."


def add_old(
    transaction: Transaction,
    before: WorkerInfo,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: Callable[..., str] | None,
    policies_to_train: ToTrain | None,
    trust: Trust,
) -> SyncReport:
    """Add a policy on the old stack: see :func:`policystore.rllib.add_policy`.

    Args:
        transaction: the transaction of this change.
        before: description of all policies that the Algorithm has.
        policy_id: id of the new policy.
        snap: snapshot of the new policy.
        policy_mapping_fn: the new mapping function; None keeps the present function.
        policies_to_train: the new choice; None keeps the present choice.
        trust: classes that the snapshot may name.
    """
    algo = transaction.algo
    local = _local_worker(transaction)
    recipe = recipe_of(algo, policy_id, snap, trust)
    policy, info = build_on_driver(local, recipe, snap, policies_to_train)
    prepared = prepare(policy_id, snap, info, "old")
    check_supported(algo, local, policy_id, policy, info)
    spaces = (policy.observation_space, policy.action_space)
    del policy
    if policy_mapping_fn is not None:
        transaction.check(
            check_mapping,
            MappingRequest(policy_mapping_fn, added={policy_id: spaces}, removed=[]),
            description=f"policy {policy_id!r} cannot be added",
            advice=_ADVICE,
        )
    request = AddPolicyRequest(
        recipe=recipe,
        load=LoadRequest(
            token=transaction.token,
            plans={policy_id: prepared.plan},
            timeout=transaction.deadline.left(),
            filters=recipe.filters,
        ),
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
    )
    payload = Payload(transaction.workers, {policy_id: prepared})
    with transaction.changes(before, "the policy was not added"):
        report = transaction.apply_and_prove(
            add_policy,
            request,
            payload=payload,
            info=before.replace(policies={policy_id: info}),
            expected={policy_id: prepared.expected},
            notes=prepared.notes + _notes(algo, recipe),
        )
    transaction.commit(transaction.replay_of(request, payload, add_policy), policy_mapping_fn)
    return report


def remove_old(
    transaction: Transaction,
    before: WorkerInfo,
    policy_id: str,
    *,
    policy_mapping_fn: Callable[..., str] | None,
    policies_to_train: ToTrain | None,
) -> SyncReport:
    """Remove a policy on the old stack: see :func:`policystore.rllib.remove_policy`.

    Args:
        transaction: the transaction of this change.
        before: description of all policies that the Algorithm has.
        policy_id: id of the policy.
        policy_mapping_fn: the new mapping function; None keeps the present function.
        policies_to_train: the new choice; None keeps the present choice.
    """
    algo = transaction.algo
    left = [pid for pid in before.ids if pid != policy_id]
    description = f"policy {policy_id!r} cannot be removed"
    if not left:
        raise InvalidInputError(f"{description}: it is the only one of the Algorithm. {_NOTHING}")
    if policy_id in algo.config.policies:
        raise InvalidInputError(
            f"{description}: it is one of the Algorithm's config, so restarted workers and "
            "checkpoints would have it again. Keep the policy, and pass a policy_mapping_fn that "
            f"returns other policies. {_NOTHING}"
        )
    if before.policies[policy_id].trained and not any(
        before.is_trained(pid, policies_to_train) for pid in left
    ):
        raise InvalidInputError(
            f"{description}: it is the only one in training. Pass policies_to_train= with others. "
            f"{_NOTHING}"
        )
    transaction.check(
        check_mapping,
        MappingRequest(policy_mapping_fn, added={}, removed=[policy_id]),
        description=description,
        advice=_ADVICE,
    )
    request = RemoveRequest(
        token=transaction.token,
        policy_id=policy_id,
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
        timeout=transaction.deadline.left(),
    )
    with transaction.changes(before, f"policy {policy_id!r} was not removed"):
        transaction.apply(remove_policy, request)
    forget_old_policy(algo, policy_id)
    transaction.commit(ReplayEntry("remove", (policy_id,)), policy_mapping_fn)
    # A new session, because the transaction still has the removed policy in its descriptions.
    after = Session(algo, max(transaction.deadline.left(), 10.0))
    return after.report(after.describe(left))


def _local_worker(transaction: Transaction) -> RolloutWorker:
    """Return the local worker of the training group; on the old stack it is the learner."""
    (leader,) = [worker for worker in transaction.workers if worker.leads]
    return leader.local.worker if leader.local is not None else None


def _notes(algo: Algorithm, recipe: PolicyRecipe) -> tuple[str, ...]:
    """Return a report's notes on the new policy's observation filter."""
    if recipe.filter_name == "NoFilter" or algo.config.observation_filter != "NoFilter":
        return ()
    return (
        f"{recipe.policy_id!r} has an observation filter, and this Algorithm has none: RLlib then "
        "does not merge the filter's statistics, so the statistics of the workers drift apart",
    )
