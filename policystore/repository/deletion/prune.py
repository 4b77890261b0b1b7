"""Prune a name: delete, with one mark, all versions that no criterion keeps."""

from __future__ import annotations

import datetime
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from policystore._util.messages import brief
from policystore._util.near import close_paths, did_you_mean
from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.records import Mark, TagMove, Version
from policystore.repository.annotations import fill_version
from policystore.repository.deletion.delete import protected_moves, restore_tagged
from policystore.repository.deletion.healing import restore_dangling
from policystore.repository.deletion.marking import MarkNotes, append_mark
from policystore.repository.deletion.prune_report import PruneReport
from policystore.repository.lookup.annotations import (
    Annotations,
    list_annotations,
    read_annotations,
)
from policystore.repository.lookup.state import NameState
from policystore.repository.lookup.versions import check_state
from policystore.repository.resolver import Resolver

__all__ = ["Criteria", "prune"]

KeepBest = tuple[str, str, int]
"""A metric, ``"max"`` or ``"min"``, and how many versions to keep."""


@dataclass(frozen=True)
class Criteria:
    """Say which versions to keep. A version that any of the criteria keeps is kept.

    Attributes:
        keep_last: keeps this many of the newest versions.
        keep_tagged: whether to keep versions that a tag points to. A tag that is protected against
            the author keeps its version in any case.
        keep_best: a metric, ``"max"`` or ``"min"``, and how many of the best versions to keep.
        older_than: keeps versions that are not older than this, by the time in their records.
        keep: a function that returns whether to keep a version.

    Raises:
        InvalidInputError: an argument of the wrong form, or no criterion besides ``keep_tagged``.
    """

    keep_last: int | None = None
    keep_tagged: bool = True
    keep_best: KeepBest | None = None
    older_than: datetime.timedelta | None = None
    keep: Callable[[Version], bool] | None = None

    def __post_init__(self) -> None:
        if self.keep_last is not None:
            _check_count("keep_last", self.keep_last)
        if self.keep_best is not None:
            if not isinstance(self.keep_best, (tuple, list)) or len(self.keep_best) != 3:
                raise InvalidInputError(
                    "keep_best is a metric, 'max' or 'min', and a number of versions, such as "
                    f"('return', 'max', 5), not {brief(self.keep_best)}"
                )
            _, mode, count = self.keep_best
            if mode not in ("max", "min"):
                raise InvalidInputError(
                    f"keep_best: the second value is 'max' or 'min', not {brief(mode)}"
                )
            _check_count("keep_best: the third value", count)
        if self.older_than is not None and not isinstance(self.older_than, datetime.timedelta):
            raise InvalidInputError(
                "older_than is a timedelta, such as datetime.timedelta(days=30), not "
                f"{brief(self.older_than)}"
            )
        if self.keep is not None and not callable(self.keep):
            raise InvalidInputError(f"keep is a function of a Version, not {brief(self.keep)}")
        if self.keep_last is None and not self._need_records:
            raise InvalidInputError(
                "prune needs a criterion: keep_last, keep_best, older_than or keep. To delete all "
                "versions of a name, use delete_name"
            )

    @property
    def _need_records(self) -> bool:
        """Whether the criteria look at more than the numbers of versions."""
        return any(each is not None for each in (self.keep_best, self.older_than, self.keep))

    def reasons(
        self,
        resolver: Resolver,
        state: NameState,
        moves: Mapping[str, TagMove],
        now: datetime.datetime,
    ) -> dict[int, tuple[str, ...]]:
        """Return the versions to keep, newest first, each with the reasons.

        Records of versions are read only if a criterion needs them.

        Args:
            resolver: reads the store.
            state: the state of the name.
            moves: the last moves of the tags that keep versions: of all, or of protected ones.
            now: the time from which the age of a version counts.
        """
        reasons: dict[int, list[str]] = {}

        def keep(number: int, why: str) -> None:
            reasons.setdefault(number, []).append(why)

        keep(state.stands, "the newest")
        for rank, number in enumerate(state.numbers()):
            if rank >= (self.keep_last or 0):
                break
            keep(number, f"of the last {self.keep_last}")
        for tag, move in moves.items():
            if move.target is not None and state.span(move.target) is None:
                kind = "tag" if self.keep_tagged else "protected tag"
                keep(move.target, f"{kind} {tag!r}")
        if self._need_records:
            self._read_records(resolver, state, now, keep)
        return {number: tuple(reasons[number]) for number in sorted(reasons, reverse=True)}

    def _read_records(
        self,
        resolver: Resolver,
        state: NameState,
        now: datetime.datetime,
        keep: Callable[[int, str], None],
    ) -> None:
        """Call ``keep`` for each version that ``older_than``, ``keep`` or ``keep_best`` keeps."""
        best: list[tuple[float, int]] = []  # a heap; its first item is the worst
        metrics: set[str] = set()
        annotated: Annotations = {}
        if self.keep is not None or self.keep_best is not None:
            annotated = _annotations(resolver, state)
        for record in resolver.read_versions(state.name, state.numbers()):
            number = record.number or 0
            notes, version = annotated.get(number, ()), record
            if notes or self.keep is not None:  # a copy of the record takes long
                version = fill_version(record, None, {number: notes})
            if self.older_than is not None and now - version.time <= self.older_than:
                keep(number, f"not older than {self.older_than}")
            if self.keep is not None and self.keep(version):
                keep(number, "keep returned True")
            if self.keep_best is not None:
                its_metrics = version.all_metrics
                metrics.update(map(str, its_metrics))
                value = its_metrics.get(self.keep_best[0])
                is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if value is not None and is_number and math.isfinite(value):
                    score = value if self.keep_best[1] == "max" else -value
                    full = len(best) >= self.keep_best[2]
                    (heapq.heappushpop if full else heapq.heappush)(best, (score, number))
        if self.keep_best is not None:
            metric = self.keep_best[0]
            if metrics and metric not in metrics:
                raise NotFoundError(
                    f"keep_best: no version of {state.name!r} has the metric {metric!r}. Its "
                    "versions have "
                    f"{', '.join(sorted(metrics)[:20])}."
                    f"{did_you_mean(close_paths(str(metric), metrics))} Nothing was deleted."
                )
            for _, number in sorted(best, reverse=True):
                keep(number, f"of the best {self.keep_best[2]} by {metric!r}")


