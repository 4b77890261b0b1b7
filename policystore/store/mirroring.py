"""Copy policies from one store to another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from policystore._util.progress import Meter, Progress
from policystore.errors import InvalidInputError
from policystore.store.base import StoreBase

if TYPE_CHECKING:
    from policystore.repository.mirror.report import CopyReport

__all__ = ["MirroringCalls"]


class MirroringCalls(StoreBase):
    """Copy a store to another store, with one call."""

    def copy_to(
        self,
        other: StoreBase,
        names: str | Iterable[str] = "",
        *,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> CopyReport:
        """Copy the versions, tags and deletions that another store lacks to that store.

        Objects are copied as bytes and checked against their digests. If the list of versions of a
        name in the other store is the beginning of the list in this store, records are copied byte
        by byte and keep their numbers. If the other store has versions of its own under these
        numbers, a copied version gets the next free number, and its record says from which version
        it was copied (:attr:`Version.origin`). A tag only moves forward. If a tag was moved in both
        stores, the tag of the other store stays where it is, and the report names the tag.

        Guarantees: the other store is valid at any moment, also if the copy is killed, and while
        other processes push to both stores. A second call copies nothing twice and goes on where
        the first call ended.

        Args:
            other: the store to copy to. If it does not exist, the copy makes it.
            names: what to copy: ``""`` for everything, a prefix such as ``"soccer/"`` for all names
                below ``soccer``, a name for its whole list of versions, a ref such as
                ``"duo/p0@best"`` for that version alone, a digest for a policy without a name; or a
                list of such items.
            dry_run: True to write nothing and only report what a copy would do.
            progress: a function of two numbers: how many bytes of objects were copied, and how many
                bytes are known so far that have to be copied. The function may be called from any
                thread, one call at a time. If the function raises, the copy ends with that error.

        Returns:
            A report on each name.

        Raises:
            InvalidInputError: ``other`` is no store or is this store, or ``names`` holds an item of
                another form.
            NotFoundError: this store does not exist, or has nothing of that name.
            IntegrityError, FormatError: a part of this store is damaged; all other parts were
                copied.
            ReadOnlyError: the other store cannot be written.
            StorageError: one of the two storages failed. The parts that were copied stay in the
                other store; call again.
        """
        from policystore.repository.mirror.copier import copy_store  # late: few programs copy

        if not isinstance(other, StoreBase):
            raise InvalidInputError(
                f"copy_to takes a PolicyStore to copy to, not {type(other).__qualname__}: write "
                "store.copy_to(PolicyStore(url))"
            )
        if not dry_run:
            other._check_writable("copy_to")
        return copy_store(self._resolver, other._backend, names, Meter(progress), dry_run=dry_run)
