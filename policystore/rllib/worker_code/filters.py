"""Read and set filter statistics in live workers. Runs in actors, sent by value."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    env_to_module,
    runner_pipeline,
    squares_name,
)

if TYPE_CHECKING:
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.evaluation.rollout_worker import RolloutWorker
    from ray.rllib.policy.policy import Policy

    from policystore.rllib.worker_code.messages.requests import FilterStats
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = [
    "filter_mark",
    "policy_filter",
    "read_old_filter",
    "read_pieces",
    "read_policy_filter",
    "relink_old_filter",
    "runner_filters",
    "write_old_filter",
]


def runner_filters(worker: AnyWorker) -> tuple[dict[Any, int] | None, str]:
    """Return how many observations the filter of each agent has seen, on an env runner.

    Returns:
        The counts, and a text that is the same for the same statistics; None without a filter.
    """
    for piece in getattr(env_to_module(worker), "connectors", ()):
        if any(base.__name__ == "MeanStdFilter" for base in type(piece).__mro__):
            states = piece.get_state()
            counts = {
                agent: max((int(stat["num_pushes"]) for stat in state["running_stats"]), default=0)
                for agent, state in states.items()
            }
            stats = [(agent, state["running_stats"]) for agent, state in states.items()]
            return counts, _short(repr(sorted(stats, key=repr)))
    return None, ""


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_pieces(worker: EnvRunner) -> dict[str, list[tuple[str, Any]]]:
    """Return class name and state of each connector of an env runner, in order, by pipeline."""
    from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2

    def pieces(piece: Any) -> list[tuple[str, Any]]:
        if isinstance(piece, ConnectorPipelineV2):
            return [each for inner in piece.connectors for each in pieces(inner)]
        return [(type(piece).__name__, piece.get_state())]

    pipelines = {name: runner_pipeline(worker, name) for name in ("env_to_module", "module_to_env")}
    return {name: pieces(each) for name, each in pipelines.items() if each is not None}


def read_policy_filter(worker: RolloutWorker, policy_id: str) -> FilterStats | None:
    """Return the filter statistics of a policy of a rollout worker; None without a filter."""
    policy = worker.policy_map[policy_id]
    return None if _old_filter(policy) is None else read_old_filter(policy)


def _old_filter(policy: Policy) -> Any:
    """Return the filter in the connectors of an old-stack policy; None where it has none."""
    for connector in getattr(policy.agent_connectors, "connectors", ()):
        candidate = getattr(connector, "filter", None)
        if candidate is not None and hasattr(candidate, "running_stats"):
            return candidate
    return None


def filter_mark(policy: Policy) -> str:
    """Return a text that is the same for the same statistics of an old-stack policy's filter."""
    if _old_filter(policy) is None:
        return ""
    stats = read_old_filter(policy)
    return _short(repr([(n, mean.tolist(), squares.tolist()) for n, mean, squares in stats]))


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
