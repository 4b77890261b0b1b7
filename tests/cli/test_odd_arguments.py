"""Arguments and files that no user means, but a mistake or a stranger may give."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policystore import PolicyStore
from tests.support.command import Command

HUGE = "9" * 30
DEEP = "[" * 20_000


@pytest.mark.parametrize(
    "words",
    [
        ["log", "soccer/main", "-n", HUGE],
        ["log", "soccer/main", "--deleted", "-n", HUGE],
        ["search", "-n", HUGE],
        ["show", "soccer/main", "--rows", HUGE],
        ["report", "-n", HUGE, "--out", "page.html"],
        ["prune", "soccer/main", "--keep-last", HUGE, "--dry-run"],
    ],
)
def test_a_huge_limit_is_no_limit(policystore: Command, words: list[str]) -> None:
    assert policystore.run(*words).code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["prune", "soccer/main", "--keep-best", f"return:max:{'9' * 5000}"], 2, "no number"),
        (["annotate", "soccer/main", "--metric", f"x={DEEP}"], 2, "nested too deeply"),
        (["annotate", "soccer/main", "--metric", f"x={'[' * 500}{']' * 500}"], 2, "nested deeper"),
        (["ls", "--option", f"x={DEEP}"], 2, "nested too deeply"),
        (["ls", "--option", f"{'a.' * 500}b=1"], 2, "more than 8 dots"),
        (["log", "a" * 5000], 2, "at most 400 characters"),
        (["log", "soccer/main@1"], 2, "'main@1'"),
        (["tags", "soccer/main", "a" * 5000], 2, "at most 60 characters"),
        (["tags", "soccer/main", "../../x"], 2, "the tag '../../x'"),
        (["pull", "soccer/main", "a" * 300], 4, "looking at"),
        (["diff", "soccer/main", "a" * 300 + ".safetensors"], 4, "looking at"),
        (["push", "~nobody.here/x.safetensors", "a/b"], 2, "~nobody.here/x.safetensors"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    policystore: Command, words: list[str], code: int, message: str
) -> None:
    ran = policystore.run(*words)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.error
    assert "a mistake of policystore" not in ran.error


@pytest.mark.parametrize("target", ["pipe", "link"])
def test_pull_replaces_no_pipe_and_no_device(
    policystore: Command, tmp_path: Path, target: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    ran = policystore.run("pull", "soccer/main", tmp_path / target, "--force")
    assert ran.code == 4
    assert "is a device or a pipe" in ran.error
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    "url",
    [
        "s3://ann:SEKRET@bucket/x",
        "http://ann:SEKRET@host/x",
        "s3://bucket/x?X-Amz-Signature=SEKRET",
    ],
)
@pytest.mark.parametrize("words", [["ls"], ["doctor", "--no-write"]])
def test_a_secret_in_the_url_is_never_shown(
    bare: Command, monkeypatch: pytest.MonkeyPatch, url: str, words: list[str]
) -> None:
    monkeypatch.setenv("POLICYSTORE_URL", url)
    ran = bare.run(*words)
    assert ran.code in (1, 2)
    assert "SEKRET" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"# policystore\nx = " + b"[" * 20_000, "no valid TOML"),
        (b"# policystore\nx = " + b"9" * 5000, "no valid TOML"),
        (b"# policystore \xff", "cannot be read"),
        (b'[tool.policystore]\nstore = "~nobody.here/x"', "~nobody.here/x"),
    ],
)
def test_a_hostile_project_file_is_named(
    bare: Command, tmp_path: Path, text: bytes, message: str
) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text)
    ran = bare.run("ls")
    assert ran.code == 2
    assert message in ran.error


def test_a_project_file_of_another_encoding_that_names_no_store_is_passed_over(
    bare: Command, store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "pyproject.toml").write_bytes(b'description = "caf\xe9"')
    (tmp_path / "pyproject.toml").write_text(f'[tool.policystore]\nstore = "{store.url}"')
    monkeypatch.chdir(folder)
    assert bare.run("ls").code == 0


def test_a_project_file_that_is_a_pipe_blocks_nothing(bare: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pyproject.toml")
    ran = bare.run("ls")
    assert ran.code == 2
    assert "is not a regular file" in ran.error


def test_the_working_directory_may_be_gone(
    policystore: Command, bare: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert policystore.run("ls").code == 0
    assert "no store was named" in bare.run("ls").error
