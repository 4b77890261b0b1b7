"""Every exception that policystore raises on purpose, in one tree.

The classes are grouped by what a caller can do about the error. Each is also a builtin exception,
so that ``except KeyError`` or ``except OSError`` works in code that does not know policystore::

    PolicyStoreError (Exception)
    ├── NotFoundError (KeyError)            no such name, version, tag, digest or id: correct it
    ├── AmbiguousError (ValueError)         a short digest fits several objects: give more digits
    ├── InvalidInputError (ValueError)      an argument of the wrong form: correct the call
    ├── MissingPackageError (ImportError)   a package is not installed: install what is named
    ├── MismatchError (ValueError)          the weights do not fit: use the right policy
    ├── ProtectedError (PermissionError)    a tag that others protect: ask them, or force
    ├── UntrustedError (PermissionError)    a class may not be imported: trust its module
    ├── IntegrityError (OSError)            bytes do not match their digest: restore the object
    ├── FormatError (ValueError)            bytes are not of format 1: if newer, upgrade policystore
    ├── ReadOnlyError (PermissionError)     a write to a store that can only be read
    ├── StorageError (OSError)              the disk or service failed: the store is as before
    ├── SyncError (RuntimeError)            workers do not hold the expected weights
    └── MatchError (RuntimeError)           a match was not played, or not the same again

A message says what was expected, what was found, where, and what to do. Every error survives
pickling, so that Ray can carry it between processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = [
    "AmbiguousError",
    "FormatError",
    "IntegrityError",
    "InvalidInputError",
    "MatchError",
    "MismatchError",
    "MissingPackageError",
    "NotFoundError",
    "PolicyStoreError",
    "ProtectedError",
    "ReadOnlyError",
    "StorageError",
    "SyncError",
    "UntrustedError",
]


class PolicyStoreError(Exception):
    """The base class of every exception that policystore raises on purpose.

    Attributes:
        message: the text of the error.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        # KeyError prints the repr of its argument, and OSError looks for an errno. Every class of
        # the tree prints its message unchanged.
        return self.message

    def within(self, action: str) -> PolicyStoreError:
        """Return the same error with a message that begins with the action that failed."""
        return type(self)(f"{action}: {self.message}")


class NotFoundError(PolicyStoreError, KeyError):
    """No policy, version, tag or file has the name, digest or id that was given."""


class AmbiguousError(PolicyStoreError, ValueError):
    """A shortened digest fits more than one object."""


class InvalidInputError(PolicyStoreError, ValueError):
    """An argument does not have the form that the call needs."""


class MissingPackageError(PolicyStoreError, ImportError):
    """A call or a module needs a package that is not installed, or a newer release of it."""

    @classmethod
    def of(
        cls,
        purpose: str,
        *packages: str,
        extra: str = "",
        install: str = "",
        error: Exception | None = None,
    ) -> MissingPackageError:
        """Return the error for a package that is not installed.

        Args:
            purpose: what needs the packages: the start of the message.
            packages: the names of the packages.
            extra: the extra of policystore that installs the packages.
            install: what ``pip install`` gets, where there is no such extra.
            error: the error of the import. Its text ends the message, because a package that is
                installed may fail to import another one.
        """
        needed = f"the package {packages[0]}, which is not installed"
        if len(packages) > 1:
            needed = f"the packages {' and '.join(packages)}, and at least one is not installed"
        because = f" ({error})" if error is not None else ""
        install = install or f"'policystore[{extra}]'"
        return cls(f"{purpose} needs {needed}: pip install {install}{because}")


class MismatchError(PolicyStoreError, ValueError):
    """Weights do not fit the policy or module into which they should be loaded.

    Or an exported graph does not compute what the policy computes.

    Attributes:
        missing: names that the target has and the snapshot lacks.
        unexpected: names that the snapshot has and the target lacks.
        wrong: name -> a sentence on how the tensor differs, such as by shape or dtype.
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

    def within(self, action: str) -> MismatchError:
        """Return the same error with a message that begins with the action that failed."""
        message = f"{action}: {self._first_line}"
        return _make_mismatch(message, self.missing, self.unexpected, self.wrong)

    def __reduce__(self) -> tuple[object, ...]:
        return (_make_mismatch, (self._first_line, self.missing, self.unexpected, self.wrong))


def _make_mismatch(
    message: str, missing: tuple[str, ...], unexpected: tuple[str, ...], wrong: dict[str, str]
) -> MismatchError:
    return MismatchError(message, missing=missing, unexpected=unexpected, wrong=wrong)


class ProtectedError(PolicyStoreError, PermissionError):
    """A tag is protected, and this author may not move the tag, or delete the version under it."""


class UntrustedError(PolicyStoreError, PermissionError):
    """A snapshot names a class that is imported only if the caller trusts its module."""


class IntegrityError(PolicyStoreError, OSError):
    """Stored bytes do not match the digest that names them."""


class FormatError(PolicyStoreError, ValueError):
    """Bytes are not the canonical bytes of format 1, or belong to a newer format."""


class ReadOnlyError(PolicyStoreError, PermissionError):
    """The store was opened read-only, or its storage refuses writes."""


class StorageError(PolicyStoreError, OSError):
    """The disk or the service under the store failed; no partial write is visible."""


class SyncError(PolicyStoreError, RuntimeError):
    """Workers of a running Algorithm do not hold the expected weights, or did not answer.

    Attributes:
        report: the :class:`~policystore.rllib.live.report.SyncReport` on all workers; None if the
            error arose before a report was made.
    """

    def __init__(self, message: str, *, report: object = None) -> None:
        super().__init__(message)
        self.report = report

    def within(self, action: str) -> SyncError:
        """Return the same error with a message that begins with the action that failed."""
        return _make_sync(f"{action}: {self.message}", self.report)

    def __reduce__(self) -> tuple[object, ...]:
        return (_make_sync, (self.message, self.report))


def _make_sync(message: str, report: object) -> SyncError:
    return SyncError(message, report=report)


class MatchError(PolicyStoreError, RuntimeError):
    """A match could not be played, or a replay of it did not give the same returns.

    The matches that were played before are kept.

    Attributes:
        seeds: seeds of the episodes in which the error may have arisen; the first one is the first
            to look at. Empty if no episode had begun.
    """

    def __init__(self, message: str, *, seeds: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.seeds = tuple(seeds)

    def within(self, action: str) -> MatchError:
        """Return the same error with a message that begins with the action that failed."""
        return _make_match(f"{action}: {self.message}", self.seeds)

    def __reduce__(self) -> tuple[object, ...]:
        return (_make_match, (self.message, self.seeds))


def _make_match(message: str, seeds: tuple[int, ...]) -> MatchError:
    return MatchError(message, seeds=seeds)
