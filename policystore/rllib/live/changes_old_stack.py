"""Change the policies of a running Algorithm of the old API stack.

RLlib's ``add_policy`` gives every worker different random weights. RLlib's ``remove_policy`` does
not end episodes in which the removed policy plays, and all workers with such an episode then die
(``evaluation/episode_v2.py:131``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.live.changes import Addition, Stack, remove_requests
from policystore.rllib.live.checks.compatibility import prepare
from policystore.rllib.live.checks.filters import old_stack_filters
from policystore.rllib.live.checks.trial_build import build_on_driver, check_supported, recipe_of
from policystore.rllib.live.transaction import Transaction
from policystore.rllib.worker_code.messages.requests import (
    AddPolicyRequest,
    LoadRequest,
    PolicyRecipe,
)
from policystore.rllib.worker_code.policies import add_policy, remove_policy, steer_policies
from policystore.rllib.workers.compat import forget_old_policy
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

__all__ = ["OldStack"]

_NOTHING = "Nothing was changed."


class OldStack(Stack[AddPolicyRequest]):
    """Changes of an Algorithm that has rollout workers."""

    name = "old"
    add = staticmethod(add_policy)
    steer = staticmethod(steer_policies)

    def check(self, left: list[str]) -> None:
        """Refuse to add policies where none acts, and to remove policies of the config."""
        changes = self.changes
        if changes.add and self.algo.config.input_ != "sampler":
            raise InvalidInputError(
                f"{type(self.algo).__name__} learns from recorded samples (input_="
                f"{self.algo.config.input_!r:.100}): once it has two policies, RLlib cannot read "
                "the samples, which name one (offline/json_reader.py:307). Only policies of an "
                f"Algorithm that samples itself can be added. {_NOTHING}"
            )
        if changes.agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for the new API stack; on the old one filters belong to policies"
            )
        fixed = [pid for pid in changes.remove if pid in self.algo.config.policies]
        if fixed:
            raise InvalidInputError(
                f"policy {', '.join(map(repr, fixed))} cannot be removed: it is one of the "
                "Algorithm's config, so restarted workers and checkpoints would have it again. "
                "Keep the policy, and pass a policy_mapping_fn that returns other policies. "
                f"{_NOTHING}"
            )

    def prepare_addition(self, policy_id: str, snap: Snapshot) -> Addition[AddPolicyRequest]:
        """Check that a policy can be added: build it on the driver."""
        algo, transaction = self.algo, self.transaction
        local = _local_worker(transaction)
        recipe = recipe_of(
            algo, policy_id, snap, self.changes.trust, self.changes.config_overrides.get(policy_id)
        )
        to_train = self.changes.steering.policies_to_train
        policy, info = build_on_driver(local, recipe, snap, to_train)
        prepared = prepare(policy_id, snap, info, self.name)
        check_supported(algo, local, policy_id, policy, info)
        request = AddPolicyRequest(
            recipe=recipe,
            load=LoadRequest(
                token=transaction.token,
                plans={policy_id: prepared.plan},
                timeout=transaction.deadline.left(),
                filters=recipe.filters,
            ),
        )
        return Addition(request, info, prepared, prepared.notes + _notes(algo, recipe))

    def filters(
        self, snaps: Mapping[str, Snapshot], request: LoadRequest
    ) -> tuple[LoadRequest, tuple[str, ...]]:
        """Return a request with the statistics of filters, which belong to policies."""
        stats, notes = old_stack_filters(self.algo.env_runner, snaps)
        return request.replace(filters=stats), notes

    def remove(self, policy_ids: tuple[str, ...]) -> None:
        """Remove policies from all workers."""
        for request in remove_requests(self, policy_ids):
            self.transaction.apply(remove_policy, request)

    def after(self, request: LoadRequest) -> None:
        """Forget removed policies on the driver."""
        for pid in self.changes.remove:
            forget_old_policy(self.algo, pid)


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
