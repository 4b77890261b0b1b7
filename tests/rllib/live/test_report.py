from __future__ import annotations

import pickle

import pytest

from policystore import Digest, SyncError
from policystore.rllib import SyncReport, WorkerStatus
from tests.support.html_page import HOSTILE, SHOWN, Page

ONE = Digest("1" * 64)
TWO = Digest("2" * 64)


def report(*statuses: str) -> SyncReport:
    return SyncReport(
        tuple(WorkerStatus(f"train {n}", "main", s, ONE, n) for n, s in enumerate(statuses)),
        ("a note",),
    )


def test_what_counts_as_ok() -> None:
    good = report("ok", "behind", "own")
    assert good.ok
    assert good.bad == ()
    good.raise_if_bad()
    for status in ("bad", "pending", "unreachable"):
        found = report("ok", status)
        assert not found.ok
        assert [row.status for row in found.bad] == [status]


def test_the_error_names_the_workers_and_has_the_report() -> None:
    found = report("ok", "bad", "unreachable")
    with pytest.raises(SyncError, match="2 of 3") as caught:
        found.raise_if_bad()
    message = str(caught.value)
    assert "train 1, 'main': bad" in message
    assert "train 2, 'main': unreachable" in message
    assert "train 0" not in message
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.report == found
    assert str(again) == message


def test_the_table() -> None:
    rows = (
        WorkerStatus("learner local", "main", "ok", ONE, 7, targets="ab" * 16),
        WorkerStatus(
            "train 1", "main", "bad", TWO, 6, filters={"a": 3, "b": 4}, note="holds other weights"
        ),
        WorkerStatus("eval 1", "main", "pending", note="no answer in time"),
        WorkerStatus("train 2", "main", "ok", ONE, filters={None: 5}),
        WorkerStatus("train 3", "main", "ok", ONE, filters=9),
    )
    lines = str(SyncReport(rows, ("NaN somewhere",))).splitlines()
    assert lines[0].split() == ["worker", "policy", "status", "digest", "seq", "targets", "filters"]
    assert lines[1].split() == [
        "learner",
        "local",
        "main",
        "ok",
        "blake3:111111111111",
        "7",
        "abababab",
    ]
    assert "a:3 b:4" in lines[2]
    assert lines[2].endswith("holds other weights")
    assert "pending" in lines[3]
    assert lines[4].split()[-1] == "5"
    assert lines[5].split()[-1] == "9"
    assert lines[6] == "note: NaN somewhere"
    # Columns that nobody fills are not shown.
    assert str(SyncReport(rows[2:3])).splitlines()[0].split() == [
        "worker",
        "policy",
        "status",
        "digest",
    ]


def test_it_is_a_sequence_of_rows() -> None:
    found = report("ok", "bad")
    assert len(found) == 2
    assert list(found) == list(found.rows)


def test_a_notebook_shows_the_rows_that_are_wrong() -> None:
    hostile = WorkerStatus("train 9", HOSTILE, "bad", note=HOSTILE)
    rows = (*report("ok", "own").rows, hostile)

    page = Page(SyncReport(rows, (HOSTILE,))._repr_html_())

    assert page.has_only_harmless_elements()
    assert page.texts[0] == "not in sync: 1 ok, 1 own, 1 bad"
    assert page.texts.count(SHOWN) == 2
    assert f"note: {SHOWN}" in page.texts
    assert Page(report("ok", "behind")._repr_html_()).texts[0] == "1 ok, 1 behind"
