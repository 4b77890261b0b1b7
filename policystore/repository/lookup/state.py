"""Read which versions of a name stand: the newest version, and the newest mark.

The newest mark lists all deleted versions. So two records tell everything about a name, however
many versions and marks the name has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from policystore._util.concurrency import run_both
from policystore.backends.base import Backend
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.records import Hint, Mark, Span, find_span, newest_standing
from policystore.repository.record_log import Probe, mark_log, version_log

__all__ = [
    "NameState",
    "deleted_error",
    "find_state",
    "newest_mark",
    "nothing_stands_error",
    "parse_mark",
    "read_mark",
    "read_state",
]


@dataclass(frozen=True)
class NameState:
    """Which versions of a name stand.

    Attributes:
        name: the name.
        newest: the newest version, deleted or not; number 0 if the name does not exist.
        mark: the newest mark; None if no version was ever deleted.
    """

    name: str
    newest: Probe
    mark: Mark | None

    @property
    def deleted(self) -> tuple[Span, ...]:
        """All deleted versions, in ascending order."""
        return () if self.mark is None else self.mark.deleted

    @property
    def stands(self) -> int:
        """The newest version that stands; 0 if none stands."""
        return newest_standing(self.deleted, self.newest.number)

    def span(self, number: int) -> Span | None:
        """Return the deleted range that holds a version; None if the version stands."""
        return find_span(self.deleted, number)

    def standing(self) -> list[tuple[int, int]]:
        """Return the versions that stand, as ranges of a first and a last number, ascending."""
        ranges, first = [], 1
        for span in self.deleted:
            if first < span.first:
                ranges.append((first, min(span.first - 1, self.newest.number)))
            first = span.last + 1
        ranges.append((first, self.newest.number))
        return [(start, end) for start, end in ranges if start <= end]

    def numbers(self) -> Iterator[int]:
        """Yield the versions that stand, newest first."""
        for first, last in reversed(self.standing()):
            yield from range(last, first - 1, -1)


def read_state(backend: Backend, name: str) -> NameState:
    """Read which versions of a name stand; arguments and errors as in :func:`find_state`."""
    return find_state(backend, name, *version_log(backend, name).first_look())


def find_state(
    backend: Backend, name: str, hint: Hint | None, first: Probe | None = None
) -> NameState:
    """Find the newest version and the newest mark of a name.

    The state is one that the name had at one moment during the call, also while other processes
    push and delete.

    Args:
        backend: the storage of the store.
        name: the name.
        hint: the hint of the name. A wrong hint costs requests and changes nothing else.
        first: the first version, as ``first_look`` returned it.

    Raises:
        FormatError, IntegrityError: the newest mark is damaged or missing.
        StorageError: the storage failed.
    """
    versions = version_log(backend, name)
    known = 0 if hint is None else hint.marks
    mark, newest = run_both(
        partial(newest_mark, backend, name, known),
        partial(versions.newest, hint, first),
        at_once=backend.parallel > 1,
    )
    state = NameState(name, newest, mark)
    if mark is not None and mark.number > known and newest.number not in (0, state.stands):
        # The mark that deleted this version may have been made after the look at the versions, and
        # after the push of a later version, which stands.
        state = NameState(name, versions.newest(newest), mark)
    return state


def newest_mark(backend: Backend, name: str, known: int) -> Mark | None:
    """Read the newest mark of a name; None if the name has no mark.

    Args:
        backend: the storage of the store.
        name: the name.
        known: the number of a mark that should exist, where the search begins; 0 for none.

    Raises:
        FormatError, IntegrityError: the mark is damaged or missing.
    """
    newest = mark_log(backend, name).newest(Probe(known, None))
    return read_mark(backend, name, newest.number, newest.data) if newest.number else None


def read_mark(backend: Backend, name: str, number: int, data: bytes | None = None) -> Mark:
    """Read a mark that exists.

    Args:
        backend: the storage of the store.
        name: the name to which the mark belongs.
        number: the number of the mark.
        data: the bytes of the mark, if they were read already.

    Raises:
        FormatError: the mark is damaged, or is a mark of another name or number.
        IntegrityError: the mark is missing.
    """
    if data is None:
        try:
            data = mark_log(backend, name).read(number)
        except NotFoundError:
            raise IntegrityError(
                f"mark {number} of {name!r} in {backend.url} is missing, though it has deleted "
                "versions: the record was lost. Restore the record from a backup."
            ) from None
    return parse_mark(backend, name, number, data)


def parse_mark(backend: Backend, name: str, number: int, data: bytes) -> Mark:
    """Parse the bytes of a mark.

    Raises:
        FormatError: the mark is damaged, or is a mark of another name or number.
    """
    location = backend.location(mark_log(backend, name).key(number))
    mark = Mark.from_bytes(data, location)
    if (mark.name, mark.number) != (name, number):
        raise FormatError(
            f"{location}: the record is mark {mark.number} of {mark.name!r}: it was moved or "
            "copied to this key"
        )
    return mark


def deleted_error(
    backend: Backend, name: str, number: int, span: Span, mark: Mark
) -> NotFoundError:
    """Build the error for a version that was deleted; the message says who deleted it, and why.

    Args:
        backend: the storage of the store.
        name: the name.
        number: the number of the version.
        span: the deleted range that holds the version.
        mark: the newest mark, which may or may not be the one that deleted the version.
    """
    by = mark if mark.number == span.mark else read_mark(backend, name, span.mark)
    return NotFoundError(
        f"version {number} of {name!r} in {backend.url} was {by}. "
        f"store.restore('{name}@{number}') brings the version back, unless a collection has "
        "deleted its bytes"
    )


def nothing_stands_error(backend: Backend, state: NameState) -> NotFoundError:
    """Build the error for a name of which no version stands; the message says who deleted it."""
    number = max(span.mark for span in state.deleted)
    assert state.mark is not None  # noqa: S101 (without marks, each version stands)
    by = state.mark if state.mark.number == number else read_mark(backend, state.name, number)
    return NotFoundError(
        f"no version of {state.name!r} in {backend.url} stands: the last versions were {by}. "
        f"store.restore({state.name!r}) brings these versions back, unless a collection has "
        "deleted their bytes. A push makes the next version"
    )
