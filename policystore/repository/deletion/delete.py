"""Delete versions of a name: one mark for each call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from policystore.errors import InvalidInputError, ProtectedError
from policystore.format.records import Mark, TagMove
from policystore.repository.deletion.healing import restore_dangling
from policystore.repository.deletion.marking import (
    MarkNotes,
    append_mark,
    as_ranges,
    deleted_by,
)
from policystore.repository.lookup.state import NameState, deleted_error, nothing_stands_error
from policystore.repository.lookup.versions import check_state
from policystore.repository.resolver import Resolver

__all__ = ["delete_name", "delete_version", "protected_moves", "refuse_protected", "restore_tagged"]

_SHOWN = 5  # tags in a message


def delete_version(
    resolver: Resolver, state: NameState, number: int, notes: MarkNotes, *, force: bool
) -> None:
    """Delete one version of a name.

    Args:
        resolver: reads the store.
        state: the state of the name, in which the version stands.
        number: the number of the version.
        notes: who deletes the version, and why.
        force: whether to delete the version though a tag points to it.

    Raises:
        NotFoundError: another writer has deleted the version in the meantime.
        InvalidInputError: a tag points to the version; it stands as before.
        ProtectedError: a tag that is protected against this author points to the version, and
            ``force`` is True; the version stands as before.
    """
    name = state.name
    moves = resolver.last_moves(name)
    if force:
        refuse_protected(name, moves, [number], notes.author)
    else:
        if restore_dangling(resolver, state, moves, notes):
            state = resolver.state(name)
        _refuse_tagged(name, {tag: each for tag, each in moves.items() if each.target == number})

    def change(present: NameState) -> Sequence[tuple[int, int]]:
        span = present.span(number)
        if present.mark is not None and span is not None:
            raise deleted_error(resolver.backend, name, number, span, present.mark)
        return [(number, number)]

    mark = append_mark(resolver.backend, state, "delete", change, notes, force=force)
    if not force:
        _refuse_tagged(name, restore_tagged(resolver, state, mark, notes))


def delete_name(resolver: Resolver, name: str, notes: MarkNotes, *, force: bool) -> int:
    """Delete all versions of a name with one mark, and return how many versions it has deleted.

    Raises:
        NotFoundError: no such name, or no version of it stands.
        InvalidInputError: a tag points to a version that stands; all stand as before.
        ProtectedError: a tag that is protected against this author points to a version that stands,
            and ``force`` is True; all stand as before.
    """
    state = resolver.state(name, standing=False)
    moves = resolver.last_moves(name) if state.stands else {}
    if force:
        targets = (each.target or 0 for each in moves.values())
        standing_targets = [number for number in targets if state.span(number) is None]
        refuse_protected(name, moves, standing_targets, notes.author)
    else:
        if restore_dangling(resolver, state, moves, notes):
            state = resolver.state(name)
        standing = {
            tag: each for tag, each in moves.items() if state.span(each.target or 0) is None
        }
        _refuse_tagged(name, standing)
    check_state(resolver.backend, state)

    def change(present: NameState) -> Sequence[tuple[int, int]]:
        if not present.stands:
            raise nothing_stands_error(resolver.backend, present)
        return present.standing()

    mark = append_mark(resolver.backend, state, "delete", change, notes, force=force)
    if not force:
        _refuse_tagged(name, restore_tagged(resolver, state, mark, notes, with_all=True))
    return sum(last - first + 1 for first, last in mark.changed)


def restore_tagged(
    resolver: Resolver, state: NameState, mark: Mark, notes: MarkNotes, *, with_all: bool = False
) -> dict[str, TagMove]:
    """Restore each version that a mark has deleted and to which a tag was moved meanwhile.

    The deletion reads the tags before its mark and again after its mark. A move of a tag reads the
    marks after its record. So if a deletion and a move of a tag come at the same time, at least one
    of the two calls sees the other call. If the deletion is killed between its mark and this call,
    :func:`~policystore.repository.deletion.healing.restore_dangling` restores the version later.

    Args:
        resolver: reads the store.
        state: the state of the name before the mark.
        mark: the mark.
        notes: who has made the mark.
        with_all: whether to restore all that the mark has deleted if one of these got a tag.

    Returns:
        The last moves of these tags, by tag.
    """
    ours = NameState(state.name, state.newest, mark)
    moves = {
        tag: move
        for tag, move in resolver.last_moves(state.name).items()
        if deleted_by(ours, [move.target or 0], mark.number)
    }
    numbers = {move.target or 0 for move in moves.values()}

    def change(present: NameState) -> Sequence[tuple[int, int]]:
        if with_all:
            spans = (span for span in present.deleted if span.mark == mark.number)
            return [(span.first, span.last) for span in spans]
        return as_ranges(deleted_by(present, numbers, mark.number))

    if numbers:
        why = MarkNotes("a tag was moved to it during its deletion", notes.author)
        append_mark(resolver.backend, ours, "restore", change, why)
    return moves


def protected_moves(moves: Mapping[str, TagMove], author: str) -> dict[str, TagMove]:
    """Return the last moves of the tags that are protected against an author."""
    return {
        tag: move
        for tag, move in moves.items()
        if move.protected is not None and author not in move.protected.by
    }


def refuse_protected(
    name: str, moves: Mapping[str, TagMove], numbers: Collection[int], author: str
) -> None:
    """Check that a deletion with ``force`` takes no version from a protected tag.

    ``force`` allows the deletion of versions with tags. A protection is a stronger wish than a tag,
    so the protection has to end first.

    Args:
        name: the name.
        moves: the last moves of its tags.
        numbers: the versions that would be deleted.
        author: who would delete them.

    Raises:
        ProtectedError: a tag that is protected against the author points to one of the versions.
    """
    for tag, move in protected_moves(moves, author).items():
        if move.target in numbers:
            raise ProtectedError(
                f"{author!r} may not delete version {move.target} of {name!r}, because the tag "
                f"{tag!r} points to it: {move.protected}. Nothing was deleted. First move the tag, "
                f"or end its protection: store.unprotect({name!r}, {tag!r})"
            )


def _refuse_tagged(name: str, moves: Mapping[str, TagMove]) -> None:
    """Raise InvalidInputError if there are tags on what should be deleted."""
    if not moves:
        return
    tags = [f"{tag!r} (version {move.target})" for tag, move in moves.items()]
    shown = ", ".join(tags[:_SHOWN]) + (f" and {len(tags) - _SHOWN} more" if tags[_SHOWN:] else "")
    tag = next(iter(moves))
    raise InvalidInputError(
        f"these tags of {name!r} point to versions that would be deleted: {shown}. Nothing was "
        f"deleted. Move each tag first, such as by store.tag('{name}@N', {tag!r}) with another "
        f"version N, or remove the tag by store.untag({name!r}, {tag!r}), or give force=True"
    )
