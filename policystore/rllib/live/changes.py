"""Carry out changes of a running Algorithm: loads, additions, removals, another mapping.

One call may ask for several changes, and they make one transaction (``transaction.py``). The steps
have an order in which no env runner ever needs a policy that is not there: policies are added,
weights are loaded, then the mapping function changes, and then policies are removed. The modules
``changes_new_stack.py`` and ``changes_old_stack.py`` have the parts that differ between the API
stacks.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from policystore.errors import InvalidInputError
from policystore.rllib.live.checks.arguments import Changes
from policystore.rllib.live.checks.compatibility import PreparedWeights, prepare
from policystore.rllib.live.checks.mapping import mapping_notes
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.session import Session, remember_refs
from policystore.rllib.live.transaction import Payload, Transaction
from policystore.rllib.worker_code.messages.answers import PolicyInfo, Spaces, WorkerInfo
from policystore.rllib.worker_code.messages.requests import (
    LoadRequest,
    MappingRequest,
    RemoveRequest,
    ReplayEntry,
    SteerRequest,
)
from policystore.rllib.worker_code.policy_mapping import check_mapping
from policystore.rllib.worker_code.weights import apply_weights
from policystore.rllib.workers.compat import has_evaluation_mapping
from policystore.rllib.workers.discovery import Worker
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from policystore.rllib.worker_code.messages.answers import WorkerDigests
    from policystore.rllib.worker_code.messages.requests import AddModuleRequest, AddPolicyRequest

__all__ = [
    "FENCE",
    "Addition",
    "Stack",
    "remove_requests",
    "run_changes",
]


FENCE = 1000
"""Added to the number of weights that are loaded into an asynchronous Algorithm.

