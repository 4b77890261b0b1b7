"""Streams that are closed, full, or of an encoding that lacks characters."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from policystore import PolicyStore
from policystore.cli import main
from tests.cli.conftest import controller


@pytest.fixture
def full() -> Iterator[TextIO]:
    """A file on a full disk."""
    with open("/dev/full", "w", encoding="utf-8") as file:
        yield file


@pytest.fixture
def closed_pipe() -> Iterator[TextIO]:
    """A pipe whose reader has gone; each line is written at once."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as pipe:
        yield io.TextIOWrapper(pipe, encoding="utf-8", write_through=True)


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["show", "duo/p0"]])
def test_a_full_disk_under_the_output_is_an_error_of_storage(
    store: PolicyStore, full: TextIO, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, words: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["--store", store.url, *words]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the output cannot be written: [Errno 28]")


def test_an_error_stays_what_it_is_where_the_output_is_full(
    store: PolicyStore, full: TextIO, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", full)
    assert main(["--store", store.url, "log", "soccer/mian", "--json"]) == 3
    assert "no name 'soccer/mian'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["show", "duo/p0"]])
def test_a_closed_pipe_is_no_fault(
    store: PolicyStore, closed_pipe: TextIO, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, words: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert main(["--store", store.url, *words]) == 0
    assert capsys.readouterr().err == ""


def test_nothing_is_deleted_that_could_not_be_shown(
    store: PolicyStore, closed_pipe: TextIO, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdout", closed_pipe)
    assert main(["--store", store.url, "delete", "duo/p0"]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert len(store.log("duo/p0")) == 1


def test_messages_that_nobody_reads_end_no_command(
    store: PolicyStore, closed_pipe: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", closed_pipe)
    assert main(["--store", store.url, "log", "soccer/mian"]) == 3
    assert main(["--store", store.url, "log", "duo/p0"]) == 0


@pytest.mark.parametrize("words", [["ls"], ["ls", "--json"], ["show", "duo/p0"]])
def test_streams_that_are_closed_are_written_to_nowhere(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["--store", store.url, *words]) == 0
    assert main(["--store", store.url, "log", "soccer/mian"]) == 3
    assert main(["--store", store.url, "delete", "duo/p0"]) == 2  # nobody can be asked
    assert sys.stdout is None


def test_an_encoding_without_a_character_shows_an_escape(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.push(controller(5.0), "duo/p0", message="日本 \U0001f600")

    def output(*words: str) -> str:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["--store", store.url, *words]) == 0
        stream.seek(0)
        return stream.read()

    assert "\\u65e5\\u672c \\U0001f600" in output("log", "duo/p0")
    versions = json.loads(output("log", "duo/p0", "--json"))["versions"]
    assert versions[0]["message"] == "日本 \U0001f600"


def test_an_interrupt_before_a_command_begins_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("policystore.cli.app.run", interrupt)
    assert main(["ls"]) == 130


def test_json_has_escapes_for_what_a_terminal_would_obey(
    store: PolicyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "\x9b31m \u202e \U000e0041 日本"
    store.push(controller(5.0), "duo/p0", message=message)
    assert main(["--store", store.url, "log", "duo/p0", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert "日本" in out
    assert json.loads(out)["versions"][0]["message"] == message
