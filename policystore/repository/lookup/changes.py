"""Notice, with one or two small requests, that a ref may mean another version than before.

The lists of versions, marks and moves only grow by the next number. So a ref can mean another
version only if a number exists that did not exist before. A look asks for that number, and does not
read what it knows already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Backend
from policystore.errors import NotFoundError
from policystore.format.records import Hint, TagHint
from policystore.format.refs import Ref
from policystore.repository.lookup.lost_records import is_next_lost
from policystore.repository.record_log import Probe, RecordLog, mark_log, tag_log, version_log

__all__ = ["ChangeDetector", "Seen"]

_ROUND = 10  # looks; once in each round, a look asks for the records that change most rarely
_AT_MARKS = 0  # the look of a round that asks for the marks, if the ref is a tag
_AT_SAME = 5  # the look of a round that reads the newest known record again
_AT_HINTS = 98  # the look that reads the hints, of each hundred looks


@dataclass(frozen=True)
class Seen:
    """The newest records of a ref at one moment.

    Attributes:
        newest: the newest version of the name, or the newest move of the tag, with its bytes;
            number 0 if there is none.
        mark: the number of the newest mark; 0 if there is none.
    """

    newest: Probe
    mark: int


class ChangeDetector:
    """Ask whether a ref may mean another version than at the last time.

    Most looks at a tag are one request: does the next move exist? Once in ten looks there is a
    second request: for a mark, because the version of the tag may have been deleted or restored. A
    look at a name without a tag is two requests: for the next version, and for the next mark. Once
    in ten looks, one of the requests reads the newest known record again, so that a store that was
    deleted and made anew is noticed. Once in a hundred looks, the hints are read. They show whether
    the store has lost the next record, and has later ones.

    Args:
        backend: the storage of the store.
        ref: a name, with or without a tag.
    """

    def __init__(self, backend: Backend, ref: Ref) -> None:
        self._backend, self._ref = backend, ref
        self._is_tag = ref.tag is not None
        self._log: RecordLog[Hint] | RecordLog[TagHint] = (
            version_log(backend, ref.name)
            if ref.tag is None
            else tag_log(backend, ref.name, ref.tag)
        )
        self._marks = mark_log(backend, ref.name)
        self._versions = version_log(backend, ref.name)
        self._looks = 0
        self.seen: Seen | None = None

    def read(self) -> Seen:
        """Read the newest records of the ref.

        What is read before the version of the ref is looked up belongs to that version, or to an
        earlier one. So no later change is missed. The caller sets :attr:`seen` to the result when
        the version was found.

        Raises:
            PolicyStoreError: the storage failed.
        """
        if self.seen is None:
            hint = self._versions.read_hint()
            known = 0 if hint is None else hint.marks
            newest = self._log.newest(self._log.read_hint() if self._is_tag else hint)
        else:
            known = self.seen.mark
            newest = self._log.newest(self._start(self.seen.newest))
        if newest.number and newest.data is None:
            newest = Probe(newest.number, self._log.read(newest.number))
        return Seen(newest, self._marks.newest(Probe(known, None)).number)

    def _start(self, seen: Probe) -> Hint | TagHint | Probe:
        """Return the record at which the search for the newest record begins.

        A change was made a moment ago, so the hint names it or a later one. A search from the
        record that was seen would make 16 probes, and thousands of watches see the same change.
        """
        hint = self._log.read_hint()
        return hint if hint is not None and hint.number > seen.number else seen

    def look(self, *, closely: bool) -> bool:
        """Return whether the ref may mean another version than when :attr:`seen` was read.

        Args:
            closely: whether to ask for marks in each look, also for a tag: the ref means nothing,
                and a mark may bring its version back.

        Raises:
            PolicyStoreError: the storage failed.
        """
        seen = self.seen
        if seen is None:
            return True
        self._looks += 1
        turn = self._looks % _ROUND
        requests: list[Callable[[], bool]] = [partial(self._log.has, seen.newest.number + 1)]
        if turn == _AT_SAME and seen.newest.number:
            requests.append(partial(self._was_replaced, seen.newest))
        elif self._looks % _ROUND**2 == _AT_HINTS:
            known = self._backend, self._ref, seen.newest.number, seen.mark
            requests.append(partial(is_next_lost, *known))
        elif closely or not self._is_tag or turn == _AT_MARKS:
            requests.append(partial(self._marks.has, seen.mark + 1))
        found = in_parallel(
            lambda request: request(), requests, workers=min(2, self._backend.parallel)
        )
        return any(found)

    def _was_replaced(self, known: Probe) -> bool:
        try:
            return self._log.read(known.number) != known.data
        except NotFoundError:
            return True
