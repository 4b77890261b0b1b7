"""Call all learners and workers of a running Algorithm, with one deadline for their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ray.rllib.algorithms.algorithm import Algorithm

from policystore.errors import InvalidInputError, StorageError
from policystore.rllib.live.checks.arguments import check_timeout
from policystore.rllib.live.checks.compatibility import plan_of
from policystore.rllib.live.report import SyncReport, status_rows
from policystore.rllib.live.restart_guard import gate
from policystore.rllib.worker_code.messages.answers import WorkerDigests, WorkerInfo
from policystore.rllib.worker_code.weights import describe, report_digests
from policystore.rllib.workers.answers import Answer, Answers
from policystore.rllib.workers.calls import Calls, Deadline, send
from policystore.rllib.workers.discovery import Worker, workers_of

__all__ = ["Session", "known_refs", "remember_refs"]

T = TypeVar("T")
# The attribute of an Algorithm that holds refs by digest of the acting weights, and how many.
_REFS = "_policystore_refs"
_MOST_REFS = 10_000
_LAST_STEPS = 10.0  # seconds


def remember_refs(algo: Algorithm, refs: Mapping[str, str]) -> None:
    """Remember where weights came from, so that later reports can name them.

    Args:
        algo: the Algorithm that holds the weights.
        refs: text of the digest of the weights that acting needs -> ref in a store.
    """
    known = vars(algo).setdefault(_REFS, {})
    for digest, ref in refs.items():
        known.pop(digest, None)
        known[digest] = ref
    for digest in list(known)[: max(0, len(known) - _MOST_REFS)]:
        del known[digest]


def known_refs(algo: Algorithm) -> dict[str, str]:
    """Return the refs that :func:`remember_refs` was given, by text of the digest."""
    return dict(vars(algo).get(_REFS, {}))


class Session:
    """All learners and workers of a running Algorithm, and a deadline for their answers.

    Attributes:
        algo: the Algorithm.
        deadline: the time at which all answers must be there.
        workers: the learners first, then each group's local worker and its actors.

    Raises:
        InvalidInputError: a stopped Algorithm, or none; or a timeout of the wrong form.
    """

    def __init__(self, algo: Algorithm, timeout: float) -> None:
        self.deadline = Deadline(check_timeout(timeout))
        self.algo = algo
        self.workers = workers_of(algo)

    def seconds_to_end(self) -> float:
        """Return the seconds for the last steps, after all workers have changed: at least ten."""
        return max(self.deadline.left(), _LAST_STEPS)

    @property
    def learners(self) -> list[Worker]:
        """The learners; none on the old stack."""
        return [worker for worker in self.workers if worker.is_learner]

    def start(
        self,
        function: Callable[..., T],
        arguments: Callable[[Worker], tuple[Any, ...]],
        workers: list[Worker] | None = None,
    ) -> Calls[T]:
        """Run a worker function on workers, and do not wait for remote workers.

        Every call goes through the replay gate, as RLlib's own calls do: an env runner that was
        restarted first replays the changes that it has missed (``restart_guard.py``).

        Args:
            function: a function of ``worker_code``; its first argument is the worker.
            arguments: a function that returns the other arguments for one worker.
            workers: the workers to call; all workers if left out.
        """
        return send(self.workers if workers is None else workers, function, arguments, gate=gate)

    def call(
        self,
        function: Callable[..., T],
        *arguments: Any,
        workers: list[Worker] | None = None,
        deadline: Deadline | None = None,
    ) -> Answers[T]:
        """Run a worker function on workers, as :meth:`start`, and return the workers' answers."""
        calls = self.start(function, lambda worker: arguments, workers)
        return calls.collect(self.deadline if deadline is None else deadline)

    def describe(
        self,
        policy_ids: list[str] | None,
        *,
        deadline: Deadline | None = None,
        all_learners: bool = True,
    ) -> WorkerInfo:
        """Return the learners' description of their policies; all learners give the same one.

        Args:
            policy_ids: ids of the policies to describe; None for all. Unknown ids are left out.
            deadline: the deadline for the answers; the session's deadline if left out.
            all_learners: whether all learners have to answer; otherwise one answer is enough.

        Raises:
            StorageError: a learner does not answer.
        """
        leaders = self.learners or [worker for worker in self.workers if worker.leads]
        if not leaders:
            raise InvalidInputError("the Algorithm has neither learners nor a local worker")
        deadline = self.deadline if deadline is None else deadline
        answers = self.call(
            describe, policy_ids, deadline.left(), workers=leaders, deadline=deadline
        )
        infos = answers.values_of(leaders)
        failures = answers.failures
        if failures and (all_learners or not infos):
            worker, why = next(iter(failures.items()))
            raise StorageError(
                f"{worker.name} does not answer within {deadline.seconds:g} s: {why}. Nothing was "
                "sent. A dead learner does not come back: build the Algorithm anew."
            )
        return infos[0].replace(seq=max(info.seq or 0 for info in infos))

    def report(
        self,
        info: WorkerInfo,
        *,
        deadline: Deadline | None = None,
        silent: Mapping[Worker, Answer[Any]] | None = None,
        unnumbered: bool = False,
    ) -> SyncReport:
        """Ask all workers which weights they hold now, and compare them with the leading worker's.

        Args:
            info: descriptions of the policies to report on.
            deadline: the deadline for the answers; the session's deadline if left out.
            silent: answers of workers that are not asked.
            unnumbered: whether the Algorithm is asynchronous and its workers do not count updates.
        """
        deadline = self.deadline if deadline is None else deadline
        silent = silent or {}
        plans = {pid: plan_of(each) for pid, each in info.policies.items()}
        answers: dict[Worker, Answer[WorkerDigests]] = dict(silent)
        answers |= self.call(
            report_digests,
            plans,
            deadline.left(),
            workers=[worker for worker in self.workers if worker not in silent],
            deadline=deadline,
        )
        rows = status_rows(self.workers, info, answers, unnumbered=unnumbered)
        return SyncReport(rows).with_refs(known_refs(self.algo))