More than the number of updates that can be under way. So weights from before a load, which reach a
runner after the load, have a lower number, and the runner drops these weights.
"""
_NOTHING = "Nothing was changed."
_ADVICE = (
    f"{_NOTHING} Pass a policy_mapping_fn= that returns only ids that the Algorithm will have. "
    "Or pass check_mapping=False if you are sure of your function."
)
R = TypeVar("R", "AddModuleRequest", "AddPolicyRequest")


@dataclass(frozen=True)
class Addition(Generic[R]):
    """A policy that is ready to be added.

    Attributes:
        request: what each worker gets.
        info: description of the policy.
        prepared: its weights.
        notes: notes for the report.
    """

    request: R
    info: PolicyInfo
    prepared: PreparedWeights
    notes: tuple[str, ...]


class Stack(abc.ABC, Generic[R]):
    """What differs between the API stacks in a transaction.

    Attributes:
        name: the API stack: ``new`` or ``old``.
        add: the worker function that adds a policy.
        steer: the worker function that changes mapping functions and the policies to train.
    """

    name: str
    add: Callable[..., WorkerDigests]
    steer: Callable[..., None]

    def __init__(self, transaction: Transaction, before: WorkerInfo, changes: Changes) -> None:
        self.transaction = transaction
        self.before = before
        self.changes = changes
        self.algo = transaction.algo

    @abc.abstractmethod
    def check(self, left: list[str]) -> None:
        """Refuse what this stack cannot do, before anything else is checked.

        Args:
            left: ids of the policies that there will be.
        """

    @abc.abstractmethod
    def prepare_addition(self, policy_id: str, snap: Snapshot) -> Addition[R]:
        """Check that a policy can be added, on the driver and on each worker."""

    @abc.abstractmethod
    def filters(
        self, snaps: Mapping[str, Snapshot], request: LoadRequest
    ) -> tuple[LoadRequest, tuple[str, ...]]:
        """Return a request with the filter statistics of snapshots, and notes for the report."""

    @abc.abstractmethod
    def remove(self, policy_ids: tuple[str, ...]) -> None:
        """Make all workers remove policies, inside of :meth:`Transaction.changes`."""

    @property
    def seq(self) -> int | None:
        """The number of new weights; None keeps the present number."""
        return (self.before.seq or 0) + FENCE if self.before.asynchronous else None

    @property
    def restarts_episodes(self) -> bool:
        """Whether all episodes of the new stack begin anew."""
        return bool(self.changes.remove)

    def after(self, request: LoadRequest) -> None:
        """Change the driver's own configs and filters in the same way, after the commit.

        Args:
            request: the request of the policies that were loaded.
        """


def run_changes(stack: Stack[Any]) -> SyncReport:
    """Carry out all changes of one call, on all learners and workers or on none.

    Args:
        stack: the changes, with the code of the Algorithm's API stack.

    Returns:
        A row for each policy on each learner and worker. If policies were loaded and nothing was
        added or removed: of the loaded policies. If one policy was added and nothing was loaded or
        removed: of the added policy. Otherwise: of all policies.

    Raises:
        InvalidInputError, MismatchError, UntrustedError, NotFoundError: nothing was changed.
        SyncError: a worker did not take a change; all learners and workers are as before.
        StorageError: a learner did not answer before anything was changed.
    """
    transaction, changes, before = stack.transaction, stack.changes, stack.before
    left = [pid for pid in [*before.ids, *changes.add] if pid not in changes.remove]
    stack.check(left)
    _check_training(before, changes, left)
    additions = {pid: stack.prepare_addition(pid, snap) for pid, snap in changes.add.items()}
    prepared = {
        pid: prepare(pid, snap, before.policies[pid], stack.name, changes.compare)
        for pid, snap in changes.load.items()
    }
    request = LoadRequest(
        token=transaction.token,
        plans={pid: each.plan for pid, each in prepared.items()},
        timeout=transaction.deadline.left(),
        seq=stack.seq,
        learner_only=tuple(pid for pid in prepared if before.policies[pid].learner_only),
    )
    request, notes = stack.filters(changes.load, request)
    notes = (*(note for each in prepared.values() for note in each.notes), *notes)
    notes += tuple(note for each in additions.values() for note in each.notes)
    notes += _optimizer_notes(stack)
    notes += _check_mappings(stack, {pid: each.info.spaces for pid, each in additions.items()})
    reports: list[SyncReport] = []
    entries: list[ReplayEntry] = []
    with transaction.changes(before, changes.failed):
        for pid, each in additions.items():
            described = before.replace(policies={pid: each.info})
            weights = {pid: each.prepared}
            reports.append(_prove(stack, stack.add, each.request, described, weights, entries))
        if prepared:
            loaded = before.replace(policies={pid: before.policies[pid] for pid in prepared})
            reports.append(_prove(stack, apply_weights, request, loaded, prepared, entries))
        if changes.steers:
            for workers, steer_request in _steer_requests(stack):
                transaction.apply(stack.steer, steer_request, workers=workers)
        if changes.remove:
            stack.remove(changes.remove)
            entries.append(ReplayEntry("remove", changes.remove))
    transaction.commit(entries, {name: _mapping_for(stack, name) for name in transaction.groups})
    stack.after(request)
    all_prepared = [*prepared.values(), *(each.prepared for each in additions.values())]
    refs = {str(each.expected): each.ref for each in all_prepared if each.ref is not None}
    remember_refs(stack.algo, refs)
    if len(reports) == 1 and not changes.remove:
        return SyncReport(reports[0].rows, notes).with_refs(refs)
    # A new session, because the transaction may still have removed policies in its descriptions.
    after = Session(stack.algo, transaction.seconds_to_end())
    return after.report(after.describe(left)).with_notes(notes)


def _prove(
    stack: Stack[Any],
    function: Callable[..., WorkerDigests],
    request: LoadRequest | AddModuleRequest | AddPolicyRequest,
    info: WorkerInfo,
    prepared: Mapping[str, PreparedWeights],
    entries: list[ReplayEntry],
) -> SyncReport:
    """Make all workers take weights, check the weights, and add an entry to be replayed later."""
    transaction = stack.transaction
    payload = Payload(transaction.workers, prepared)
    report = transaction.apply_and_prove(
        function,
        request,
        payload=payload,
        info=info,
        expected={pid: each.expected for pid, each in prepared.items()},
    )
    entries.append(
        transaction.replay_of(request, payload, function if function is stack.add else None)
    )
    return report


def _optimizer_notes(stack: Stack[Any]) -> tuple[str, ...]:
    """Return a note if training goes on from loaded weights with an optimizer of other weights."""
    before, changes = stack.before, stack.changes
    to_train = changes.steering.policies_to_train
    trained = [repr(pid) for pid in changes.load if before.is_trained(pid, to_train)]
    if not trained or not stack.algo.iteration:  # an optimizer that did no step has no state
        return ()
    return (
        f"training goes on from the loaded weights of {', '.join(trained)} with the optimizer as "
        "it was, with moments from the earlier weights; a policy that is not among "
        "policies_to_train keeps the loaded weights",
    )


def _check_training(before: WorkerInfo, changes: Changes, left: list[str]) -> None:
    """Check that a removal leaves policies, and policies to train."""
    removed, to_train = changes.remove, changes.steering.policies_to_train
    if not removed:
        return
    description = f"policy {', '.join(map(repr, removed))} cannot be removed"
    if not left:
        raise InvalidInputError(
            f"{description}: the Algorithm would have no policy left. {_NOTHING}"
        )
    if any(before.policies[pid].trained for pid in removed) and not any(
        before.is_trained(pid, to_train) for pid in left
    ):
        raise InvalidInputError(
            f"{description}: nothing would be trained any more. Pass policies_to_train= with "
            f"others. {_NOTHING}"
        )


# Mapping functions -------------------------------------------------------------------------------


def _mapping_for(stack: Stack[Any], group: str) -> Callable[..., str] | None:
    """Return the new mapping function of a group of workers; None keeps the present one."""
    steering = stack.changes.steering
    if group not in ("eval", "offline eval"):
        return steering.policy_mapping_fn
    if steering.evaluation_policy_mapping_fn is not None:
        return steering.evaluation_policy_mapping_fn
    return None if has_evaluation_mapping(stack.algo) else steering.policy_mapping_fn


def _by_mapping(stack: Stack[Any]) -> list[tuple[list[Worker], Callable[..., str] | None]]:
    """Return the workers that get one and the same mapping function, and the function."""
    sets: list[tuple[list[Worker], Callable[..., str] | None]] = []
    for worker in stack.transaction.workers:
        mapping = _mapping_for(stack, worker.group)
        same = next((workers for workers, other in sets if other is mapping), None)
        if same is None:
            sets.append(([worker], mapping))
        else:
            same.append(worker)
    return sets


def _steer_requests(stack: Stack[Any]) -> list[tuple[list[Worker], SteerRequest]]:
    """Return the request for each set of workers that get the same mapping function."""
    changes = stack.changes
    return [
        (
            workers,
            SteerRequest(
                token=stack.transaction.token,
                timeout=stack.transaction.deadline.left(),
                policy_mapping_fn=mapping,
                policies_to_train=changes.steering.policies_to_train,
                removed=changes.remove,
                restart_episodes=stack.restarts_episodes,
            ),
        )
        for workers, mapping in _by_mapping(stack)
    ]


def _check_mappings(stack: Stack[Any], added: Mapping[str, Spaces]) -> tuple[str, ...]:
    """Ask mapping functions on all env runners which policies they name; return notes.

    Raises:
        InvalidInputError: a function names a policy that there will not be.
    """
    changes = stack.changes
    new_mapping = (
        changes.steering.policy_mapping_fn or changes.steering.evaluation_policy_mapping_fn
    )
    if not (changes.remove or changes.add or new_mapping):
        return ()
    notes: tuple[str, ...] = ()
    named: set[str] = set()
    asked = False
    for workers, mapping in _by_mapping(stack):
        request = MappingRequest(
            policy_mapping_fn=mapping,
            added=dict(added),
            removed=list(changes.remove),
            ask=changes.steering.check,
        )
        answers = stack.transaction.check(
            check_mapping,
            request,
            description=f"{changes.failed}: a mapping function does not fit",
            advice=_ADVICE,
            workers=[worker for worker in workers if not worker.is_learner],
        )
        notes += mapping_notes(answers)
        for answer in answers.values_of(answers):
            named |= set(answer.named)
            asked = asked or answer.asked
    unnamed = [pid for pid in added if asked and pid not in named]
    if unnamed and not notes:
        notes += (
            f"no agent plays {', '.join(map(repr, unnamed))}: the mapping function does not name "
            "it. Pass policy_mapping_fn=, or call set_mapping().",
        )
    return notes


def remove_requests(stack: Stack[Any], policy_ids: tuple[str, ...]) -> list[RemoveRequest]:
    """Return the requests that remove policies."""
    transaction = stack.transaction
    return [
        RemoveRequest(transaction.token, pid, transaction.deadline.left()) for pid in policy_ids
    ]
