"""Push policies to a store and pull them, by digest and by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from policystore.cache import CacheLike
from policystore.display.pretty import Printer
from policystore.store.annotating import AnnotatingCalls
from policystore.store.collecting import CollectingCalls
from policystore.store.deleting import DeletingCalls
from policystore.store.mirroring import MirroringCalls
from policystore.store.reading import ReadingCalls
from policystore.store.reporting import ReportingCalls
from policystore.store.searching import SearchingCalls
from policystore.store.showing import ShowingCalls
from policystore.store.upkeep import UpkeepCalls
from policystore.store.watching import WatchingCalls
from policystore.store.writing import WritingCalls

__all__ = ["PolicyStore"]


class PolicyStore(
    WritingCalls,
    AnnotatingCalls,
    DeletingCalls,
    ReadingCalls,
    SearchingCalls,
    WatchingCalls,
    UpkeepCalls,
    CollectingCalls,
    MirroringCalls,
    ReportingCalls,
    ShowingCalls,
):
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

    def __repr__(self) -> str:
        return f"PolicyStore({self.url!r}{', read_only=True' if self._read_only else ''})"

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        # IPython asks for one screen by this name, in the class that has __repr__. repr() itself
        # asks the storage nothing, because debuggers and logs call it.
        printer.text(self._screen())

    def __reduce__(self) -> tuple[Any, ...]:
        place = self._backend if self._options is None else self.url
        return (_reopen, (place, self._read_only, self._options, self._cache))

    def __copy__(self) -> PolicyStore:
        return self

    def __deepcopy__(self, memo: object) -> PolicyStore:
        # A PolicyStore never changes. A copy that is made by pickling would lose its credentials.
        return self


def _reopen(
    place: str | Backend, read_only: bool, options: StorageOptions | None, cache: CacheLike
) -> PolicyStore:
    """Open the store of a pickle, which holds a URL and options, or a backend."""
    backend = open_backend(place, options) if isinstance(place, str) else place
    store = PolicyStore.over(backend, cache=cache, read_only=read_only)
    store._options = options
    return store
