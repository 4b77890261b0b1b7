"""Remember what was pulled last, so that a pull of the same ref again needs one round of requests.

What is remembered takes the place of the hint, and proves nothing: it only says which requests to
make. Each pull reads the newest record again, and asks for the next version or move and for the
next mark. Their absence shows that the ref still means the same.

In a damaged store the next record may be lost, although later records exist. So once in ten pulls
of a ref, the hints are read at the same time. If a hint names a later record than the next one, the
next record is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.digest import Digest
from policystore.format.records import Mark, TagMove, Version, find_span
from policystore.format.refs import Ref
from policystore.repository.lookup.lost_records import is_next_lost
from policystore.repository.lookup.state import read_mark
from policystore.repository.lookup.tag_moves import parse_move
from policystore.repository.lookup.versions import read_version
from policystore.repository.record_log import mark_log, tag_log, version_log

__all__ = ["LastPulls", "Pulled"]

_MOST = 500  # refs; each takes one or two records of 64 KiB at most
_ROUND = 10  # pulls of a ref; the last one of each round reads the hints


@dataclass(frozen=True)
class Pulled:
    """What a ref meant at the last pull.

    Attributes:
        version: the record of the version that was pulled.
        move: the move that made the tag point to the version; None if the ref has no tag, and the
            version is the newest one of the name.
        marks: the number of the newest mark of the name; 0 for none.
    """

    version: Version
    move: TagMove | None
    marks: int

    @property
    def digest(self) -> Digest:
        """The digest of the policy."""
        return self.version.digest

    def confirm(self, backend: Backend, ref: Ref, *, closely: bool = False) -> Version | None:
        """Return the version if the ref still means this version; all requests are made at once.

        Args:
            backend: the storage of the store.
            ref: the name, with or without the tag.
            closely: whether to read the hints, too.

        Returns:
            The version; None if later records exist, or if the store has other records now.

        Raises:
            FormatError: a record is damaged.
            StorageError: the storage failed.
        """
        newest = self._newest_version if self.move is None else self._last_target
        number = (self.version.number if self.move is None else self.move.number) or 0
        looks: list[Callable[[], Any]] = [
            partial(newest, backend, ref),
            partial(self._newest_mark, backend, ref),
        ]
        if closely:
            looks.append(partial(is_next_lost, backend, ref, number, self.marks))
        version, mark, *is_lost = in_parallel(lambda look: look(), looks, workers=len(looks))
        if version is None or mark is _UNKNOWN or any(is_lost):
            return None
        is_deleted = isinstance(mark, Mark) and find_span(mark.deleted, version.number or 0)
        return None if is_deleted else version

    def _newest_version(self, backend: Backend, ref: Ref) -> Version | None:
        number = self.version.number or 0
        found = version_log(backend, ref.name).confirm(number)
        return None if found is None else read_version(backend, ref.name, number, found.data)

    def _last_target(self, backend: Backend, ref: Ref) -> Version | None:
        """Return the version of the tag, if the tag was not moved.

        The record of the version is not read again: it never changes. The record of the move has a
        nonce, so the same record means that the store is the same, too.
        """
        if self.move is None or ref.tag is None:
            return None
        found = tag_log(backend, ref.name, ref.tag).confirm(self.move.number)
        if found is None or found.data is None:
            return None
        move = parse_move(backend, ref.name, ref.tag, found.number, found.data)
        return self.version if move == self.move else None

    def _newest_mark(self, backend: Backend, ref: Ref) -> Mark | object | None:
        found = mark_log(backend, ref.name).confirm(self.marks)
        if found is None:
            return _UNKNOWN
        return read_mark(backend, ref.name, found.number, found.data) if found.number else None


_UNKNOWN = object()  # in place of a mark: a later mark may be the newest


class LastPulls:
    """Remember what the refs meant that were pulled last.

    If a ref means something else than remembered, the next pull of this ref begins with the hint.
    So a name or a tag that changes before each pull wastes one round once, and not each time.
    Several threads may use one object at once; each step is a single operation on a dict.
    """

    def __init__(self) -> None:
        self._pulls: dict[Ref, tuple[Pulled, bool]] = {}
        self._counts: dict[Ref, int] = {}

    def is_turn(self, ref: Ref) -> bool:
        """Count a pull of a ref; return whether this pull should read the hints, too."""
        count = self._counts[ref] = self._counts.get(ref, 0) + 1
        return count % _ROUND == 0

    def get(self, ref: Ref) -> Pulled | None:
        """Return what a ref probably still means; None if that is unknown."""
        pulled, moves = self._pulls.get(ref, (None, False))
        return None if moves else pulled

    def note(self, ref: Ref, pulled: Pulled) -> None:
        """Remember what a ref meant now."""
        before, _ = self._pulls.get(ref, (None, False))
        self._set(ref, pulled, before not in (None, pulled))

    def expect(self, version: Version, marks: int) -> Version:
        """Remember that a name means the version that was just pushed, and return the version."""
        ref = Ref(version.name or "")
        _, moves = self._pulls.get(ref, (None, False))
        self._set(ref, Pulled(version, None, marks), moves)
        return version

    def forget(self, ref: Ref) -> None:
        """Forget what a ref meant, because this process is about to change the meaning."""
        self._pulls.pop(ref, None)
        self._counts.pop(ref, None)

    def _set(self, ref: Ref, pulled: Pulled, moves: bool) -> None:
        if len(self._pulls) >= _MOST:
            self._pulls.clear()
            self._counts.clear()
        self._pulls[ref] = (pulled, moves)
