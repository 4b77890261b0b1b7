"""Notice by the hints that a record is lost, although later records exist.

A reader that knows record N asks for record N+1. If record N+1 is absent, the reader concludes that
N is the newest record. In a store that has lost record N+1, this reader would stay at N for ever. A
reader that begins with the hint finds the later records. So a reader that asks again and again also
reads the hints from time to time.
"""

from __future__ import annotations

from typing import Any

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.format.refs import Ref
from policystore.repository.record_log import RecordLog, tag_log, version_log

__all__ = ["is_next_lost"]


def is_next_lost(backend: Backend, ref: Ref, number: int, marks: int) -> bool:
    """Return whether a hint names a later record than the one that comes next.

    A hint may name the next record although this record does not exist: not yet, or because its
    writer was cut off. A hint names a later record only if the next record has existed.

    Args:
        backend: the storage of the store.
        ref: a name, with or without a tag.
        number: the newest version of the name that is known, or the newest move of the tag.
        marks: the number of the newest mark of the name that is known.
    """
    logs: list[RecordLog[Any]] = [version_log(backend, ref.name)]
    if ref.tag is not None:
        logs.append(tag_log(backend, ref.name, ref.tag))
    hints = in_parallel(lambda log: log.read_hint(), logs, workers=backend.parallel)
    name_hint, hint = hints[0], hints[-1]
    is_far_ahead = hint is not None and hint.number > number + 1
    return is_far_ahead or (name_hint is not None and name_hint.marks > marks + 1)
