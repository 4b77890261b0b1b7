"""Move objects that nothing needs to the trash, and look after the copies in the trash.

The rules of this module come from a model of every order in which pushes, restores, readers and two
collectors can make their steps; ``docs/upkeep.md`` explains them. A step is a request to
the storage. Requests of one collector on different objects may come in any order.
"""

from __future__ import annotations

import secrets
from contextlib import suppress

from policystore._util.concurrency import in_parallel
from policystore._util.deadlines import Clock, LateError, deadline
from policystore.backends.base import Backend, Entry, get_hashed
from policystore.digest import Digest
from policystore.errors import FormatError, NotFoundError, ReadOnlyError, StorageError
from policystore.format.keys import (
    OBJECTS,
    TRASH,
    digest_of_key,
    digest_of_trash,
    object_key,
    trash_key,
)
from policystore.repository.collect.counter import Counter
from policystore.repository.digest_prefixes import DigestPrefixes

__all__ = ["MAX_MOVE", "Sweep"]

MAX_MOVE = 30 * 60.0
"""The longest time, in seconds, between the beginning of the copy of an object and the deletion of
the object. If more time passes, the age of the object is asked again, and the object is copied
again."""

_BATCH = 1024  # objects that are moved after their ages were asked
_TRIES = 10
_MIN_WORKERS = 8  # a disk flushes several files in little more time than one
_MOST_UNMOVED = 100  # each refused deletion of an object leaves a copy in the trash


