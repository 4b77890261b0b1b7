"""Change a running Algorithm on all its workers, or on none.

All changes of both API stacks are transactions (``changes.py``). Each transaction has the same
steps:

1. *describe*: the learners describe their policies (``Session.describe``).
2. *check*: the driver checks the change. If only a worker can check it, each worker does
   (:meth:`Transaction.check`). Up to here nothing has changed.
3. *apply*: each worker makes the change, keeps the data to undo the change, and reports the weights
   that it then holds (:meth:`Transaction.apply`).
4. *report*: the answers are compared with the expected weights.
5. *commit*: workers drop the data to undo the change. The change is recorded, so that env runners
   that are restarted or added later get the change too (:meth:`Transaction.commit`).
   Or *roll back*: every worker undoes the change, also a worker that makes the change only later
   (:meth:`Transaction.changes`).
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import ray
from ray.rllib.algorithms.algorithm import Algorithm

from policystore.digest import Digest
from policystore.errors import StorageError, SyncError
from policystore.rllib.live.checks.compatibility import PreparedWeights
from policystore.rllib.live.report import (
    SyncReport,
    is_absent_by_design,
    parse_digest,
    status_rows,
)
from policystore.rllib.live.restart_guard import Guard, guards_of
from policystore.rllib.live.session import Session
from policystore.rllib.worker_code.learner_thread import wait_until_idle
from policystore.rllib.worker_code.messages.answers import WorkerDigests, WorkerInfo
from policystore.rllib.worker_code.messages.requests import (
    AddModuleRequest,
    AddPolicyRequest,
    LoadRequest,
    ReplayEntry,
)
from policystore.rllib.worker_code.messages.requests import Payload as Weights
from policystore.rllib.worker_code.rollback import commit, rollback
from policystore.rllib.worker_code.tensors import access_to
from policystore.rllib.workers.answers import Answer, Answers
from policystore.rllib.workers.by_value import ship
from policystore.rllib.workers.calls import Calls, Deadline
from policystore.rllib.workers.compat import groups_of, is_new_stack
from policystore.rllib.workers.discovery import Worker

__all__ = ["Payload", "StepFailedError", "Transaction"]

T = TypeVar("T")
# Seconds in which workers undo a change and report the weights that they then hold.
_ROLLBACK = 10.0


class StepFailedError(Exception):
    """A step of a transaction failed on some workers, so the transaction is rolled back on all.

    Attributes:
        failures: name of a worker (or of another part that failed) -> reason.
        silent: answers of the workers that cannot be asked again now.
    """

    def __init__(self, failures: dict[str, str], silent: Answers[Any] | None = None) -> None:
        super().__init__(failures)
        self.failures = failures
        self.silent: Answers[Any] = Answers() if silent is None else silent


class Transaction(Session):
    """One change of a running Algorithm, on all its workers or on none.

    Attributes:
        token: identifies the transaction in its requests, also in its roll-back or commit.

    Raises:
        InvalidInputError: a stopped Algorithm, no Algorithm, or a timeout of the wrong form.
        StorageError: the learner thread of an old-stack Algorithm was busy until the timeout.
    """

    def __init__(self, algo: Algorithm, timeout: float) -> None:
        super().__init__(algo, timeout)
        self.token = uuid.uuid4().hex
        self._guards: list[Guard] = []
        self._undo_on_driver: list[Callable[[], None]] = []
        self._unreachable: dict[Worker, Answer[Any]] = {}
        # IMPALA and APPO of the old stack learn in a thread of the driver.
        if not is_new_stack(algo) and not wait_until_idle(algo, self.deadline.left()):
            raise StorageError(
                f"the learner thread was busy for {self.deadline.seconds:g} s; nothing was sent"
            )

    @property
    def groups(self) -> list[str]:
        """Names of the groups of env runners."""
        return [name for name, _ in groups_of(self.algo)]

    def check(
        self,
        function: Callable[..., T],
        request: Any,
        *,
        description: str,
        advice: str,
        workers: list[Worker] | None = None,
    ) -> Answers[T]:
        """Ask workers whether they can make a change; change nothing.

        Args:
            function: a worker function that raises an error if the worker cannot make the change.
            request: the argument of the function.
            description: the beginning of the error message, such as "module 'p' cannot be added".
            advice: the end of the error message, which says what to do.
            workers: the workers to ask; all workers if left out.

        Raises:
            InvalidInputError: a worker refuses.
            StorageError: a worker does not answer, or a learner is dead.
        """
        answers = self.call(function, request, workers=workers)
        answers.require_all(description, advice)
        return answers

    @contextlib.contextmanager
    def changes(self, before: WorkerInfo, failed: str) -> Iterator[None]:
        """Change workers in the block, and undo all changes if the block raises an error.

        A busy worker makes the change later, and has the roll-back directly behind it in its queue.

        Args:
            before: descriptions of the policies that the report of a failure lists.
            failed: the beginning of the message of a failure.

        Raises:
            SyncError: a step failed on some workers; all workers hold what they held before.
        """
        # This is done before the first change, so that no restart is missed from here on.
        self._guards = guards_of(self.algo)
        for guard in self._guards:
            guard.start()
        try:
            yield
        except StepFailedError as error:
            self._roll_back(before, failed, error)
        except BaseException:
            # The call was interrupted. Each worker has the roll-back in its queue, behind the
            # change.
            self._start_rollback()
            raise

    def undo_on_driver(self, undo: Callable[[], None]) -> None:
        """Add a function that a roll-back calls on the driver."""
        self._undo_on_driver.append(undo)

    def apply(
        self,
        function: Callable[..., T],
        request: Any,
        *,
        payload: Payload | None = None,
        workers: list[Worker] | None = None,
    ) -> Answers[T]:
        """Make workers apply a change; call this inside of :meth:`changes`.

        Args:
            function: a worker function that makes the change and keeps the data to undo it.
            request: the first argument of the function.
            payload: weights for the second argument of the function, if there are any.
            workers: the workers that apply the change; all workers if left out. An env runner that
                was unreachable in an earlier step is not called: it replays the whole transaction.

        Raises:
            StepFailedError: a worker did not change, or a learner is dead.
        """
        chosen = self.workers if workers is None else workers
        calls = self.start(
            function,
            lambda worker: (request,) if payload is None else (request, payload.for_worker(worker)),
            [worker for worker in chosen if worker not in self._unreachable],
        )
        answers = calls.collect(self.deadline)
        self._unreachable |= {w: each for w, each in answers.items() if each.unreachable}
        answers |= {w: each for w, each in self._unreachable.items() if w in chosen}
        if answers.failures:
            raise StepFailedError(
                {worker.name: why for worker, why in answers.failures.items()}, answers.silent
            )
        return answers

    def apply_and_prove(
        self,
        function: Callable[..., WorkerDigests],
        request: Any,
        *,
        payload: Payload,
        info: WorkerInfo,
        expected: Mapping[str, Digest],
    ) -> SyncReport:
        """Make all workers take weights, as :meth:`apply`, and check the weights that they hold.

        Args:
            function: a worker function that takes weights and returns digests of the weights that
                the worker then holds.
            request: the first argument of the function.
            payload: the weights.
            info: descriptions of the policies that get weights.
            expected: by policy, the digest that each worker must report.

        Raises:
            StepFailedError: a worker did not take the weights, or holds other weights; or a
                learner is dead.
        """
        answers = self.apply(function, request, payload=payload)
        wrong = {
            worker.name: why
            for worker, answer in answers.items()
            if answer.ok and (why := _differing(worker, answer.get(), info, expected))
        }
        if wrong:
            raise StepFailedError(wrong, answers.silent)
        return SyncReport(status_rows(self.workers, info, answers, expected))

    def commit(
        self,
        entries: list[ReplayEntry],
        mappings: Mapping[str, Callable[..., str] | None] | None = None,
    ) -> None:
        """Make the change final, and record it for env runners that are restarted or added later.

        From here on every call of RLlib to an env runner of this Algorithm goes through the gate
        of its group's guard. An env runner that has missed this transaction first replays
        ``entries`` (``worker_code/replay.py``), in the same task. So it never samples without them.

        Args:
            entries: the changes that such an env runner replays, in their order.
            mappings: by name of a group, its new mapping function, if there is one.
        """
        self.start(commit, lambda worker: (self.token,), self._reachable)
        for guard in self._guards:
            guard.record(entries)
            mapping = (mappings or {}).get(guard.name)
            if mapping is not None:
                guard.mapping = mapping

    def replay_of(
        self,
        request: LoadRequest | AddModuleRequest | AddPolicyRequest,
        payload: Payload,
        add: Callable[..., WorkerDigests] | None = None,
    ) -> ReplayEntry:
        """Return the entry that an env runner replays to get these weights later.

        Without remote workers the entry keeps no weights, because RLlib itself restores an env
        runner that is then added.

        Args:
            request: the request of this transaction.
            payload: the weights of this transaction.
            add: the worker function that added the policies; None if they existed before.
        """
        load = request if isinstance(request, LoadRequest) else request.load
        runner = next((worker for worker in self.workers if worker.manager is not None), None)
        return ReplayEntry(
            kind="load" if add is None else "add",
            policies=() if runner is None else tuple(load.plans),
            load=load,
            payload=None if runner is None else payload.for_worker(runner),
            addition=None if isinstance(request, LoadRequest) else request,
            add=None if add is None else ship(add),
        )

    @property
    def _reachable(self) -> list[Worker]:
        return [worker for worker in self.workers if worker not in self._unreachable]

    def _start_rollback(self) -> Calls[bool]:
        for undo in reversed(self._undo_on_driver):
            undo()
        self._undo_on_driver.clear()
        return self.start(rollback, lambda worker: (self.token,), self._reachable)

    def _roll_back(self, before: WorkerInfo, failed: str, error: StepFailedError) -> None:
        """Undo the change on all workers, and raise the SyncError about it."""
        # Silent workers have the roll-back in their queue, behind the change, so only the other
        # workers are waited for.
        stuck = self._start_rollback().collect(Deadline(_ROLLBACK), skip=error.silent).failures
        reasons = [f"  {name}: {why}" for name, why in error.failures.items()]
        report = None
        try:
            report = self.report(before, deadline=Deadline(_ROLLBACK), silent=error.silent)
        except StorageError as other:
            reasons.append(f"  {other}")
        if stuck:
            ending = "Rolling back failed on " + "; ".join(f"{w.name}: {stuck[w]}" for w in stuck)
        else:
            ending = (
                "Each worker that answers is as before the call. A worker that has not answered "
                f"within {self.deadline.seconds:g} s undoes the change as soon as it answers."
            )
        raise SyncError(
            f"{failed}: it failed on {len(error.failures)} of {len(self.workers)} workers:\n"
            + "\n".join(reasons[:20])
            + f"\n{ending}",
            report=report,
        ) from None


def _differing(
    worker: Worker, held: WorkerDigests, info: WorkerInfo, expected: Mapping[str, Digest]
) -> str:
    """Return which weights of a worker differ from the expected weights; empty if none do."""
    for pid, digest in expected.items():
        policy = held.policies.get(pid)
        if policy is None and is_absent_by_design(worker, info, pid):
            continue
        if parse_digest(policy) != digest:
            wrong = "" if policy is None else policy.wrong
            return wrong or f"{pid!r} holds other weights after they were set"
    return ""


class Payload:
    """Weights for workers; they are in the object store once, for any number of actors.

    Env runners of the new stack usually hold only the weights that acting needs, and no critic.
    Such env runners get only the weights that they hold.
    """

    def __init__(self, workers: list[Worker], prepared: Mapping[str, PreparedWeights]) -> None:
        self._all: Weights = {pid: each.arrays for pid, each in prepared.items()}
        self._for_runners = self._all
        runners = [w.local for w in workers if not w.is_learner and w.local is not None]
        if runners:
            names = {pid: set(each.acting) for pid, each in prepared.items()}
            for runner in runners:
                access = access_to(runner)
                for pid in names.keys() & set(access.ids):
                    names[pid] |= access.entries(pid).keys()
            held = {
                pid: {name: each for name, each in arrays.items() if name in names[pid]}
                for pid, arrays in self._all.items()
            }
            if any(len(held[pid]) < len(self._all[pid]) for pid in held):
                self._for_runners = held
        self._references: dict[int, ray.ObjectRef] = {}

    def for_worker(self, worker: Worker) -> Weights | ray.ObjectRef:
        """Return the arrays for one worker, or, for an actor, a reference to the arrays."""
        weights = self._all if worker.is_learner or worker.leads else self._for_runners
        if not worker.is_remote:
            return weights
        if id(weights) not in self._references:
            self._references[id(weights)] = ray.put(weights)
        return self._references[id(weights)]
