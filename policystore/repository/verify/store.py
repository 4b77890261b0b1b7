"""Verify a store: each object against its digest, each record and its place in its chain.

One listing shows all keys. Then the records are read in waves, and after them the objects. What the
listing says may be old when a key is read, so each fault is looked at again before it is reported.
"""

from __future__ import annotations

import datetime

from policystore.backends.base import Backend
from policystore.errors import StorageError
from policystore.repository.verify.claims import Claims
from policystore.repository.verify.listing import list_store
from policystore.repository.verify.missing import check_missing
from policystore.repository.verify.names import RecordCheck
from policystore.repository.verify.objects import ObjectCheck
from policystore.repository.verify.report import VerifyProgress, VerifyReport
from policystore.repository.verify.run import Run
from policystore.repository.verify.selection import make_selection, parse_since

__all__ = ["verify_store"]


def verify_store(
    backend: Backend,
    *,
    fraction: float | None = None,
    since: datetime.datetime | datetime.timedelta | None = None,
    source: Backend | None = None,
    progress: VerifyProgress | None = None,
    resume: str | None = None,
) -> VerifyReport:
    """Read everything and report what is wrong.

    The caller has checked the marker. Other processes may write at the same time. Their new objects
    and records may or may not be checked. Each record and each object takes one request; as many
    requests as the backend takes run at once. Objects of a few hundred MB at most are in memory at
    a time, and beside them about 100 bytes for each object of the store and some hundred bytes for
    each name. Records are read in the order of names, and objects in the order of digests, so what
    the records say is held until their objects are read.

    Args:
        backend: the storage of the store.
        fraction, since, resume: which objects and records to read, as in ``PolicyStore.verify``.
        source: the storage of another store, from which faults are repaired; None to change
            nothing.
        progress: is called with the report after each wave of requests.

    Raises:
        InvalidInputError: an argument of a wrong form.
    """
    selection, new_from = make_selection(fraction, resume), parse_since(since)
    run = Run(backend, list_store(backend, new_from), selection, progress=progress, source=source)
    claims = Claims(run.inventory, selection)
    run.report.cursor = selection.cursor(selection.stage, None)
    RecordCheck(run, claims, only_new=new_from is not None).check()
    ObjectCheck(run, claims).check()
    check_missing(run)
    _report_foreign(run)
    run.tell()
    return run.report


def _report_foreign(run: Run) -> None:
    """Report the keys that are not of a store, if they are still there."""
    faults = run.inventory.faults
    doubtful = tuple(
        key for key, fault in faults.items() if fault.kind == "foreign" and _may_be_gone(run, key)
    )
    present: set[str] = set()
    if doubtful:
        for key in run.backend.keys("", problems=[]):
            if key.startswith(doubtful):
                present.update(each for each in doubtful if key.startswith(each))
    for key, fault in faults.items():
        if key not in doubtful or key in present:
            run.add(fault)


def _may_be_gone(run: Run, key: str) -> bool:
    """Return whether a listed key may be gone; a link, and the start of keys, always may be."""
    try:
        return not run.exists(key)
    except StorageError:
        return True
