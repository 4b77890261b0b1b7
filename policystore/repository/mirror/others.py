"""Copy what does not belong to the versions of a name: kept policies, annotations, leagues."""

from __future__ import annotations

import re
from functools import partial
from itertools import groupby

from policystore._util.concurrency import in_parallel
from policystore.digest import Digest
from policystore.errors import FormatError, IntegrityError
from policystore.format.keys import (
    KEPT,
    LEAGUES,
    MAX_RECORD,
    digest_of_kept,
    kept_key,
    kept_prefix,
    versions_prefix,
)
from policystore.format.records import Kept
from policystore.repository.mirror.names import NameCopier
from policystore.repository.mirror.objects import Needs
from policystore.repository.mirror.report import CopyReport
from policystore.repository.mirror.sides import Sides
from policystore.repository.stamp import default_author, now

__all__ = ["copy_digest", "copy_kept", "copy_leagues", "copy_notes"]

_WINDOW = 256
# A key of another form is not written: from a hostile source, it might lead out of the target.
_NOTE = re.compile(r"([0-9]{10})/[0-9a-f]{32}\.json")
_LEAGUE = re.compile(r"leagues(?:/[@!]?[a-z0-9_-](?:[a-z0-9_.!-]*[a-z0-9_-])?)+\.json")
# A record comes after the records that it names.
_LEAGUE_KINDS = ("@bodies", "@matches", "@summaries", "@deleted")


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


def copy_notes(sides: Sides, name: str, versions: NameCopier, report: CopyReport) -> None:
    """Copy the annotations of versions that have the same number on both sides, byte by byte."""
    prefix = versions_prefix(name).replace("@versions/", "@notes/")
    known = set(sides.target.keys(prefix))
    new, apart = [], 0
    for key in sorted(sides.source.keys(prefix)):
        match = _NOTE.fullmatch(key, len(prefix))
        if match is None:
            report.unknown.append(key)
        elif int(match.group(1)) > versions.same:
            apart += 1
        elif key not in known:
            new.append(key)
    create = partial(_copy_record, sides, limit=MAX_RECORD)
    copied = report.names[name]
    copied.notes += sum(in_parallel(create, new, workers=sides.workers))
    if apart:
        copied.skipped.append(f"{apart} annotations of versions with other numbers in the target")


def copy_leagues(sides: Sides, report: CopyReport) -> None:
    """Copy the records of leagues byte by byte, each list in its order."""
    sizes = {entry.key: entry.nbytes for entry in sides.source.entries(LEAGUES)}
    known = set(sides.target.keys(LEAGUES)) if sizes else set()
    lists: dict[str, list[list[str]]] = {kind: [] for kind in _LEAGUE_KINDS}
    for folder, members in groupby(sorted(sizes), key=lambda key: key.rpartition("/")[0]):
        keys = list(members)
        kind = next((part for part in folder.split("/") if part.startswith("@")), "")
        if kind in lists and all(_LEAGUE.fullmatch(key) for key in keys):
            lists[kind].append(keys)
        else:
            report.unknown.append(f"{folder}/")

    def copy(keys: list[str]) -> int:
        # One record after the other, so that the numbers of a list stay without gaps.
        new = [key for key in keys if key not in known]
        there = [key for key in keys if key in known]
        if new and there and not sides.equal(there[-1], limit=sizes[there[-1]]):
            report.conflicts.append(f"{there[-1]}: the target has another record under this key")
            return 0
        for count, key in enumerate(new):
            with sides.objects.budget.hold(sizes[key]):
                copied = _copy_record(sides, key, limit=sizes[key])
            if not copied:
                report.conflicts.append(f"{key}: the target has another record under this key")
                return count
        return len(new)

    for kind in _LEAGUE_KINDS:
        report.leagues += sum(in_parallel(copy, lists[kind], workers=sides.workers))


def _copy_record(sides: Sides, key: str, *, limit: int) -> bool:
    """Copy a record byte by byte; return False if the target has another one there."""
    data = bytes(sides.source.get(key, limit=limit))
    return sides.create(key, data) or sides.equal(key, limit=limit)
