"""Filter statistics in live workers. Runs there; sent by value, see ``worker_side.py``."""

from __future__ import annotations

from typing import Any

__all__ = [
    "policy_filter",
    "read_old_filter",
    "relink_old_filter",
    "runner_filters",
    "write_old_filter",
]


def runner_filters(worker: Any) -> dict[Any, Any] | None:
    """Numbers of observations that each agent's filter has seen, on an env runner."""
    pipeline = getattr(worker, "_env_to_module", None)
    for piece in getattr(pipeline, "connectors", ()):
        if any(base.__name__ == "MeanStdFilter" for base in type(piece).__mro__):
            return {
                agent: max((int(stat["num_pushes"]) for stat in state["running_stats"]), default=0)
                for agent, state in piece.get_state().items()
            }
    return None


def _old_filter(policy: Any) -> Any:
    for connector in getattr(policy.agent_connectors, "connectors", ()):
        found = getattr(connector, "filter", None)
        if found is not None and hasattr(found, "running_stats"):
            return found
    return None


def policy_filter(policy: Any) -> int | None:
    """How many observations an old-stack policy's filter has seen."""
    import tree

    found = _old_filter(policy)
    if found is None:
        return None
    return max((int(stat.num_pushes) for stat in tree.flatten(found.running_stats)), default=0)


def read_old_filter(policy: Any) -> list[tuple[int, Any, Any]]:
    """Count, mean and sum of squared differences of each component of its filter."""
    import numpy as np
    import tree

    stats = tree.flatten(_old_filter(policy).running_stats)
    return [
        (int(s.num_pushes), np.array(s.mean_array), np.array(getattr(s, _squares(s))))
        for s in stats
    ]


def _squares(stat: Any) -> str:
    # utils/filter.py of Ray 2.40 calls it std_array, which it is not.
    return "sum_sq_diff_array" if hasattr(stat, "sum_sq_diff_array") else "std_array"


def write_old_filter(policy: Any, stats: Any) -> None:
    """Set what :func:`read_old_filter` gives."""
    import numpy as np
    import tree

    found = _old_filter(policy)
    for stat, (count, mean, squares) in zip(tree.flatten(found.running_stats), stats, strict=True):
        stat.num_pushes = count
        stat.mean_array = np.array(mean)
        setattr(stat, _squares(stat), np.array(squares))
    found.reset_buffer()


def relink_old_filter(worker: Any, pid: str) -> None:
    """Let a worker's list of filters, which training merges, hold the policy's own one again.

    ``Policy.set_state`` makes new connectors and leaves the old filter in the list: on restarted
    workers, after a checkpoint and of swapped-out policies (``connectors/util.py:153``).
    """
    from ray.rllib.connectors.util import maybe_get_filters_for_syncing

    maybe_get_filters_for_syncing(worker, pid)
