"""Bring deleted versions back: first their objects, then one mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore.digest import Digest
from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.keys import object_key, trash_prefix
from policystore.format.policy import decode_policy
from policystore.format.records import Version
from policystore.repository.deletion.marking import MarkNotes, append_mark
from policystore.repository.freshness import Freshness
from policystore.repository.lookup.state import NameState
from policystore.repository.objects import ObjectReader
from policystore.repository.resolver import Resolver

__all__ = ["bring_back", "deleted_last", "needed_objects", "restore_versions"]

_LOOKS = 2  # at objects and trash: an object may move from one to the other between two looks
_SHOWN = 3  # digests in a message


def deleted_last(state: NameState) -> list[tuple[int, int]]:
    """Return the versions, as ranges, that the last deletion took of a name of which none stands.

    Raises:
        InvalidInputError: a version stands; the message says how to restore others.
    """
    name, deleted = state.name, state.deleted
    if state.stands:
        last = f", such as '{name}@{deleted[-1].last}'" if deleted else "; none was deleted"
        raise InvalidInputError(
            f"restore({name!r}) needs a name of which no version stands, but {name}@{state.stands} "
            f"stands. Give the version to restore{last}"
        )
    newest = max(span.mark for span in deleted)
    return [
        (span.first, min(span.last, state.newest.number))
        for span in deleted
        if span.mark == newest and span.first <= state.newest.number
    ]


def restore_versions(
    resolver: Resolver,
    state: NameState,
    ranges: Sequence[tuple[int, int]],
    notes: MarkNotes,
    *,
    mark: int | None = None,
) -> list[Version]:
    """Bring versions of a name back, after all their objects were found or brought back.

    Args:
        resolver: reads the store.
        state: the state of the name.
        ranges: the versions, all of them deleted, as ascending ranges.
        notes: who restores them, and why.
        mark: the number of the mark that has to have deleted them; None for any.

    Raises:
        InvalidInputError: one of the versions stands, or another mark has deleted it.
        NotFoundError: an object of a version was collected and is not in the trash any more;
            nothing was written.
    """
    numbers = (n for first, last in reversed(ranges) for n in range(last, first - 1, -1))
    versions = list(resolver.read_versions(state.name, numbers))
    objects: dict[Digest, int] = {}
    for each in in_parallel(
        partial(needed_objects, resolver.objects), versions, workers=resolver.workers
    ):
        objects |= each
    what = versions[0].ref if len(versions) == 1 else f"{len(versions)} versions of {state.name}"
    _check_and_mark(resolver, state, ranges, objects, what, notes, mark)
    return versions


def _check_and_mark(
    resolver: Resolver,
    state: NameState,
    ranges: Sequence[tuple[int, int]],
    objects: Mapping[Digest, int],
    what: str,
    notes: MarkNotes,
    mark: int | None,
) -> None:
    """Bring the objects of versions back, then append the mark; if it comes late, check again."""

    def change(present: NameState) -> Sequence[tuple[int, int]]:
        for first, last in ranges:
            for number in range(first, last + 1):
                span = present.span(number)
                if span is None:
                    raise InvalidInputError(
                        f"{state.name}@{number} stands, so there is nothing to restore"
                    )
                if mark not in (None, span.mark):
                    raise InvalidInputError(f"{state.name}@{number} was deleted again")
        return ranges

    change(state)
    fresh = Freshness(partial(bring_back, resolver.objects, objects, what))
    fresh.check()
    append_mark(resolver.backend, state, "restore", change, notes, guard=fresh.call)


def bring_back(objects: ObjectReader, needed: Mapping[Digest, int], what: str) -> None:
    """Copy each object that is only in the trash back, after all objects were found.

    Args:
        objects: reads the objects of the store.
        needed: digest -> size in bytes of the objects.
        what: what needs the objects, for a message.

    Raises:
        NotFoundError: an object is neither in ``objects/`` nor in the trash; nothing was copied.
    """
    backend = objects.backend
    workers = max(8, backend.parallel)
    found = in_parallel(partial(_find, objects), needed.items(), workers=workers)
    copies = dict(zip(needed, found, strict=True))
    missing = [digest for digest, key in copies.items() if key is None]
    if missing:
        shown = ", ".join(str(digest) for digest in missing[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if missing[_SHOWN:] else ""
        raise NotFoundError(
            f"{what} in {backend.url} cannot be restored, because {len(missing)} of {len(needed)} "
            f"objects were collected and are not in the trash any more: {shown}{more}. Nothing was "
            "written. If you have the policy in another place, push the policy again"
        )
    trashed = [(digest, key) for digest, key in copies.items() if key and key != object_key(digest)]
    try:
        in_parallel(
            lambda item: backend.copy(item[1], object_key(item[0])), trashed, workers=workers
        )
    except NotFoundError as error:
        raise NotFoundError(
            f"{what} in {backend.url} was not restored, because a collector removed a copy from "
            f"the trash at this moment: {error}. Try again: another copy may be left"
        ) from None


def _find(objects: ObjectReader, item: tuple[Digest, int]) -> str | None:
    """Return the key that has the bytes of an object: its own, or a copy in the trash."""
    backend, (digest, size) = objects.backend, item
    for _ in range(_LOOKS):
        if backend.size(object_key(digest)) == size:
            return object_key(digest)
        for entry in backend.entries(trash_prefix(digest)):
            if entry.nbytes == size:
                return entry.key
    return None


def needed_objects(objects: ObjectReader, version: Version | Digest) -> Mapping[Digest, int]:
    """Return the sizes of all objects of a policy, by digest.

    Args:
        objects: reads the objects of the store.
        version: the version, or the digest of a policy. Without a list of objects in the record,
            the policy object is read, also from the trash.

    Raises:
        NotFoundError: the policy object is neither in ``objects/`` nor in the trash.
        IntegrityError, FormatError: the policy object is damaged.
    """
    if isinstance(version, Version) and version.objects is not None:
        return version.objects
    digest = version.digest if isinstance(version, Version) else version
    data = objects.read(digest)
    parsed = decode_policy(data, str(digest), inline=False)
    sizes = {item.digest: item.size for item in parsed.external.values()}
    return {digest: memoryview(data).nbytes, **sizes}