def _annotations(resolver: Resolver, state: NameState) -> Annotations:
    """Read the annotations of the versions of a name that stand, by the number of the version."""
    listed = list_annotations(resolver.backend, state.name)
    numbers = [number for number in listed.nonces if state.span(number) is None]
    return read_annotations(resolver.backend, listed, numbers, workers=resolver.workers)


def prune(
    resolver: Resolver, name: str, criteria: Criteria, notes: MarkNotes, *, dry_run: bool
) -> PruneReport:
    """Delete, with one mark, all versions of a name that no criterion keeps.

    If another writer deletes or restores versions at the same time, the criteria are applied again.
    A version that gets a tag at the same time is restored.

    Args:
        resolver: reads the store.
        name: the name.
        criteria: which versions to keep.
        notes: who prunes the name, and why.
        dry_run: whether to write nothing.

    Raises:
        NotFoundError: no such name, or no version of it stands; or no version has the metric of
            ``keep_best``, and some have other metrics.
    """
    while True:
        state = resolver.state(name, standing=dry_run)
        moves = resolver.last_moves(name)
        if not criteria.keep_tagged:
            moves = protected_moves(moves, notes.author)
        if not dry_run and criteria.keep_tagged and restore_dangling(resolver, state, moves, notes):
            continue
        check_state(resolver.backend, state)
        kept = criteria.reasons(resolver, state, moves, notes.time)
        pruned = list(_without(state.standing(), sorted(kept)))
        if dry_run or not pruned:
            return PruneReport(name, pruned, kept, dry_run)
        try:
            mark = _append(resolver, state, pruned, notes, force=not criteria.keep_tagged)
        except _ChangedError:
            continue
        if criteria.keep_tagged:
            for tag, move in restore_tagged(resolver, state, mark, notes).items():
                number = move.target or 0
                kept[number] = (*kept.get(number, ()), f"tag {tag!r}")
        kept = {number: kept[number] for number in sorted(kept, reverse=True)}
        return PruneReport(name, list(_without(state.standing(), sorted(kept))), kept)


def _without(
    ranges: Iterable[tuple[int, int]], numbers: Iterable[int]
) -> Iterator[tuple[int, int]]:
    """Yield ascending ranges without some numbers of them, which ascend, too."""
    left = iter(numbers)
    number = next(left, None)
    for first, last in ranges:
        while number is not None and number <= last:
            if first < number:
                yield first, number - 1
            first = number + 1
            number = next(left, None)
        if first <= last:
            yield first, last


def _append(
    resolver: Resolver,
    state: NameState,
    pruned: Sequence[tuple[int, int]],
    notes: MarkNotes,
    *,
    force: bool,
) -> Mark:
    """Append the mark of a prune, if the marks are still those of ``state``."""

    def change(present: NameState) -> Sequence[tuple[int, int]]:
        if present.mark != state.mark:
            raise _ChangedError
        return pruned

    return append_mark(resolver.backend, state, "prune", change, notes, force=force)


class _ChangedError(Exception):
    """End the append of a mark, because another writer has appended one."""


def _check_count(argument: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise InvalidInputError(
            f"{argument} is a number of versions, a whole number of at least 1, not {brief(value)}"
        )
