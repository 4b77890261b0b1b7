"""Copy what does not belong to the versions of a name: kept policies and annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.keys import (
    KEPT,
    MAX_RECORD,
    annotation_key,
    annotation_of_key,
    annotations_prefix,
    digest_of_kept,
    kept_key,
    kept_prefix,
)
from policystore.format.records import Kept
from policystore.repository.lookup.annotations import parse_annotation
from policystore.repository.mirror.names import NameCopier
from policystore.repository.mirror.objects import Needs
from policystore.repository.mirror.report import CopyReport
from policystore.repository.mirror.sides import Sides
from policystore.repository.stamp import default_author, now

__all__ = ["copy_digest", "copy_kept", "copy_notes"]

_WINDOW = 256


def copy_kept(sides: Sides, report: CopyReport, prefix: str = KEPT) -> None:
    """Copy the records of pushes without a name, after their objects.

    Raises:
        IntegrityError: the source has lost an object.
    """
    keys = sorted(key for key in sides.source.keys(prefix))
    known = set(sides.target.keys(prefix)) if keys else set()
    new = []
    for key in keys:
        if digest_of_kept(key) is None:
            report.unknown.append(key)
        elif key not in known:
            new.append(key)
    for start in range(0, len(new), _WINDOW):
        window = new[start : start + _WINDOW]
        found = in_parallel(partial(_read_kept, sides), window, workers=sides.workers)
        needs = [Needs(kept.digest, kept.objects) for _, kept in found]
        sides.objects.ensure(needs)
        for key, (data, _), need in zip(window, found, needs, strict=True):
            _create_kept(sides, key, data, need)
            report.kept += 1


def copy_digest(sides: Sides, report: CopyReport, digest: Digest) -> None:
    """Copy a policy by its digest alone, so that the target keeps it without a name."""
    before = report.kept
    copy_kept(sides, report, kept_prefix(digest))
    prefix = kept_prefix(digest)
    if report.kept > before or next(iter(sides.target.keys(prefix)), None) is not None:
        return
    # The source has the policy under a name only. With this nonce, two copies make one record.
    need = Needs(digest, None)
    sides.objects.ensure([need])
    kept = Kept(digest, need.objects, now(), default_author(), digest.hex[:32])
    _create_kept(sides, kept_key(digest, kept.nonce), kept.to_bytes(), need)
    report.kept += 1


def _create_kept(sides: Sides, key: str, data: bytes, need: Needs) -> None:
    if need.missing:
        raise IntegrityError(
            f"{sides.source.url} does not have the object {need.missing[0]}, which "
            f"{sides.source.location(key)} needs: the store has lost it"
        )
    sides.objects.create([need], partial(sides.put, key, data))


def _read_kept(sides: Sides, key: str) -> tuple[bytes, Kept]:
    data = bytes(sides.source.get(key, limit=MAX_RECORD))
    kept = Kept.from_bytes(data, sides.source.location(key))
    if kept_key(kept.digest, kept.nonce) != key:
        raise FormatError(
            f"{sides.source.location(key)}: the record is of {kept.digest}: it was moved or copied "
            "to this key"
        )
    return data, kept


def copy_notes(
    sides: Sides,
    name: str,
    versions: NameCopier,
    report: CopyReport,
    numbers: Sequence[int] | None = None,
) -> None:
    """Copy the annotations of a name, under the numbers that their versions have in the target.

    A copied annotation keeps its nonce, by which a later copy knows it.

    Args:
        sides: the two stores.
        name: the name.
        versions: has copied the versions of the name.
        report: gets what was done.
        numbers: copy only the annotations of these versions of the source; None for all.

    Raises:
        FormatError: an annotation in the source is damaged; all others were copied.
    """
    prefixes = [annotations_prefix(name)]
    if numbers is not None:
        prefixes = [annotations_prefix(name, number) for number in numbers]
    keys = sorted(key for prefix in prefixes for key in sides.source.keys(prefix))
    known = {
        found
        for key in (sides.target.keys(annotations_prefix(name)) if keys else ())
        if (found := annotation_of_key(key, name)) is not None
    }
    nonces = {nonce for _, nonce in known}
    new: list[_Note] = []
    places: dict[int, int | None] = {}
    left = 0
    for key in keys:
        found = annotation_of_key(key, name)
        if found is None:
            report.unknown.append(key)
            continue
        number, nonce = found
        if number > versions.newest:
            continue  # the version was pushed after the copy began: the next copy takes both
        if found in known if number <= versions.same else nonce in nonces:
            continue
        if number not in places:
            places[number] = versions.number_in_target(number)
        place = places[number]
        if place is None:
            left += 1
        else:
            new.append(_Note(name, number, nonce, place))
    copied = report.names[name]
    results = in_parallel(partial(_copy_note, sides), new, workers=sides.workers)
    copied.notes += sum(result is True for result in results)
    if left:
        copied.skipped.append(f"{left} annotations of versions that the target does not have")
    damage = [result for result in results if isinstance(result, FormatError)]
    if damage:
        more = f" (and {len(damage) - 1} more annotations)" if damage[1:] else ""
        raise FormatError(f"{damage[0]}{more}")


@dataclass(frozen=True)
class _Note:
    """Name an annotation to copy: name, number and nonce, and its number in the target."""

    name: str
    number: int
    nonce: str
    place: int


def _copy_note(sides: Sides, note: _Note) -> bool | FormatError:
    """Copy one annotation; return whether it was written, or the error if it is damaged."""
    key = annotation_key(note.name, note.number, note.nonce)
    try:
        data = bytes(sides.source.get(key, limit=MAX_RECORD))
        annotation = parse_annotation(sides.source, note.name, note.number, note.nonce, data)
    except NotFoundError:
        return False  # somebody has removed the record by hand since the listing
    except FormatError as error:
        return error
    if note.place != note.number:
        data = replace(annotation, number=note.place).to_bytes()
    return sides.create(annotation_key(note.name, note.place, note.nonce), data)
