"""Write hints. A hint only saves probes, so a hint that cannot be written is no error."""

from __future__ import annotations

from policystore._util.log import logger
from policystore.backends.base import Backend
from policystore.errors import ReadOnlyError, StorageError

__all__ = ["write_hint"]


def write_hint(backend: Backend, key: str, data: bytes) -> None:
    """Write a hint, or log why it could not be written.

    The record that the hint names exists and is durable. If this function raised an error, callers
    would write the record again.
    """
    try:
        backend.replace(key, data)
    except (StorageError, ReadOnlyError) as error:
        logger.warning(
            "the hint %s could not be written, which only makes it slower to find the newest "
            "record: %s",
            backend.location(key),
            error,
        )
