"""Check a storage: credentials, rights, exclusive creation, its clock."""

from __future__ import annotations

import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from policystore._util.files import is_on_network
from policystore._util.messages import printable
from policystore.backends.base import Backend, KeepsUploads
from policystore.backends.options import StorageOptions
from policystore.cli.common.session import Session
from policystore.cli.doctor.check import Check, checked
from policystore.cli.doctor.credentials import credential_sources
from policystore.cli.doctor.machine import disk_check
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.keys import TEMPORARY
from policystore.repository.lookup.marker import store_exists

__all__ = ["storage_checks"]

_SKEW = 60.0  # seconds that two clocks may differ; S3 refuses requests from 15 minutes on


def storage_checks(session: Session, *, write: bool) -> Iterator[Check]:
    """Yield the checks of the store that was named.

    Args:
        session: names the store.
        write: whether to write and delete keys below ``tmp/``, to find out what is allowed.
    """
    try:
        place = session.place
    except InvalidInputError as error:
        yield Check("store", "note", str(error))
        return
    try:
        backend = session.backend
    except PolicyStoreError as error:
        # The URL is not shown: it may hold a password, which is a reason for the error.
        yield Check("store", "bad", printable(f"named by {place.origin}: {error}"))
        return
    yield Check("store", "ok", f"{printable(backend.url)}, named by {place.origin}")
    if backend.is_remote:
        yield checked("credentials", lambda: _credentials(backend, place.options))
    listing = checked("list", lambda: _list(backend))
    yield listing
    if listing.status == "bad":
        return  # each further check would only repeat what is wrong
    yield checked("read", lambda: _read(backend))
    root = None if backend.is_remote or "://" in backend.url else Path(backend.url)
    if root is not None:
        yield disk_check(root)
        if not root.exists():
            yield Check("folder", "note", f"{root} does not exist; the first push makes it")
            return
        yield checked("folder", lambda: _folder(root))
    if write:
        yield from _writing_checks(backend)
    if isinstance(backend, KeepsUploads):
        yield from (Check("deletion", "note", text) for text in backend.deletion_limits())


def _credentials(backend: Backend, options: object) -> str | Check:
    given = StorageOptions(options)  # type: ignore[arg-type]
    found = credential_sources(backend, given)
    if not found:
        return Check("credentials", "note", "none were found on this machine")
    return printable(", ".join(found))


def _list(backend: Backend) -> str:
    first = next(iter(backend.prefixes("", "/")), None)
    return "this user may list keys" + ("" if first else "; there are none below this URL yet")


def _read(backend: Backend) -> str | Check:
    if store_exists(backend):
        return "there is a store, and this user may read it"
    return Check("read", "note", "there is no store yet; the first push makes one")


def _folder(root: Path) -> str | Check:
    status = root.stat()
    mode = stat.S_IMODE(status.st_mode)
    shared = "others may write to it" if mode & stat.S_IWOTH else (
        "its group may write to it" if mode & stat.S_IWGRP else "only its owner may write to it"
    )  # fmt: skip
    text = f"mode {mode:04o}, owner {status.st_uid}, group {status.st_gid}; {shared}"
    if is_on_network(root):
        text += "; on a file server"
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return Check("folder", "note", f"{text}, so every user of the machine may delete a store")
    return text


def _writing_checks(backend: Backend) -> Iterator[Check]:
    """Yield what this user may write; the keys are below ``tmp/`` and are deleted again."""
    key, data = f"{TEMPORARY}{secrets.token_hex(16)}", b"a check of policystore doctor\n"

    def write() -> str:
        backend.create(key, data)
        return "this user may write"

    def delete() -> str:
        backend.delete(key)
        return "this user may delete, so 'gc' works"

    def exclusive() -> str:
        backend.verify_exclusive_create(key, data)
        return "a key that exists is not overwritten, so versions and tags are safe"

    written = checked("write", write)
    yield written
    if written.status == "bad":
        return
    try:
        yield checked("exclusive creation", exclusive)
        yield checked("clock", lambda: _clock(backend))
        yield checked("delete", delete)
    finally:
        with suppress(PolicyStoreError):  # "delete" has told why, if it came to that
            backend.delete(key)


def _clock(backend: Backend) -> str | Check:
    before = time.time()
    there = backend.server_time()
    after = time.time()
    # Within the request, or by how much outside of it.
    skew = max(before - there, there - after, 0.0) * (-1 if there < before else 1)
    text = f"the clock of the storage is {abs(skew):.0f} s {'behind' if skew < 0 else 'ahead'}"
    if abs(skew) < 1.0:
        return "the clocks of this machine and of the storage agree"
    if abs(skew) > _SKEW:
        return Check("clock", "bad", f"{text}: set the clock of this machine")
    return text
