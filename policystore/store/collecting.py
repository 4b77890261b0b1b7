"""Collect the garbage of a store."""

from __future__ import annotations

import datetime
from functools import partial
from typing import TYPE_CHECKING

from policystore._util.progress import Meter, Progress
from policystore.repository.objects import ObjectReader
from policystore.store.base import StoreBase

if TYPE_CHECKING:
    from policystore.repository.collect.report import GarbageReport

__all__ = ["CollectingCalls"]


class CollectingCalls(StoreBase):
    """Remove objects that a store does not need any more, with one call."""

    def collect_garbage(
        self,
        grace: datetime.timedelta = datetime.timedelta(days=7),
        dry_run: bool = True,
        exclusive: bool = False,
        progress: Progress | None = None,
    ) -> GarbageReport:
        """Move objects that nothing needs to the trash, and delete old copies from the trash.

        The store needs the policies of all versions that stand, of all versions that a tag points
        to, and of all pushes without a name. A version that was deleted, or that a tag has left,
        stays needed for the time ``grace``. An object that is not needed, and that is at least as
        old as the grace, is moved to the trash. A policy whose objects are in the trash can still
        be pulled by its digest, and ``restore`` brings a deleted version back. When the copy of an
        object in the trash is as old as the grace, a later call deletes the copy.

        Other processes may push, pull, delete, restore and collect at the same time, and no object
        that they rely on is lost. If a call is cut off, the store stays valid, and the next call
        does the rest. The call also deletes unfinished writes that are older than the grace and
        older than a day.

        Args:
            grace: how long an object has to be unneeded and unchanged; at least 2 hours.
            dry_run: True to report what would be done. The call then only writes and deletes a key
                below ``tmp/``, to learn the time of the storage.
            exclusive: True if you promise that nobody else uses the store until the call returns.
                Then the grace may be shorter, even 0.
            progress: a function of two numbers: how many names and parts of the store were looked
                through, and how many there are. The second number grows during the call.

        Returns:
            A report that counts the objects, and says why no object was moved if none was.

        Raises:
            InvalidInputError: a grace of less than 2 hours without ``exclusive``.
            NotFoundError: there is no store.
            FormatError: a key or a record that this release does not understand, or a record that
                is missing; the message names the key. Nothing was collected.
            ReadOnlyError: the store was opened read-only, or its storage refuses to delete.
            StorageError: the storage failed, or does not tell the times of keys.
        """
        # Late: few programs collect.
        from policystore.repository.collect.collector import check_grace, collect_garbage
        from policystore.repository.deletion.healing import heal_name

        check_grace(grace, exclusive=exclusive)
        # A dry run writes as well: a key in tmp/ that tells the time of the storage.
        self._check_writable("collect_garbage")
        return collect_garbage(
            ObjectReader(self._backend),
            grace=grace,
            dry_run=dry_run,
            exclusive=exclusive,
            meter=Meter(progress),
            heal=partial(heal_name, self._resolver),
        )
