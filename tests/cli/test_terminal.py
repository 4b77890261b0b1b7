"""The command in a real terminal: questions, Ctrl-C, colours, widths, pipes, completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from policystore import PolicyStore
from tests.cli.conftest import controller, fill
from tests.support.command import Command
from tests.support.s3_server import Answer, Proxy, Request

COMMAND = [sys.executable, "-m", "policystore"]


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return fill(PolicyStore(tmp_path / "policies"))


def start(*words: object, columns: int = 100, **environment: str) -> pexpect.spawn:
    return pexpect.spawn(
        COMMAND[0], [*COMMAND[1:], *map(str, words)], dimensions=(30, columns), timeout=60,
        encoding="utf-8", env={**os.environ, "TERM": "xterm-256color", **environment},
    )  # fmt: skip


def ended(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    return int(child.exitstatus)


@pytest.mark.long
def test_delete_asks_and_does_what_the_answer_says(store: PolicyStore) -> None:
    for answer, code, left in (("n", 1, 3), ("y", 0, 2)):
        child = start("-s", store.url, "delete", "soccer/main@3")
        child.expect("soccer/main@3")
        child.expect(r"Delete 1 version\? \[y/N\] ")
        child.sendline(answer)
        assert ended(child) == code
        assert len(store.log("soccer/main")) == left
    child = start("-s", store.url, "delete", "soccer/main@1")
    child.expect(r"\[y/N\] ")
    child.sendintr()
    child.expect("interrupted; the store is valid")
    assert ended(child) == 130
    assert len(store.log("soccer/main")) == 2


@pytest.mark.long
def test_colours_are_for_terminals_that_want_them(store: PolicyStore) -> None:
    def shown(**environment: str) -> str:
        child = start("-s", store.url, "ls", **environment)
        child.expect(pexpect.EOF)
        return str(child.before)

    assert "\x1b[36m" in shown()
    assert "\x1b[36m" not in shown(NO_COLOR="1")
    piped = subprocess.run([*COMMAND, "-s", store.url, "ls"], capture_output=True, check=True)
    assert b"\x1b" not in piped.stdout


@pytest.mark.long
def test_forty_columns_are_enough(store: PolicyStore) -> None:
    store.push(controller(2.0), "soccer/main", message="a long message " * 5, metrics={"a" * 30: 1})
    for words in (["ls"], ["log", "soccer/main"], ["show", "soccer/main"],
                  ["diff", "soccer/main@1", "soccer/main@2"], ["tags", "soccer/main"],
                  ["ls", "--help"]):  # fmt: skip
        child = start("-s", store.url, *words, columns=40, NO_COLOR="1")
        child.expect(pexpect.EOF)
        lines = re.sub(r"\x1b\[[0-9;]*m", "", str(child.before)).splitlines()
        most = 52 if "--help" in words else 40  # the help has lines of at least 50 columns
        assert not [line for line in lines if len(line) > most], words
        assert "--help" in words or "…" not in str(child.before), words  # nothing is cut


@pytest.fixture
def stalled(s3_endpoint: str, s3_bucket: str) -> Iterator[Proxy]:
    """A server that answers no write; the bucket is ``s3_bucket``."""
    proxy = Proxy(s3_endpoint)
    yield proxy
    proxy.close()


@pytest.mark.long
def test_ctrl_c_ends_a_push_to_a_server_that_does_not_answer(
    stalled: Proxy, s3_bucket: str, store: PolicyStore, tmp_path: Path
) -> None:
    import threading

    hold = threading.Event()

    def wait(request: Request) -> Answer | None:
        if request.method == "PUT":
            hold.wait(60)
        return None

    stalled.before = wait
    store.pull("soccer/main").save(tmp_path / "x.safetensors")
    url = f"s3://{s3_bucket}/team"
    child = start("-s", url, "push", tmp_path / "x.safetensors", "late",
                  AWS_ENDPOINT_URL=stalled.endpoint)  # fmt: skip
    child.expect("Pushing late")  # the bar appears after a second
    child.sendintr()
    child.expect("interrupted; the store is valid")
    assert ended(child) == 130
    hold.set()
    remote = PolicyStore(url, storage_options={"endpoint_url": stalled.endpoint})
    assert remote.names() == []
    remote.push(store.pull("soccer/main"), "late")
    assert remote.verify().ok


@pytest.mark.long
def test_a_closed_pipe_ends_the_command_silently(store: PolicyStore) -> None:
    process = subprocess.Popen(
        [*COMMAND, "-s", store.url, "show", "soccer/main", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def completed(store: PolicyStore, line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a shell would offer at the end of a command line."""
    words = line.split(" ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLICYSTORE_URL", store.url)
        patch.setenv("_POLICYSTORE_COMPLETE", "complete_bash")
        patch.setenv("COMP_WORDS", line)
        patch.setenv("COMP_CWORD", str(len(words) - 1))
        with pytest.raises(SystemExit) as ended:
            Command(capsys, None).run()
    assert ended.value.code == 0
    return capsys.readouterr().out.split()


def test_a_shell_completes_commands_names_refs_and_tags(
    store: PolicyStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed(store, "policystore se", capsys) == ["search"]
    assert completed(store, "policystore log so", capsys) == ["soccer/main"]
    assert completed(store, "policystore log soccer/m", capsys) == ["soccer/main"]
    assert completed(store, "policystore show ", capsys) == ["duo/p0", "soccer/main"]
    assert completed(store, "policystore show soccer/main@ch", capsys) == ["soccer/main@champion"]
    assert completed(store, "policystore untag soccer/main c", capsys) == ["champion"]
    assert completed(store, "policystore log ../", capsys) == []
    assert completed(store, "policystore -s nowhere log so", capsys) == []
    assert completed(store, "policystore -s s3://bucket/x log so", capsys) == []


@pytest.mark.long
def test_the_completion_script_of_a_shell(store: PolicyStore) -> None:
    done = subprocess.run(
        [*COMMAND, "--show-completion", "bash"], capture_output=True, text=True,
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_POLICYSTORE_COMPLETE" in done.stdout


@pytest.mark.long
def test_an_output_in_another_encoding_gets_escapes(store: PolicyStore) -> None:
    store.push(controller(2.0), "soccer/main", message="größer")
    for words, shown in (
        (["log", "soccer/main"], r"gr\xf6\xdfer"),
        (["ls", "--json"], r"gr\u00f6"),
    ):
        done = subprocess.run(
            [*COMMAND, "-s", store.url, *words], capture_output=True, text=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert shown in done.stdout
