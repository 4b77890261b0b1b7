"""Check the arguments of the calls that change a running Algorithm, and carry out the changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.live.changes import Stack, run_changes
from policystore.rllib.live.changes_new_stack import NewStack
from policystore.rllib.live.changes_old_stack import OldStack
from policystore.rllib.live.checks.arguments import (
    Changes,
    Steering,
    check_compare,
    check_functions,
    check_known,
    check_new_id,
    check_overrides,
    check_to_train,
    given_snapshots,
    listed_ids,
    split_by_module,
)
from policystore.rllib.live.checks.compatibility import Compare
from policystore.rllib.live.checks.filters import AgentIds, agents_by_policy
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.transaction import Transaction
from policystore.rllib.worker_code.messages.answers import WorkerInfo
from policystore.rllib.workers.compat import is_new_stack
from policystore.snapshot import Snapshot

__all__ = ["change"]

_NO_STEERING = Steering()
_LOAD = "load_into(algo, {'main': snap})"
_ADD = "set_policies(algo, add={'main-3': snap})"


def change(
    algo: Algorithm,
    timeout: float,
    *,
    load: Mapping[str, Snapshot] | None = None,
    add: Mapping[str, Snapshot] | None = None,
    remove: Iterable[str] = (),
    steering: Steering = _NO_STEERING,
    config_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    agent_ids: AgentIds = None,
    spaces: Compare = "exact",
    trust: Trust = (),
    failed: str,
) -> SyncReport:
    """Check the arguments of a call that changes an Algorithm, and carry out the changes.

    Args:
        algo: the Algorithm.
        timeout: seconds for the whole call.
        load, add, remove, config_overrides, agent_ids, spaces, trust: as for
            :func:`~policystore.rllib.set_policies`.
        steering: which policies act and which are trained.
        failed: the beginning of the message of a failure.

    Returns:
        As :func:`~policystore.rllib.live.changes.run_changes`, and with the same errors.
    """
    transaction = Transaction(algo, timeout)
    loaded = split_by_module(given_snapshots({} if load is None else load, _LOAD))
    added = given_snapshots({} if add is None else add, _ADD)
    removed = tuple(dict.fromkeys(listed_ids(remove, "remove")))
    to_train = steering.policies_to_train
    check_functions(
        to_train,
        policy_mapping_fn=steering.policy_mapping_fn,
        evaluation_policy_mapping_fn=steering.evaluation_policy_mapping_fn,
    )
    check_compare(spaces)
    only_loads = not (added or removed or Changes(steering=steering).steers)
    before = transaction.describe(list(loaded) if loaded and only_loads else None)
    for pid in added:
        check_new_id(pid, before)
    check_known(loaded, before, " Nothing was sent. add_policy() adds one.")
    check_known(removed, before, " Nothing was changed.")
    both = sorted(set(loaded) & set(removed))
    if both:
        raise InvalidInputError(
            f"{', '.join(map(repr, both))}: a policy cannot be loaded and removed at once. Nothing "
            "was changed."
        )
    left = [pid for pid in [*before.ids, *added] if pid not in removed]
    check_to_train(to_train, left)
    overrides = {}
    for pid, given in dict(config_overrides or {}).items():
        if pid not in added:
            raise InvalidInputError(
                f"config_overrides names {pid!r}, which is not added. Nothing was changed."
            )
        overrides[pid] = check_overrides(given, pid) or {}
    changes = Changes(
        load=loaded,
        add=added,
        remove=removed,
        steering=steering,
        agent_ids=agents_by_policy({**loaded, **added}, agent_ids),
        trust=listed(trust),
        config_overrides=overrides,
        compare=spaces,
        failed=failed,
    )
    if not (loaded or added or changes.steers):
        raise InvalidInputError(
            "nothing to change: give load=, add=, remove=, policy_mapping_fn=, "
            "evaluation_policy_mapping_fn= or policies_to_train="
        )
    return _run_changes(transaction, before, changes)


def _run_changes(transaction: Transaction, before: WorkerInfo, changes: Changes) -> SyncReport:
    stack: type[Stack[Any]] = NewStack if is_new_stack(transaction.algo) else OldStack
    return run_changes(stack(transaction, before, changes))
