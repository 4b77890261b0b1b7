"""Print versions as a table, and turn them into records for pandas and polars."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any, SupportsIndex, overload

from policystore._util.messages import printable, shorten, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.display.metrics import choose_metrics, is_more_better
from policystore.display.pretty import print_text
from policystore.display.refs import shorten_names
from policystore.display.words import show_age, show_size, show_time, show_value
from policystore.format.nonfinite import describe_nonfinite
from policystore.format.plain import flatten, iso_time, to_plain
from policystore.format.records import Version

__all__ = ["VersionList", "noted_metrics"]

_MAX_ROWS = 20  # of a printed table
_MAX_ROWS_HTML = 50  # of a table in a notebook
_MAX_METRICS = 4  # columns of a printed table
_MAX_NAME, _MAX_AUTHOR, _MAX_METRIC, _MAX_MESSAGE = 36, 16, 20, 40  # characters of a cell
_MAX_DELETED, _MAX_TAGS = 60, 30
_MAX_PROBLEMS = 5


class VersionList(list[Version]):
    """Hold versions in a list, as ``store.log`` returns it; a slice is a VersionList again.

    ``print(versions)`` prints a table of at most 20 versions. The times in the table are in UTC.
    The table has at most 4 metrics: those of annotations and the few of your own first, then
    results such as returns, then losses. Counters, timers, and metrics that are equal in all
    versions come last.

    Args:
        versions: the versions.
        problems: sentences on records that could not be read and are missing in the list.

    Attributes:
        problems: these sentences.
    """

    def __init__(self, versions: Iterable[Version] = (), *, problems: Iterable[str] = ()) -> None:
        super().__init__(versions)
        self.problems = tuple(problems)

    def to_records(self) -> list[dict[str, Any]]:
        """Return a flat dict for each version, as ``pandas.DataFrame(records)`` takes it.

        All dicts have the same keys in the same order, and a value that a version lacks is None:

        - ``ref``, ``name``, ``number``, ``digest``, ``time``, ``author``, ``message``, ``nbytes``,
          ``parents``, ``weights_digest``, ``acting_digest``, ``state_digest``, ``deleted``,
          ``nonfinite``, ``tags``, ``notes``. Digests are texts, ``parents`` and ``nonfinite`` are
          lists of texts. ``time`` is a text in UTC with its zone. ``deleted`` is None, or says who
          deleted the version, when and why.
          ``tags`` and ``notes`` (of annotations, oldest first) are lists of texts, or None if the
          call that returned the list was not asked for them.
        - ``metrics.return`` for the metric ``return``, and ``metrics.a.b`` for a metric in nested
          dicts. If annotations were read, their metrics are here, too, and replace metrics of the
          push with the same name. The values of ``source`` have such keys, too:
          ``source.iteration``. The expressions of a search use the same names.

        Numbers that are not finite stay floats. If a metric is an integer in one version and a
        float in another, the metric is a float in all dicts. Lists stay lists.
        """
        flat = [
            flatten(version.all_metrics, "metrics.") | flatten(version.source, "source.")
            for version in self
        ]
        metrics = dict.fromkeys(key for each in flat for key in each if key.startswith("metrics."))
        sources = dict.fromkeys(key for each in flat for key in each if key.startswith("source."))
        records = [_fixed_fields(version) for version in self]
        for key in (*metrics, *sources):
            column = [to_plain(each.get(key), finite=False) for each in flat]
            kinds = {type(value) for value in column} - {type(None)}
            for record, value in zip(records, column, strict=True):
                is_mixed = kinds == {int, float} and value is not None
                record[key] = float(value) if is_mixed else value
        return records

    @overload
    def __getitem__(self, index: SupportsIndex) -> Version: ...

    @overload
    def __getitem__(self, index: slice) -> VersionList: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Version | VersionList:
        chosen = super().__getitem__(index)
        return VersionList(chosen) if isinstance(chosen, list) else chosen

    def copy(self) -> VersionList:
        """Return another list of the same versions."""
        return VersionList(self, problems=self.problems)

    def __repr__(self) -> str:
        if not self:
            return "<VersionList: no versions>"
        ends = self[0].ref if len(self) == 1 else f"{self[0].ref} … {self[-1].ref}"
        count = f"{len(self)} version{'' if len(self) == 1 else 's'}"
        return f"<VersionList: {count}, {printable(ends)}>"

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        if not self:
            return block([line("no versions", faint=True)]).source
        shown = self[:_MAX_ROWS_HTML]
        now = datetime.datetime.now(datetime.timezone.utc)
        values = [flatten(version.all_metrics) for version in shown]
        metrics = _choose_numbers(shown, values)
        highest = {name: _highest(values, name) for name in metrics if is_more_better(name)}
        refs = _short_refs(shown)
        tagged = any(version.tags for version in shown)
        rows: list[list[str | Html | Cell]] = [
            [
                Cell(refs[row], title="" if refs[row] == version.ref else version.ref),
                *([_show_tags(version)] if tagged else []),
                Cell(show_age(now - version.time), number=True, title=show_time(version.time)),
                shorten(version.author, _MAX_AUTHOR),
                Cell("" if version.nbytes is None else show_size(version.nbytes), number=True),
                *(
                    Cell(
                        show_value(each[name]) if name in each else "",
                        number=True,
                        title=f"marked: the highest {name} of this list, where more is better"
                        if highest.get(name) == row
                        else "",
                        marked=highest.get(name) == row,
                    )
                    for name in metrics
                ),
                Cell(_show_texts(version), title=shorten(version.message, 1000)),
                _show_flags(version),
            ]
            for row, (version, each) in enumerate(zip(shown, values, strict=True))
        ]
        head = (
            "ref",
            *(["tags"] if tagged else []),
            "age",
            "author",
            "size",
            *metrics,
            "message",
            "",
        )
        parts = [table(head, rows)]
        if len(self) > len(shown):
            parts.append(line(f"and {len(self) - len(shown):,} versions more", faint=True))
        return block(parts).source

    def __str__(self) -> str:
        problems = [f"left out: {printable(problem)}" for problem in self.problems[:_MAX_PROBLEMS]]
        if not self:
            return "\n".join(["no versions", *problems])
        shown = self[:_MAX_ROWS]
        now = datetime.datetime.now(datetime.timezone.utc)
        values = [flatten(version.all_metrics) for version in shown]
        metrics = _choose_numbers(shown, values)
        header = ["ref", "tags", "time (UTC)", "age", "author", "size", *metrics, "message", ""]
        rows = [
            [
                ref,
                _show_tags(version),
                f"{version.time.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M}",
                show_age(now - version.time),
                shorten(version.author, _MAX_AUTHOR),
                "" if version.nbytes is None else show_size(version.nbytes),
                *(show_value(each[name]) if name in each else "" for name in metrics),
                _show_texts(version),
                _show_flags(version),
            ]
            for ref, version, each in zip(_short_refs(shown), shown, values, strict=True)
        ]
        right = {3, 5, *range(6, 6 + len(metrics))}
        header[6 : 6 + len(metrics)] = [_shorten_front(name, _MAX_METRIC) for name in metrics]
        lines = [text_table(header, rows, right)]
        if len(self) > len(shown):
            lines.append(f"and {len(self) - len(shown):,} versions more")
        lines += problems
        return "\n".join(lines)


def _fixed_fields(version: Version) -> dict[str, Any]:
    """Return the fields of a record that every version has."""
    return {
        "ref": version.ref,
        "name": version.name,
        "number": version.number,
        "digest": str(version.digest),
        "time": iso_time(version.time),
        "author": version.author,
        "message": version.message,
        "nbytes": version.nbytes,
        "parents": [str(parent) for parent in version.parents],
        "weights_digest": str(version.weights_digest),
        "acting_digest": str(version.acting_digest),
        "state_digest": str(version.state_digest),
        "deleted": None if version.deleted is None else str(version.deleted),
        "nonfinite": list(version.nonfinite),
        "tags": None if version.tags is None else list(version.tags),
        "notes": None if version.annotations is None else _notes(version),
    }


def _notes(version: Version) -> list[str]:
    return [each.note for each in version.annotations or () if each.note]


def _show_flags(version: Version) -> str:
    """Return whether a version has NaN or infinite numbers, and who deleted the version."""
    flags = [describe_nonfinite(version.nonfinite)]
    if version.deleted is not None:
        flags.append(shorten(f"({version.deleted})", _MAX_DELETED))
    return " ".join(filter(None, flags))


def _show_tags(version: Version) -> str:
    return shorten(", ".join(version.tags or ()), _MAX_TAGS)


def _show_texts(version: Version) -> str:
    """Return the message of a version, and the newest note in square brackets."""
    message = shorten(version.message, _MAX_MESSAGE)
    notes = [f"[{shorten(note, _MAX_MESSAGE)}]" for note in _notes(version)[-1:]]
    return " ".join(filter(None, [message, *notes]))


def _choose_numbers(versions: list[Version], values: list[dict[str, Any]]) -> list[str]:
    """Return the metrics for columns: only those that are numbers.

    Args:
        versions: the versions.
        values: all metrics of each version, with flat names.
    """
    numbers = [
        {
            name: value
            for name, value in each.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        for each in values
    ]
    return choose_metrics(numbers, _MAX_METRICS, noted=noted_metrics(versions))


def noted_metrics(versions: Iterable[Version]) -> set[str]:
    """Return the flat names of the metrics that annotations of versions have."""
    return {
        name
        for version in versions
        for annotation in version.annotations or ()
        for name in flatten(annotation.metrics)
    }


def _highest(values: list[dict[str, Any]], name: str) -> int | None:
    """Return the row with the highest value of a metric; None if all values are equal."""
    numbers = {
        row: float(each[name])
        for row, each in enumerate(values)
        if isinstance(each.get(name), (int, float)) and each[name] == each[name]
    }
    if len(set(numbers.values())) < 2:
        return None
    return max(numbers, key=lambda row: numbers[row])


def _short_refs(versions: list[Version]) -> list[str]:
    """Return the ref of each version for a table: different names look different."""
    names = shorten_names((each.name for each in versions if each.name is not None), _MAX_NAME)
    return [
        each.digest.short if each.name is None else f"{names[each.name]}@{each.number}"
        for each in versions
    ]


def _shorten_front(text: str, limit: int) -> str:
    """Return the end of a text, which tells one metric from others."""
    return text if len(text) <= limit else "..." + text[3 - limit :]
