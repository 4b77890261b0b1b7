"""Delete, prune and restore what a store keeps."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING

from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.format.refs import check_name
from policystore.repository.ref_like import RefLike, as_ref
from policystore.store.base import StoreBase

if TYPE_CHECKING:
    from policystore.repository.deletion.prune import KeepBest
    from policystore.repository.deletion.prune_report import PruneReport

__all__ = ["DeletingCalls"]


class DeletingCalls(StoreBase):
    """Delete, prune and restore versions of a store.

    Each call on a version or a name appends a record that says who made the call, when and why; no
    record is overwritten. The bytes of a deleted policy stay until ``collect_garbage`` removes
    them.
    """

    def delete(
        self, ref: RefLike, *, message: str = "", author: str | None = None, force: bool = False
    ) -> Version | None:
        """Delete one version of a name, or a policy that was pushed without a name.

        From then on, a pull of the version raises an error that says who deleted the version, when
        and why. The newest version of the name is then the newest version that stands. The number
        is not used again. A pull by digest works until ``collect_garbage`` has deleted the bytes
        from the trash. :meth:`restore` brings the version back.

        Args:
            ref: the version: a Version, ``"soccer/main@7"``, ``"soccer/main@best"`` (a tag) or
                ``"soccer/main"`` (the newest version that stands). A digest means a policy that was
                pushed without a name: the records of the pushes are removed, and no record says who
                deleted the policy. With a digest, the call reads the record of each version in the
                store, and logs a warning if a version that stands keeps the policy.
            message: why the version is deleted.
            author: who deletes the version; by default ``$POLICYSTORE_AUTHOR`` or the name of the
                user.
            force: whether to delete a version though a tag points to it. Until the tag is moved, a
                pull by the tag says that the version was deleted. A tag that is protected against
                the author still keeps its version.

        Returns:
            The deleted version; None for a digest.

        Raises:
            InvalidInputError: not a ref, or a tag points to the version and ``force`` is False. The
                message names the tags.
            ProtectedError: a tag points to the version that is protected against this author;
                :meth:`unprotect` the tag first, or move it.
            NotFoundError: no such version, or the version was deleted before; the message says by
                whom.
            AmbiguousError: a short digest fits several policies.
            ReadOnlyError: the store or its folder cannot be written.
            StorageError: the storage failed. If the answer to the write of the mark was lost, the
                version may be deleted.
        """
        # Late, as in the calls below: few programs delete.
        from policystore.repository.deletion.delete import delete_version
        from policystore.repository.deletion.kept import delete_kept
        from policystore.repository.deletion.marking import MarkNotes

        self._check_writable("delete")
        parsed = as_ref(ref.ref if isinstance(ref, Version) else ref)
        if not parsed.name:
            delete_kept(self._resolver, parsed.digest)
            return None
        version = self._version_of(ref)
        state = self._resolver.state(parsed.name)
        notes = MarkNotes.of(message, author)
        delete_version(self._resolver, state, version.number or 0, notes, force=force)
        return version

    def delete_name(
        self, name: str, *, message: str = "", author: str | None = None, force: bool = False
    ) -> int:
        """Delete all versions of a name.

        A later push makes the version with the next number, and that version stands. A version that
        is pushed during this call stands as well.

        Args:
            name: the name.
            message, author: as in :meth:`delete`.
            force: whether to delete versions though tags point to them.

        Returns:
            How many versions were deleted.

        Raises:
            InvalidInputError: not a name, or a tag points to a version and ``force`` is False.
            ProtectedError: as in :meth:`delete`.
            NotFoundError: no such name, or no version of it stands.
            ReadOnlyError, StorageError: as in :meth:`delete`.
        """
        from policystore.repository.deletion.delete import delete_name
        from policystore.repository.deletion.marking import MarkNotes

        check_name(name)
        self._check_writable("delete_name")
        notes = MarkNotes.of(message, author)
        return delete_name(self._resolver, name, notes, force=force)

    def restore(
        self, ref: RefLike, *, message: str = "", author: str | None = None
    ) -> list[Version]:
        """Bring a deleted version back, if the store still has all its bytes.

        Objects that were collected are copied back from the trash.

        Args:
            ref: the version, as a Version, ``"soccer/main@7"`` or ``"soccer/main@best"``. If no
                version of a name stands, the name alone means all versions that the last deletion
                deleted. A digest means a policy that was pushed without a name.
            message: why the version is restored.
            author: who restores the version; by default ``$POLICYSTORE_AUTHOR`` or the name of the
                user.

        Returns:
            The versions that were restored, newest first; an empty list for a digest.

        Raises:
            InvalidInputError: not a ref, or the version stands, or a name was given alone although
                a version of the name stands.
            NotFoundError: no such version, or some of its bytes were collected and are not in the
                trash any more; nothing was written.
            AmbiguousError: a short digest fits several policies.
            ReadOnlyError, StorageError: as in :meth:`delete`.
        """
        from policystore.repository.deletion.kept import restore_kept
        from policystore.repository.deletion.marking import MarkNotes
        from policystore.repository.deletion.restore import deleted_last, restore_versions

        self._check_writable("restore")
        parsed = as_ref(ref.ref if isinstance(ref, Version) else ref)
        notes = MarkNotes.of(message, author)
        if not parsed.name:
            restore_kept(self._resolver, parsed.digest, notes)
            return []
        number = parsed.number
        if parsed.tag is not None:
            number = self._resolver.last_move(parsed.name, parsed.tag).target
        if number is not None:
            self._check_same(ref, self._resolver.read_version(parsed.name, number))
        state = self._resolver.state(parsed.name, standing=False)
        ranges = deleted_last(state) if number is None else [(number, number)]
        return restore_versions(self._resolver, state, ranges, notes)

    def prune(
        self,
        name: str,
        *,
        keep_last: int | None = None,
        keep_tagged: bool = True,
        keep_best: KeepBest | None = None,
        older_than: datetime.timedelta | None = None,
        keep: Callable[[Version], bool] | None = None,
        dry_run: bool = False,
        message: str = "",
        author: str | None = None,
    ) -> PruneReport:
        """Delete the versions of a name that no criterion keeps, with one record.

        At least one of ``keep_last``, ``keep_best``, ``older_than`` and ``keep`` is needed. The
        newest version that stands is always kept. Only ``keep_best``, ``older_than`` and ``keep``
        read the records of the versions. :meth:`restore` brings pruned versions back.

        Args:
            name: the name.
            keep_last: keep this many of the newest versions.
            keep_tagged: whether to keep versions that a tag points to. A tag that is protected
                against the author keeps its version in any case.
            keep_best: a metric, ``"max"`` or ``"min"``, and how many of the best versions to keep,
                such as ``("return", "max", 5)``. If two versions have the same value, the newer
                version counts as better. Versions without a finite number as this metric do not
                count. Metrics of annotations count, too (:attr:`Version.all_metrics`).
            older_than: keep versions that are not older than this time span, by the times in their
                records.
            keep: a function that returns whether to keep a version, which has its annotations. The
                function may be called again if another process deletes or restores versions of the
                name at the same time.
            dry_run: True to write nothing and only report.
            message: why the versions are pruned.
            author: who prunes the name; by default ``$POLICYSTORE_AUTHOR`` or the name of the user.

        Returns:
            A report on the versions that were pruned, and on those that were kept and why.

        Raises:
            InvalidInputError: an argument of the wrong form, or no criterion.
            NotFoundError: no such name, or no version of it stands; or no version has the metric
                of ``keep_best``, and some have other metrics.
            ReadOnlyError, StorageError: as in :meth:`delete`.
        """
        from policystore.repository.deletion.marking import MarkNotes
        from policystore.repository.deletion.prune import Criteria, prune

        check_name(name)
        criteria = Criteria(keep_last, keep_tagged, keep_best, older_than, keep)
        if not isinstance(dry_run, bool):
            raise InvalidInputError(f"dry_run is True or False, not {dry_run!r}")
        if not dry_run:
            self._check_writable("prune")
        notes = MarkNotes.of(message, author)
        return prune(self._resolver, name, criteria, notes, dry_run=dry_run)
