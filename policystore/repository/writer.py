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
from policystore._util.log import logger
from policystore._util.messages import printable
from policystore._util.progress import Meter, ObjectProgress
from policystore.digest import digest_of
from policystore.errors import InvalidInputError, StorageError
from policystore.format.keys import MARKER, hint_key, kept_key, object_key
from policystore.format.nonfinite import nonfinite
from policystore.format.policy import EncodedPolicy
from policystore.format.records import Hint, Kept, Protection, TagMove, Version, marker_bytes
from policystore.format.refs import MAX_NUMBER, check_name
from policystore.format.safetensors import EncodedObject
from policystore.repository.freshness import Freshness
from policystore.repository.lookup.hints import bring_hint_forward, write_hint
from policystore.repository.lookup.marker import (
    restore_marker,
    store_exists,
    vanished_error,
    warn_of_emptied_store,
    warn_of_outer_store,
)
from policystore.repository.objects import ObjectReader
from policystore.repository.record_log import Probe, RecordLog, mark_log, version_log
from policystore.repository.ref_like import RefLike
from policystore.repository.resolver import Resolver
from policystore.repository.stamp import default_author, now
from policystore.repository.tags import When, move_tag, protect_tag
from policystore.snapshot import Snapshot

__all__ = ["PushNotes", "Writer"]

_Out = TypeVar("_Out")

