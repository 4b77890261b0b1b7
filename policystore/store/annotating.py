"""Add annotations to versions, and read versions with their annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.errors import InvalidInputError
from policystore.format.records import Annotation, Version
from policystore.format.refs import Ref
from policystore.repository.annotations import (
    AnnotationText,
    annotate,
    annotations_of,
    full_version,
)
from policystore.repository.ref_like import RefLike, as_ref
from policystore.store.base import StoreBase

__all__ = ["AnnotatingCalls"]


class AnnotatingCalls(StoreBase):
    """Add annotations to versions, and read them: a part of the calls of a store."""

    def annotate(
        self,
        ref: RefLike,
        *,
        metrics: Mapping[Any, Any] | None = None,
        note: str = "",
        author: str | None = None,
    ) -> Annotation:
        """Add metrics, a note, or both to a version that was pushed earlier.

        The call creates a record of its own beside the version. The record of the version does not
        change, and no annotation is overwritten or removed. To correct an annotation, add another
        one. Many writers may annotate one version at the same time. If the answer of the storage is
        lost, the call tries to create the same record once more, so the version does not get the
        annotation twice.

        Args:
            ref: the version: a Version, ``"soccer/main@7"``, ``"soccer/main@best"`` (a tag) or
                ``"soccer/main"`` (the newest version that stands).
            metrics: plain values, such as ``{"elo": 1200.0}``; 16 KiB at most. NaN and infinite
                values are allowed.
            note: a text of at most 4 KiB, such as ``"do not use: trained on a broken env"``.
            author: who annotates; by default ``$POLICYSTORE_AUTHOR`` or the name of the user.

        Returns:
            The annotation.

        Raises:
            InvalidInputError: neither metrics nor a note, values that a record cannot hold, or a
                ref without a name; nothing was written.
            NotFoundError: no such version, or the version was deleted; the message says by whom.
            ReadOnlyError: the store cannot be written.
            StorageError: the storage failed. If no answer came, the annotation may exist; use
                :meth:`annotations` to find out.
        """
        self._check_writable("annotate")
        text = AnnotationText(metrics, note, author)
        _named(ref, "annotate")
        return annotate(self._resolver, self._version_of(ref), text)

    def annotations(self, ref: RefLike) -> list[Annotation]:
        """List the annotations of a version, oldest first.

        The order is that of the times in the records, which come from the clocks of the writers. If
        a version has more than 1,000 annotations, the call reads the 1,000 newest ones by the times
        of the storage, and logs a warning.

        Args:
            ref: the version, as in :meth:`annotate`.

        Raises:
            InvalidInputError: not a ref, or a ref without a name.
            NotFoundError: no such version, or the version was deleted. ``log(name, deleted=True,
                annotations=True)`` shows the annotations of deleted versions, too.
            FormatError: a record is not of format 1, or is of another version.
            StorageError: the storage failed.
        """
        _named(ref, "annotations")
        return annotations_of(self._resolver, self._version_of(ref))

    def version(self, ref: RefLike, *, tags: bool = True, annotations: bool = True) -> Version:
        """Return the record of a version, with its tags and annotations.

        If you need only the digest, use :meth:`resolve`, which makes fewer requests. From a bucket,
        this call makes 5 to 9 requests, one more for each annotation, and three more for each tag
        of the name. Many of them run at the same time, so the call takes the time of three
        requests.

        Args:
            ref: the version: a Version, ``"soccer/main@7"``, ``"soccer/main@best"`` (a tag) or
                ``"soccer/main"`` (the newest version that stands).
            tags: whether to look up the tags that point to the version. If False,
                :attr:`Version.tags` is None.
            annotations: whether to read the annotations, as :meth:`annotations` does. If False,
                :attr:`Version.annotations` is None.

        Raises:
            InvalidInputError: not a ref, or a ref without a name: a digest has no record.
            NotFoundError: no such version, or the version was deleted; the message says by whom.
            IntegrityError: a record is missing, though later ones exist.
            FormatError: a record is not of format 1.
            StorageError: the storage failed.
        """
        parsed = _named(ref, "version")
        found = full_version(self._resolver, parsed, tags=tags, annotations=annotations)
        self._check_same(ref, found)
        return found


def _named(ref: RefLike, call: str) -> Ref:
    """Parse a ref, and check that it has a name."""
    parsed = as_ref(ref.ref if isinstance(ref, Version) else ref)
    if not parsed.name:
        raise InvalidInputError(
            f"{call}: {ref} has no name, and a digest has no record of a version. Write "
            f"store.{call}('name@number'); store.log(name) lists the versions of a name"
        )
    return parsed
