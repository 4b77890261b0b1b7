"""Hold what all calls of a store need: the backend, the resolver and the writer."""

from __future__ import annotations

from policystore.backends.base import Backend
from policystore.cache import CacheLike, open_cache
from policystore.errors import ReadOnlyError
from policystore.repository.objects import ObjectReader
from policystore.repository.resolver import Resolver
from policystore.repository.writer import Writer

__all__ = ["StoreBase"]


class StoreBase:
    """The base of the classes that make up :class:`~policystore.store.PolicyStore`."""

    _cache: CacheLike
    _read_only: bool

    def _use(self, backend: Backend) -> None:
        """Read from this backend and write to it from now on."""
        self._backend = backend
        cache = open_cache(self._cache, remote=backend.is_remote)
        if cache is not None and self._cache not in (None, cache):
            self._cache = cache.folder  # absolute: a pickle may be loaded in another folder
        objects = ObjectReader(backend, cache)
        self._resolver = Resolver(objects)
        self._writer = Writer(objects, self._resolver)

    @property
    def url(self) -> str:
        """The folder or URL of this store."""
        return self._backend.url

    def _check_writable(self, call: str) -> None:
        """Raise ReadOnlyError, with the name of the call, if the store was opened read-only."""
        if self._read_only:
            raise ReadOnlyError(
                f"{call}: {self!r} was opened read-only. Open it without read_only=True."
            )