_MIN_PROBED = 1 << 20  # bytes; for a smaller push, a test of the permission would cost more
_MIN_THREAD = 4 << 20  # bytes; for a smaller push, a thread that hashes would cost more


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

    A writer remembers only that the store exists, that a push has failed, and that the storage
    creates keys exclusively.

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
        self._has_failed = False  # whether a push failed; the storage may have changed since then
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
        draft = self._version(encoded, name, notes)
        # If a record cannot hold the notes, this raises an error before anything is written, and
        # before anything walks through metrics that may be nested without end.
        replace(draft, number=MAX_NUMBER, previous=draft.digest).to_bytes()
        found = nonfinite(snap.weights, snap._state_arrays, draft.metrics)
        if found:
            draft = replace(draft, nonfinite=found)
            replace(draft, number=MAX_NUMBER, previous=draft.digest).to_bytes()
        items = [*encoded.tensors.values(), encoded.policy]
        size = sum(item.size for item in items)
        meter.expect(size)
        upload = partial(self._upload, items, meter)
        # The digests of the parts are only in the record, so they are computed during the upload.
        hashed_beside = partial(run_both, upload, snap._part_digests, at_once=size >= _MIN_THREAD)
        objects = Freshness(
            hashed_beside, again=partial(self._upload, items, Meter(None)), clock=self._clock
        )
        probes = self._backend.is_remote and size >= _MIN_PROBED
        try:
            known = self._store_exists  # by an earlier push, so the marker may have gone since
            if name is None:
                self._ensure_store()
                if probes:
                    self._probe_permission()
                self._beside_marker(objects.check, proves=known)
                version = _with_parts(draft, snap)
                self._keep(version, objects)
                self._warn_of_nonfinite(version)
                return version
            versions = version_log(self._backend, name)
            _, hint = run_both(self._ensure_store, versions.read_hint, at_once=self._at_once)
            if probes:
                self._verify_exclusive_create()
            find_newest = partial(self._find_newest, versions, hint)
            send = partial(run_both, objects.check, find_newest, at_once=self._at_once)
            # Without a hint, this may be version 1 of the name.
            _, newest = self._beside_marker(send, proves=known and hint is None)
            version = _with_parts(draft, snap)
            appended = self._append(name, versions, version, newest, hint, objects)
            self._warn_of_nonfinite(appended)
            return appended
        except StorageError:
            # The store may have been removed: the next push looks again.
            self._store_exists, self._has_failed = False, True
            raise

    def prepare(self) -> None:
        """Make the store if the storage is empty, and check that it creates keys exclusively.

        Raises:
            FormatError: the storage holds other files, or a store of a newer format.
            StorageError: the storage failed, or does not create keys exclusively.
        """
        self._ensure_store()
        self._verify_exclusive_create()

    def move_tag(
        self,
        name: str,
        tag: str,
        target: Version | None,
        when: When | None = None,
        author: str | None = None,
        force: bool = False,
    ) -> Version | None:
        """Move or remove a tag; arguments and result as in :func:`tags.move_tag`."""
        self._verify_exclusive_create()
        by = default_author() if author is None else author
        return move_tag(
            self._resolver, name, tag, target, time=now(), author=by, when=when, force=force
        )

    def protect_tag(
        self, name: str, tag: str, by: tuple[str, ...] | None, author: str | None, *, force: bool
    ) -> TagMove:
        """Protect a tag, or end its protection, as :func:`tags.protect_tag` does.

        Args:
            name, tag: the tag.
            by: the authors who may move the tag, in order; None for everybody.
            author: who protects the tag.
            force: as in :func:`tags.protect_tag`.
        """
        self._verify_exclusive_create()
        who, time = default_author() if author is None else author, now()
        protection = None if by is None else Protection(by, who, time)
        return protect_tag(
            self._resolver, name, tag, protection, time=time, author=who, force=force
        )

    def _version(self, encoded: EncodedPolicy, name: str | None, notes: PushNotes) -> Version:
        """Build the record of a version, without its number, flags and digests of its parts.

        In the places of the digests of the parts is the digest of the policy, which is as long.
        """
        resolve, workers = self._resolver.resolve, self._backend.parallel
        digest = encoded.policy.digest
        return Version(
            name=name,
            number=None,
            digest=digest,
            weights_digest=digest,
            acting_digest=digest,
            state_digest=digest,
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

    def _warn_of_nonfinite(self, version: Version) -> None:
        """Log a warning about NaN and infinite numbers in a push, once for each name."""
        about = ("nonfinite", self._backend.url, version.name)
        if version.nonfinite and logger.is_news(about):
            logger.warning(
                "%s was pushed to %s, though it has NaN or infinite numbers in %s. The record of "
                "the version says so (Version.nonfinite). Later pushes to this name are not "
                "warned of.",
                version.ref,
                self._backend.url,
                ", ".join(printable(name) for name in version.nonfinite),
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
            StorageError: the storage held a store, a push failed, and now the storage is empty.
        """
        if self._store_exists:
            return
        # Before the look: another thread may make the store.
        has_found_store = self._resolver.has_found_store
        if not store_exists(self._backend):
            if has_found_store and self._has_failed:
                raise vanished_error(self._backend)
            create = partial(self._backend.create, MARKER, marker_bytes())
            warn = partial(warn_of_outer_store, self._backend)
            created, _ = run_both(create, warn, at_once=self._at_once)
            if not created:
                store_exists(self._backend)  # another process made the store: check the marker
            elif has_found_store:
                warn_of_emptied_store(self._backend)
        self._store_exists = self._resolver.has_found_store = True

    def _beside_marker(self, call: Callable[[], _Out], *, proves: bool) -> _Out:
        """Make a call and, at the same time, put the marker back if the store was emptied."""
        if not proves:
            return call()
        restore = partial(restore_marker, self._backend)
        result, was_absent = run_both(call, restore, at_once=self._at_once)
        if was_absent:
            warn_of_emptied_store(self._backend)
        return result

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
        that does not exist, so the new version stands. If there are later marks, as after a
        deletion during this push, the hint is written once more.
        """
        backend, marks = self._backend, 0 if hint is None else hint.marks
        has_mark = partial(mark_log(backend, name).has, marks + 1)
        written: list[Hint] = []
        behind: list[bool] = []

        def make_record(number: int, previous: bytes | None) -> bytes:
            digest = None if previous is None else digest_of(previous)
            return replace(version, number=number, previous=digest).to_bytes()

        def hint_of(number: int) -> None:
            written[:] = [Hint(number, version.digest, marks, stands=number)]
            write = partial(write_hint, backend, hint_key(name), written[0].to_bytes())
            if not backend.is_remote:
                write()
                return
            # At the same time as the record: a look after the record would take a round more.
            with suppress(StorageError):
                behind[:] = [run_both(write, has_mark, at_once=self._at_once)[1]]

        data = versions.append(
            make_record,
            version.nonce,
            newest=newest,
            write_hint=hint_of,
            guard=objects.call,
        )
        if written and (any(behind) or not backend.is_remote):
            bring_hint_forward(backend, name, written[0])
        appended = Version.from_bytes(data, f"the record of {name}")
        return self._resolver.last_pulls.expect(appended, marks)


def _with_parts(draft: Version, snap: Snapshot) -> Version:
    """Return the record of a version with the digests of the parts of its policy."""
    weights, acting, state = snap._part_digests()
    return replace(draft, weights_digest=weights, acting_digest=acting, state_digest=state)