class Sweep:
    """Sweep the objects of a store, one part of the digests after another.

    Args:
        backend: the storage of the store.
        roots: the objects that the store needs.
        before: what is newer than this time stays, by the clock of the storage.
        counter: counts what is done.
        clock: measures how long a move takes.
    """

    def __init__(
        self,
        backend: Backend,
        roots: DigestPrefixes,
        before: float,
        counter: Counter,
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._roots = roots
        self._before = before
        self._counter = counter
        self._report = counter.report
        self._clock = clock
        # A dry run flushes nothing to a disk, so threads would take longer than the work.
        least = 1 if counter.dry_run else _MIN_WORKERS
        self._workers = max(least, backend.parallel)

    def run(self, part: str) -> None:
        """Sweep the objects whose digests start with two given digits.

        Raises:
            ReadOnlyError: the storage refuses to write.
            StorageError: the storage failed. What was done so far is whole.
        """
        objects = self._list_objects(part)
        self._sweep_trash(part, set(objects))
        candidates: list[Digest] = []
        needed: list[int] = []
        are_needed = self._roots.contain(objects)
        for (digest, entry), is_needed in zip(objects.items(), are_needed, strict=True):
            if is_needed:
                needed.append(entry.nbytes)
            elif self._is_old(entry):
                candidates.append(digest)
            else:
                self._counter.add_young(entry.nbytes, entry.time)
        self._counter.add(self._report.needed, sum(needed), len(needed))
        for start in range(0, len(candidates), _BATCH):
            self._move_all(part, candidates[start : start + _BATCH], objects)

    def _list_objects(self, part: str) -> dict[Digest, Entry]:
        listed = self._backend.entries(f"{OBJECTS}{part}/")
        by_digest = ((digest_of_key(entry.key), entry) for entry in listed)
        return {digest: entry for digest, entry in by_digest if digest is not None}

    def _is_old(self, entry: Entry) -> bool:
        return entry.is_old(self._before)

    # The trash

    def _sweep_trash(self, part: str, present: set[Digest]) -> None:
        """Put back objects that are needed and absent, and delete old copies, needed or not.

        Args:
            part: the two digits with which the digests start.
            present: the objects that are in ``objects/``.
        """
        copies: dict[Digest, list[Entry]] = {}
        for entry in self._backend.entries(f"{TRASH}{part}/"):
            digest = digest_of_trash(entry.key)
            if digest is not None:
                copies.setdefault(digest, []).append(entry)
        needed = dict(zip(copies, self._roots.contain(copies), strict=True))
        in_parallel(
            lambda digest: self._sweep_copies(
                digest, copies[digest], absent=needed[digest] and digest not in present
            ),
            copies,
            workers=self._workers,
        )

    def _sweep_copies(self, digest: Digest, copies: list[Entry], *, absent: bool) -> None:
        """Look after the copies of one object.

        Args:
            digest: the object.
            copies: its copies in the trash.
            absent: whether the object is needed, and was not in the listing.
        """
        if absent and self._backend.size(object_key(digest)) is None:
            newest_first = sorted(copies, key=lambda entry: entry.time or 0.0, reverse=True)
            if not self._put_back(digest, newest_first):
                return  # another collector works on these copies, or all are damaged
        for entry in copies:
            # Whether the object is needed makes no difference: another collector may have moved it
            # with a copy of its own, but nobody may rely on a copy that is this old.
            if self._is_old(entry):
                self._delete(entry, purge=True)
            else:
                self._counter.add(self._report.in_trash, entry.nbytes)

    def _put_back(self, digest: Digest, copies: list[Entry]) -> bool:
        """Copy an object back from one of its copies; False if that was not possible."""
        for entry in copies:
            with suppress(NotFoundError):  # another collector has deleted the copy
                # Of several copies, some of which are then deleted, one with the right bytes.
                if len(copies) > 1 and not self._is_whole(entry, digest):
                    continue
                if not self._counter.dry_run:
                    self._backend.copy(entry.key, object_key(digest))
                self._counter.add(self._report.put_back, entry.nbytes)
                return True
        return False

    def _is_whole(self, entry: Entry, digest: Digest) -> bool:
        """Return whether a copy in the trash has the right bytes."""
        try:
            return get_hashed(self._backend, entry.key, limit=entry.nbytes)[1] == digest
        except FormatError:
            return False  # it has grown since the listing

    def _delete(self, entry: Entry, *, purge: bool) -> bool:
        """Delete a key; False if the storage refuses."""
        if not self._counter.dry_run:
            try:
                self._backend.delete(entry.key)
            except ReadOnlyError:  # a lock on this object, or a policy of the bucket
                self._counter.add_refusal(entry.key)
                return False
        self._counter.add(self._report.purged if purge else self._report.moved, entry.nbytes)
        return True

    # Objects

    def _move_all(self, part: str, digests: list[Digest], listed: dict[Digest, Entry]) -> None:
        """Move objects to the trash, if they are still old."""
        asked = self._clock()
        if not self._counter.dry_run:
            # A push may have written or checked the objects since they were listed.
            listed = self._list_objects(part)
        old: list[Entry] = []
        for digest in digests:
            entry = listed.get(digest)
            if entry is not None and self._is_old(entry):
                old.append(entry)
            elif entry is not None:
                self._counter.add_young(entry.nbytes, entry.time)
        if self._counter.dry_run:
            self._counter.add(self._report.moved, sum(entry.nbytes for entry in old), len(old))
            return
        in_parallel(lambda entry: self._move(entry, asked), old, workers=self._workers)

    def _is_still_old(self, entry: Entry) -> bool:
        again = next(
            (each for each in self._backend.entries(entry.key) if each.key == entry.key), None
        )
        return again is not None and self._is_old(again)

    def _move(self, entry: Entry, asked: float) -> None:
        """Copy an object to the trash, and delete the object.

        Args:
            entry: the object.
            asked: when its age was asked.
        """
        digest = digest_of_key(entry.key)
        if digest is None or self._counter.unmoved >= _MOST_UNMOVED:
            return
        for _ in range(_TRIES):
            began = self._clock()
            if began - asked > MAX_MOVE:
                if not self._is_still_old(entry):
                    return
                asked = began
            try:
                # A new key each time: nobody else knows this copy, so nobody deletes it as old.
                self._backend.copy(entry.key, trash_key(digest, secrets.token_hex(16)))
            except NotFoundError:
                return  # another collector has moved the object
            with suppress(LateError), deadline(began + MAX_MOVE, self._clock):
                self._delete(entry, purge=False)
                return
        raise StorageError(
            f"{self._backend.location(entry.key)}: the object was copied to the trash {_TRIES} "
            f"times, and each time more than {MAX_MOVE / 60:.0f} minutes passed before the object "
            "could be deleted. The object stays where it is."
        )
