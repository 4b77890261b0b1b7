"""Restore versions that a tag points to, though they were deleted without ``force``.

A deletion without ``force`` refuses a tagged version. If a tag is moved to the version between the
first look at the tags and the mark, the second look sees the tag, and the version is restored. A
process that is killed before the second look leaves the tag on a deleted version. The next deletion
without ``force``, the next prune and the next collection restore the version.
"""

from __future__ import annotations

from collections.abc import Mapping

from policystore._util.log import logger
from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.records import TagMove
from policystore.repository.deletion.marking import MarkNotes
from policystore.repository.deletion.restore import restore_versions
from policystore.repository.lookup.state import NameState, read_mark
from policystore.repository.resolver import Resolver

__all__ = ["heal_name", "restore_dangling"]

_WHY = "a tag was moved to it during its deletion, and the deletion was cut off"


def heal_name(resolver: Resolver, name: str) -> list[int]:
    """Restore the versions of a name that tags point to, if they were deleted without ``force``.

    Returns:
        The numbers of these versions, ascending.

    Raises:
        NotFoundError: no such name.
        ReadOnlyError, StorageError: the storage failed, or this user may not write.
    """
    state = resolver.state(name, standing=False)
    return restore_dangling(resolver, state, resolver.last_moves(name), MarkNotes())


def restore_dangling(
    resolver: Resolver, state: NameState, moves: Mapping[str, TagMove], notes: MarkNotes
) -> list[int]:
    """Restore the versions that tags point to, if they were deleted without ``force``.

    A version whose bytes were collected stays deleted; a warning in the log says so.

    Args:
        resolver: reads the store.
        state: the state of the name.
        moves: the last moves of the tags of the name, read after the state.
        notes: who makes the call.

    Returns:
        The numbers of these versions, ascending. If the list is not empty, the state has changed.

    Raises:
        ReadOnlyError, StorageError: the storage failed, or this user may not write.
    """
    restored = []
    for number in sorted({move.target or 0 for move in moves.values()}):
        span = state.span(number)
        if span is None or read_mark(resolver.backend, state.name, span.mark).force:
            continue
        why = MarkNotes(_WHY, notes.author)
        try:
            current = resolver.state(state.name, standing=False)
            restore_versions(resolver, current, [(number, number)], why, mark=span.mark)
        except InvalidInputError:
            pass  # another process has restored the version, or has deleted it once more
        except NotFoundError as error:
            logger.warning("a tag points to %s@%d, which is deleted: %s", state.name, number, error)
            continue
        restored.append(number)
    return restored
