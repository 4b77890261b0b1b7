"""Every exception that policystore raises on purpose, in one tree.

The classes are grouped by what a caller would do about them, and each is also the builtin that
fits, so that ``except KeyError`` or ``except OSError`` keep working in code that does not know us::

    PolicyStoreError (Exception)
    ├── NotFoundError (KeyError)            no such name, version, tag, digest or id: fix it
    ├── AmbiguousError (ValueError)         a short digest that fits several: give more digits
    ├── InvalidInputError (ValueError)      an argument of the wrong form: fix the call
    ├── MismatchError (ValueError)          weights that do not fit: use the right policy
    ├── UntrustedError (PermissionError)    a class that may not be imported: vouch for it
    ├── IntegrityError (OSError)            bytes are not what their address says: restore
    ├── FormatError (ValueError)            bytes that are not format 1, or newer
    ├── ReadOnlyError (PermissionError)     a write where only reading is allowed
    ├── StorageError (OSError)              the disk or service failed; the store is as before
    └── SyncError (RuntimeError)            workers that hold other weights than they should

A message says what was expected, what was found, where, and what to do. All of them survive
pickling, so that Ray can carry them between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = [
    "AmbiguousError",
    "FormatError",
    "IntegrityError",
    "InvalidInputError",
    "MismatchError",
    "NotFoundError",
    "PolicyStoreError",
    "ReadOnlyError",
    "StorageError",
    "SyncError",
    "UntrustedError",
]


class PolicyStoreError(Exception):
    """Base of everything that policystore raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError prints the repr of its argument and OSError looks for an errno: a message
        # written for people reads the same from every class of the tree.
        return self.message

    def within(self, what: str) -> PolicyStoreError:
        """The same error, saying first what was being done."""
        return type(self)(f"{what}: {self.message}")


class NotFoundError(PolicyStoreError, KeyError):
    """What a ref, a digest or a policy id names is not there."""


class AmbiguousError(PolicyStoreError, ValueError):
    """A shortened digest fits more than one object."""


class InvalidInputError(PolicyStoreError, ValueError):
    """An argument does not have the form that the call needs."""


class MismatchError(PolicyStoreError, ValueError):
    """Weights do not fit the policy they were meant for.

    Attributes:
        missing: names that the target has and the snapshot lacks.
        unexpected: names that the snapshot has and the target lacks.
        wrong: name -> a sentence on how shape or dtype differ.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        wrong: Mapping[str, str] | None = None,
    ) -> None:
        self.missing = tuple(sorted(missing))
        self.unexpected = tuple(sorted(unexpected))
        self.wrong = dict(sorted((wrong or {}).items()))
        lines = [message]
        lines += [f"  missing from the snapshot: {name}" for name in self.missing]
        lines += [f"  not in the target: {name}" for name in self.unexpected]
        lines += [f"  does not fit: {name}: {how}" for name, how in self.wrong.items()]
        super().__init__("\n".join(lines))
        self._first_line = message

    def within(self, what: str) -> MismatchError:
        """The same error, saying first what was being done."""
        message = f"{what}: {self._first_line}"
        return _make_mismatch(message, self.missing, self.unexpected, self.wrong)

    def __reduce__(self) -> tuple[object, ...]:
        return (_make_mismatch, (self._first_line, self.missing, self.unexpected, self.wrong))


def _make_mismatch(
    message: str, missing: tuple[str, ...], unexpected: tuple[str, ...], wrong: dict[str, str]
) -> MismatchError:
    return MismatchError(message, missing=missing, unexpected=unexpected, wrong=wrong)


class UntrustedError(PolicyStoreError, PermissionError):
    """A snapshot names a class that may not be imported without the caller's word."""


class IntegrityError(PolicyStoreError, OSError):
    """Stored bytes do not match the digest that names them."""


class FormatError(PolicyStoreError, ValueError):
    """Bytes are not canonical format-1 bytes, or belong to a newer format."""


class ReadOnlyError(PolicyStoreError, PermissionError):
    """The store was opened read-only, or its storage refuses writes."""


class StorageError(PolicyStoreError, OSError):
    """The storage below the store failed; nothing half-written is visible."""


class SyncError(PolicyStoreError, RuntimeError):
    """Workers of a running algorithm hold other weights than they should, or did not answer.

    Attributes:
        report: the :class:`~policystore.rllib.live.report.SyncReport` that shows it, if there is
            one.
    """

    def __init__(self, message: str, *, report: object = None) -> None:
        super().__init__(message)
        self.report = report

    def within(self, what: str) -> SyncError:
        """The same error, saying first what was being done."""
        return _make_sync(f"{what}: {self.message}", self.report)

    def __reduce__(self) -> tuple[object, ...]:
        return (_make_sync, (self.message, self.report))


def _make_sync(message: str, report: object) -> SyncError:
    return SyncError(message, report=report)
