"""Annotate versions, and read versions with their tags and annotations."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from policystore._util.concurrency import in_parallel
from policystore.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.keys import MAX_RECORD, annotation_key
from policystore.format.records import Annotation, TagMove, Version
from policystore.format.records.fields import check_text, encode_plain
from policystore.format.refs import Ref
from policystore.repository.lookup.annotations import (
    Annotations,
    list_annotations,
    read_annotations,
)
from policystore.repository.record_log import tag_log, version_log
from policystore.repository.resolver import Resolver
from policystore.repository.stamp import default_author, now

__all__ = [
    "AnnotationText",
    "annotate",
    "annotated",
    "annotations_of",
    "fill_version",
    "full_log",
    "full_version",
]


class AnnotationText:
    """Check the metrics and the note that a caller gives for a version.

    Args:
        metrics: plain values, or None.
        note: a text.
        author: who annotates; None for ``$POLICYSTORE_AUTHOR`` or the name of the user.

    Raises:
        InvalidInputError: neither metrics nor a note, or values that a record cannot hold.
    """

    def __init__(self, metrics: Mapping[Any, Any] | None, note: str, author: str | None) -> None:
        self.author = check_text(default_author() if author is None else author, "author")
        self.note = check_text(note, "note")
        encode_plain({} if metrics is None else metrics, "metrics")
        self.metrics = dict(metrics or {})
        if not self.metrics and not self.note:
            raise InvalidInputError(
                "an annotation needs metrics, a note, or both, such as metrics={'elo': 1200.0} or "
                "note='do not use'"
            )


def annotate(resolver: Resolver, version: Version, text: AnnotationText) -> Annotation:
    """Create an annotation of a version that stands.

    If the answer of a remote storage is lost, the call tries to create the same key once more. So
    the version does not get the annotation twice.

    Raises:
        InvalidInputError: the record would be too long.
        StorageError: the storage failed.
    """
    backend = resolver.backend
    made = Annotation(
        name=version.name or "",
        number=version.number or 0,
        digest=version.digest,
        time=now(),
        author=text.author,
        metrics=text.metrics,
        note=text.note,
        nonce=secrets.token_hex(16),
    )
    key, data = annotation_key(made.name, made.number, made.nonce), made.to_bytes()
    try:
        created = backend.create(key, data)
    except StorageError:
        if not backend.is_remote:
            raise
        created = backend.create(key, data)  # the first try may have created the key
    if not created:
        _check_own(resolver, key, data)
    return Annotation.from_bytes(data, f"the annotation of {version.ref}")


def _check_own(resolver: Resolver, key: str, data: bytes) -> None:
    """Check that a key that exists already has the bytes of an earlier try of this writer."""
    backend = resolver.backend
    with suppress(NotFoundError, FormatError):
        if bytes(backend.get(key, limit=MAX_RECORD)) == data:
            return
    raise StorageError(
        f"{backend.location(key)}: the server says that this key exists, and does not have the "
        "annotation under the key. Nothing was recorded. Try again."
    )


def annotations_of(resolver: Resolver, version: Version) -> list[Annotation]:
    """Read the annotations of a version, oldest first; errors as in :func:`read_annotations`."""
    return list(annotated(resolver, version).annotations or ())


def annotated(resolver: Resolver, version: Version) -> Version:
    """Return a version with its annotations; errors as in :func:`read_annotations`."""
    return fill_version(version, None, _read(resolver, version))


def full_version(resolver: Resolver, ref: Ref, *, tags: bool, annotations: bool) -> Version:
    """Return the version that a ref with a name means now, with its tags and annotations.

    If requests are slow, tags and annotations are read at the same time as the version. A hint says
    which version the ref probably means. If the hint is wrong, the annotations of the right version
    are read after that.

    Args:
        resolver: reads the store.
        ref: a ref with a name.
        tags: whether to fill in the tags.
        annotations: whether to fill in the annotations.

    Raises:
        NotFoundError: no such version, or the version was deleted.
        FormatError, IntegrityError: a record is damaged or missing.
        StorageError: the storage failed.
    """
    is_slow = resolver.backend.parallel > 1
    version, moves, likely = _each(
        resolver,
        partial(resolver.version, ref),
        partial(resolver.last_moves, ref.name) if tags else None,
        partial(_read_likely, resolver, ref) if annotations and is_slow else None,
    )
    if annotations and (likely is None or version.number not in likely):
        likely = _read(resolver, version)
    return fill_version(version, moves, likely)


def full_log(
    resolver: Resolver,
    name: str,
    limit: int | None,
    *,
    deleted: bool,
    tags: bool,
    annotations: bool,
) -> list[Version]:
    """Read the versions of a name, newest first, with their tags and annotations.

    One listing shows the annotations of all versions of the name.

    Args:
        resolver: reads the store.
        name: the name.
        limit: how many versions to read at most; None for all.
        deleted: whether to read the deleted versions, too.
        tags: whether to fill in the tags.
        annotations: whether to fill in the annotations.

    Raises:
        InvalidInputError, NotFoundError: as in :meth:`Resolver.log`.
        FormatError, IntegrityError: a record is damaged or missing.
        StorageError: the storage failed.
    """
    versions, moves, listed = _each(
        resolver,
        partial(resolver.log, name, limit, deleted=deleted),
        partial(resolver.last_moves, name) if tags else None,
        partial(list_annotations, resolver.backend, name) if annotations else None,
    )
    found: Annotations | None = None
    if listed is not None:
        numbers = [version.number or 0 for version in versions]
        found = read_annotations(resolver.backend, listed, numbers, workers=resolver.workers)
    return [fill_version(version, moves, found) for version in versions]


def _each(resolver: Resolver, *calls: Callable[[], Any] | None) -> list[Any]:
    """Make several calls, at the same time if requests are slow; None is no call."""
    return in_parallel(
        lambda call: None if call is None else call(), calls, workers=resolver.workers
    )


def _read(resolver: Resolver, version: Version) -> Annotations:
    name, number = version.name or "", version.number or 0
    listed = list_annotations(resolver.backend, name, number)
    return read_annotations(resolver.backend, listed, [number], workers=resolver.workers)


def _read_likely(resolver: Resolver, ref: Ref) -> Annotations | None:
    """Read the annotations of the version that a ref probably means; None if that fails."""
    backend, name = resolver.backend, ref.name
    try:
        number: int | None = ref.number
        if ref.tag is not None:
            tag_hint = tag_log(backend, name, ref.tag).read_hint()
            number = None if tag_hint is None else tag_hint.target
        elif number is None:
            hint = version_log(backend, name).read_hint()
            number = 1 if hint is None else hint.stands  # version 1 may have no hint
        if not number:
            return None
        listed = list_annotations(backend, name, number)
        return read_annotations(backend, listed, [number], workers=resolver.workers)
    except PolicyStoreError:
        return None  # the annotations are read again, and that read raises the error


def fill_version(
    version: Version, moves: Mapping[str, TagMove] | None, found: Annotations | None
) -> Version:
    """Return a version with its tags and annotations.

    Args:
        version: the version.
        moves: the last move of each tag of the name; None to leave the tags out.
        found: the annotations by the number of their version; None to leave them out.

    Raises:
        FormatError: a tag or an annotation names another policy than the version.
    """
    if moves is not None:
        here = [move for move in moves.values() if move.target == version.number]
        for move in here:
            if move.digest != version.digest:
                raise FormatError(
                    f"the tag {move.tag!r} of {move.name!r} and {version.ref} name different "
                    "digests: a record was changed; verify() tells which"
                )
        version = replace(version, tags=tuple(sorted(move.tag for move in here)))
    if found is not None:
        annotations = found[version.number or 0]
        for annotation in annotations:
            if annotation.digest != version.digest:
                raise FormatError(
                    f"the annotation {annotation.nonce} of {version.ref} is of another policy, "
                    f"{annotation.digest.short}: a record was changed; verify() tells which"
                )
        version = replace(version, annotations=annotations)
    return version
