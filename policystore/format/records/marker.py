"""Encode and parse the marker of a store, and the pointer to the marks of a name."""

from __future__ import annotations

from policystore.format.metadata import FORMAT
from policystore.format.records.fields import encode_record, parse_record

__all__ = ["check_marker", "check_pointer", "marker_bytes", "pointer_bytes"]


def marker_bytes() -> bytes:
    """Return the content of the marker, ``policystore.json``."""
    return encode_record({"format": FORMAT, "kind": "store"})


def check_marker(data: bytes | memoryview, label: str) -> None:
    """Check that a marker is a marker of policystore and of format 1.

    Raises:
        FormatError: the marker is not a marker of policystore, or is of a newer format.
    """
    parse_record(data, "store", set(), label)


def pointer_bytes() -> bytes:
    """Return the content of ``deleted/<name>/@mark``.

    The key only says that the marks of the name have to be read: at some time, no version of the
    name stood.
    """
    return encode_record({"format": FORMAT, "kind": "pointer"})


def check_pointer(data: bytes | memoryview, label: str) -> None:
    """Check the content of ``deleted/<name>/@mark``.

    Raises:
        FormatError: the content is not that of a pointer, or is of a newer format.
    """
    parse_record(data, "pointer", set(), label)
