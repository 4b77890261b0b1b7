"""Pull policies from a store, and look at its names, versions and tags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from policystore._util.concurrency import in_parallel
from policystore._util.progress import Meter, Progress
from policystore.digest import Digest
from policystore.format.records import TagMove, Version
from policystore.format.refs import check_name, check_tag
from policystore.repository.annotations import annotated, full_log
from policystore.repository.lookup.listing import warn_of_no_names
from policystore.repository.lookup.marker import require_store, store_exists
from policystore.repository.objects import MIN_WORKERS
from policystore.repository.ref_like import RefLike, as_list, as_ref
from policystore.snapshot import Snapshot
from policystore.snapshot_advice import instead_of_snapshot
from policystore.store.base import StoreBase
from policystore.version_list import VersionList

if TYPE_CHECKING:
    from policystore.diff import Diff

__all__ = ["ReadingCalls"]


class ReadingCalls(StoreBase):
    """The calls of a store that only read."""

    def pull(self, ref: RefLike, *, progress: Progress | None = None) -> Snapshot:
        """Fetch a policy, and check every byte against its digest.

        On a local disk, in folders that only this user can write, large arrays are views of the
        page cache and not copies.

        Args:
            ref: the policy, such as ``"soccer/main"`` or ``"soccer/main@7"``. A Version means the
                policy with its digest, which another store may have under another number.
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
        return self._resolver.pull_given(ref, Meter(progress))

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
        given = as_list(refs, "refs")
        for ref in given:
            as_ref(ref)  # raises an error for what is no ref, before anything is fetched
        wanted = list(dict.fromkeys(given))
        meter = Meter(progress)
        snapshots = in_parallel(
            lambda ref: self._resolver.pull_given(ref, meter),
            wanted,
            workers=max(MIN_WORKERS, self._backend.parallel),
        )
        return dict(zip(wanted, snapshots, strict=True))

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
        """List the names that start with ``prefix`` and have a version that stands, in order.

        Only the keys below the prefix are listed, however many names the store has. If no name
        begins with the prefix, the first folders are listed as well, for a warning.

        Args:
            prefix: such as ``"soccer/"`` for the names below ``soccer``.

        Returns:
            The names. The list is empty if the store has no such name; a warning in the log then
            names near ones, once for each prefix. Without a prefix, the list is also empty if the
            first push has not made the store yet.

        Raises:
            InvalidInputError: ``prefix`` is not text.
            NotFoundError: the store does not exist, and ``prefix`` was given or the store was
                opened read-only.
        """
        names = self._resolver.names(prefix)
        if not names:
            # A push can still make the store, so no names are no error. A caller that asks for
            # certain names, or only reads, means a store that exists.
            check = require_store if self._read_only or prefix else store_exists
            check(self._backend)
            if prefix:
                warn_of_no_names(self._backend, prefix)
        return names

    def log(
        self,
        name: str,
        limit: int | None = None,
        *,
        deleted: bool = False,
        tags: bool = False,
        annotations: bool = False,
    ) -> VersionList:
        """List the versions of a name that stand, newest first.

        Args:
            name: the name.
            limit: how many versions to list at most; None for all.
            deleted: True to list the versions that were deleted or pruned, too. Their
                :attr:`Version.deleted` is the mark that tells who deleted them, when and why.
            tags: True to look up the tags of each version, for :attr:`Version.tags`.
            annotations: True to read the annotations of each version, for
                :attr:`Version.annotations`. This costs a listing of all annotations of the name,
                and a request for each annotation of a version in the log.

        Returns:
            A list that prints as a table, and whose ``to_records()`` is for pandas and polars.

        Raises:
            InvalidInputError: not a name, or not a number.
            NotFoundError: no such name, or no version of it stands; the message says who deleted
                the last versions. With ``deleted=True``, only if there is no such name.
        """
        check_name(name)
        found = full_log(
            self._resolver, name, limit, deleted=deleted, tags=tags, annotations=annotations
        )
        return VersionList(found)

    def find_acting(self, digest: Digest | str, prefix: str = "") -> VersionList:
        """Find the versions that stand and act with given weights.

        The critics and the state of these versions may differ.

        Reports on running Algorithms show such digests, as :attr:`Version.acting` does. The call
        reads the record of each version. The call does not find policies that were pushed without a
        name, because the record of such a push has no acting digest.

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
        # Late: few programs search for weights.
        from policystore.repository.acting import acting_digits, find_acting

        return VersionList(find_acting(self._resolver, acting_digits(digest), prefix))

    def tags(self, name: str) -> dict[str, Version]:
        """Return the tags of a name, in order, with the versions that they point to.

        A tag whose version was deleted is left out; :meth:`tag_history` still lists its moves.

        Raises:
            NotFoundError: no such name, or no version of it stands.
        """
        check_name(name)
        return self._resolver.tags(name)

    def tag_history(self, name: str, tag: str) -> list[TagMove]:
        """List all moves of a tag, newest first, also of a tag that was removed.

        Returns:
            The moves, each with the number of the version (``target``; None where the tag was
            removed), its ``digest``, the ``time`` and the ``author``. ``protected`` says who may
            move the tag after that move; None if everybody may. :meth:`protect` and
            :meth:`unprotect` make moves to the version to which the tag points already.

        Raises:
            NotFoundError: no such name, or the name never had such a tag.
        """
        check_name(name)
        check_tag(tag)
        return self._resolver.tag_history(name, tag)

    def diff(self, a: RefLike | Snapshot, b: RefLike | Snapshot) -> Diff:
        """Compare two policies, tensor by tensor.

        For two refs with names, the call also compares the metrics of the two versions.

        Args:
            a: a ref or a snapshot.
            b: a ref or a snapshot.

        Raises:
            PolicyStoreError: as in :meth:`pull`.
        """
        from policystore.diff import diff_metrics, diff_snapshots  # late: few programs compare

        for side in (a, b):
            if not isinstance(side, (Snapshot, str, Digest, Version)):
                raise instead_of_snapshot(side).within("diff takes refs and Snapshots")
        (left, one), (right, two) = (
            (side, None) if isinstance(side, Snapshot) else self._resolver.pull_recorded(side)
            for side in (a, b)
        )
        found = diff_snapshots(left, right)
        if one is None or two is None:
            return found
        one, two = (annotated(self._resolver, version) for version in (one, two))
        return replace(found, metrics=diff_metrics(one.all_metrics, two.all_metrics))
