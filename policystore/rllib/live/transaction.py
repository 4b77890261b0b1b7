"""Change a running Algorithm on all its workers, or on none.

Loading, adding and removing policies of both API stacks are transactions. Each one goes through the
same steps:

1. *describe*: the learners say what they hold (``Session.describe``);
2. *check*: what is to come is checked on the driver and, where only a worker can tell, on each
   worker (:meth:`Transaction.check`); up to here nothing has changed;
3. *apply*: each worker changes, keeps what undoes the change, and says what it then holds
   (:meth:`Transaction.apply`);
4. *report*: the answers are compared with what was expected;
5. *commit*: workers let go of what undoes the change, and the change is recorded, so that env
   runners that are restarted or added later get it too (:meth:`Transaction.commit`); or *roll
   back*: every worker takes the change back, also those that get it only later
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
from policystore.rllib.live.compatibility import PreparedWeights
from policystore.rllib.live.report import SyncReport, parse_digest, status_rows
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
from policystore.rllib.workers.answers import Answers
from policystore.rllib.workers.by_value import ship
from policystore.rllib.workers.calls import Calls, Deadline
from policystore.rllib.workers.compat import is_new_stack
from policystore.rllib.workers.discovery import Worker

__all__ = ["Payload", "StepFailedError", "Transaction"]

T = TypeVar("T")
# Seconds for workers to take a change back, and to say what they hold then.
_ROLLBACK = 10.0


class StepFailedError(Exception):
    """A step of a transaction failed on some workers, so it is rolled back on all.

    Attributes:
        failures: reasons, by worker or by what failed.
        silent: answers of the workers that cannot be asked again now.
    """

    def __init__(self, failures: dict[str, str], silent: Answers[Any] | None = None) -> None:
        super().__init__(failures)
        self.failures = failures
        self.silent: Answers[Any] = Answers() if silent is None else silent


class Transaction(Session):
    """One change of a running Algorithm, on all its workers or on none.

    Attributes:
        token: names the transaction in requests; a roll-back or commit names the same.

    Raises:
        InvalidInputError: a stopped Algorithm, or none; or a timeout of the wrong form.
        StorageError: the learner thread of an old-stack Algorithm did not come to rest in time.
    """

    def __init__(self, algo: Algorithm, timeout: float) -> None:
        super().__init__(algo, timeout)
        self.token = uuid.uuid4().hex
        self._guards: list[Guard] = []
        self._undo_on_driver: list[Callable[[], None]] = []
        self._unreachable: set[Worker] = set()
        # IMPALA and APPO of the old stack learn in a thread of the driver.
        if not is_new_stack(algo) and not wait_until_idle(algo, self.deadline.left()):
            raise StorageError(
                f"the learner thread was busy for {self.deadline.seconds:g} s; nothing was sent"
            )

    def check(
        self, function: Callable[..., T], request: Any, *, description: str, advice: str
    ) -> Answers[T]:
        """Ask every worker whether it could do something; nothing is changed.

        Args:
            function: a worker function that raises if the worker could not.
            request: what it gets.
            description: what cannot be done otherwise, for the message.
            advice: what to do then.

        Raises:
            InvalidInputError: a worker refuses.
            StorageError: a worker does not answer, or a learner is dead.
        """
        answers = self.call(function, request)
        answers.require_all(description, advice)
        return answers

    @contextlib.contextmanager
    def changes(self, before: WorkerInfo, failed: str) -> Iterator[None]:
        """Change workers in the block, and take all of it back if the block raises.

        A worker that gets a change only later, as it was busy, gets the roll-back right behind it.

        Args:
            before: of the policies that the report of a failure tells about.
            failed: what the message of a failure begins with.

        Raises:
            SyncError: a step failed on some workers; all workers hold what they held before.
        """
        # Before the first change, so that no restart is missed from here on.
        self._guards = guards_of(self.algo)
        for guard in self._guards:
            guard.start()
        try:
            yield
        except StepFailedError as error:
            self._roll_back(before, failed, error)
        except BaseException:
            # Interrupted: a worker that has been sent the change takes it back when it comes to
            # that.
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
        """Let workers change. To be called inside of :meth:`changes`.

        Args:
            function: a worker function that keeps what undoes the change.
            request: what it gets first.
            payload: weights that it gets second.
            workers: which change; all if left out.

        Raises:
            StepFailedError: a worker did not change, or a learner is dead.
        """
        calls = self.start(
            function,
            lambda worker: (request,) if payload is None else (request, payload.for_worker(worker)),
            workers,
        )
        answers = calls.collect(self.deadline)
        self._unreachable |= {worker for worker, each in answers.items() if each.unreachable}
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
        notes: tuple[str, ...] = (),
    ) -> SyncReport:
        """Let all workers take weights, as :meth:`apply`, and prove that they hold them.

        Args:
            function: a worker function that takes weights, and says what the worker then holds.
            request: what it gets first.
            payload: the weights.
            info: of these policies.
            expected: by policy, the digest that each worker must then report.
            notes: for the report.

        Raises:
            StepFailedError: a worker did not take them, or holds others; or a learner is dead.
        """
        answers = self.apply(function, request, payload=payload)
        wrong = {
            worker.name: why
            for worker, answer in answers.items()
            if answer.ok and (why := _differing(answer.get(), expected))
        }
        if wrong:
            raise StepFailedError(wrong, answers.silent)
        return SyncReport(status_rows(self.workers, info, answers, expected), notes)

    def commit(
        self,
        entry: ReplayEntry,
        policy_mapping_fn: Callable[..., str] | None = None,
    ) -> None:
        """Let workers keep the change, and give it to all that are restarted or added later.

        From here on every call of RLlib to an env runner of this Algorithm goes through the gate
        of its group's guard: a runner that has not taken part in this transaction first replays
        ``entry`` (``worker_code/replay.py``), in the same task, so it samples with nothing else.

        Args:
            entry: what such a runner does.
            policy_mapping_fn: the new mapping function, if there is one.
        """
        self.start(commit, lambda worker: (self.token,), self._reachable)
        for guard in self._guards:
            guard.record(entry)
            if policy_mapping_fn is not None:
                guard.mapping = policy_mapping_fn

    def replay_of(
        self,
        request: LoadRequest | AddModuleRequest | AddPolicyRequest,
        payload: Payload,
        add: Callable[..., WorkerDigests] | None = None,
    ) -> ReplayEntry:
        """Return what an env runner that comes later does to have these weights too.

        Without remote workers no weights are kept: env runners that are added then come to RLlib's
        own restore at once.

        Args:
            request: of this transaction.
            payload: of this transaction.
            add: the worker function that added the policies; None if they were there.
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
        """Take the change back on all workers, and raise what says so."""
        # Silent workers have it in their queue, behind the change; the others take a moment.
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
                "Each worker that answers holds what it held before; one that has not answered "
                f"within {self.deadline.seconds:g} s goes back to that when it does."
            )
        raise SyncError(
            f"{failed}: it failed on {len(error.failures)} of {len(self.workers)} workers:\n"
            + "\n".join(reasons[:20])
            + f"\n{ending}",
            report=report,
        ) from None


def _differing(held: WorkerDigests, expected: Mapping[str, Digest]) -> str:
    """Say how a worker holds other weights than it was given; empty if it holds these."""
    for pid, digest in expected.items():
        policy = held.policies.get(pid)
        if parse_digest(policy) != digest:
            wrong = "" if policy is None else policy.wrong
            return wrong or f"{pid!r} holds other weights after they were set"
    return ""


class Payload:
    """Weights on their way: in the object store once, however many actors there are.

    Env runners of the new stack mostly hold the weights that acting needs and no critic; they get
    no more than that.
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
        """Return what one worker gets: the arrays, or for an actor a reference to them."""
        weights = self._all if worker.is_learner or worker.leads else self._for_runners
        if not worker.is_remote:
            return weights
        if id(weights) not in self._references:
            self._references[id(weights)] = ray.put(weights)
        return self._references[id(weights)]
