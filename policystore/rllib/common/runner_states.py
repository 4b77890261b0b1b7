"""Read filters and connector states of one env runner, where RLlib does not merge them.

RLlib usually merges the filter statistics of all env runners into the local one. With
``merge_env_runner_states=False`` (new API stack, ``env/env_runner_group.py:492``) or
``use_worker_filter_stats=False`` (old API stack, ``utils/filter_manager.py``) each env runner keeps
its own, and the local one stays empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError, NotFoundError, StorageError
from policystore.rllib.worker_code.filters import read_pieces, read_policy_filter
from policystore.rllib.worker_code.messages.requests import FilterStats
from policystore.rllib.workers.answers import Answer
from policystore.rllib.workers.calls import Deadline, send
from policystore.rllib.workers.compat import actor_manager, unmerged_states
from policystore.rllib.workers.discovery import Worker

__all__ = ["pieces_of_runner", "policy_filter_of_runner", "require_merged"]

_ANSWER_TIMEOUT = 600.0  # seconds; the env runner may be sampling
T = TypeVar("T")


def require_merged(algorithm: Algorithm, names: Iterable[str]) -> None:
    """Refuse to take the local env runner's states of connectors where RLlib does not merge them.

    Args:
        algorithm: an Algorithm of either API stack.
        names: names of the connectors whose state would be taken.

    Raises:
        InvalidInputError: RLlib does not merge; the message says what to do.
    """
    listed = list(names)
    setting = unmerged_states(algorithm)
    if not listed or not setting:
        return
    raise InvalidInputError(
        f"the Algorithm has {setting}, so each env runner keeps its own state of "
        f"{', '.join(listed)}, and the local env runner has none of it. Pass from_runner=1 to take "
        f"the state of env runner 1, or omit={listed!r} to leave it out, which the spec then "
        "records."
    )


def pieces_of_runner(algorithm: Algorithm, from_runner: int) -> dict[str, list[tuple[str, Any]]]:
    """Return class name and state of each connector of an env runner of the new stack, in order.

    Args:
        algorithm: an Algorithm of the new stack.
        from_runner: RLlib's number of the env runner.

    Raises:
        NotFoundError: no such env runner; the message lists the numbers.
        StorageError: the env runner does not answer.
    """
    return _ask(algorithm, from_runner, read_pieces)


def policy_filter_of_runner(
    algorithm: Algorithm, from_runner: int, policy_id: str
) -> FilterStats | None:
    """Return the filter statistics of a policy on a rollout worker; None without a filter.

    The arguments and errors are those of :func:`pieces_of_runner`.
    """
    return _ask(algorithm, from_runner, read_policy_filter, policy_id)


def _ask(algorithm: Algorithm, from_runner: object, function: Callable[..., T], *args: Any) -> T:
    manager = actor_manager(algorithm.env_runner_group)
    actors = manager.actors()
    if isinstance(from_runner, bool) or not isinstance(from_runner, int):
        raise InvalidInputError(
            f"from_runner is RLlib's number of an env runner, not {from_runner!r}"
        )
    if from_runner not in actors:
        raise NotFoundError(
            f"the Algorithm has no remote env runner {from_runner}; it has "
            f"{sorted(actors) or 'none'}"
        )
    worker = Worker(
        f"train {from_runner}",
        "train",
        actor=actors[from_runner],
        manager=manager,
        index=from_runner,
    )
    answer: Answer[T] = send([worker], function, lambda _: args).collect(Deadline(_ANSWER_TIMEOUT))[
        worker
    ]
    if not answer.ok:
        raise StorageError(f"env runner {from_runner} does not answer: {answer.why}")
    return answer.get()
