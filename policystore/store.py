"""The store: push, pull and names over one backend."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, overload

from policystore._util.concurrency import in_parallel
from policystore._util.progress import Meter, Progress
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.cache import CacheLike, open_cache
from policystore.diff import Diff, diff_snapshots
from policystore.digest import Digest
from policystore.errors import InvalidInputError, NotFoundError, ReadOnlyError
from policystore.format.records import Version
from policystore.format.refs import MAX_NUMBER, check_name, check_tag
from policystore.repository.objects import ObjectReader
from policystore.repository.resolver import RefLike, Resolver, as_ref
from policystore.repository.tags import When, move_tag
from policystore.repository.verify import VerifyReport, verify_store
from policystore.repository.writer import Writer, default_author, now
from policystore.snapshot import Snapshot

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
        url: a folder, ``file:///folder``, ``s3://bucket/prefix`` (``gs://`` and ``az://`` with
            gcsfs and adlfs installed), or ``memory://anything`` for a store in this process. What
            else fsspec knows, such as ``https://``, is read only.
        storage_options: what the filesystem of a remote store is opened with, as s3fs takes it:
            ``endpoint_url``, ``key``, ``secret``, ``profile``, … Never shown or pickled where it
            is a secret.
        cache: where copies of what is pulled stay on this machine. None: for a remote store the
            user's own :class:`NodeCache`, for another none. A folder or NodeCache: that. False:
            nowhere.
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
        cache: CacheLike = None,
        read_only: bool = False,
    ) -> None:
        self._open(url, StorageOptions(storage_options), cache, read_only)

    def _open(
        self,
        url: str | os.PathLike[str],
        options: StorageOptions,
        cache: CacheLike,
        read_only: bool,
    ) -> None:
        self._options = options
        self._cache = cache
        self._read_only = read_only
        self._use(open_backend(url, options))

    def _use(self, backend: Backend) -> None:
        """Keep everything there."""
        self._backend = backend
        objects = ObjectReader(backend, open_cache(self._cache, remote=backend.parallel > 1))
        self._find = Resolver(objects)
        self._pusher = Writer(objects, self._find)

    @property
    def url(self) -> str:
        """The folder or URL of this store."""
        return self._backend.url

    def __repr__(self) -> str:
        return f"PolicyStore({self.url!r}{', read_only=True' if self._read_only else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self.url, self._read_only, self._options, self._cache))

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
        progress: Progress | None = None,
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
            progress: called now and then with the bytes of the policy that are in the store and
                those of all of it; from any thread, one call at a time. What it raises ends this.

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
        metrics, source = _as_mapping(metrics, "metrics"), _as_mapping(source, "source")
        parents = _as_list(parents, "parents")
        if name is not None:
            check_name(name)
        elif message or metrics or source or parents:
            raise InvalidInputError(
                "message, metrics, source and parents stand in the record of a version: push with "
                "a name, or leave them out"
            )
        encoded = snap._encode()
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
            parents=tuple(in_parallel(self.resolve, parents, workers=self._backend.parallel)),
            nonce=secrets.token_hex(16),
        )
        # Refuses what no record can hold before anything is written.
        replace(version, number=MAX_NUMBER, previous=version.digest).to_bytes()
        return self._pusher.push(encoded, version, name, Meter(progress))

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
        self._pusher.prove()
        return move_tag(
            self._find, name, tag, target, time=now(), author=default_author(), when=when
        )

    def check_writable(self, call: str) -> None:
        """Raise ReadOnlyError, naming the call, if the store was opened to read only."""
        if self._read_only:
            raise ReadOnlyError(
                f"{call}: {self!r} was opened to read only. Open it without read_only=True."
            )

    # Reading

    def pull(self, ref: RefLike, *, progress: Progress | None = None) -> Snapshot:
        """Fetch a policy; every byte is checked against its digest.

        On a local disk that only this user can write, large arrays are views of the page cache
        rather than copies.

        Args:
            ref: which.
            progress: called now and then with the bytes of the policy that are here and those of
                all of it; from any thread, one call at a time. What it raises ends this.

        Raises:
            InvalidInputError: not a ref.
            NotFoundError: nothing there by that ref.
            AmbiguousError: a short digest that fits several policies.
            IntegrityError: the stored bytes are damaged.
            FormatError: a record or object that is not of format 1.
            StorageError: the storage failed.
        """
        return self._find.pull(as_ref(ref), Meter(progress))

    def pull_many(
        self, refs: Iterable[RefLike], *, progress: Progress | None = None
    ) -> dict[RefLike, Snapshot]:
        """Fetch several policies concurrently, by ref; all of them or an error.

        Args:
            refs: which.
            progress: as of :meth:`pull`; what is still to come is known once a policy's own object
                is here, so that the number of all bytes grows.
        """
        listed = _as_list(refs, "refs")
        parsed = {ref: as_ref(ref) for ref in listed}
        meter = Meter(progress)
        found = in_parallel(
            lambda ref: self._find.pull(ref, meter),
            parsed.values(),
            workers=max(_WORKERS, self._backend.parallel),
        )
        return dict(zip(parsed, found, strict=True))

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
                lambda number: self._find.read_version(name, number),
                numbers,
                workers=max(_WORKERS, self._backend.parallel),
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


def _reopen(
    url: str, read_only: bool, options: StorageOptions | None = None, cache: CacheLike = None
) -> PolicyStore:
    store = PolicyStore.__new__(PolicyStore)
    store._open(url, options or StorageOptions(), cache, read_only)
    return store


def _as_mapping(value: Mapping[Any, Any] | None, what: str) -> dict[Any, Any]:
    """A dict of what may be left out; InvalidInputError for what is no mapping."""
    if value is not None and not isinstance(value, Mapping):
        raise InvalidInputError(f"{what} is a dict of plain values, not {type(value).__qualname__}")
    return dict(value or {})


def _as_list(refs: Iterable[RefLike], what: str) -> list[RefLike]:
    """Several refs; InvalidInputError for a single one."""
    if isinstance(refs, (str, Digest, Version)) or not isinstance(refs, Iterable):
        raise InvalidInputError(f"{what} is a list of refs, not {refs!r}")
    return list(refs)
