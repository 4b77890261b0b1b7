"""A push: the store's marker, the objects, and last the record that makes them a version.

Where requests take their time, what does not wait for one another goes at once: three in a row for
a small policy, whatever the number of versions.
"""

from __future__ import annotations

import datetime
import getpass
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.log import warn
from policystore._util.progress import Meter, ObjectProgress
from policystore.digest import digest_of
from policystore.errors import ReadOnlyError, StorageError
from policystore.format.keys import MARKER, hint_key, object_key
from policystore.format.policy import EncodedPolicy
from policystore.format.records import Hint, Version, marker_bytes
from policystore.format.safetensors import EncodedObject
from policystore.repository.objects import ObjectReader
from policystore.repository.record_log import Probe, RecordLog, version_list
from policystore.repository.resolver import Resolver

__all__ = ["Writer", "default_author", "now"]

_ASK_LEAVE = 1 << 20  # bytes; below this sending them costs no more than asking


class Writer:
    """Writes policies into one store; remembers what was seen of it, and nothing else.

    Args:
        objects: the objects of the store.
        find: looks at the store.
    """

    def __init__(self, objects: ObjectReader, find: Resolver) -> None:
        self._backend = objects.backend
        self._find = find
        self._at_once = self._backend.parallel > 1
        self._marked = False
        self._proved = False

    def push(
        self, encoded: EncodedPolicy, version: Version, name: str | None, meter: Meter
    ) -> Version:
        """Write the objects of a policy and, with a name, the record of its next version.

        Args:
            encoded: the policy.
            version: its record, without number.
            name: which name; None for a policy that is kept by digest alone.
            meter: told of the bytes of the objects.
        """
        items = [*encoded.tensors.values(), encoded.policy]
        size = sum(item.size for item in items)
        meter.expect(size)
        upload = partial(self._upload, items, meter)
        asks = self._at_once and size >= _ASK_LEAVE
        try:
            if name is None:
                self._ensure_store()
                if asks:
                    self._ask_leave()
                upload()
                return version
            versions = version_list(self._backend, name)
            _, hint = run_both(self._ensure_store, versions.hinted, at_once=self._at_once)
            if asks:
                self.prove()
            look = partial(self._look, versions, hint)
            _, newest = run_both(upload, look, at_once=self._at_once)
            return self._append(name, versions, version, newest)
        except StorageError:
            self._marked = False  # the store may be gone altogether: look again next time
            raise

    def _look(self, versions: RecordLog, hint: Hint | None) -> Probe:
        at_once = self._at_once and not self._proved
        return run_both(partial(versions.newest, hint), self.prove, at_once=at_once)[0]

    def _ensure_store(self) -> None:
        """Make the store if it is not there; refuse what is not one."""
        if self._marked:
            return
        if not self._find.check_marker() and not self._backend.create(MARKER, marker_bytes()):
            self._find.check_marker()
        self._marked = True

    def _ask_leave(self) -> None:
        """Find out, before many bytes are sent, whether these credentials may write at all."""
        with suppress(StorageError):  # no matter here: what does not serve names serves digests
            self.prove()

    def _upload(self, items: Iterable[EncodedObject], meter: Meter) -> None:
        *tensors, policy = items
        in_parallel(partial(self._put, meter), tensors, workers=max(8, self._backend.parallel))
        self._put(meter, policy)

    def _put(self, meter: Meter, encoded: EncodedObject) -> None:
        item = ObjectProgress(meter, encoded.size)
        self._backend.put(object_key(encoded.digest), encoded.chunks, moved=item.moved)
        item.end()

    def prove(self) -> None:
        """Refuse names on a storage that does not create exclusively; asked once."""
        if not self._proved:
            self._backend.verify_exclusive_create(MARKER, marker_bytes())
            self._proved = True

    def _append(self, name: str, versions: RecordLog, version: Version, newest: Probe) -> Version:
        def make(number: int, before: bytes | None) -> bytes:
            previous = None if before is None else digest_of(before)
            return replace(version, number=number, previous=previous).to_bytes()

        def hint(number: int) -> None:
            self._write_hint(name, Hint(number, version.digest))

        data = versions.append(make, version.nonce, after=newest, then=hint)
        return Version.from_bytes(data, f"the record of {name}")

    def _write_hint(self, name: str, hint: Hint) -> None:
        try:
            self._backend.replace(hint_key(name), hint.to_bytes())
        except (StorageError, ReadOnlyError) as error:
            # The version stands and is durable; an error here would make callers push it twice.
            warn(
                "the hint of %s could not be written, which only makes finding the newest version "
                "slower: %s",
                name,
                error,
            )


def now() -> datetime.datetime:
    """The time by this machine's clock, in UTC."""
    return datetime.datetime.now(datetime.timezone.utc)


def default_author() -> str:
    """``$POLICYSTORE_AUTHOR``, or the user's name."""
    named = os.environ.get("POLICYSTORE_AUTHOR")
    if named:
        return named
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container's user without an entry in the password file.
        return "unknown"
