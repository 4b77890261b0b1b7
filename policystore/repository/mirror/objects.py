"""Copy objects from one store to another, as bytes that are checked against their digests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from policystore._util.concurrency import in_parallel
from policystore._util.deadlines import Clock, LateError, boottime, deadline
from policystore._util.progress import Meter, ObjectProgress
from policystore.backends.base import Backend, get_hashed
from policystore.digest import Digest
from policystore.errors import FormatError, NotFoundError, StorageError
from policystore.format.keys import object_key
from policystore.format.metadata import parse_external, parse_metadata
from policystore.format.safetensors import META, parse_header
from policystore.repository.freshness import MAX_DELAY
from policystore.repository.mirror.budget import Budget
from policystore.repository.objects import ObjectReader

__all__ = ["Needs", "ObjectCopier"]

_REUSED = MAX_DELAY / 2  # seconds for which the check of an object serves other records
_MAX_CHECKS = 10
_IN_MEMORY = 256 << 20  # bytes
_MIN_ASKED = 64 << 10  # bytes; for a smaller object a question costs as much as the bytes
_LOCKS = 1024
_MIN_WORKERS = 8

_Out = TypeVar("_Out")


class Needs:
    """The objects that one record needs.

    Args:
        digest: the digest of the policy object.
        objects: the objects with their sizes, if the record lists them.

    Attributes:
        policy: the digest of the policy object.
        size: the size of the policy object; None as long as it is not known.
        tensors: the tensor objects, with their sizes; None as long as they are not known.
        checked: when the first of the objects was checked in the target.
        missing: the objects that the source does not have.
    """

    def __init__(self, digest: Digest, objects: Mapping[Digest, int] | None) -> None:
        self.policy = digest
        self.size = None if objects is None else objects[digest]
        self.tensors = (
            None if objects is None else {d: size for d, size in objects.items() if d != digest}
        )
        self.checked = 0.0
        self.missing: list[Digest] = []

    @property
    def objects(self) -> dict[Digest, int] | None:
        """All objects with their sizes; None as long as they are not known."""
        if self.tensors is None or self.size is None:
            return None
        return {self.policy: self.size, **self.tensors}


class ObjectCopier:
    """Copy objects from a store to a backend; each object moves once.

    Args:
        source: reads the objects of the source.
        target: the backend of the target.
        meter: counts the bytes that move.
        dry_run: True to write nothing.
        clock: says how long ago objects were checked.

    Attributes:
        count: how many objects were written.
        nbytes: how many bytes these objects have.
        workers: how many objects move at once.
        clock: says how long ago objects were checked.
        budget: the bytes that may be in memory at once.
    """

    def __init__(
        self,
        source: ObjectReader,
        target: Backend,
        meter: Meter,
        *,
        dry_run: bool,
        clock: Clock = boottime,
    ) -> None:
        self.count = self.nbytes = 0
        self.workers = max(_MIN_WORKERS, source.backend.parallel, target.parallel)
        self._source, self._target = source, target
        self._meter, self._dry_run = meter, dry_run
        self.clock = clock
        self._own = ObjectReader(target)
        self.budget = Budget(_IN_MEMORY)
        # An object that several names need is copied by one thread, while the others wait.
        self._locks = [threading.Lock() for _ in range(_LOCKS)]
        self._counting = threading.Lock()
        self._checked: dict[Digest, float] = {}

    def ensure(self, needs: Iterable[Needs], *, reuse: bool = True) -> None:
        """Make sure that the target has the objects of some records, tensors before policies.

        What the source does not have is noted in :attr:`Needs.missing`.

        Args:
            needs: the objects of the records.
            reuse: whether an object that this copier checked a short time ago is checked again.

        Raises:
            IntegrityError: an object of the source is damaged.
            StorageError: the storage failed.
        """
        items = list(needs)
        began = self.clock()
        since = began - _REUSED if reuse else began
        for each in items:
            each.checked, each.missing = began, []
        in_parallel(self._list_tensors, items, workers=self.workers)
        tensors: dict[Digest, int | None] = {}
        for each in items:
            tensors |= each.tensors or {}
        absent = self._ensure_all(tensors, since)
        # A policy is not copied if a part of it is lost: the record is not going to be created.
        policies = {
            each.policy: each.size
            for each in items
            if not each.missing and absent.isdisjoint(each.tensors or ())
        }
        absent |= self._ensure_all(policies, since)
        for each in items:
            needed = [each.policy, *(each.tensors or ())]
            each.missing = each.missing or [digest for digest in needed if digest in absent]
            times = [self._checked.get(digest, began) for digest in needed]
            each.checked = min([began, *times])

    def has_all(self, needs: Needs) -> bool:
        """Return whether the source has every object of a record."""
        self._list_tensors(needs)
        digests = [needs.policy, *(needs.tensors or ())]
        size = self._source.backend.size
        return not needs.missing and all(size(object_key(digest)) is not None for digest in digests)

    def keep(self, digests: Iterable[Digest]) -> bool:
        """Make sure that objects of the target stand where its readers look first.

        A collector may have taken them to the trash, from where they are copied back.

        Returns:
            False if the target does not have one of the objects any more.
        """
        for digest in digests:
            key = object_key(digest)
            if self._target.size(key) is not None:
                continue
            try:
                data = self._own.read(digest, limit=None)
            except NotFoundError:
                return False
            if not self._dry_run:
                self._target.put(key, [data])
        return True

    def create(self, needs: Iterable[Needs], create: Callable[[], _Out]) -> _Out:
        """Call a function that creates a record, while the check of its objects is fresh.

        The function may be called again. It has to recognize the record of its first call.

        Args:
            needs: the objects of the record, which were checked before.
            create: creates the record.

        Raises:
            NotFoundError: an object has vanished from both stores meanwhile.
            StorageError: the storage failed, or is too slow.
        """
        items = list(needs)
        for _ in range(_MAX_CHECKS):
            checked = min((each.checked for each in items), default=self.clock())
            try:
                with deadline(checked + MAX_DELAY, self.clock):
                    return create()
            except LateError:
                self.ensure(items, reuse=False)
            for digest in (digest for each in items for digest in each.missing):
                raise NotFoundError(f"no object {digest} in {self._source.backend.url} any more")
        raise StorageError(
            f"{self._target.url}: the objects of a record were checked {_MAX_CHECKS} times, and "
            f"each time more than {MAX_DELAY / 60:.0f} minutes passed before the record could be "
            "written. Use a faster connection, or copy fewer names at once."
        )

    def _ensure_all(self, sizes: Mapping[Digest, int | None], since: float) -> set[Digest]:
        """Make sure that the target has some objects; return those that the source lacks."""
        items = sorted(sizes.items(), key=lambda item: -(item[1] or 0))
        found = in_parallel(
            lambda item: self._ensure(item[0], item[1], since), items, workers=self.workers
        )
        return {digest for (digest, _), there in zip(items, found, strict=True) if not there}

    def _ensure(self, digest: Digest, size: int | None, since: float) -> bool:
        with self._locks[int(digest.hex[:8], 16) % _LOCKS]:
            if self._checked.get(digest, since - 1) >= since:
                return True
            began = self.clock()
            if not self._holds(digest, size) and not self._move(digest, size):
                return False
            self._checked[digest] = began
            return True

    def _holds(self, digest: Digest, size: int | None) -> bool:
        """Return whether the target has an object, durably. False if in doubt."""
        if size is None or (self._target.is_remote and size < _MIN_ASKED and not self._dry_run):
            return False
        key = object_key(digest)
        if self._target.size(key) != size:
            return False
        if self._target.is_remote or self._dry_run:
            return True
        try:
            data, actual = get_hashed(self._target, key, limit=size)
        except (NotFoundError, FormatError):
            return False  # taken away or replaced at this moment
        if actual != digest:
            return False
        # The process that wrote the object may not have flushed it yet; this call does.
        self._target.put(key, [data])
        return True

    def _move(self, digest: Digest, size: int | None) -> bool:
        """Copy an object; return False if the source does not have the object."""
        if self._dry_run:
            found = self._source.backend.size(object_key(digest))
            if found is None:
                try:  # a collector may have taken the object to the trash
                    found = memoryview(self._source.read(digest, size=size)).nbytes
                except NotFoundError:
                    return False
            self._count(found)
            return True
        with self.budget.hold(size or 0):
            try:
                data = self._source.read(digest, size=size)
            except NotFoundError:
                return False
            nbytes = memoryview(data).nbytes
            self._meter.expect(nbytes)
            progress = ObjectProgress(self._meter, nbytes)
            self._target.put(object_key(digest), [data], on_bytes=progress.add)
            progress.finish()
        self._count(nbytes)
        return True

    def _count(self, nbytes: int) -> None:
        with self._counting:
            self.count += 1
            self.nbytes += nbytes

    def _list_tensors(self, needs: Needs) -> None:
        """Read the names of the tensors in the header of a policy, if the record has no list."""
        if needs.tensors is not None:
            return
        key = object_key(needs.policy)
        location = self._source.backend.location(key)
        with self.budget.hold(self._source.backend.size(key) or 0):
            try:
                data = memoryview(self._source.read(needs.policy))
            except NotFoundError:
                needs.missing = [needs.policy]
                return
            header, _ = parse_header(data, location)
            needs.size = data.nbytes
        meta = parse_metadata(header.pop(META, None), location)
        external = parse_external(meta.get("external", {}), location).values()
        needs.tensors = {item.digest: item.size for item in external}
