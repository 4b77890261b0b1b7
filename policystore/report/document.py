"""Put together the data of a page, as JSON that is small enough."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from policystore.diff import TensorDiff
from policystore.display.refs import shorten_names
from policystore.format.canonical_json import Json, JsonObject
from policystore.format.records import TagMove, Version
from policystore.report.columns import (
    Strings,
    clean,
    encode_number,
    order_metrics,
    pick_columns,
    split_values,
)
from policystore.report.content import NameContent, flat_versions
from policystore.report.differences import Comparison
from policystore.report.league_document import LeagueDetail, encode_league
from policystore.report.leagues import LeagueData
from policystore.report.lineage import Parent
from policystore.report.sizes import Sizes
from policystore.report.summary import Problem

__all__ = ["DETAILS", "Detail", "ReportData", "build_document"]

_MAX_PROBLEMS = 200  # on the page
_MAX_NAME = 32  # characters of a name in a legend
_STATUS = {
    "equal": 0, "changed": 1, "only in a": 2, "only in b": 3,
    "shape differs": 4, "dtype differs": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Detail:
    """Say how much of each version a page shows.

    Attributes:
        message: how many characters of a message.
        text: how many characters of another text.
        metrics: how many metrics of a name; the most telling ones.
        texts: how many texts of metrics and of sources of a name.
        digits: how many digits of a digest.
        layers: how many layers of a comparison; those that changed the most.
        moves: how many moves of a tag; the newest ones.
        notes: how many annotations of a version; the newest ones.
        league: how much of each league.
    """

    message: int
    text: int
    metrics: int
    texts: int
    digits: int
    layers: int
    moves: int
    notes: int
    league: LeagueDetail


DETAILS = (
    Detail(600, 200, 60, 30, 64, 200, 200, 100, LeagueDetail(1000, 200, 5, 50)),
    Detail(200, 80, 24, 12, 64, 60, 100, 20, LeagueDetail(1000, 160, 3, 50)),
    Detail(100, 40, 12, 6, 16, 30, 40, 5, LeagueDetail(500, 100, 2, 20)),
    Detail(40, 24, 6, 2, 16, 12, 10, 2, LeagueDetail(200, 50, 1, 10)),
    Detail(0, 0, 3, 0, 12, 6, 5, 0, LeagueDetail(60, 20, 1, 5)),
)
"""What to show, from the most to the least. The first that gives a page that is small enough is
used; the last is used for a page of any size."""


@dataclass
class ReportData:
    """Hold everything that a page shows.

    Attributes:
        url: the store.
        title: what the page is called.
        time: when the report was made.
        contents: what stands under each name.
        parents: the parents of each version.
        sizes: the sizes of all versions.
        comparisons: the pairs that were compared.
        leagues: the leagues.
        problems: what could not be read.
    """

    url: str
    title: str
    time: datetime.datetime
    contents: list[NameContent]
    parents: list[list[Parent]]
    sizes: Sizes
    comparisons: list[Comparison]
    leagues: list[LeagueData]
    problems: list[Problem]

    @property
    def not_shown(self) -> int:
        """How many versions that stand are not on the page, because of the limit."""
        return sum(content.not_shown for content in self.contents)

    @cached_property
    def metrics(self) -> list[str]:
        """All metrics of the page that are numbers, the most telling ones first."""
        return order_metrics(flat_versions(self.contents))

    @cached_property
    def short_names(self) -> dict[str, str]:
        """The names as legends show them: short, and different names look different."""
        return shorten_names((content.name for content in self.contents), _MAX_NAME)


def build_document(data: ReportData, detail: Detail) -> JsonObject:
    """Return the data of a page. All texts are cleaned; numbers that JSON lacks are texts."""
    strings, authors = Strings(), Strings()
    times = [_seconds(version.time) for version in flat_versions(data.contents)]
    names: list[Json] = []
    start = 0
    for content in data.contents:
        names.append(_encode_name(content, data, start, detail, strings, authors))
        start += len(content.versions)
    problems: list[Json] = [
        [clean(problem.place, 300), clean(problem.text, 1000)]
        for problem in data.problems[:_MAX_PROBLEMS]
    ]
    return {
        "url": clean(data.url, 500),
        "title": clean(data.title, 200),
        "time": _seconds(data.time),
        "shortened": detail is not DETAILS[0],
        "names": names,
        # A page that has to be small is without the order of metrics that few versions have.
        "metrics": [*data.metrics[: 10 * detail.metrics]],
        "stored": data.sizes.stored,
        "saved": data.sizes.saved,
        "comparisons": _encode_comparisons(data.comparisons, detail, strings),
        "leagues": [encode_league(each, detail.league, strings, times) for each in data.leagues],
        "problems": problems,
        "problem_count": len(data.problems),
        "authors": list(authors.texts),
        "strings": list(strings.texts),
    }


def _encode_name(
    content: NameContent,
    data: ReportData,
    start: int,
    detail: Detail,
    strings: Strings,
    authors: Strings,
) -> JsonObject:
    versions = content.versions
    places = slice(start, start + len(versions))
    metrics, metric_texts = pick_columns(
        [version.metrics for version in versions],
        strings,
        numbers=detail.metrics,
        texts=detail.texts,
        limit=detail.text,
        order=data.metrics,
    )
    source_numbers, source_texts = pick_columns(
        [version.source for version in versions],
        strings,
        numbers=detail.texts,
        texts=detail.texts,
        limit=detail.text,
    )
    numbers = [version.number for version in versions]
    return {
        "name": content.name,
        "short": data.short_names[content.name],
        "newest": content.newest,
        "standing": content.standing,
        "number": list(numbers),
        "time": [_seconds(version.time) for version in versions],
        "author": [authors.number(clean(version.author, 60)) for version in versions],
        "digest": [version.digest.hex[: detail.digits] for version in versions],
        "message": [_message(version, detail, strings) for version in versions],
        "whole": list(data.sizes.whole[places]),
        "added": list(data.sizes.added[places]),
        "parents": [list(parents) for parents in data.parents[places]],
        "metrics": metrics,
        "texts": metric_texts,
        "source": [*source_numbers],
        "source_texts": source_texts,
        "nonfinite": [
            [place, [strings.number(clean(each, 120)) for each in version.nonfinite]]
            for place, version in enumerate(versions)
            if version.nonfinite
        ],
        "tags": [
            _encode_tag(tag, moves, detail, strings, authors) for tag, moves in content.tags.items()
        ],
        "notes": list(_encode_notes(versions, detail, strings, authors)),
        "deleted": list(_encode_deleted(content, authors)),
    }


def _encode_tag(
    tag: str, moves: list[TagMove], detail: Detail, strings: Strings, authors: Strings
) -> list[Json]:
    """Return a tag, its newest moves, how many moves it has, and who may move it."""
    encoded: list[Json] = [
        [move.target, _seconds(move.time), authors.number(clean(move.author, 60))]
        for move in moves[-detail.moves :]
    ]
    protected = moves[-1].protected
    text = "" if protected is None else clean(str(protected), 300)
    return [tag, encoded, len(moves), strings.number(text)]


def _message(version: Version, detail: Detail, strings: Strings) -> int:
    return strings.number(clean(version.message, detail.message))


def _encode_notes(
    versions: list[Version], detail: Detail, strings: Strings, authors: Strings
) -> Iterator[Json]:
    """Yield the annotations of versions, oldest first, each with the place of its version."""
    for place, version in enumerate(versions):
        notes = version.annotations or ()
        for note in notes[max(0, len(notes) - detail.notes) :]:
            numbers, texts = split_values(
                note.metrics, strings, most=detail.metrics, limit=detail.text
            )
            yield [
                place,
                _seconds(note.time),
                authors.number(clean(note.author, 60)),
                strings.number(clean(note.note, detail.message)),
                numbers,
                texts,
            ]


def _encode_deleted(content: NameContent, authors: Strings) -> Iterator[Json]:
    """Yield the deleted ranges, newest first, with who deleted them, when and why."""
    for span in list(reversed(content.deleted))[:50]:
        mark = content.marks.get(span.mark)
        known: list[Json] = [span.first, span.last]
        if mark is not None:
            known += [
                mark.action,
                _seconds(mark.time),
                authors.number(clean(mark.author, 60)),
                clean(mark.message, 200),
            ]
        yield known


def _encode_comparisons(
    comparisons: list[Comparison], detail: Detail, strings: Strings
) -> list[Json]:
    encoded: list[Json] = []
    for each in comparisons:
        layers = sorted(each.layers.items(), key=_by_change)
        equal = sum(layer.status == "equal" for _, layer in layers)
        shown = [item for item in layers if item[1].status != "equal"]
        rows: list[Json] = [
            [
                strings.number(clean(name, 120)),
                _STATUS[layer.status],
                encode_number(layer.relative_norm),
                encode_number(layer.max_change),
                strings.number(clean(layer.b or layer.a, 60)),
            ]
            for name, layer in shown[: detail.layers]
        ]
        encoded.append(
            {
                "before": each.pair.before,
                "after": each.pair.after,
                "reason": each.pair.reason,
                "equal": equal,
                "changed": len(shown),
                "same_spec": each.same_spec,
                "same_state": each.same_state,
                "layers": rows,
            }
        )
    return encoded


def _by_change(item: tuple[str, TensorDiff]) -> tuple[float, str]:
    name, layer = item
    size = layer.relative_norm
    if size is None or size != size:  # not comparable, or NaN: first
        return (-float("inf"), name)
    return (-size, name)


def _seconds(time: datetime.datetime) -> int:
    return int(time.timestamp())
