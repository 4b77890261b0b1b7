"""The progress bar: on a terminal alone, after a second, and without a trace."""

from __future__ import annotations

import io
import threading

import pytest

from policystore.cli.terminal import progress
from policystore.cli.terminal.progress import Bar
from tests.support.waiting import until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("unit", ["bytes", "records"])
def test_a_bar_appears_with_the_numbers_so_far(monkeypatch: pytest.MonkeyPatch, unit: str) -> None:
    monkeypatch.setattr(progress, "_WAIT", 0.0)
    monkeypatch.setenv("COLUMNS", "80")
    file = Terminal()
    with Bar("Pulling [red]x", unit, file) as bar:
        bar(3, None)
        until(lambda: "Pulling [red]x" in file.getvalue())
        bar(7, 10)
        bar(10, 10)
    assert "10" in file.getvalue()


def test_a_short_call_and_a_file_get_no_bar() -> None:
    file, terminal = io.StringIO(), Terminal()
    for each in (file, terminal):
        with Bar("Pulling", "bytes", each) as bar:
            bar(1, 2)
        assert each.getvalue() == ""
    assert Bar("Pulling", "bytes", file)._timer is None
    assert not [each for each in threading.enumerate() if isinstance(each, threading.Timer)
                and each.is_alive() and not each.finished.is_set()]  # fmt: skip


def test_a_bar_that_comes_too_late_does_not_appear() -> None:
    terminal = Terminal()
    with Bar("Pulling", "bytes", terminal) as bar:
        pass
    bar._appear()
    assert terminal.getvalue() == ""
