"""The author of a record: who pushed it, also where everyone is the same user."""

from __future__ import annotations

import getpass
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot
from policystore.repository import stamp


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is gpu-3, the user is root, and nothing is known of git yet."""
    monkeypatch.delenv("POLICYSTORE_AUTHOR", raising=False)
    monkeypatch.delenv("GIT_AUTHOR_NAME", raising=False)
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-3.cluster.local")
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    stamp._git_name.cache_clear()


def git_says(monkeypatch: pytest.MonkeyPatch, stdout: bytes, code: int = 0) -> list[Any]:
    """Let git answer; return a list to which each call of git is added."""
    calls: list[Any] = []

    def run(command: Any, **more: Any) -> Any:
        calls.append((command, more))
        return subprocess.CompletedProcess(command, code, stdout, b"")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_the_variable_comes_first_and_git_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = git_says(monkeypatch, b"Ann Lee\n")
    monkeypatch.setenv("POLICYSTORE_AUTHOR", "bob")

    assert stamp.default_author() == "bob"
    assert calls == []


def test_a_user_of_ones_own_is_the_author(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = git_says(monkeypatch, b"Ann Lee\n")
    monkeypatch.setattr(getpass, "getuser", lambda: "alee")

    assert stamp.default_author() == "alee"
    assert calls == []


@pytest.mark.parametrize("user", ["root", "ubuntu", "ec2-user", "jovyan", "ray", "Administrator"])
def test_a_shared_user_becomes_the_name_in_git_and_the_machine(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = git_says(monkeypatch, "Änn Lee\n".encode())
    monkeypatch.setattr(getpass, "getuser", lambda: user)

    assert [stamp.default_author() for _ in range(3)] == ["Änn Lee@gpu-3"] * 3
    assert len(calls) == 1
    assert calls[0][1]["timeout"] <= 2
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Eve")
    assert stamp.default_author() == "Eve@gpu-3"


FAILURES: list[Any] = [
    FileNotFoundError("git"),
    PermissionError("git"),
    OSError(12, "no memory"),
    subprocess.TimeoutExpired("git", 2),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_without_git_the_machine_is_still_named(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*args: Any, **more: Any) -> Any:
        raise failure

    monkeypatch.setattr(subprocess, "run", run)

    assert stamp.default_author() == "root@gpu-3"


@pytest.mark.parametrize(("stdout", "code"), [(b"", 1), (b"\n", 0), (b"Ann\n", 128)])
def test_a_git_without_a_name_is_no_author(
    stdout: bytes, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_says(monkeypatch, stdout, code)

    assert stamp.default_author() == "root@gpu-3"


def test_hostile_names_and_unknown_machines_stay_on_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    git_says(monkeypatch, b"\x1b[2JAnn\nLee \xff" + b"x" * 9_000)

    author = stamp.default_author()

    assert author.startswith("[2JAnn Lee \ufffdxxx")
    assert len(author) <= 100 + len("@gpu-3")
    store = PolicyStore("memory://stamp")
    assert store.push(Snapshot(weights={"w": np.zeros(1)}), "a").author == author


def test_a_user_without_a_name_and_a_machine_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid")

    def nowhere() -> str:
        raise OSError("no host")

    git_says(monkeypatch, b"", 1)
    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr("socket.gethostname", nowhere)

    assert stamp.default_author() == "unknown@unknown"


def test_the_real_git_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text('[user]\n\tname = "Ann Lee" ; a comment\n')
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in [each for each in os.environ if each.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))

    assert stamp.default_author() == "Ann Lee@gpu-3"
