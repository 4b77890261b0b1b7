"""Read the records that say which objects a store needs, and refuse what cannot be understood."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError
from policystore.repository.roots.listed import nothing_collected

__all__ = ["RecordReader"]

_Record = TypeVar("_Record")

_RESTORE = "Restore the record from a backup; verify() lists what else is damaged."


class RecordReader:
    """Read records, and name the key of each record that stops the collector.

    Args:
        backend: the storage of the store.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def load(
        self,
        key: str,
        parse: Callable[[bytes | memoryview, str], _Record],
        *,
        limit: int,
        data: bytes | memoryview | None = None,
    ) -> _Record:
        """Read a record.

        Args:
            key: its key.
            parse: reads the bytes; its second argument names the record in messages.
            limit: how many bytes the record may have.
            data: the bytes, if they were read.

        Raises:
            FormatError: the record is missing, too long or damaged, or of a newer format.
        """
        try:
            return parse(self._backend.get(key, limit=limit) if data is None else data, key)
        except NotFoundError:
            raise nothing_collected(self._backend, key, "the record is missing", _RESTORE) from None
        except FormatError as error:
            raise nothing_collected(self._backend, key, str(error), _RESTORE) from None

    def check_place(
        self, key: str, actual: tuple[object, ...], expected: tuple[object, ...]
    ) -> None:
        """Check that a record belongs to the key under which it was found.

        Raises:
            FormatError: it belongs to another key.
        """
        if actual != expected:
            problem = "the record belongs to another key: it was moved or copied"
            raise nothing_collected(self._backend, key, problem, _RESTORE)
