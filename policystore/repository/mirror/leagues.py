"""Copy the records of leagues.

A league is copied in an order in which each state of the target is one that a league can have. The
deletions come first, so that the target does not show what the source has deleted. Then come the
lists of matches, each in its order, then the body of the newest summary, and at last the summaries,
which count what is in the lists. The summaries are listed before the lists, so each match that a
copied summary counts is in a list that is listed afterwards.

Lists of single writers have different ids in the two stores, so a league may have matches of its
own in the target. Then its summaries are made anew in the target; summaries only save reading. A
list that the processes of a tournament share has the same id in both stores. If this list differs,
the target gets the matches of which its list has no episode.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore.backends.base import Entry
from policystore.digest import digest_of
from policystore.errors import FormatError, IntegrityError, NotFoundError
from policystore.format.keys import LEAGUES, MARKER, league_of_prefix, league_prefix
from policystore.format.league_keys import (
    LeagueKey,
    body_key,
    parse_league_key,
)
from policystore.format.records import marker_bytes
from policystore.format.records.match_batch import (
    MAX_BATCH,
    ListRecord,
    MatchBatch,
    parse_list_record,
)
from policystore.format.records.match_summary import MAX_BODY, Summary
from policystore.repository.matches.shared_list import SharedList, is_shared, list_after
from policystore.repository.mirror.report import CopyReport
from policystore.repository.mirror.sides import Sides

__all__ = ["copy_leagues"]

_ALL_ELSE = (
    ". Its summaries were not copied, and all matches were: the target has the same numbers."
)


@dataclass
class _Listed:
    """The keys of one league in one of the two stores, by list; each list in its order.

    Attributes:
        epoch: the present epoch.
        lists: epoch -> the start of the keys of a list of matches -> its keys.
        deletions: the records that delete epochs.
        summaries: epoch -> the records of its summaries.
        sizes: the number of bytes of each key.
    """

    epoch: int = 1
    lists: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    deletions: list[str] = field(default_factory=list)
    summaries: dict[int, list[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def add(self, key: LeagueKey, entry: Entry) -> None:
        """Add one key of a listing."""
        self.sizes[entry.key] = entry.nbytes
        if key.kind == "deleted":
            self.deletions.append(entry.key)
            self.epoch = max(self.epoch, key.number + 1)
        elif key.kind == "summary":
            self.summaries.setdefault(key.epoch, []).append(entry.key)
        elif key.kind == "matches":
            lists = self.lists.setdefault(key.epoch, {})
            lists.setdefault(entry.key.rpartition("/")[0], []).append(entry.key)

    def present(self) -> dict[str, list[str]]:
        """Return writer -> its list of matches in the present epoch, each in its order."""
        lists = self.lists.get(self.epoch, {})
        return {start.rpartition("/")[2]: sorted(keys) for start, keys in lists.items()}


def _chains(lists: Mapping[str, list[str]]) -> list[list[list[str]]]:
    """Return chains of shared lists: in a chain, each list follows the ended one before it."""
    shared = {writer: keys for writer, keys in lists.items() if is_shared(writer)}
    later = {list_after(writer) for writer in shared}
    chains = []
    for writer in sorted(shared.keys() - later):
        chain = []
        while writer in shared:
            chain.append(shared[writer])
            writer = list_after(writer)
        chains.append(chain)
    return chains


def copy_leagues(sides: Sides, report: CopyReport) -> None:
    """Copy the records of leagues byte by byte, each list in its order.

    Raises:
        IntegrityError: a summary in the source has lost its body; all else was copied.
        FormatError: a summary in the source is damaged; all else was copied.
    """
    prefixes = list(sides.source.prefixes(LEAGUES, "/@"))
    names = {name for prefix in prefixes if (name := league_of_prefix(prefix)) is not None}
    early = in_parallel(partial(_summaries, sides), sorted(names), workers=sides.workers)
    leagues: dict[str, _Listed] = {}
    for entry in sides.source.entries(LEAGUES):
        key = parse_league_key(entry.key)
        if key is None:
            report.unknown.append(f"{entry.key.rpartition('/')[0]}/")
        elif key.league in names:
            leagues.setdefault(key.league, _Listed()).add(key, entry)
    damaged: list[IntegrityError | FormatError] = []
    for league, summaries in zip(sorted(names), early, strict=True):
        if league not in leagues:
            continue  # only keys of an unknown form
        copier = _LeagueCopier(sides, report, league, leagues[league])
        if copier.copy_matches():
            copier.copy_summaries(summaries)
        damaged += copier.damaged
    if damaged:
        raise damaged[0]


def _summaries(sides: Sides, league: str) -> frozenset[str]:
    """Return the keys of all summaries of a league in the source."""
    return frozenset(sides.source.keys(f"{league_prefix(league)}/@summaries/"))


class _LeagueCopier:
    """Copy one league; arguments as in :func:`copy_leagues`.

    Args:
        league: the league.
        source: what the source has of it.

    Attributes:
        damaged: what is damaged in the source.
    """

    def __init__(self, sides: Sides, report: CopyReport, league: str, source: _Listed) -> None:
        self._sides = sides
        self._report = report
        self._league = league
        self._source = source
        self._lock = threading.Lock()  # guards what several threads count
        self.damaged: list[IntegrityError | FormatError] = []
        self._target = _Listed()
        for entry in sides.target.entries(f"{league_prefix(league)}/@"):
            key = parse_league_key(entry.key)
            if key is not None and key.league == league:
                self._target.add(key, entry)

    def copy_matches(self) -> bool:
        """Copy deletions and lists of matches; return False if no summary may be copied."""
        if not self._copy_list(sorted(self._source.deletions)):
            return False
        if self._target.epoch > self._source.epoch:
            self._report.conflicts.append(
                f"{self._league}: the target has deleted this league, and the source has not"
            )
            return False
        lists = self._source.present()
        own = [keys for writer, keys in lists.items() if not is_shared(writer)]
        in_parallel(self._copy_list, own, workers=self._sides.workers)
        apart = [self._copy_chain(chain) for chain in _chains(lists)]
        return not any(apart)  # the summaries would count records that the target does not have

    def _copy_list(self, keys: Sequence[str]) -> bool:
        """Copy a list, one record after the other, so that its numbers stay without gaps.

        Returns:
            False if the list goes on differently in the target, or is damaged in the source.
        """
        sizes, known = self._source.sizes, self._target.sizes
        there = [key for key in keys if key in known][-1:]
        new = [key for key in keys if key not in known]
        for key in there:
            # The records of a list are a chain: if the last ones are equal, all are.
            is_same = sizes[key] == known[key]
            if not is_same or (new and not self._sides.equal(key, limit=MAX_BATCH)):
                # Readers of both stores may have ended a list that has rested.
                return self._both_end(key) or self._differs(key)
        copied = 0
        try:
            for key in new:
                with self._sides.objects.budget.hold(min(sizes[key], MAX_BATCH)):
                    data = bytes(self._sides.source.get(key, limit=MAX_BATCH))
                    if not self._create(key, data):
                        return self._differs(key)
                copied += 1
        except FormatError as error:  # longer than such a record may be
            self.damaged.append(error)
            return False
        finally:
            with self._lock:
                self._report.leagues += copied
        return True

    def _copy_chain(self, chain: Sequence[Sequence[str]]) -> bool:
        """Copy a chain of shared lists; return whether a list differs in the target."""
        for keys in chain:
            there = [key for key in keys if key in self._target.sizes][-1:]
            differs = there and not self._sides.equal(there[0], limit=MAX_BATCH)
            if differs and not self._both_end(there[0]):
                self._join(chain, there[0])
                return True
            if not self._copy_list(keys):
                return True
        return False

    def _join(self, chain: Sequence[Sequence[str]], where: str) -> None:
        """Append the matches that the target lacks, if shared lists differ in the target.

        Args:
            chain: the lists.
            where: the newest record of a list that both stores have; the record differs.
        """
        first = chain[0][0].split("/")[-2]
        target = SharedList(self._sides.target, self._league, first, lambda: None)
        if not self._sides.dry_run:
            self._sides.target.verify_exclusive_create(MARKER, marker_bytes())
        partly = 0
        try:
            target.refresh()
            for key in itertools.chain.from_iterable(chain):
                if (record := self._read_source(key)) is None:
                    break
                matches = record.matches if isinstance(record, MatchBatch) else ()
                lacking = target.lacking([match for match in matches if match.seeds])
                if lacking:
                    self._report.leagues += 1
                if not self._sides.dry_run:
                    target.record(lacking, record.author)
                    partly += sum(not (each.seeds and target.has(each)) for each in matches)
        except (FormatError, IntegrityError, NotFoundError):
            self._differs(where)
        if partly:
            self._report.conflicts.append(
                f"{where}: matches that were not copied, because the target has some of their "
                f"episodes and lacks others: {partly:,}"
            )

    def _read_source(self, key: str) -> ListRecord | None:
        """Read a record of the source; None if it is damaged, which :attr:`damaged` gets."""
        where = self._sides.source.location(key)
        try:
            return parse_list_record(self._sides.source.get(key, limit=MAX_BATCH), where)
        except FormatError as error:
            self.damaged.append(error)
        except NotFoundError:
            self.damaged.append(IntegrityError(f"{where} was deleted while it was copied"))
        return None

    def _both_end(self, key: str) -> bool:
        """Return whether a list ends on both sides under this key, behind the same record."""
        try:
            ends = [
                parse_list_record(backend.get(key, limit=MAX_BATCH), key)
                for backend in (self._sides.source, self._sides.target)
            ]
        except (FormatError, NotFoundError):
            return False
        if any(isinstance(each, MatchBatch) for each in ends):
            return False
        return ends[0].previous == ends[1].previous

    def _differs(self, key: str) -> bool:
        """Report that the target has another record; return False."""
        self._report.conflicts.append(f"{key}: the target has another record under this key")
        return False

    def _create(self, key: str, data: bytes) -> bool:
        """Create a record in the target; return False if the target has another one there."""
        return self._sides.create(key, data) or self._sides.equal(key, limit=MAX_BODY)

    def copy_summaries(self, early: frozenset[str]) -> None:
        """Copy the summaries that were listed before the lists, and the bodies of the newest one.

        Args:
            early: the keys of the summaries that were listed before the lists.
        """
        epoch = self._source.epoch
        keys = [key for key in sorted(self._source.summaries.get(epoch, [])) if key in early]
        theirs = self._target.summaries.get(epoch, [])
        there = sorted(theirs)[-1:]
        if len(theirs) >= len(keys) or not all(
            key in keys and self._sides.equal(key) for key in there
        ):
            return  # nothing new; or the target has matches of its own, and makes summaries
        try:
            self._copy_bodies(keys[-1])
        except (IntegrityError, FormatError) as error:
            self.damaged.append(error)
        else:
            self._copy_list(keys)

    def _copy_bodies(self, newest: str) -> None:
        """Copy the bodies that a summary names.

        Raises:
            IntegrityError: a body is missing or damaged.
            FormatError: the summary is damaged.
        """
        sides, label = self._sides, self._sides.source.location(newest)
        summary = Summary.from_bytes(sides.read(sides.source, newest), label)
        for digest in (body.digest for body in summary.bodies):
            key = body_key(self._league, digest)
            if key in self._target.sizes:
                continue
            if key not in self._source.sizes:
                raise IntegrityError(f"{label} needs {key}, which is missing{_ALL_ELSE}")
            with sides.objects.budget.hold(self._source.sizes[key]):
                data = sides.read(sides.source, key, limit=MAX_BODY)
                if digest_of(data) != digest:
                    where = sides.source.location(key)
                    raise IntegrityError(f"{where} is damaged: its digest is another{_ALL_ELSE}")
                if self._create(key, data):
                    self._report.leagues += 1
