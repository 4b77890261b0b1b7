"""Hold what all parts of one run of verify share, and read keys: records in waves, and objects.

Pulls look into the trash if an object is not in its place. A check of the store must not do that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend, get_hashed
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError, NotFoundError, PolicyStoreError
from policystore.format.safetensors import MAX_HEADER, declared_size
from policystore.repository.verify.listing import GONE, Inventory
from policystore.repository.verify.report import (
    Fault,
    FaultKind,
    VerifyProgress,
    VerifyReport,
)
from policystore.repository.verify.selection import Selection

__all__ = ["Answer", "Need", "Run", "Task", "read_exactly", "read_key"]

_WAVE = 512  # records that are read before the next ones are begun
_LARGE = 64 << 20  # above this size, the header is read first: it says how many bytes to expect
_ADVICE = (
    "Restore the object from a backup, repair it with verify(repair_from=…), or push the same "
    "policy again"
)

_Out = TypeVar("_Out")

Answer: TypeAlias = bytes | PolicyStoreError | None
"""The bytes of a key, the error of reading them, or None for a task that reads nothing."""


class Task(NamedTuple):
    """A key to read, and what to do with its bytes.

    Tasks are handled in order, one at a time, though their keys are read at the same time.

    Attributes:
        handle: is called with the answer.
        key: the key; None to read nothing.
        limit: how many bytes the key may have.
    """

    handle: Callable[[Answer], None]
    key: str | None = None
    limit: int = 0


class Need(NamedTuple):
    """Something that needs an object which the listing did not show.

    Attributes:
        key: the key of the version, of the push without a name, or of the policy object.
        name, number: the version; None and 0 for others.
    """

    key: str
    name: str | None = None
    number: int = 0


class Run:
    """One run of verify.

    Args:
        backend: the storage of the store.
        inventory: the keys of the store.
        selection: the objects to read.
        progress: is called with the report after each wave.
        source: the storage of another store, to repair from; None to change nothing.

    Attributes:
        report: what was found so far.
        missing: the bytes of a digest -> what needs this object. The listing did not show it.
    """

    def __init__(
        self,
        backend: Backend,
        inventory: Inventory,
        selection: Selection,
        *,
        progress: VerifyProgress | None,
        source: Backend | None,
    ) -> None:
        self.backend = backend
        self.inventory = inventory
        self.selection = selection
        self.source = source
        self.report = VerifyReport(backend.url)
        self.missing: dict[bytes, list[Need]] = {}
        self._progress = progress

    def add_fault(self, key: str, problem: str, kind: FaultKind = "record") -> None:
        """Add a fault to the report."""
        self.add(Fault(key, problem, kind))

    def add(self, fault: Fault, *, repaired: bool = False) -> None:
        """Add a fault, or a fault that was repaired, to the report."""
        # The names of files may be any bytes, and a report has to be printable.
        key, problem = (
            text.encode("utf-8", "backslashreplace").decode() for text in (fault.key, fault.problem)
        )
        faults = self.report.repaired if repaired else self.report.faults
        faults.append(Fault(key, problem, fault.kind))

    def need(self, digest: bytes, need: Need) -> bool:
        """Return whether the listing showed an object; if not, note what needs it."""
        if self.inventory.objects.size(digest) != GONE:
            return True
        self.missing.setdefault(digest, []).append(need)
        return False

    def tell(self) -> None:
        """Call the callback of the caller with the report."""
        if self._progress is not None:
            self._progress(self.report)

    def read(self, tasks: Iterable[Task], *, wave: int = _WAVE) -> None:
        """Read the keys of tasks in waves, and handle the answers in order.

        Args:
            tasks: the tasks.
            wave: how many keys are read, and in memory, at once.
        """
        for some in batches(tasks, wave):
            answers = in_parallel(
                partial(_answer, self.backend), some, workers=self.backend.parallel
            )
            for task, answer in zip(some, answers, strict=True):
                task.handle(answer)
            self.tell()

    def parse(
        self, parse: Callable[[bytes, str], _Out], key: str, limit: int, answer: Answer
    ) -> _Out | None:
        """Parse the bytes of a key, and report the key if that fails twice.

        Returns:
            What ``parse`` returns; None if the bytes cannot be parsed, and for a key that is gone.
        """
        for tries in range(2):
            if tries:  # somebody may have written the key anew
                answer = read_key(self.backend, key, limit)
            if isinstance(answer, bytes):
                try:
                    return parse(answer, self.backend.location(key))
                except PolicyStoreError as error:
                    answer = error
        if not isinstance(answer, NotFoundError):
            kind: FaultKind = "record" if isinstance(answer, FormatError) else "storage"
            self.add_fault(key, str(answer), kind)
        return None

    def exists(self, key: str) -> bool:
        """Return whether a key exists now."""
        return self.backend.size(key) is not None


def read_key(backend: Backend, key: str, limit: int) -> bytes | PolicyStoreError:
    """Read a key of at most ``limit`` bytes. Return the error if that fails."""
    try:
        return bytes(backend.get(key, limit=limit))
    except PolicyStoreError as error:
        return error


def read_exactly(backend: Backend, key: str, digest: Digest, size: int) -> bytes | memoryview:
    """Read the bytes of a key, and check them.

    Args:
        backend: the storage.
        key: the key of an object, or of a copy in the trash.
        digest: the digest of the object.
        size: how many bytes the key has, by a listing.

    Raises:
        NotFoundError: the key does not exist.
        IntegrityError: the bytes have another digest, or are more than ``size``.
        StorageError: the storage failed.
    """
    location = backend.location(key)
    try:
        if size > _LARGE:
            declared = declared_size(backend.head(key, 8 + MAX_HEADER), location)
            if declared != size:
                raise FormatError(f"its header declares {declared} bytes, and it has {size}")
        data, actual = get_hashed(backend, key, limit=size, size=size)
    except FormatError as error:
        raise IntegrityError(f"{location} is damaged: {error}. {_ADVICE}") from None
    if actual != digest:
        raise IntegrityError(
            f"{location} is damaged: its {memoryview(data).nbytes} bytes have the digest "
            f"{actual.short}, not {digest.short}. {_ADVICE}"
        )
    return data


def _answer(backend: Backend, task: Task) -> Answer:
    return None if task.key is None else read_key(backend, task.key, task.limit)
