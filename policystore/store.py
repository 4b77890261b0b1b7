"""Push policies to a store and pull them, by digest and by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
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
from policystore.format.refs import check_name, check_tag
from policystore.repository.acting import acting_digits, find_acting
from policystore.repository.marker import require_store, store_exists
from policystore.repository.objects import ObjectReader
from policystore.repository.ref_like import RefLike, as_list, as_ref
from policystore.repository.resolver import MIN_WORKERS, Resolver
from policystore.repository.tags import When
from policystore.repository.verify import verify_store
from policystore.repository.verify_report import VerifyReport
from policystore.repository.writer import PushNotes, Writer
from policystore.snapshot import Snapshot
from policystore.snapshot_advice import instead_of_snapshot

__all__ = ["PolicyStore"]


class PolicyStore:
    """Keep policies by their digests, and give them names.

    Nothing is read or written when a store is opened; the first push makes the store. Several
    threads may use one PolicyStore. A pickle of a PolicyStore holds the URL, and
    ``storage_options`` without secrets: the process that loads the pickle takes credentials from
    its environment, a profile or its instance. The content of a ``memory://`` store exists in one
    process only.

    Guarantees: when a push returns, the policy is durable and complete. A push that fails or is
    killed leaves the store as it was, except for bytes that nothing refers to. All bytes that are
    pulled were checked against their digests. Concurrent writers of one name lose nothing.

    Args:
        url: a folder, ``file:///folder``, ``s3://bucket/prefix``, ``gs://bucket/prefix`` (with
            gcsfs installed), ``az://container/prefix`` (with adlfs installed), or
            ``memory://anything`` for a store in this process. From other URLs that fsspec knows,
            such as ``https://``, a store can only be read.
        storage_options: options for the filesystem of a remote store, with the names that s3fs
            uses: ``endpoint_url``, ``key``, ``secret``, ``profile``, … Secrets are never shown or
            pickled.
        cache: the cache on this machine that keeps copies of pulled objects. None: the user's own
            :class:`NodeCache` for a remote store, and no cache for a local store. A folder or a
            NodeCache: the cache to use. False: no cache.
        read_only: True to refuse every write before anything is read or written.

    Raises:
        InvalidInputError: a URL of an unknown form, options for a local store, or a package that
            is not installed.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        cache: CacheLike = None,
        read_only: bool = False,
    ) -> None:
        self._options: StorageOptions | None = StorageOptions(storage_options)
        self._cache, self._read_only = cache, read_only
        self._use(open_backend(url, self._options))

    @classmethod
    def over(
        cls, backend: Backend, *, cache: CacheLike = None, read_only: bool = False
    ) -> PolicyStore:
        """Open a store over a backend of your own; ``docs/backends.md`` shows how to write one.

        A pickle of the store holds the backend itself, so the backend has to be picklable.

        Args:
            backend: keeps the bytes of the store.
            cache: as in the class.
            read_only: as in the class.
        """
        store = cls.__new__(cls)
        store._options, store._cache, store._read_only = None, cache, read_only
        store._use(backend)
        return store

    def _use(self, backend: Backend) -> None:
        """Read from this backend and write to it from now on."""
        self._backend = backend
        objects = ObjectReader(backend, open_cache(self._cache, remote=backend.is_remote))
        self._resolver = Resolver(objects)
        self._writer = Writer(objects, self._resolver)

    @property
    def url(self) -> str:
        """The folder or URL of this store."""
        return self._backend.url

    def __repr__(self) -> str:
        return f"PolicyStore({self.url!r}{', read_only=True' if self._read_only else ''})"

    def __reduce__(self) -> tuple[Any, ...]:
        place = self._backend if self._options is None else self.url
        return (_reopen, (place, self._read_only, self._options, self._cache))

    def __copy__(self) -> PolicyStore:
        return self

    def __deepcopy__(self, memo: object) -> PolicyStore:
        # A PolicyStore never changes. A copy that is made by pickling would lose its credentials.
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
        """Store a policy and, with a name, make it the next version of that name.

        Large objects that the store has are not written again. The version appears last, when all
        bytes of the policy are durable. Each call with a name makes a new version, even if an
        earlier version has the same policy.

        Args:
            snap: the policy.
            name: such as ``"soccer/main"``; without a name the policy is kept by its digest alone.
            message: why the policy is pushed.
            metrics: plain values to choose versions by, such as ``{"return": 21.5}``; 16 KiB at
                most. Of the result of ``algorithm.train()``, take the numbers that matter.
            source: where the policy comes from, as plain values; 16 KiB at most.
            parents: refs of the policies from which this policy was trained. The record keeps their
                digests.
            author: who pushes; by default ``$POLICYSTORE_AUTHOR`` or the name of the user.
            progress: a function of two numbers: how many bytes of the policy are stored so far, and
                how many bytes the policy has. It may be called from any thread, one call at a time.
                If the function raises, the push ends with that error.

        Raises:
            InvalidInputError: an argument of the wrong form; nothing was written.
            NotFoundError: a parent does not exist; nothing was written.
            ReadOnlyError: the store or its folder cannot be written.
            FormatError: the folder is not a store, or is a store of a newer format.
            StorageError: the storage failed, and no version was made. There is one exception: the
                version may exist if the record of the version was written and the flush after it
                failed, or if every answer to the write of the record was lost. Use :meth:`log` to
                find out.
        """
        if not isinstance(snap, Snapshot):
            raise instead_of_snapshot(snap).within("push")
        self._check_writable("push")
        notes = PushNotes(
            message=message,
            metrics={} if metrics is None else metrics,
            source={} if source is None else source,
            parents=tuple(as_list(parents, "parents")),
            author=author,
        )
        return self._writer.push(snap, name, notes, Meter(progress))

    @overload
    def tag(self, ref: RefLike, tag: str) -> Version: ...

    @overload
    def tag(self, ref: RefLike, tag: str, *, when: When) -> Version | None: ...

    def tag(self, ref: RefLike, tag: str, *, when: When | None = None) -> Version | None:
        """Move a tag to a version of a name, or create the tag. The store keeps all earlier moves.

        Args:
            ref: the version, such as ``"soccer/main@7"``, ``"soccer/main"`` (the newest version) or
                ``"soccer/main@best"`` (another tag).
            tag: a word such as ``"champion"``, with at least one character that is not a digit.
            when: a function that returns whether to move the tag. It is called with the version
                that the tag points to, or with None if there is no such tag. It is called again if
                another writer moves the tag at the same time. So if several writers each move the
                tag only to a better version, the tag points to the best version at the end.

        Returns:
            The version that the tag points to after the call; None if there is no such tag because
            ``when`` returned False.

        Raises:
            InvalidInputError: a ref without a name, or a word that cannot be a tag.
            NotFoundError: no such version.
        """
        check_tag(tag)
        self._check_writable("tag")
        parsed = as_ref(ref.ref if isinstance(ref, Version) else ref)
        if not parsed.name:
            raise InvalidInputError(
                f"{ref} has no name, and a tag belongs to a name: tag 'name@number' instead"
            )
        target = self._resolver.version(parsed)
        if isinstance(ref, Version) and ref.digest != target.digest:
            raise NotFoundError(
                f"{ref.ref} in {self.url} is another policy, {target.digest.short}, than the "
                f"version given, {ref.digest.short}: that version was pushed to another store"
            )
        return self._writer.move_tag(parsed.name, tag, target, when)

    def untag(self, name: str, tag: str) -> None:
        """Remove a tag. The store keeps all earlier moves, and the tag can be set again.

        Raises:
            NotFoundError: the name has no such tag.
        """
        check_name(name)
        check_tag(tag)
        self._check_writable("untag")
        self._resolver.tagged(name, tag)
        self._writer.move_tag(name, tag, None)

    def _check_writable(self, call: str) -> None:
        """Raise ReadOnlyError, with the name of the call, if the store was opened read-only."""
        if self._read_only:
            raise ReadOnlyError(
                f"{call}: {self!r} was opened read-only. Open it without read_only=True."
            )

    # Reading

    def pull(self, ref: RefLike, *, progress: Progress | None = None) -> Snapshot:
        """Fetch a policy; every byte is checked against its digest.

        On a local disk, in folders that only this user can write, large arrays are views of the
        page cache and not copies.

        Args:
            ref: the policy, such as ``"soccer/main"`` or ``"soccer/main@7"``.
            progress: a function of two numbers: how many bytes of the policy have arrived, and how
                many bytes the policy has. It may be called from any thread, one call at a time. If
                the function raises, the pull ends with that error.

        Raises:
            InvalidInputError: not a ref.
            NotFoundError: the ref means nothing in this store.
            AmbiguousError: a short digest fits several policies.
            IntegrityError: the stored bytes are damaged or missing.
            FormatError: a record or object is not of format 1.
            StorageError: the storage failed.
        """
        return self._resolver.pull(as_ref(ref), Meter(progress))

    def pull_many(
        self, refs: Iterable[RefLike], *, progress: Progress | None = None
    ) -> dict[RefLike, Snapshot]:
        """Fetch several policies at once. If one of them fails, the call raises its error.

        Args:
            refs: the policies.
            progress: as in :meth:`pull`. The second number grows during the call, because the size
                of a policy is known only when its policy object has arrived.

        Returns:
            A snapshot for each ref.

        Raises:
            PolicyStoreError: as in :meth:`pull`.
        """
        parsed = {ref: as_ref(ref) for ref in as_list(refs, "refs")}
        meter = Meter(progress)
        snapshots = in_parallel(
            lambda ref: self._resolver.pull(ref, meter),
            parsed.values(),
            workers=max(MIN_WORKERS, self._backend.parallel),
        )
        return dict(zip(parsed, snapshots, strict=True))

    def resolve(self, ref: RefLike) -> Digest:
        """Return the digest that a ref means now.

        Raises:
            InvalidInputError: not a ref.
            NotFoundError: the ref means nothing in this store.
            AmbiguousError: a short digest fits several policies.
            IntegrityError: a record is missing, though later ones exist.
            FormatError: a record is not of format 1.
            StorageError: the storage failed.
        """
        return self._resolver.resolve(ref)

    def names(self, prefix: str = "") -> list[str]:
        """List all names that start with ``prefix``, in order.

        Args:
            prefix: such as ``"soccer/"`` for the names below ``soccer``.

        Raises:
            InvalidInputError: ``prefix`` is not text.
            NotFoundError: the store was opened read-only and does not exist.
        """
        names = self._resolver.names(prefix)
        if not names:
            # A push can still make the store, so no names are no error. A store that was opened
            # read-only has to exist.
            check = require_store if self._read_only else store_exists
            check(self._backend)
        return names

    def log(self, name: str, limit: int | None = None) -> list[Version]:
        """List the versions of a name, newest first.

        Args:
            name: the name.
            limit: how many versions to list at most; None for all.

        Raises:
            InvalidInputError: not a name, or not a number.
            NotFoundError: no such name.
        """
        check_name(name)
        return self._resolver.log(name, limit)

    def find_acting(self, digest: Digest | str, prefix: str = "") -> list[Version]:
        """Find the versions that act with given weights, whatever their critics and state are.

        Reports on running Algorithms show such digests, as :attr:`Version.acting` does. The call
        reads the record of each version. Policies that were pushed without a name have no record.

        Args:
            digest: digest of the weights that acting needs: a Digest, or at least 8 of its digits,
                with or without ``blake3:``.
            prefix: such as ``"soccer/"``, to search only the names below ``soccer``.

        Returns:
            The versions, newest first by the clocks of their writers; at least one.

        Raises:
            NotFoundError: no version has these weights.
            AmbiguousError: a short digest fits different weights.
            PolicyStoreError: other errors, as in :meth:`names` and :meth:`log`.
        """
        return find_acting(self._resolver, acting_digits(digest), prefix)

    def tags(self, name: str) -> dict[str, Version]:
        """Return the tags of a name, in order, with the versions that they point to.

        Raises:
            NotFoundError: no such name.
        """
        check_name(name)
        self._resolver.newest(name)  # raises an error if the name does not exist
        return self._resolver.tags(name)

    def diff(self, a: RefLike | Snapshot, b: RefLike | Snapshot) -> Diff:
        """Compare two policies, tensor by tensor.

        Args:
            a: a ref or a snapshot.
            b: a ref or a snapshot.

        Raises:
            PolicyStoreError: as in :meth:`pull`.
        """
        for side in (a, b):
            if not isinstance(side, (Snapshot, str, Digest, Version)):
                raise instead_of_snapshot(side).within("diff takes refs and Snapshots")
        left, right = (x if isinstance(x, Snapshot) else self.pull(x) for x in (a, b))
        return diff_snapshots(left, right)

    def verify(self) -> VerifyReport:
        """Read everything in the store and report every fault; change nothing.

        Raises:
            NotFoundError: the store does not exist.
            FormatError: the folder is not a store, or is a store of a newer format.
        """
        require_store(self._backend)
        return verify_store(self._backend)


def _reopen(
    place: str | Backend, read_only: bool, options: StorageOptions | None, cache: CacheLike
) -> PolicyStore:
    """Open the store of a pickle, which holds a URL and options, or a backend."""
    backend = open_backend(place, options) if isinstance(place, str) else place
    store = PolicyStore.over(backend, cache=cache, read_only=read_only)
    store._options = options
    return store
