"""Policies that come to and leave a running Algorithm, on all its learners and workers at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ALL_MODULES

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.live.add_remove_new_stack import add_new, remove_new
from policystore.rllib.live.add_remove_old_stack import add_old, remove_old
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.transaction import deadline_of, describe_policies, settle_old
from policystore.rllib.workers.by_value import check_ships
from policystore.rllib.workers.calls import is_new_stack, workers_of
from policystore.snapshot import Snapshot

__all__ = ["add_policy", "remove_policy"]

ToTrain: TypeAlias = Collection[str] | Callable[..., bool]
"""Ids of the policies that training updates, or RLlib's function of an id and a batch."""

_FORBIDDEN = frozenset('<>:"/\\|?*')
_LONGEST = 200  # bytes; names of folders end at 255 on most disks


def add_policy(
    algo: Algorithm,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: Callable[..., str] | None = None,
    policies_to_train: ToTrain | None = None,
    agent_ids: Any = None,
    trust: Trust = (),
    timeout: float = 60.0,
) -> SyncReport:
    """Add a policy to a running Algorithm, with its weights, on every learner and worker at once.

    Its spaces and network may be others than its neighbours'. Env runners of the new stack get it
    inference-only. All or nothing, as :func:`load_into <policystore.rllib.live.load.load_into>`.
    Episodes that have begun keep the mapping that they began with; with several learners they start
    anew.

    Args:
        algo: multi-agent, of either API stack, not inside ``train()``.
        policy_id: a new id.
        snap: of the same stack.
        policy_mapping_fn: RLlib's function of agent id and episode, from now on; None keeps the
            one there is.
        policies_to_train: which policies training updates from now on; None keeps what there is. If
            that trains everything (RLlib's default), it trains this one too.
        agent_ids: as for ``load_into``.
        trust: classes outside of ``ray.rllib`` that the snapshot may name, as for
            :func:`rebuild_module <policystore.rllib.new_stack.rebuild.rebuild_module>`.
        timeout: seconds for all of it.

    Returns:
        A row for this policy on each learner and worker.

    Raises:
        InvalidInputError: an id that is there, a single-agent Algorithm, aggregator actors, a
            stopped Algorithm, or what RLlib cannot train or restore; nothing was changed.
        MismatchError: weights or filters that do not fit; nothing was changed.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
        SyncError: someone did not take it; everyone is as before.
        StorageError: a learner did not answer before anything was changed.
    """
    deadline = deadline_of(timeout)
    _check_id(policy_id)
    check_snapshot(snap)
    _check_functions(policy_mapping_fn, policies_to_train)
    trust = listed(trust)
    team = workers_of(algo)
    settle_old(algo, deadline)
    there = describe_policies(team, [], deadline)["ids"]
    if policy_id in there:
        raise InvalidInputError(
            f"the Algorithm has a policy {policy_id!r} already; load_into() gives it other "
            f"weights. It has {', '.join(map(repr, there))}. Nothing was changed."
        )
    if policies_to_train is not None and not callable(policies_to_train):
        _check_known(policies_to_train, [*there, policy_id], "policies_to_train")
    if not is_new_stack(algo):
        if agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for the new API stack; on the old one filters belong to policies"
            )
        return add_old(
            algo,
            policy_id,
            snap,
            policy_mapping_fn=policy_mapping_fn,
            policies_to_train=policies_to_train,
            trust=trust,
            deadline=deadline,
        )
    return add_new(
        algo,
        policy_id,
        snap,
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
        agent_ids=agent_ids,
        trust=trust,
        deadline=deadline,
    )


def remove_policy(
    algo: Algorithm,
    policy_id: str,
    *,
    policy_mapping_fn: Callable[..., str] | None = None,
    policies_to_train: ToTrain | None = None,
    timeout: float = 60.0,
) -> SyncReport:
    """Remove a policy from a running Algorithm, on every learner and worker.

    Episodes that have begun start anew, and samples under way are dropped, as they may name it.

    Args:
        algo: multi-agent, of either API stack, not inside ``train()``.
        policy_id: which.
        policy_mapping_fn: from now on, where the one there is still names the policy. A function
            that draws lots is asked 64 times per agent: no proof.
        policies_to_train: from now on; None keeps what there is, less this one.
        timeout: seconds for all of it.

    Returns:
        A row for each policy that is left, on each learner and worker.

    Raises:
        NotFoundError: no such policy; lists those there are.
        InvalidInputError: the only policy, the only one in training, one that the mapping function
            names, or what RLlib could not go on without; nothing was changed.
        SyncError: someone did not let go of it; everyone who answers is as before.
        StorageError: a learner did not answer before anything was changed.
    """
    deadline = deadline_of(timeout)
    _check_functions(policy_mapping_fn, policies_to_train)
    team = workers_of(algo)
    settle_old(algo, deadline)
    there = describe_policies(team, [], deadline)["ids"]
    if policy_id not in there:
        raise NotFoundError(
            f"the Algorithm has no policy {policy_id!r}; it has {', '.join(map(repr, there))}. "
            "Nothing was changed."
        )
    if policies_to_train is not None and not callable(policies_to_train):
        left = [pid for pid in there if pid != policy_id]
        _check_known(policies_to_train, left, "policies_to_train")
    changes: dict[str, Any] = {
        "policy_mapping_fn": policy_mapping_fn,
        "policies_to_train": policies_to_train,
        "deadline": deadline,
    }
    if is_new_stack(algo):
        return remove_new(algo, policy_id, **changes)
    return remove_old(algo, policy_id, **changes)


def _check_id(policy_id: object) -> None:
    # core/rl_module/validators.py: ids become names of folders in checkpoints.
    if (
        not isinstance(policy_id, str)
        or not policy_id
        or policy_id[-1] in ". \\"
        or _FORBIDDEN & set(policy_id)
        or not policy_id.isprintable()
        or len(policy_id.encode("utf-8", "replace")) > _LONGEST
        or policy_id == ALL_MODULES
    ):
        raise InvalidInputError(
            f"a policy id is a printable text of at most {_LONGEST} bytes, without any of "
            f"{''.join(sorted(_FORBIDDEN))}, without a dot or space at its end, and not "
            f"{ALL_MODULES!r}; found {policy_id!r:.300}"
        )


def _check_functions(mapping: object, to_train: object) -> None:
    if mapping is not None and not callable(mapping):
        raise InvalidInputError(f"policy_mapping_fn is a function, not {mapping!r}")
    for name, given in (("policy_mapping_fn", mapping), ("policies_to_train", to_train)):
        if callable(given):
            check_ships(given, name)
    if to_train is None or callable(to_train):
        return
    if isinstance(to_train, (str, bytes)) or not isinstance(to_train, (list, tuple, set)):
        raise InvalidInputError(
            f"policies_to_train is a list, tuple or set of ids, or a function; not {to_train!r}"
        )
    if not to_train:
        raise InvalidInputError("policies_to_train is empty: nothing would be trained")


def _check_known(given: Collection[str], known: list[str], what: str) -> None:
    unknown = [pid for pid in given if pid not in known]
    if unknown:
        raise NotFoundError(
            f"{what} names {unknown!r}, which the Algorithm would not have; it would have "
            f"{', '.join(map(repr, known))}. Nothing was changed."
        )
