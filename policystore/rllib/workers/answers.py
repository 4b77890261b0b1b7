"""Answers of workers, and the rules for what counts as a failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from policystore.errors import InvalidInputError, StorageError
from policystore.rllib.workers.discovery import Worker

__all__ = ["NO_ANSWER", "Answer", "Answers"]

NO_ANSWER = "no answer in time"
T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What one worker returned, or why it returned nothing.

    The counterpart of RLlib's ``ResultOrError`` (``utils/actor_manager.py``).

    Attributes:
        value: what the worker function returned, if the answer is :attr:`ok`.
        error: why the function failed, in words.
        pending: whether the worker did not answer in time, or was busy all the time. A worker that
            did not answer may still carry out the request.
        unreachable: why there can be no answer: the actor is dead or being restarted.
    """

    value: T | None = None
    error: str = ""
    pending: bool = False
    unreachable: str = ""

    @property
    def ok(self) -> bool:
        """Whether the worker function returned."""
        return not (self.error or self.pending or self.unreachable)

    @property
    def why(self) -> str:
        """Why there is no value; empty if there is one."""
        return "" if self.ok else self.unreachable or self.error or NO_ANSWER

    def get(self) -> T:
        """Return the value.

        Raises:
            StorageError: there is no value; the message says why.
        """
        if not self.ok:
            raise StorageError(self.why)
        return self.value  # type: ignore[return-value]


class Answers(dict[Worker, Answer[T]]):
    """The answers of several workers to one request."""

    def values_of(self, workers: Iterable[Worker]) -> list[T]:
        """Return the values of those workers among ``workers`` that returned one."""
        answers = [self[worker] for worker in workers]
        return [answer.get() for answer in answers if answer.ok]

    @property
    def failures(self) -> dict[Worker, str]:
        """The workers that did not carry out the request, each with the reason.

        A dead env runner is no failure: after its restart it gets the changes that it missed. A
        dead learner is a failure.
        """
        return {
            worker: f"a learner is dead: {answer.unreachable}" if answer.unreachable else answer.why
            for worker, answer in self.items()
            if not answer.ok and (worker.is_learner or not answer.unreachable)
        }

    @property
    def silent(self) -> Answers[T]:
        """The answers of workers that cannot be asked again now: unreachable or pending ones."""
        return Answers({w: each for w, each in self.items() if each.unreachable or each.pending})

    def require_all(self, description: str, advice: str) -> None:
        """Check that all workers carried out the request.

        Args:
            description: what could not be done, for the message.
            advice: what the caller can do, for the message.

        Raises:
            InvalidInputError: workers refused; the message names them, with their reasons.
            StorageError: workers did not answer, or a learner is dead.
        """
        refused = {w: why for w, why in self.failures.items() if w not in self.silent}
        if refused:
            reasons = [f"  {worker.name}: {why}" for worker, why in refused.items()]
            raise InvalidInputError(f"{description}:\n" + "\n".join(reasons[:10]) + f"\n{advice}")
        if self.failures:
            names = ", ".join(worker.name for worker in self.failures)
            raise StorageError(f"{description}: no answer from {names}. {advice}")
