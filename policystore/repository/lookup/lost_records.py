"""Notice by the hints that records are lost, where a list seems to end early.

A reader that knows record N asks for record N+1, and takes its absence as a proof that N is the
newest. In a store that has lost record N+1, this reader would stay at N for ever, though later
records exist, which a reader that begins with the hint finds. So a reader that asks again and again
also reads the hints from time to time.
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

    A hint may name the record that comes next before that record exists, or though its writer was
    cut off. It names the record after that only if the next one existed at some time.

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
