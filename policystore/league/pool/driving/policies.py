"""Take snapshots of the policies of a pool: what each has for itself, and nothing of all agents."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.rllib.api import snapshot
from policystore.rllib.live.checks.filters import has_filter
from policystore.rllib.new_stack.env_interface import stateful_connectors
from policystore.rllib.worker_code.compat import is_multi_agent
from policystore.rllib.workers.compat import is_new_stack, unmerged_states
from policystore.snapshot import Snapshot

__all__ = ["parts_of_agents", "snapshot_of"]


def parts_of_agents(algorithm: Algorithm) -> list[str]:
    """Return the names of the connectors whose state belongs to agents, and not to policies.

    Such as a ``MeanStdFilter`` of the new API stack: an Algorithm does not say which agents act
    through a policy, and in a pool they change with each episode. On the old stack filters belong
    to policies.
    """
    if not is_new_stack(algorithm) or not is_multi_agent(algorithm.config):
        return []
    return stateful_connectors(algorithm)


def snapshot_of(algorithm: Algorithm, policy_id: str) -> Snapshot:
    """Take a snapshot of a policy, without the state that it does not have for itself.

    Without the state of :func:`parts_of_agents`, and on the old stack without filter statistics
    that RLlib does not merge, of which each worker has others. The spec says so.

    Raises:
        PolicyStoreError: as :func:`policystore.rllib.snapshot`.
    """
    omit = parts_of_agents(algorithm)
    if not is_new_stack(algorithm) and has_filter(algorithm) and unmerged_states(algorithm):
        omit = ["MeanStdFilter"]
    return snapshot(algorithm, policy_id, omit=omit)
