"""Give each result of a command an exit code, and each error one line."""

from __future__ import annotations

import enum

from policystore._util.messages import printable
from policystore.errors import (
    FormatError,
    IntegrityError,
    MatchError,
    NotFoundError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
    SyncError,
)

__all__ = ["Code", "code_of", "one_line"]


class Code(enum.IntEnum):
    """List the exit codes of all commands."""

    FINE = 0
    # Something in the store, or in a file, is damaged; not everything was done; or nothing came.
    FAULTS = 1
    WRONG_USE = 2
    NOT_FOUND = 3
    STORAGE = 4
    INTERNAL = 70  # a bug in policystore; EX_SOFTWARE of sysexits.h
    INTERRUPTED = 130


_CODES: tuple[tuple[type[PolicyStoreError], Code], ...] = (
    (NotFoundError, Code.NOT_FOUND),
    (IntegrityError, Code.FAULTS),
    (FormatError, Code.FAULTS),
    (ReadOnlyError, Code.STORAGE),
    (StorageError, Code.STORAGE),
    (SyncError, Code.FAULTS),
    (MatchError, Code.FAULTS),
)


def code_of(error: PolicyStoreError) -> Code:
    """Return the exit code of an error; errors about the arguments of a call are wrong use."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return Code.WRONG_USE


def one_line(text: str, *, keep_blanks: bool = False) -> str:
    """Return a message as one line; control characters become escapes.

    Args:
        text: the message.
        keep_blanks: whether blanks at the beginning, and several together, stay as they are.
    """
    return printable(text if keep_blanks else " ".join(text.split()))
