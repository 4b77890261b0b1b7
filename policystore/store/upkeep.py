"""Look after a store: verify it, repair it, count what is in it."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.repository.lookup.marker import repair_marker, require_store
from policystore.store.base import StoreBase

if TYPE_CHECKING:
    from policystore.repository.upkeep.stats_report import StatsProgress, StoreStats
    from policystore.repository.verify.report import VerifyProgress, VerifyReport

__all__ = ["UpkeepCalls"]


class UpkeepCalls(StoreBase):
    """Verify, repair and count a store as a whole."""

    def verify(
        self,
        *,
        fraction: float | None = None,
        since: datetime.datetime | datetime.timedelta | None = None,
        repair_from: StoreBase | None = None,
        progress: VerifyProgress | None = None,
        resume: str | None = None,
    ) -> VerifyReport:
        """Read everything in the store and report every fault.

        Other processes may use the store at the same time. Without ``repair_from`` the call changes
        nothing.

        Args:
            fraction: read only this share of the objects, such as 0.1, and all records. The share
                is a range of digests that begins at a random place. With the cursor of the last
                report as ``resume``, a run reads the next share, so that ten runs of 0.1 read
                everything. Tensors of the policies in the share are read as well.
            since: read only objects and records that are newer than this, by the times of the
                storage. A timedelta says how long ago, by the clock of this machine; a datetime
                needs a time zone. Tensors of new policies are read as well.
            repair_from: another store, such as a mirror. A damaged or missing object is replaced by
                the copy in the other store, after that copy was checked against its digest. A
                missing, damaged or changed record is replaced if the next record holds the digest
                of the record in the other store.
            progress: a function of the report so far, called after each wave of requests, by this
                thread. ``total_nbytes`` of the report says how many bytes this run reads, and
                ``cursor`` says where a later call can go on. If the function raises, the call ends
                with that error.
            resume: the ``cursor`` of an earlier report. Objects that the earlier run read are not
                read again. Records are always read.

        Returns:
            A report that names each fault.

        Raises:
            InvalidInputError: an argument of a wrong form.
            NotFoundError: the store does not exist.
            FormatError: the folder is not a store, or is a store of a newer format.
            ReadOnlyError: ``repair_from`` was given, and the store was opened read-only.
        """
        from policystore.repository.verify.store import verify_store  # late: few programs verify

        source = None
        if repair_from is not None:
            if not isinstance(repair_from, StoreBase):
                raise InvalidInputError(
                    f"repair_from is another PolicyStore, not {brief(repair_from)}"
                )
            self._check_writable("verify with repair_from")
            require_store(repair_from._backend)
            source = repair_from._backend
        _check_progress(progress, "VerifyReport")
        require_store(self._backend)
        return verify_store(
            self._backend,
            fraction=fraction,
            since=since,
            source=source,
            progress=progress,
            resume=resume,
        )

    def repair(self) -> bool:
        """Put back the marker ``policystore.json`` of a store that has lost the marker.

        Without the marker, every call says that the folder is not a store. ``repair`` first checks
        that the folder holds objects or records of a store. ``verify(repair_from=…)`` repairs
        objects and records.

        Returns:
            Whether the marker was absent.

        Raises:
            NotFoundError: the folder or bucket is empty.
            FormatError: the folder holds nothing of a store, or a store of a newer format.
            ReadOnlyError: this user may not write, or the store was opened read-only.
        """
        self._check_writable("repair")
        return repair_marker(self._backend)

    def stats(
        self,
        prefix: str = "",
        *,
        details: bool = False,
        grace: datetime.timedelta = datetime.timedelta(days=7),
        progress: StatsProgress | None = None,
    ) -> StoreStats:
        """Count names, versions, objects and bytes.

        Without ``details``, the call lists the store, and reads the newest mark of each name from
        which versions were deleted. With ``details``, the call lists the names twice, and also
        reads the record of each version, and the newest moves of tags. The memory of the call
        hardly grows with the store.

        Args:
            prefix: such as ``"soccer/"``, to count only the names below ``soccer``. With a prefix,
                objects are counted only with ``details``, because a listing does not say to which
                name an object belongs.
            details: whether to count also how many bytes sharing saves, and which objects
                ``collect_garbage`` would move to the trash.
            grace: how old an object has to be before ``collect_garbage`` moves it, by the clock of
                this machine.
            progress: a function of the numbers so far, called after each page of keys. If the
                function raises, the call ends with that error.

        Returns:
            The numbers.

        Raises:
            InvalidInputError: an argument of a wrong form.
            NotFoundError: the store does not exist.
            FormatError: the folder is not a store, or is a store of a newer format.
            StorageError: the storage failed.
        """
        from policystore.repository.upkeep.stats import count_store  # late: few programs count

        if not isinstance(grace, datetime.timedelta):
            raise InvalidInputError(
                f"grace is a timedelta, as timedelta(days=7), not {brief(grace)}"
            )
        _check_progress(progress, "StoreStats")
        require_store(self._backend)
        return count_store(self._backend, prefix, details=details, grace=grace, progress=progress)


def _check_progress(progress: object, argument: str) -> None:
    if progress is not None and not callable(progress):
        raise InvalidInputError(
            f"progress is a function of a {argument}, not {type(progress).__qualname__}"
        )
