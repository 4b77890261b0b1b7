"""Add policies to a running Algorithm and remove them, on all its learners and workers at once."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.metrics import ALL_MODULES

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.live.changes_new_stack import add_new, remove_new
from policystore.rllib.live.changes_old_stack import add_old, remove_old
from policystore.rllib.live.checks.filters import AgentIds
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.transaction import Transaction
from policystore.rllib.worker_code.messages.answers import ToTrain
from policystore.rllib.workers.by_value import check_picklable
from policystore.rllib.workers.compat import is_new_stack
from policystore.snapshot import Snapshot

__all__ = ["ToTrain", "add_policy", "remove_policy"]

_FORBIDDEN = frozenset('<>:"/\\|?*')
_LONGEST = 200  # bytes; most disks allow folder names of up to 255 bytes


def add_policy(
    algo: Algorithm,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: Callable[..., str] | None = None,
    policies_to_train: ToTrain | None = None,
    agent_ids: AgentIds = None,
    trust: Trust = (),
    timeout: float = 60.0,
) -> SyncReport:
    """Add a policy to a running Algorithm, with its weights, on every learner and worker at once.

    The policy may have other spaces and another network than the other policies. Env runners of
    the new stack get an inference-only module. As with
    :func:`load_into <policystore.rllib.live.load.load_into>`, all learners and workers change, or
    none. Episodes that have begun keep their mapping. With several learners, these episodes start
    again instead.

    Args:
        algo: a multi-agent Algorithm of either API stack, while ``train()`` does not run.
        policy_id: a new id.
        snap: a snapshot of the same API stack as ``algo``.
        policy_mapping_fn: RLlib's function of agent id and episode, from now on; None keeps the
            present function.
        policies_to_train: which policies training updates from now on; None keeps the present
            choice. If the present choice is all policies (RLlib's default), the new policy is
            trained, too.
        agent_ids: as for ``load_into``.
        trust: classes outside of ``ray.rllib`` that the snapshot may name, as for
            :func:`rebuild_module <policystore.rllib.new_stack.rebuild.rebuild_module>`.
        timeout: seconds for the whole call.

    Returns:
        A row for this policy on each learner and worker.

    Raises:
        InvalidInputError: an id that the Algorithm has already, a single-agent Algorithm,
            aggregator actors, a stopped Algorithm, or a policy that RLlib cannot train or restore;
            nothing was changed.
        MismatchError: weights or filters that do not fit; nothing was changed.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
        SyncError: a worker did not take the policy; all learners and workers are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    transaction = Transaction(algo, timeout)
    _check_id(policy_id)
    check_snapshot(snap)
    _check_functions(policy_mapping_fn, policies_to_train)
    trust = listed(trust)
    before = transaction.describe(None)
    if policy_id in before.ids:
        raise InvalidInputError(
            f"the Algorithm has a policy {policy_id!r} already; load_into() gives it other "
            f"weights. It has {', '.join(map(repr, before.ids))}. Nothing was changed."
        )
    if policies_to_train is not None and not callable(policies_to_train):
        _check_known(policies_to_train, [*before.ids, policy_id])
    if is_new_stack(algo):
        return add_new(
            transaction,
            before,
            policy_id,
            snap,
            policy_mapping_fn=policy_mapping_fn,
            policies_to_train=policies_to_train,
            agent_ids=agent_ids,
            trust=trust,
        )
    if agent_ids is not None:
        raise InvalidInputError(
            "agent_ids= is for the new API stack; on the old one filters belong to policies"
        )
    return add_old(
        transaction,
        before,
        policy_id,
        snap,
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
        trust=trust,
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

    Episodes that have begun start again. Samples that are on their way to a learner are dropped,
    because these samples may name the removed policy.

    Args:
        algo: a multi-agent Algorithm of either API stack, while ``train()`` does not run.
        policy_id: id of the policy.
        policy_mapping_fn: RLlib's function of agent id and episode, from now on; needed if the
            present function returns the removed policy. The function is called 64 times for each
            agent, which proves nothing for a function that chooses at random.
        policies_to_train: which policies training updates from now on; None keeps the present
            choice without this policy.
        timeout: seconds for the whole call.

    Returns:
        A row for each policy that is left, on each learner and worker.

    Raises:
        NotFoundError: no such policy; the message lists the policies of the Algorithm.
        InvalidInputError: the only policy, the only policy in training, a policy that the mapping
            function returns, or a policy that RLlib needs for another reason; nothing was changed.
        SyncError: a worker did not remove the policy; all workers that answer are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    transaction = Transaction(algo, timeout)
    _check_functions(policy_mapping_fn, policies_to_train)
    before = transaction.describe(None)
    if policy_id not in before.ids:
        raise NotFoundError(
            f"the Algorithm has no policy {policy_id!r}; it has "
            f"{', '.join(map(repr, before.ids))}. Nothing was changed."
        )
    if policies_to_train is not None and not callable(policies_to_train):
        _check_known(policies_to_train, [pid for pid in before.ids if pid != policy_id])
    remove = remove_new if is_new_stack(algo) else remove_old
    return remove(
        transaction,
        before,
        policy_id,
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
    )


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
            check_picklable(given, name)
    if to_train is None or callable(to_train):
        return
    if isinstance(to_train, (str, bytes)) or not isinstance(to_train, (list, tuple, set)):
        raise InvalidInputError(
            f"policies_to_train is a list, tuple or set of ids, or a function; not {to_train!r}"
        )
    if not to_train:
        raise InvalidInputError("policies_to_train is empty: nothing would be trained")


def _check_known(policies_to_train: Collection[str], known: list[str]) -> None:
    unknown = [pid for pid in policies_to_train if pid not in known]
    if unknown:
        raise NotFoundError(
            f"policies_to_train names {unknown!r}, which the Algorithm would not have; it would "
            f"have {', '.join(map(repr, known))}. Nothing was changed."
        )
