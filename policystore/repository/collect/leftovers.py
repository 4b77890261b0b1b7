"""Delete what writers that were cut off have left behind: files in ``tmp/``, unfinished uploads."""

from __future__ import annotations

from policystore.backends.base import Backend, KeepsUploads
from policystore.errors import ReadOnlyError, StorageError
from policystore.format.keys import TEMPORARY
from policystore.repository.collect.counter import Counter

__all__ = ["MIN_AGE", "sweep_leftovers"]

MIN_AGE = 24 * 3600.0
"""How old an unfinished write has to be at least, in seconds: it may still go on."""


def sweep_leftovers(backend: Backend, before: float, counter: Counter) -> None:
    """Delete unfinished writes, and note in the report what the storage does not allow.

    Args:
        backend: the storage of the store.
        before: what is newer than this time stays, by the clock of the storage.
        counter: counts what is done.
    """
    report = counter.report
    for entry in backend.entries(TEMPORARY):
        if entry.is_old(before):
            try:
                if not report.dry_run:
                    backend.delete(entry.key)
            except ReadOnlyError:  # the file of another user, who will remove it
                counter.add_refusal(entry.key)
                continue
            counter.add(report.swept, entry.nbytes)
    if not isinstance(backend, KeepsUploads):
        return
    report.notes += backend.deletion_limits()
    try:
        for upload in backend.unfinished_uploads():
            if upload.time is not None and upload.time <= before:
                if not report.dry_run:
                    backend.abort_upload(upload)
                counter.add(report.swept, 0)
    except (ReadOnlyError, StorageError) as error:
        report.notes.append(f"unfinished uploads were not deleted: {error}")
