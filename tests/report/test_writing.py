"""Where a page goes, and what it never replaces."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import pytest

from policystore import InvalidInputError, PolicyStore, ReadOnlyError
from tests.report.documents import small
from tests.support.report_store import MADE


@pytest.fixture(scope="module")
def store() -> PolicyStore:
    made = PolicyStore("memory://report-writing")
    made.push(small(1), "n")
    return made


def test_a_folder_is_made_and_an_earlier_report_is_replaced(store: PolicyStore, tmp_path: Path):
    place = tmp_path / "new" / "site"
    first = store.report(place, time=MADE)
    (place / "notes.txt").write_text("mine")

    again = store.report(place)

    assert first.path == again.path == place.resolve() / "index.html"
    assert again.nbytes == again.path.stat().st_size
    assert sorted(each.name for each in place.iterdir()) == ["index.html", "notes.txt"]
    assert (place / "notes.txt").read_text() == "mine"


def test_an_empty_folder_and_a_file_that_ends_with_html(store: PolicyStore, tmp_path: Path):
    (tmp_path / "empty").mkdir()

    assert store.report(tmp_path / "empty").path == tmp_path / "empty" / "index.html"
    assert store.report(str(tmp_path / "soccer.html")).path == tmp_path / "soccer.html"
    assert store.report(tmp_path / "soccer.html").versions == 1


def test_what_no_report_has_made_is_not_replaced(store: PolicyStore, tmp_path: Path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<!doctype html>\nmy page")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "page.html").write_text("")
    (tmp_path / "file").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    for place, message in (
        ("site", "no report has made"),
        ("other", "with other files and without a report"),
        ("page.html", "no report has made"),
        ("file", "a file that does not end with .html"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            store.report(tmp_path / place)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        {"out": 3},
        {"out": ""},
        {"out": "a\0b"},
        {"limit": -1},
        {"limit": 1.5},
        {"limit": True},
        {"diffs": None},
        {"diff_nbytes": "1 MB"},
        {"title": 7},
        {"time": datetime.datetime(2026, 1, 1)},
        {"time": 12},
        {"progress": "bar"},
    ],
)
def test_arguments_of_a_wrong_form_are_refused_before_anything_is_read(
    store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError):
        store.report(**arguments)

    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_earlier_report(store: PolicyStore, tmp_path: Path):
    page = store.report(tmp_path / "site", time=MADE).path
    before = page.read_bytes()

    def stop(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        store.report(tmp_path / "site", progress=stop)

    assert page.read_bytes() == before
    assert os.listdir(tmp_path / "site") == ["index.html"]


def test_a_folder_that_cannot_be_written(
    store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("policystore._util.files.replace_file", refuse)

    with pytest.raises(ReadOnlyError, match="writing the report to"):
        store.report(tmp_path / "site")


def test_the_summary_says_what_is_on_the_page(store: PolicyStore, tmp_path: Path):
    summary = store.report(tmp_path / "site")

    assert str(summary).startswith(f"{summary.path}: 1 name, 1 version, 0 comparisons, ")
    assert repr(summary).startswith("<ReportSummary ")
    assert summary.problems == ()
    values = json.loads(json.dumps(summary.to_dict()))
    assert (values["path"], values["versions"], values["problems"]) == (str(summary.path), 1, [])
