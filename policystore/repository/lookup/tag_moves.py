"""Read the moves of tags: where a tag points to, and where it pointed before."""

from __future__ import annotations

from itertools import islice

from policystore._util.concurrency import in_parallel
from policystore._util.near import close_names, did_you_mean
from policystore.backends.base import Backend
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.keys import tag_of_prefix, tags_prefix
from policystore.format.records import TagHint, TagMove
from policystore.repository.record_log import tag_log

__all__ = ["last_move", "list_tags", "parse_move", "tag_history", "tags_advice"]

_PAGE = 256  # records that are read before the next ones are begun
_LISTED = 1000  # tags that a search for a mistyped tag looks at; a page of a listing on S3
_SHOWN = 10  # tags in a message


def parse_move(backend: Backend, name: str, tag: str, number: int, data: bytes) -> TagMove:
    """Parse the bytes of a move.

    Raises:
        FormatError: the record is damaged, or is of another name, tag or number.
    """
    location = backend.location(tag_log(backend, name, tag).key(number))
    move = TagMove.from_bytes(data, location)
    if (move.name, move.tag, move.number) != (name, tag, number):
        raise FormatError(
            f"{location}: the record belongs to another key: it was moved or copied to this key"
        )
    return move


def last_move(backend: Backend, name: str, tag: str, hint: TagHint | None) -> TagMove | None:
    """Read the last move of a tag; None if the tag never existed.

    Args:
        backend: the storage of the store.
        name: the name to which the tag belongs.
        tag: the tag.
        hint: the hint of the tag. A wrong hint costs requests and changes nothing else.
    """
    moves = tag_log(backend, name, tag)
    newest = moves.newest(hint)
    if not newest.number:
        return None
    data = moves.read(newest.number) if newest.data is None else newest.data
    return parse_move(backend, name, tag, newest.number, data)


def list_tags(backend: Backend, name: str, *, workers: int) -> dict[str, TagMove]:
    """Return the last move of each tag of a name that was not removed, by tag, in order."""

    def read(tag: str) -> TagMove | None:
        return last_move(backend, name, tag, tag_log(backend, name, tag).read_hint())

    prefix = tags_prefix(name)
    tags = sorted(filter(None, (tag_of_prefix(k, name) for k in backend.prefixes(prefix, "/"))))
    moves = in_parallel(read, tags, workers=workers)
    return {
        tag: move
        for tag, move in zip(tags, moves, strict=True)
        if move is not None and move.target is not None
    }


def tag_history(backend: Backend, name: str, tag: str, *, workers: int) -> list[TagMove]:
    """Read all moves of a tag, newest first; an empty list if the tag never existed.

    Raises:
        IntegrityError: a move is missing, though later ones exist.
        FormatError: a record is damaged, or is of another tag.
    """
    moves = tag_log(backend, name, tag)

    def read(number: int) -> TagMove:
        try:
            return parse_move(backend, name, tag, number, moves.read(number))
        except NotFoundError:
            raise IntegrityError(
                f"move {number} of the tag {tag!r} of {name!r} in {backend.url} is missing, though "
                "later moves exist: the record was lost. Restore the record from a backup."
            ) from None

    newest = moves.newest(moves.read_hint()).number
    history: list[TagMove] = []
    for start in range(newest, 0, -_PAGE):
        history += in_parallel(read, range(start, max(0, start - _PAGE), -1), workers=workers)
    return history


def tags_advice(backend: Backend, name: str, tag: str) -> str:
    """Return a sentence that names tags close to one that does not exist.

    The number of requests does not grow with the number of tags.
    """
    keys = islice(backend.prefixes(tags_prefix(name), "/"), _LISTED)
    known = sorted({found for key in keys if (found := tag_of_prefix(key, name)) is not None})
    close = close_names(tag, known)
    if close := [each for each in close if _is_set(backend, name, each)]:
        return did_you_mean(close)
    shown = [each for each in known[:_SHOWN] if _is_set(backend, name, each)]
    more = ", and more" if len(known) > _SHOWN else ""
    return f" Its tags are: {', '.join(shown)}{more}" if shown else " It has no tags."


def _is_set(backend: Backend, name: str, tag: str) -> bool:
    move = last_move(backend, name, tag, tag_log(backend, name, tag).read_hint())
    return move is not None and move.target is not None
