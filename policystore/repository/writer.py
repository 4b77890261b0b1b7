"""Push policies and move tags: first the marker and the objects, last the record of a version.

If requests are slow, requests that do not depend on one another are made at the same time. A push
of a small policy waits for three requests one after the other, however many versions the name has.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.deadlines import Clock, boottime
from policystore._util.progress import Meter, ObjectProgress
from policystore.digest import digest_of
from policystore.errors import InvalidInputError, StorageError
from policystore.format.keys import MARKER, hint_key, kept_key, object_key
from policystore.format.policy import EncodedPolicy
from policystore.format.records import Hint, Kept, Version, marker_bytes
from policystore.format.refs import MAX_NUMBER, check_name
from policystore.format.safetensors import EncodedObject
from policystore.repository.freshness import Freshness
from policystore.repository.lookup.hints import write_hint
from policystore.repository.marker import restore_marker, store_exists
from policystore.repository.objects import ObjectReader
from policystore.repository.record_log import Probe, RecordLog, version_log
from policystore.repository.ref_like import RefLike
from policystore.repository.resolver import Resolver
from policystore.repository.stamp import default_author, now
from policystore.repository.tags import When, move_tag
from policystore.snapshot import Snapshot

__all__ = ["PushNotes", "Writer"]

_Out = TypeVar("_Out")

_MIN_PROBED = 1 << 20  # bytes; for a smaller push, a test of the permission would cost more


@dataclass(frozen=True)
class PushNotes:
    """Notes of the caller about a push. The record of the version keeps them.

    Attributes:
        message: why the policy is pushed.
        metrics: plain values to choose versions by.
        source: where the policy comes from, as plain values.
        parents: refs of the policies from which the policy was trained.
        author: who pushes; None for ``$POLICYSTORE_AUTHOR`` or the name of the user.

    Raises:
        InvalidInputError: ``metrics`` or ``source`` is not a mapping.
    """

    message: str = ""
    metrics: Mapping[Any, Any] = field(default_factory=dict)
    source: Mapping[Any, Any] = field(default_factory=dict)
    parents: tuple[RefLike, ...] = ()
    author: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("metrics", self.metrics), ("source", self.source)):
            if not isinstance(value, Mapping):
                raise InvalidInputError(
                    f"{name} is a dict of plain values, not {type(value).__qualname__}"
                )

    @property
    def need_name(self) -> bool:
        """Whether there are notes that only the record of a version can keep."""
        return bool(self.message or self.metrics or self.source or self.parents)


class Writer:
    """Write policies and tags into one store.

    A writer remembers two facts only: that the store exists, and that the storage creates keys
    exclusively.

    Args:
        objects: reads the objects of the store.
        resolver: reads the names of the store.
        clock: says how long ago the objects of a push were checked.
    """

    def __init__(
        self, objects: ObjectReader, resolver: Resolver, *, clock: Clock = boottime
    ) -> None:
        self._backend = objects.backend
        self._resolver = resolver
        self._clock = clock
        self._at_once = self._backend.parallel > 1
        self._store_exists = False
        self._creates_exclusively = False

    def push(self, snap: Snapshot, name: str | None, notes: PushNotes, meter: Meter) -> Version:
        """Write the objects of a policy, and then the record of its next version.

        Without a name, the record only says that the collector has to keep the policy.

        Args:
            snap: the policy.
            name: the name; None to keep the policy by its digest alone.
            notes: the notes for the record of the version.
            meter: counts the bytes of the objects.

        Raises:
            InvalidInputError: not a name, notes without a name, or notes that a record cannot hold;
                nothing was written.
            NotFoundError: a parent does not exist; nothing was written.
            FormatError: the storage holds other files, or a store of a newer format.
            ReadOnlyError: this user may not write.
            StorageError: the storage failed.
        """
        if name is not None:
            check_name(name)
        elif notes.need_name:
            raise InvalidInputError(
                "message, metrics, source and parents are kept in the record of a version: push "
                "with a name, or leave them out"
            )
        encoded = snap._encode()
        version = self._version(snap, encoded, name, notes)
        # If a record cannot hold the notes, this raises an error before anything is written.
        replace(version, number=MAX_NUMBER, previous=version.digest).to_bytes()
        items = [*encoded.tensors.values(), encoded.policy]
        size = sum(item.size for item in items)
        meter.expect(size)
        objects = Freshness(
            partial(self._upload, items, meter),
            again=partial(self._upload, items, Meter(None)),
            clock=self._clock,
        )
        probes = self._backend.is_remote and size >= _MIN_PROBED
        try:
            known = self._store_exists  # by an earlier push, so the marker may have gone since
            if name is None:
                self._ensure_store()
                if probes:
                    self._probe_permission()
                self._beside_marker(objects.check, proves=known)
                self._keep(version, objects)
                return version
            versions = version_log(self._backend, name)
            _, hint = run_both(self._ensure_store, versions.read_hint, at_once=self._at_once)
            if probes:
                self._verify_exclusive_create()
            find_newest = partial(self._find_newest, versions, hint)
            send = partial(run_both, objects.check, find_newest, at_once=self._at_once)
            # Without a hint, this may be version 1 of the name.
            _, newest = self._beside_marker(send, proves=known and hint is None)
            return self._append(name, versions, version, newest, hint, objects)
        except StorageError:
            self._store_exists = False  # the store may have been removed: the next push looks again
            raise

    def move_tag(
        self,
        name: str,
        tag: str,
        target: Version | None,
        when: When | None = None,
        author: str | None = None,
    ) -> Version | None:
        """Move or remove a tag; arguments and result as in :func:`tags.move_tag`."""
        self._verify_exclusive_create()
        by = default_author() if author is None else author
        return move_tag(self._resolver, name, tag, target, time=now(), author=by, when=when)

    def _version(
        self, snap: Snapshot, encoded: EncodedPolicy, name: str | None, notes: PushNotes
    ) -> Version:
        """Build the record of a version, without its number."""
        resolve, workers = self._resolver.resolve, self._backend.parallel
        return Version(
            name=name,
            number=None,
            digest=encoded.policy.digest,
            weights_digest=snap.weights_digest,
            acting_digest=snap.acting_digest,
            state_digest=snap.state_digest,
            objects=encoded.objects,
            previous=None,
            time=now(),
            author=default_author() if notes.author is None else notes.author,
            message=notes.message,
            metrics=dict(notes.metrics),
            source=dict(notes.source),
            parents=tuple(in_parallel(resolve, notes.parents, workers=workers)),
            nonce=secrets.token_hex(16),
        )

    def _find_newest(self, versions: RecordLog[Hint], hint: Hint | None) -> Probe:
        """Find the newest version and, at the first push, check the storage at the same time."""
        at_once = self._at_once and not self._creates_exclusively
        find = partial(versions.newest, hint)
        return run_both(find, self._verify_exclusive_create, at_once=at_once)[0]

    def _ensure_store(self) -> None:
        """Make the store if the storage is empty.

        Raises:
            FormatError: the storage holds other files, or a store of a newer format.
        """
        if self._store_exists:
            return
        if not store_exists(self._backend) and not self._backend.create(MARKER, marker_bytes()):
            store_exists(self._backend)  # another process made the store: check the marker
        self._store_exists = True

    def _beside_marker(self, call: Callable[[], _Out], *, proves: bool) -> _Out:
        """Make a call and, at the same time, put the marker back if the store was emptied."""
        if not proves:
            return call()
        restore = partial(restore_marker, self._backend)
        return run_both(call, restore, at_once=self._at_once)[0]

    def _probe_permission(self) -> None:
        """Check that the credentials may write, before many bytes are sent.

        Raises:
            ReadOnlyError: the credentials may not write.
        """
        with suppress(StorageError):  # a push without a name works without exclusive creation
            self._verify_exclusive_create()

    def _upload(self, items: Iterable[EncodedObject], meter: Meter) -> None:
        """Write the tensor objects, and then the policy object, which is the last item."""
        *tensors, policy = items
        in_parallel(partial(self._put, meter), tensors, workers=max(8, self._backend.parallel))
        self._put(meter, policy)

    def _put(self, meter: Meter, encoded: EncodedObject) -> None:
        progress = ObjectProgress(meter, encoded.size)
        self._backend.put(object_key(encoded.digest), encoded.chunks, on_bytes=progress.add)
        progress.finish()

    def _verify_exclusive_create(self) -> None:
        """Check once that the storage creates keys exclusively, as names need it.

        Raises:
            StorageError: the storage does not create keys exclusively.
        """
        if not self._creates_exclusively:
            self._backend.verify_exclusive_create(MARKER, marker_bytes())
            self._creates_exclusively = True

    def _keep(self, version: Version, objects: Freshness) -> None:
        """Write the record by which the collector keeps a policy without a name."""
        kept = Kept(version.digest, version.objects, version.time, version.author, version.nonce)
        key, data = kept_key(kept.digest, kept.nonce), kept.to_bytes()
        # The nonce makes the key unique, so the storage need not create the key exclusively.
        objects.call(lambda: self._backend.put(key, [data]))

    def _append(
        self,
        name: str,
        versions: RecordLog[Hint],
        version: Version,
        newest: Probe,
        hint: Hint | None,
        objects: Freshness,
    ) -> Version:
        """Create the record of a version under the next free number, and write the hint.

        The new hint names the newest mark that the earlier hint names. No mark deletes a version
        that does not exist, so the new version stands.
        """
        marks = 0 if hint is None else hint.marks

        def make_record(number: int, previous: bytes | None) -> bytes:
            digest = None if previous is None else digest_of(previous)
            return replace(version, number=number, previous=digest).to_bytes()

        def hint_of(number: int) -> None:
            data = Hint(number, version.digest, marks, stands=number).to_bytes()
            write_hint(self._backend, hint_key(name), data)

        data = versions.append(
            make_record,
            version.nonce,
            newest=newest,
            write_hint=hint_of,
            guard=objects.call,
        )
        return Version.from_bytes(data, f"the record of {name}")
