"""The harness of the benchmarks: ratios, spreads, lines, sections that fail, tables and charts."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks import run
from scripts.benchmarks.lines import SECTIONS
from scripts.benchmarks.lines.harness import charts
from scripts.benchmarks.lines.harness.delay import Seen, delaying, rounds_of
from scripts.benchmarks.lines.harness.rows import Report, Row, compare, limited
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.tables import as_text, with_table
from scripts.benchmarks.lines.harness.times import Prepared, Times, in_turn
from tests.support import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"


def test_a_row_compares_medians_and_has_the_larger_spread() -> None:
    ours, theirs = Times((1.0, 2.0, 3.0, 4.0, 90.0)), Times((2.0, 2.0, 2.0, 2.0, 2.0))
    row = compare("pull", "ours", "theirs", ours, theirs, limit=1.5)
    assert (row.ours, row.theirs, row.ratio, row.rounds) == (3.0, 2.0, 1.5, 5)
    assert row.spread == pytest.approx((4.0 - 2.0) / 3.0)
    assert row.met is True


def test_a_row_above_its_limit_is_not_met() -> None:
    one, two = Times((1.0,)), Times((2.0,))
    assert compare("s", "ours", "theirs", two, one, limit=1.9).met is False
    assert compare("s", "ours", "theirs", two, one).met is None
    assert limited("s", "requests", 5, 4, "requests").met is False
    assert limited("s", "requests", 4, 4, "requests").met is True


def test_contenders_take_turns_and_each_round_begins_with_another() -> None:
    called: list[str] = []
    made = iter(range(100))
    times = in_turn(
        {
            "a": lambda: called.append("a"),
            "b": Prepared(lambda: next(made), lambda number: called.append(f"b{number}")),
            "c": lambda: called.append("c"),
        },
        rounds=2,
        warm_up=1,
    )
    assert called == ["a", "b0", "c", "b1", "c", "a", "c", "a", "b2"]
    assert {name: len(each.seconds) for name, each in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_section_that_hangs_is_stopped(sections: str, tmp_path: Path) -> None:
    (report,) = run.run_sections({"hangs": 0}, Settings(False, str(tmp_path)), sections)
    assert report.error.startswith("stopped: longer than 0 s")


def test_an_interrupted_section_keeps_its_rows(sections: str, tmp_path: Path) -> None:
    (report,) = run.run_sections({"interrupted": 60}, Settings(False, str(tmp_path)), sections)
    assert [row.what for row in report.rows] == ["bytes"]
    assert report.error.endswith("KeyboardInterrupt")


@pytest.fixture
def sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package of sections: two that work, and others that fail in different ways."""
    package = tmp_path / "tried_sections"
    package.mkdir()
    (package / "__init__.py").write_text("")
    count = "report.count('bytes', 'file', 1, 2, 'B', limit=1.0)"
    bodies = {
        "first": count,
        "wrong": f"{count}; report.check(1 == 2, 'other bytes')",
        "gone": "import os; print('last words', flush=True); os._exit(3)",
        "hangs": "import time; time.sleep(600)",
        "interrupted": f"{count}; raise KeyboardInterrupt",
        "last": f"report.omit('the rest'); {count}",
    }
    for name, body in bodies.items():
        (package / f"{name}.py").write_text(f"def measure(settings, report):\n    {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return package.name


def test_a_section_that_fails_is_shown_and_the_others_go_on(sections: str, tmp_path: Path) -> None:
    names = dict.fromkeys(("first", "wrong", "gone", "last"), 60)
    reports = run.run_sections(names, Settings(True, str(tmp_path)), sections)
    first, wrong, gone, last = reports
    assert [report.section for report in reports] == list(names)
    assert (first.error, last.error, last.omitted) == ("", "", ["the rest"])
    for report in (first, wrong, last):  # also what was measured before an error
        assert report.rows == [Row(report.section, "bytes", "file", 1, 2, "B", 1.0)]
    assert "InconsistentError: other bytes" in wrong.error
    assert "exit status 3" in gone.error
    assert "last words" in gone.error
    text = as_text(reports)
    assert "Failed: wrong, gone." in text
    assert "FAILED" in text


def test_the_exit_status_tells_of_a_section_that_failed(tmp_path: Path) -> None:
    row = Row("pull", "pull", "load", 3.0, 1.0, "s", 1.0)
    for error, status in (("", 0), ("Traceback", 1)):
        report = Report("pull", [row], error=error)
        result = {"quick": False, "machine": {}, "sections": [report.to_json()]}
        file = tmp_path / "figures.json"
        file.write_text(json.dumps(result))
        assert run.main(["--read", str(file)]) == status


def test_a_report_survives_json() -> None:
    report = Report("pull", [Row("pull", "a", "b", 1.0, 2.0, "s", 0.5, 0.1, 3, "note")], ["c"], 1.5)
    assert Report.of_json(json.loads(json.dumps(report.to_json()))) == report


def test_every_section_has_a_module_with_measure() -> None:
    folder = ROOT / "scripts" / "benchmarks" / "lines"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert modules == set(SECTIONS)
    for name in modules:
        assert (
            "def measure(settings: Settings, report: Report)" in (folder / f"{name}.py").read_text()
        )


def test_the_page_has_the_figures_of_the_last_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Without figures, the page has no table."""
    page, figures = PAGE.read_text(), PAGE.parent / "assets" / "benchmarks.json"
    if not figures.exists():
        assert with_table(page, "") == page
        return
    options = ["--page", str(PAGE), "--charts", str(figures.parent), "--check"]
    assert run.main(["--read", str(figures), *options]) == 0, capsys.readouterr().out[-200:]


def test_a_run_writes_the_page_and_the_check_sees_another(tmp_path: Path) -> None:
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text(with_table(PAGE.read_text(), ""))
    report = Report("pull", [Row("pull", "pull 8 MB", "load", 3.0, 1.0, "s", 1.0)], ["200 MB"])
    result = {"quick": False, "machine": {"disk": "ext4"}, "sections": [report.to_json()]}
    figures.write_text(json.dumps(result))
    options = ["--read", str(figures), "--page", str(page)]
    assert run.main([*options, "--check"]) == 1
    assert run.main(options) == 0
    assert "| pull 8 MB | load | 3 s | 1 s | 3 | 1 | **no** |" in page.read_text()
    assert "| disk | ext4 |" in page.read_text()
    assert "- pull: 200 MB" in page.read_text()
    assert run.main([*options, "--check"]) == 0


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="lacks the markers"):
        with_table("# Page", "table")


@pytest.mark.long  # matplotlib takes a second
def test_equal_figures_give_equal_charts(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [Row("pull", f"pull {n}", "load", n, 1.0, "s", 2.0) for n in (1, 2, 3)]
    drawn = [charts.draw([Report("pull", rows)], tmp_path / folder) for folder in ("a", "b")]
    names = ["benchmarks-lines.svg", "benchmarks-pull.svg"]
    assert [[path.name for path in each] for each in drawn] == [names, names]
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]


def test_requests_that_are_under_way_at_once_are_one_round() -> None:
    seen = [
        Seen(0.0, 1.0, "GET", "/a"),
        Seen(0.1, 1.5, "GET", "/b"),
        Seen(1.1, 2.0, "GET", "/c"),
        Seen(1.2, 2.2, "GET", "/d"),
        Seen(2.3, 3.0, "PUT", "/e"),
    ]
    assert rounds_of(seen) == 3
    assert rounds_of([]) == 0


@contextmanager
def echo() -> Iterator[str]:
    """A server that answers with the body it got, or with its length for chunked bodies."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_proxy_changes_nothing_but_the_time() -> None:
    bodies = [b"", b"x" * 10, bytes(range(256)) * 5000]
    with echo() as endpoint, delaying(endpoint, 0.01) as proxy:
        connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=30)
        for body in bodies:
            connection.request("PUT", "/key", body)
            assert connection.getresponse().read() == body
        connection.request("PUT", "/chunked", iter([b"one", b"two" * 900]), encode_chunked=True)
        assert connection.getresponse().read() == b"one" + b"two" * 900
        connection.close()
        seen = proxy.seen()
        assert [(each.method, each.path) for each in seen] == [
            *[("PUT", "/key")] * 3, ("PUT", "/chunked"),
        ]  # fmt: skip
        assert all(each.answered - each.began >= 0.01 for each in seen)
        assert rounds_of(seen) == 4
        assert proxy.seen() == []
