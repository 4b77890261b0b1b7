"""Look at copies of stores, and disturb them: failing calls, marks, other writers."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, cast

from policystore import PolicyStore
from policystore.backends.base import Backend
from policystore.digest import digest_of
from policystore.format.keys import deleted_key, mark_key, version_key
from policystore.format.records import (
    MAX_MARK,
    Action,
    Mark,
    Span,
    Version,
    pointer_bytes,
    with_spans,
)
from policystore.repository.stamp import now


class Killed(BaseException):
    """The copy ends here, as if its process was killed."""


class Watched:
    """A backend that counts its writes, and calls a function before each of them.

    Attributes:
        writes: the keys that were written, in order.
        before: called with the number and the key of each write; it may raise.
    """

    CALLS = ("put", "create", "replace", "delete", "copy")

    def __init__(self, inner: Backend, before: Callable[[int, str], None] | None = None) -> None:
        self.inner = inner
        self.writes: list[str] = []
        self.before = before

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if name not in self.CALLS:
            return call

        def watched(key: str, *args: Any, **kwargs: Any) -> Any:
            self.writes.append(key)
            if self.before is not None:
                self.before(len(self.writes), key)
            return call(key, *args, **kwargs)

        return watched


def over(backend: object) -> PolicyStore:
    """Open a store over a backend."""
    return PolicyStore.over(cast(Backend, backend), cache=False)


def backend_of(store: PolicyStore) -> Backend:
    return store._backend


def content(store: PolicyStore, *prefixes: str) -> dict[str, bytes]:
    """Return all keys of a store that start with a prefix, without hints and cursors."""
    backend = backend_of(store)
    return {
        key: bytes(backend.get(key))
        for key in backend.keys("")
        if key.startswith(prefixes or "") and not key.endswith("/@hint") and "/@copied/" not in key
    }


def faults(store: PolicyStore) -> list[str]:
    """Return what verify finds wrong."""
    return [
        f"{fault.key}: {fault.problem}"
        for fault in store.verify().faults
        if not ("/@tags/" in fault.key and fault.key.endswith("/@hint"))
    ]


def mark(store: PolicyStore, name: str, action: Action, *changed: tuple[int, int]) -> Mark:
    """Write the next mark of a name, byte by byte as the format says."""
    backend, number, previous = backend_of(store), 1, None
    while backend.size(mark_key(name, number)) is not None:
        previous = bytes(backend.get(mark_key(name, number), limit=MAX_MARK))
        number += 1
    before = () if previous is None else Mark.from_bytes(previous, "the mark before").deleted
    after = with_spans(before, changed, None if action == "restore" else number)
    record = Mark(
        name=name, number=number, action=action, changed=changed, deleted=after,
        previous=None if previous is None else digest_of(previous), time=now(), author="ann",
        message="", nonce=secrets.token_hex(16),
    )  # fmt: skip
    backend.create(deleted_key(name), pointer_bytes())
    assert backend.create(mark_key(name, number), record.to_bytes())
    return record


def version(store: PolicyStore, name: str, number: int) -> Version:
    """Read the record of a version, also of a deleted one."""
    data = backend_of(store).get(version_key(name, number))
    return Version.from_bytes(data, f"{name}@{number}")


def versions(store: PolicyStore, name: str) -> list[Version]:
    """Read the records of all versions of a name, oldest first."""
    found, number = [], 1
    while backend_of(store).size(version_key(name, number)) is not None:
        found.append(version(store, name, number))
        number += 1
    return found


def deleted_versions(store: PolicyStore, name: str) -> tuple[Span, ...]:
    """Read which versions of a name are deleted."""
    backend, number = backend_of(store), 1
    deleted: tuple[Span, ...] = ()
    while backend.size(key := mark_key(name, number)) is not None:
        deleted = Mark.from_bytes(backend.get(key, limit=MAX_MARK), key).deleted
        number += 1
    return deleted
