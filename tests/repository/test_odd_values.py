"""Values that no caller means: nested without end, huge, or not printable."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    Fault,
    GarbageReport,
    InvalidInputError,
    PolicyStore,
    ReportSummary,
    Snapshot,
    StorageError,
    VerifyReport,
)
from policystore._util import log
from policystore.checkpoints import CheckpointInfo, ImportReport
from policystore.report.summary import Problem

Make = Callable[..., Snapshot]


@pytest.fixture
def store(make_snapshot: Make, monkeypatch: pytest.MonkeyPatch) -> PolicyStore:
    monkeypatch.setattr(log, "_REMEMBERED", set())
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    store.push(make_snapshot(0), "a", metrics={"\x1b[31mloss\u202e": 1.0})
    return store


def nested(wrap: Callable[[Any], Any], depth: int = 5000) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = wrap(value)
    return value


def endless() -> Any:
    values: list[Any] = []
    values.append(values)
    return values


def endless_dict() -> Any:
    values: dict[str, Any] = {}
    values["x"] = values
    return values


@pytest.mark.parametrize(
    "make",
    [
        lambda: nested(lambda value: [value]),
        lambda: nested(lambda value: (value,)),
        lambda: nested(lambda value: {"x": value}),
        endless,
        endless_dict,
    ],
    ids=["lists", "tuples", "dicts", "a list within itself", "a dict within itself"],
)
@pytest.mark.parametrize("field", ["metrics", "source", "annotation"])
def test_values_that_are_nested_too_deeply_are_refused(
    store: PolicyStore, make_snapshot: Make, make: Callable[[], Any], field: str
) -> None:
    with pytest.raises(InvalidInputError, match="nested deeper than 64 levels"):
        if field == "annotation":
            store.annotate("a", metrics={"x": make()})
        else:
            store.push(make_snapshot(1), "a", **{field: {"x": make()}})
    assert len(store.log("a")) == 1


def test_a_huge_limit_is_no_limit(store: PolicyStore, tmp_path: Path) -> None:
    assert len(store.log("a", limit=10**30)) == 1
    assert len(store.log("a", limit=10**30, deleted=True)) == 1
    assert len(store.versions(limit=10**30)) == 1
    assert store.report(tmp_path / "page.html", limit=10**30).versions == 1


def test_a_message_shows_escapes_of_hostile_metrics(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store.versions(where="x" * 5000 + " > 1")
    (message,) = caplog.messages
    assert "The metrics are: \\x1b[31mloss\\u202e" in message
    assert len(message) < 400


def test_a_device_or_a_pipe_is_not_replaced(make_snapshot: Make, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StorageError, match="is a device or a pipe"):
        make_snapshot(0).save(tmp_path / "pipe")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_reports_show_escapes_of_hostile_texts(tmp_path: Path) -> None:
    hostile = "\x1b[2J\x9b\u202e"
    store = PolicyStore(tmp_path / "store")
    for gain in (0.0, 1.0):
        store.push(Snapshot(weights={f"pi{hostile}": np.full(3, gain)}), "a")
    foreign = tmp_path / "store" / "names" / hostile / "x"
    foreign.parent.mkdir()
    foreign.write_bytes(b"?")
    fault, problem = Fault(f"names/{hostile}", hostile), Problem(hostile, hostile)
    values = [
        VerifyReport("memory://x", faults=[fault], repaired=[fault]),
        GarbageReport(
            "memory://x", dry_run=True, grace=timedelta(7), time=datetime.now(timezone.utc),
            refusals=1, refused=[hostile], notes=[hostile], reason=hostile,
        ),
        ReportSummary(tmp_path, 1, 1, 1, problems=(problem,)),
        ImportReport(added=1, present=0, errors={"x": hostile}),
        CheckpointInfo(
            path=hostile, kind="x", stack="new", ray_version=hostile, algorithm=hostile,
            sizes={hostile: 1}, missing={hostile: hostile},
        ),
        store.diff("a@1", "a@2"),
        store.verify(),
    ]  # fmt: skip
    for value in values:
        shown = str(value)
        assert "\\x1b[2J\\x9b\\u202e" in shown, value
        assert all(line.isprintable() for line in shown.split("\n"))
