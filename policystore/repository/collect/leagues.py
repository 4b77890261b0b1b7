"""Delete the records of leagues that nothing needs: of deleted leagues, and replaced sums."""

from __future__ import annotations

from collections.abc import Sequence

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend, Entry
from policystore.errors import ReadOnlyError
from policystore.repository.collect.counter import Counter

__all__ = ["sweep_leagues"]


def sweep_leagues(backend: Backend, unneeded: Sequence[Entry], counter: Counter) -> None:
    """Delete records of leagues.

    Such a record does not go to the trash: nothing can make it needed again. Nobody writes a record
    again that stands, but a body of a summary may be written again with the same bytes, and is then
    young. So the age is asked once more before a record is deleted.

    Args:
        backend: the storage of the store.
        unneeded: the records, as they were listed.
        counter: counts what is done.

    Raises:
        StorageError: the storage failed.
    """

    def sweep(entry: Entry) -> None:
        if not counter.dry_run:
            now = next((e for e in backend.entries(entry.key) if e.key == entry.key), None)
            if now is None or now.time != entry.time:
                return  # another collector has deleted the record, or somebody has written it
            try:
                backend.delete(entry.key)
            except ReadOnlyError:  # a lock on this record, or a policy of the bucket
                counter.add_refusal(entry.key)
                return
        counter.add(counter.report.leagues, entry.nbytes)

    in_parallel(sweep, unneeded, workers=backend.parallel)
