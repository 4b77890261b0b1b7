"""Hold what all calls of a store need: the backend, the resolver and the writer."""

from __future__ import annotations

from policystore.backends.base import Backend
from policystore.cache import CacheLike, open_cache
from policystore.errors import NotFoundError, ReadOnlyError
from policystore.format.keys import MARKER
from policystore.format.records import Version, marker_bytes
from policystore.repository.lookup.marker import store_exists
from policystore.repository.objects import ObjectReader
from policystore.repository.ref_like import RefLike, as_ref
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

    def _check_storage(self) -> None:
        """Check, without a change, that a store that exists can be written.

        The call tries to create the marker of the store once more. A storage that lets this user
        write refuses that, because the marker exists; another storage refuses this user.

        Raises:
            ReadOnlyError: this user may not write.
            FormatError: the folder is not a store, or is a store of a newer format.
            StorageError: the storage failed.
        """
        if store_exists(self._backend):
            self._backend.create(MARKER, marker_bytes())

    def _check_writable(self, call: str) -> None:
        """Raise ReadOnlyError, with the name of the call, if the store was opened read-only."""
        if self._read_only:
            raise ReadOnlyError(
                f"{call}: {self!r} was opened read-only. Open it without read_only=True."
            )

    def _version_of(self, ref: RefLike) -> Version:
        """Return the version that a ref with a name means now; the version has to stand.

        Args:
            ref: a ref. A Version means this version of this name, and not only its digest.

        Raises:
            NotFoundError: no such version, or the version was deleted, or ``ref`` is a Version that
                was pushed to another store.
        """
        version = self._resolver.version(as_ref(ref.ref if isinstance(ref, Version) else ref))
        self._check_same(ref, version)
        return version

    def _check_same(self, ref: RefLike, found: Version) -> None:
        """Check that a version that was given is the version of this store with the same ref."""
        if isinstance(ref, Version) and ref.digest != found.digest:
            raise NotFoundError(
                f"{ref.ref} in {self.url} is another policy, {found.digest.short}, than the "
                f"version given, {ref.digest.short}: that version was pushed to another store"
            )
