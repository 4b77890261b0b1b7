"""Read and set filter statistics in live workers. Runs in actors, sent by value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import env_to_module, squares_name

if TYPE_CHECKING:
    from ray.rllib.evaluation.rollout_worker import RolloutWorker
    from ray.rllib.policy.policy import Policy

    from policystore.rllib.worker_code.messages.requests import FilterStats
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = [
    "policy_filter",
    "read_old_filter",
    "relink_old_filter",
    "runner_filters",
    "write_old_filter",
]


def runner_filters(worker: AnyWorker) -> dict[Any, int] | None:
    """Return how many observations the filter of each agent has seen, on an env runner."""
    for piece in getattr(env_to_module(worker), "connectors", ()):
        if any(base.__name__ == "MeanStdFilter" for base in type(piece).__mro__):
            return {
                agent: max((int(stat["num_pushes"]) for stat in state["running_stats"]), default=0)
                for agent, state in piece.get_state().items()
            }
    return None


def _old_filter(policy: Policy) -> Any:
    """Return the filter in the connectors of an old-stack policy; None where it has none."""
    for connector in getattr(policy.agent_connectors, "connectors", ()):
        candidate = getattr(connector, "filter", None)
        if candidate is not None and hasattr(candidate, "running_stats"):
            return candidate
    return None


def policy_filter(policy: Policy) -> int | None:
    """Return how many observations an old-stack policy's filter has seen; None without a filter."""
    import tree

    own = _old_filter(policy)
    if own is None:
        return None
    return max((int(stat.num_pushes) for stat in tree.flatten(own.running_stats)), default=0)


def read_old_filter(policy: Policy) -> FilterStats:
    """Return the statistics of an old-stack policy's filter."""
    import numpy as np
    import tree

    stats = tree.flatten(_old_filter(policy).running_stats)
    return [
        (int(s.num_pushes), np.array(s.mean_array), np.array(getattr(s, squares_name(s))))
        for s in stats
    ]


def write_old_filter(policy: Policy, stats: FilterStats) -> None:
    """Set the statistics of an old-stack policy's filter."""
    import numpy as np
    import tree

    own = _old_filter(policy)
    for stat, (count, mean, squares) in zip(tree.flatten(own.running_stats), stats, strict=True):
        stat.num_pushes = count
        stat.mean_array = np.array(mean)
        setattr(stat, squares_name(stat), np.array(squares))
    own.reset_buffer()


def relink_old_filter(worker: RolloutWorker, policy_id: str) -> None:
    """Put a policy's present filter back into the worker's list of filters, which training merges.

    ``Policy.set_state`` makes new connectors and leaves the old filter in that list: on restarted
    workers, after a checkpoint and for swapped-out policies (``connectors/util.py:153``).
    """
    from ray.rllib.connectors.util import maybe_get_filters_for_syncing

    maybe_get_filters_for_syncing(worker, policy_id)
