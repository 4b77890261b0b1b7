"""The store: push, pull and names over one backend."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, overload

from policystore.arguments import as_list, as_mapping, default_author, now
from policystore.backends.opening import open_backend
from policystore.backends.options import StorageOptions
from policystore.container import EncodedObject
from policystore.diff import Diff, diff_snapshots
from policystore.digest import Digest, digest_of
from policystore.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    StorageError,
)
from policystore.finding import Finder, RefLike, as_ref
from policystore.layout import (
    MARKER,
    MAX_NUMBER,
    check_name,
    check_tag,
    hint_key,
    object_key,
)
from policystore.names import version_list
from policystore.reading import in_parallel, read_snapshot
from policystore.records import Hint, Version, marker_bytes
from policystore.snapshot import Snapshot
from policystore.tagging import When, move_tag
from policystore.upkeep import VerifyReport, verify_store

__all__ = ["PolicyStore"]

_WORKERS = 8
_AT_ONCE = 256


class PolicyStore:
    """Policies by digest, and names for them.

    Opening touches nothing; the first push makes the store. One object may be used by several
    threads, and pickles (a ``memory://`` store stays behind in its process), by its URL and
    ``storage_options`` without the secrets among them: where it arrives, credentials come from
    the environment, a profile or the instance.

    Guarantees: a push that returned is durable and complete, and one that failed or was killed
    leaves the store as it was, apart from bytes nobody refers to; what is pulled was checked
    against its digest; concurrent writers of one name lose nothing.

    Args:
        url: a folder, ``file:///folder``, ``s3://bucket/prefix``, or ``memory://anything`` for a
            store in this process. What else fsspec knows, such as ``https://``, is read only.
        storage_options: what the filesystem of a remote store is opened with, as s3fs takes it:
            ``endpoint_url``, ``key``, ``secret``, ``profile``, … Never shown or pickled where it
            is a secret.
        read_only: refuse every write, before anything is touched.

    Raises:
        InvalidInputError: a URL of another kind, options for a store that takes none, or a
            package that is not installed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ) -> None:
        self._open(url, StorageOptions(storage_options), read_only)

    def _open(self, url: str | os.PathLike[str], options: StorageOptions, read_only: bool) -> None:
        self._options = options
        self._backend = open_backend(url, options)
        self._find = Finder(self._backend)
        self._read_only = read_only
        self._marked = False
        self._proved = False

    @property
    def url(self) -> str:
        """The folder or URL of this store."""
        return self._backend.url

    def __repr__(self) -> str:
        return f"PolicyStore({self.url!r}{', read_only=True' if self._read_only else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self.url, self._read_only, self._options))

    def __copy__(self) -> PolicyStore:
        return self

    def __deepcopy__(self, memo: object) -> PolicyStore:
        # A store never changes, and a copy by way of a pickle would lose its credentials.
        return self

    # Writing

    def push(
        self,
        snap: Snapshot,
        name: str | None = None,
        *,
        message: str = "",
        metrics: Mapping[Any, Any] | None = None,
        source: Mapping[Any, Any] | None = None,
        parents: Iterable[RefLike] = (),
        author: str | None = None,
    ) -> Version:
        """Store a policy and, with a name, make it that name's next version.

        What the store has already is not written again. The version appears last, when all of
        its bytes are durable. Each call makes a version, also of a policy that the name has.

        Args:
            snap: the policy.
            name: such as ``"soccer/main"``; without one the policy is kept by digest alone.
            message: why.
            metrics: plain values worth choosing by, such as ``{"return": 21.5}``; 16 KiB at most.
                Of what ``algorithm.train()`` returns, take the numbers that matter.
            source: where it comes from, as plain values; 16 KiB at most.
            parents: refs of policies it was trained from; recorded as digests.
            author: who; by default ``$POLICYSTORE_AUTHOR`` or the user's name.

        Raises:
            InvalidInputError: an argument of the wrong form; nothing was written.
            NotFoundError: a parent that is not there; nothing was written.
            ReadOnlyError: the store or its folder cannot be written.
            FormatError: the folder is not a store, or one of a newer format.
            StorageError: the storage failed; no version was made, unless what failed was the last
                flush, of the version's own record, or every answer to it was lost: then the log
                says whether it stands.
        """
        if not isinstance(snap, Snapshot):
            raise InvalidInputError(
                f"push takes a Snapshot, not {type(snap).__module__}.{type(snap).__qualname__}. "
                "policystore.rllib.snapshot(…) or policystore.torch.snapshot(…) makes one."
            )
        self.check_writable("push")
        metrics, source = as_mapping(metrics, "metrics"), as_mapping(source, "source")
        parents = as_list(parents, "parents")
        if name is not None:
            check_name(name)
        elif message or metrics or source or parents:
            raise InvalidInputError(
                "message, metrics, source and parents stand in the record of a version: push with "
                "a name, or leave them out"
            )
        encoded = snap.encode()
        version = Version(
            name=name,
            number=None,
            digest=encoded.policy.digest,
            weights_digest=snap.weights_digest,
            acting_digest=snap.acting_digest,
            state_digest=snap.state_digest,
            objects=encoded.objects,
            previous=None,
            time=now(),
            author=default_author() if author is None else author,
            message=message,
            metrics=metrics,
            source=source,
            parents=tuple(self.resolve(parent) for parent in parents),
            nonce=secrets.token_hex(16),
        )
        # Refuses what no record can hold before anything is written.
        replace(version, number=MAX_NUMBER, previous=version.digest).to_bytes()
        try:
            self._ensure_store()
            in_parallel(self._put, encoded.tensors.values(), workers=_WORKERS)
            last: list[Callable[[], None]] = [partial(self._put, encoded.policy)]
            if name is not None and not self._proved:
                last.append(self._prove)
            in_parallel(_run, last, workers=2)
            return version if name is None else self._append_version(name, version)
        except StorageError:
            self._marked = False  # the store may be gone altogether: look again next time
            raise

    def _put(self, item: EncodedObject) -> None:
        self._backend.put(object_key(item.digest), item.chunks)

    def _prove(self) -> None:
        """Names are refused on a storage that does not create exclusively."""
        if not self._proved:
            self._backend.prove_create(MARKER, marker_bytes())
            self._proved = True

    def _append_version(self, name: str, version: Version) -> Version:
        def make(number: int, before: bytes | None) -> bytes:
            previous = None if before is None else digest_of(before)
            return replace(version, number=number, previous=previous).to_bytes()

        data = version_list(self._backend, name).append(make, version.nonce)
        made = Version.from_bytes(data, f"the record of {name}")
        hint = Hint(made.number or 0, made.digest)
        try:
            self._backend.replace(hint_key(name), hint.to_bytes())
        except (StorageError, ReadOnlyError) as error:
            # The version stands and is durable; an error here would make callers push it twice.
            import logging  # for this one line

            logging.getLogger("policystore").warning(
                "%s is pushed, but its hint could not be written, which only makes finding the "
                "newest version slower: %s",
                made.ref,
                error,
            )
        return made

    @overload
    def tag(self, ref: RefLike, tag: str) -> Version: ...

    @overload
    def tag(self, ref: RefLike, tag: str, *, when: When) -> Version | None: ...

    def tag(self, ref: RefLike, tag: str, *, when: When | None = None) -> Version | None:
        """Move a tag to a version of a name, or create it; its history is kept.

        Args:
            ref: the version, such as ``"soccer/main@7"``, ``"soccer/main"`` or another tag of it.
            tag: a word such as ``"champion"``; not all digits.
            when: given the version that the tag points to, or None: whether to move it. It is
                asked again if another writer moves the tag meanwhile, so that of several who move
                it to something better the best wins.

        Returns:
            The version that the tag points to now; None where ``when`` kept it from being created.

        Raises:
            InvalidInputError: a ref without a name, or a word that cannot be a tag.
            NotFoundError: no such version.
        """
        check_tag(tag)
        self.check_writable("tag")
        parsed = as_ref(ref.ref if isinstance(ref, Version) else ref)
        if not parsed.name:
            raise InvalidInputError(
                f"{ref} has no name, and tags stand on names: tag 'name@number' instead"
            )
        target = self._find.version(parsed)
        if isinstance(ref, Version) and ref.digest != target.digest:
            raise NotFoundError(
                f"{ref.ref} in {self.url} is another policy, {target.digest.short}, than the "
                f"version given, {ref.digest.short}: that was pushed to another store"
            )
        return self._move_tag(parsed.name, tag, target, when)

    def untag(self, name: str, tag: str) -> None:
        """Take a tag away; its history is kept, and it can be set again.

        Raises:
            NotFoundError: the name has no such tag.
        """
        check_name(name)
        check_tag(tag)
        self.check_writable("untag")
        self._find.tagged(name, tag)
        self._move_tag(name, tag, None)

    def _move_tag(
        self, name: str, tag: str, target: Version | None, when: When | None = None
    ) -> Version | None:
        self._prove()
        return move_tag(
            self._backend, name, tag, target, time=now(), author=default_author(), when=when
        )

    def check_writable(self, call: str) -> None:
        """Raise ReadOnlyError, naming the call, if the store was opened to read only."""
        if self._read_only:
            raise ReadOnlyError(
                f"{call}: {self!r} was opened to read only. Open it without read_only=True."
            )

    def _ensure_store(self) -> None:
        """Make the store if it is not there; refuse what is not one."""
        if self._marked:
            return
        if not self._find.check_marker() and not self._backend.create(MARKER, marker_bytes()):
            self._find.check_marker()
        self._marked = True

    # Reading

    def pull(self, ref: RefLike) -> Snapshot:
        """Fetch a policy; every byte is checked against its digest.

        On a local disk that only this user can write, large arrays are views of the page cache
        rather than copies.

        Raises:
            InvalidInputError: not a ref.
            NotFoundError: nothing there by that ref.
            AmbiguousError: a short digest that fits several policies.
            IntegrityError: the stored bytes are damaged.
            FormatError: a record or object that is not of format 1.
            StorageError: the storage failed.
        """
        parsed = as_ref(ref)
        if not parsed.name:
            return self._find.snapshot(parsed.digest)
        version = self._find.version(parsed)
        try:
            return read_snapshot(self._backend, version.digest)
        except NotFoundError as error:
            raise IntegrityError(
                f"{error}, though {version.ref} needs it: the store has lost it. Restore it from a "
                "backup, or push the policy again from where you have it."
            ) from None

    def pull_many(self, refs: Iterable[RefLike]) -> dict[RefLike, Snapshot]:
        """Fetch several policies concurrently, by ref; all of them or an error."""
        listed = as_list(refs, "refs")
        for ref in listed:
            as_ref(ref)
        wanted = list(dict.fromkeys(listed))
        return dict(zip(wanted, in_parallel(self.pull, wanted, workers=_WORKERS), strict=True))

    def resolve(self, ref: RefLike) -> Digest:
        """The digest that a ref means now.

        Raises:
            InvalidInputError, NotFoundError, AmbiguousError, FormatError, StorageError.
        """
        parsed = as_ref(ref)
        if parsed.name:
            return self._find.version(parsed).digest
        return self._find.digest(parsed.digest)

    def names(self, prefix: str = "") -> list[str]:
        """All names that start with ``prefix`` (``"soccer/"`` for those under it), in order."""
        if not isinstance(prefix, str):
            raise InvalidInputError(f"a prefix is a string, not {type(prefix).__qualname__}")
        names = self._find.names(prefix)
        if not names:
            # A store that may still be made is empty; one to read only is not there.
            self._find.check_marker(required=self._read_only)
        return names

    def log(self, name: str, limit: int | None = None) -> list[Version]:
        """The versions of a name, newest first; at most ``limit`` of them.

        Raises:
            NotFoundError: no such name.
        """
        check_name(name)
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidInputError(f"limit is a number of versions from 0 on, not {limit!r}")
        newest = self._find.newest(name)
        oldest = 1 if limit is None else max(1, newest - limit + 1)
        found: list[Version] = []
        for start in range(newest, oldest - 1, -_AT_ONCE):
            numbers = range(start, max(oldest, start - _AT_ONCE + 1) - 1, -1)
            found += in_parallel(
                lambda number: self._find.read_version(name, number), numbers, workers=_WORKERS
            )
        return found

    def tags(self, name: str) -> dict[str, Version]:
        """The tags of a name, in order, with the versions they point to.

        Raises:
            NotFoundError: no such name.
        """
        check_name(name)
        self._find.newest(name)
        return self._find.tags(name)

    def diff(self, a: RefLike | Snapshot, b: RefLike | Snapshot) -> Diff:
        """What differs between two policies, tensor by tensor; refs or snapshots."""
        left, right = (x if isinstance(x, Snapshot) else self.pull(x) for x in (a, b))
        return diff_snapshots(left, right)

    def verify(self) -> VerifyReport:
        """Read everything and report every fault; changes nothing."""
        self._find.check_marker(required=True)
        return verify_store(self._backend)


def _run(call: Callable[[], None]) -> None:
    call()


def _reopen(url: str, read_only: bool, options: StorageOptions | None = None) -> PolicyStore:
    store = PolicyStore.__new__(PolicyStore)
    store._open(url, options or StorageOptions(), read_only)
    return store
