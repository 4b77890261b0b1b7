"""Stores in states that take several calls to reach, and backends that something happens to."""

from __future__ import annotations

import datetime
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

from policystore import Digest, PolicyStore
from policystore.backends.base import Backend, Entry
from policystore.digest import digest_of
from policystore.format.keys import (
    mark_key,
    marks_prefix,
    object_key,
    trash_key,
)
from policystore.format.records import Mark, with_spans
from policystore.format.records.marks import Action
from policystore.testing.storage import Intercepted

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.timezone.utc)


def put_mark(
    backend: Backend, name: str, action: Action, *changed: tuple[int, int], **wrong: Any
) -> str:
    """Append a mark to a name, and return its key; ``wrong`` replaces fields of the mark."""
    number = len(list(backend.keys(marks_prefix(name))))
    previous = backend.get(mark_key(name, number)) if number else None
    deleted = () if previous is None else Mark.from_bytes(previous, "it").deleted
    number += 1
    fields: dict[str, Any] = {
        "name": name,
        "number": number,
        "action": action,
        "changed": changed,
        "deleted": with_spans(deleted, changed, None if action == "restore" else number),
        "previous": None if previous is None else digest_of(previous),
        "time": NOW,
        "author": "ann",
        "message": "",
        "nonce": secrets.token_hex(16),
    }
    key = mark_key(name, number)
    assert backend.create(key, Mark(**(fields | wrong)).to_bytes())
    return key


def to_trash(backend: Backend, digest: Digest) -> str:
    """Move an object to the trash, as a collector does, and return the key of the copy."""
    key = trash_key(digest, secrets.token_hex(16))
    backend.copy(object_key(digest), key)
    backend.delete(object_key(digest))
    return key


def counting(store: PolicyStore) -> tuple[PolicyStore, Counter[str]]:
    """Return the store over a backend that counts how often each key is read."""
    backend = Intercepted(store._backend)
    reads: Counter[str] = Counter()

    def get(key: str, **more: Any) -> bytes | memoryview:
        reads[key] += 1
        return store._backend.get(key, **more)

    backend.get = get
    return PolicyStore.over(cast(Backend, backend), cache=False), reads


def after_listing(
    store: PolicyStore,
    happens: Callable[[], object] = lambda: None,
    *,
    hidden: Callable[[str], bool] = lambda key: False,
    remote: bool = False,
) -> PolicyStore:
    """Return the store over a backend in which something happens after the listing of all keys.

    Args:
        store: the store.
        happens: is called once, after the listing.
        hidden: returns whether the listing does not show a key, though the key exists.
        remote: whether the backend says that it is remote and takes several requests at once.
    """
    backend: Any = Intercepted(store._backend)
    pending = [happens]

    def entries(prefix: str, **more: Any) -> Iterator[Entry]:
        if prefix:
            yield from store._backend.entries(prefix, **more)
            return
        for entry in store._backend.entries(prefix, **more):
            if not hidden(entry.key):
                yield entry
        while pending:
            pending.pop()()

    backend.entries = entries
    if remote:
        backend.is_remote, backend.parallel = True, 8
    return PolicyStore.over(cast(Backend, backend), cache=False)
