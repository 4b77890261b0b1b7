"""Copy a store, or a part of a store, to another store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore._util.deadlines import Clock, boottime
from policystore._util.progress import Meter
from policystore.backends.base import Backend
from policystore.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    PolicyStoreError,
)
from policystore.format.keys import (
    DELETED,
    KEPT,
    LEAGUES,
    MARKER,
    NAMES,
    OBJECTS,
    TEMPORARY,
    TRASH,
)
from policystore.format.records import marker_bytes
from policystore.repository.lookup.marker import require_store, store_exists, store_inside
from policystore.repository.mirror.leagues import copy_leagues
from policystore.repository.mirror.names import NameCopier
from policystore.repository.mirror.objects import ObjectCopier
from policystore.repository.mirror.others import copy_digest, copy_kept, copy_notes
from policystore.repository.mirror.report import CopyReport, NameCopy
from policystore.repository.mirror.selection import Selection, select
from policystore.repository.mirror.sides import Sides, kinds_of
from policystore.repository.mirror.tags import copy_tags
from policystore.repository.objects import ObjectReader
from policystore.repository.resolver import Resolver

__all__ = ["copy_store"]

_NAMES_AT_ONCE = 8
_MAX_LOOKED = 20  # unknown folders that are looked at for a store inside
_KINDS = {"@versions", "@marks", "@tags", "@notes", "@copied"}
_FOLDERS = {OBJECTS, NAMES, KEPT, DELETED, LEAGUES, TRASH, TEMPORARY}


def copy_store(
    resolver: Resolver,
    target: Backend,
    names: str | Iterable[str],
    meter: Meter,
    *,
    dry_run: bool,
    clock: Clock = boottime,
) -> CopyReport:
    """Copy what the target lacks.

    Args:
        resolver: reads the source.
        target: the backend of the target.
        names: what to copy, as :func:`~policystore.repository.mirror.selection.select` reads it.
        meter: counts the bytes of objects.
        dry_run: True to write nothing, and only report.
        clock: says how long ago objects were checked.

    Raises:
        InvalidInputError: an item of ``names`` of another form, or the same store twice.
        NotFoundError: the source does not exist, or has nothing of that name.
        IntegrityError, FormatError: something in the source is damaged. All other names were
            copied.
        ReadOnlyError: this user may not write to the target.
        StorageError: one of the two storages failed.
    """
    source = resolver.backend
    # Two servers may have buckets of the same name. A copy of a store to itself does nothing.
    if source.url == target.url and not source.is_remote:
        raise InvalidInputError(f"{source.url} is both the source and the target of the copy")
    require_store(source)
    selection = select(resolver, names)
    if dry_run:
        store_exists(target)  # raises an error if the storage holds other files
    else:
        _make_store(target, with_names=bool(selection.names or selection.versions))
    # Objects are read without the cache of this machine: a copy would fill it.
    objects = ObjectCopier(ObjectReader(source), target, meter, dry_run=dry_run, clock=clock)
    sides = Sides(source, target, objects, dry_run)
    report = CopyReport(source.url, target.url, dry_run)
    report.unknown += selection.unknown
    failures = _copy_names(sides, selection, report)
    failures += _copy_others(sides, selection, report)
    report.objects, report.nbytes = objects.count, objects.nbytes
    report.unknown = sorted(set(report.unknown))
    if failures:
        raise _joined(failures, report)
    return report


def _make_store(target: Backend, *, with_names: bool) -> None:
    """Make the store if there is none, and check that it creates keys exclusively."""
    if not store_exists(target) and not target.create(MARKER, marker_bytes()):
        store_exists(target)  # another process made the store: check the marker
    if with_names:
        target.verify_exclusive_create(MARKER, marker_bytes())


def _copy_names(
    sides: Sides, selection: Selection, report: CopyReport
) -> list[IntegrityError | FormatError]:
    """Copy several names at once; return what is damaged in the source."""
    for name in sorted({*selection.names, *selection.versions}):
        report.names[name] = NameCopy(name)

    def copy(name: str) -> IntegrityError | FormatError | None:
        try:
            return _damage_in(
                partial(_copy_name, sides, name, selection.versions.get(name), report)
            )
        except PolicyStoreError as error:
            raise error.within(f"copying {name} to {sides.target.url}") from error

    workers = max(_NAMES_AT_ONCE, sides.source.parallel, sides.target.parallel)
    results = in_parallel(copy, list(report.names), workers=min(workers, 32))
    return [error for error in results if error is not None]


def _copy_name(
    sides: Sides, name: str, numbers: tuple[int, ...] | None, report: CopyReport
) -> None:
    copied = report.names[name]
    versions = NameCopier(sides, name, copied)
    if not versions.newest:
        return
    kinds = kinds_of(sides.source, name)
    if numbers is not None:
        versions.copy_versions(numbers)
    else:
        versions.copy_list()
        if "@tags" in kinds:
            copy_tags(sides, name, versions, copied)
        report.unknown += [f"{NAMES}{name}/{kind}/" for kind in sorted(kinds - _KINDS)]
    if "@notes" in kinds:
        copy_notes(sides, name, versions, report, numbers)
    if not kinds:
        what = "tags and annotations" if numbers is None else "annotations"
        copied.skipped.append(f"{what}: the source cannot be listed")


def _copy_others(
    sides: Sides, selection: Selection, report: CopyReport
) -> list[IntegrityError | FormatError]:
    """Copy what has no name; return what is damaged in the source."""
    calls = [partial(copy_digest, sides, report, digest) for digest in selection.digests]
    if selection.everything:
        folders = set(sides.source.prefixes("", "/"))
        report.unknown += folders - _FOLDERS
        for folder in sorted(folders - _FOLDERS)[:_MAX_LOOKED]:
            inside = store_inside(sides.source, folder)
            if inside is not None:
                report.stores_inside[folder] = inside
        calls += [partial(copy_kept, sides, report)] if KEPT in folders else []
        calls += [partial(copy_leagues, sides, report)] if LEAGUES in folders else []
    failures = [_damage_in(call) for call in calls]
    return [error for error in failures if error is not None]


def _damage_in(call: Callable[[], None]) -> IntegrityError | FormatError | None:
    """Make a call, and return the error if something in the source is damaged."""
    try:
        call()
    except (IntegrityError, FormatError) as error:
        return error
    return None


def _joined(
    failures: list[IntegrityError | FormatError], report: CopyReport
) -> IntegrityError | FormatError:
    """Return one error for all damages in the source."""
    lines = "".join(f"\n  {error}" for error in failures)
    return type(failures[0])(
        f"copying {report.source} to {report.target}: {len(failures)} parts of the source are "
        f"damaged and were not copied, or only up to the damage. All else was copied.{lines}"
    )
