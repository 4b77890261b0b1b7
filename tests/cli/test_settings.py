"""Which store a command works on, wrong command lines, exit codes and messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from policystore import (
    AmbiguousError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    MatchError,
    MismatchError,
    MissingPackageError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    ProtectedError,
    ReadOnlyError,
    StorageError,
    SyncError,
    UntrustedError,
)
from policystore.cli.common.exit_codes import Code, code_of
from tests.cli.conftest import fill
from tests.support.command import Command


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return fill(PolicyStore(tmp_path / "policies"))


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_without_a_store_the_message_says_all_three_ways(bare: Command) -> None:
    ran = bare.run("ls")
    assert (ran.code, ran.out) == (2, "")
    for way in ("--store", "$POLICYSTORE_URL", "[tool.policystore]", "pyproject.toml"):
        assert way in ran.error


def test_the_option_comes_before_the_environment_and_this_before_the_file(
    bare: Command, store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[tool.policystore]\nstore = 'from-file'\n")
    assert bare.run("ls").error.startswith("error: there is no policy store at")
    assert "from-file" in bare.run("ls").err

    monkeypatch.setenv("POLICYSTORE_URL", "from-environment")
    assert "from-environment" in bare.run("ls").err
    assert bare.run("ls", "-s", store.url).code == 0
    assert bare.run("-s", store.url, "ls").code == 0


def test_a_relative_folder_begins_at_the_file_which_may_be_in_a_folder_above(
    bare: Command, store: PolicyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "[tool.policystore]\nstore = 'policies'\n")
    deep = write(tmp_path / "src" / "deep", "[tool.other]\nx = 1 # policystore\n")
    monkeypatch.chdir(deep)
    assert "soccer/main" in bare.run("ls").out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.policystore]\n", "expected the folder or URL"),
        ("[tool.policystore]\nstore = 3\n", "expected the folder or URL"),
        ("[tool.policystore]\nstore = 'x'\nstrore = 1\n", "unknown keys 'strore'"),
        ("[tool]\npolicystore = 3\n", "is a table"),
        ("[tool.policystore\n", "no valid TOML"),
        (
            "[tool.policystore]\nstore = 's3://b'\nstorage_options = {secret = 'abc'}\n",
            "secret looks like a secret",
        ),
        (
            "[tool.policystore]\nstore = 's3://b'\nstorage_options = 4\n",
            "storage_options is a dict",
        ),
    ],
)
def test_a_wrong_file_is_named(bare: Command, tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, text)
    ran = bare.run("ls")
    assert ran.code == 2
    assert message in ran.error
    assert "pyproject.toml" in ran.error or "storage_options" in ran.error
    assert "abc" not in ran.error


def test_options_go_to_the_filesystem_and_secrets_are_refused(bare: Command) -> None:
    ran = bare.run("ls", "-s", "memory://x", "--option", "endpoint_url=http://localhost")
    assert "memory:// take none" in ran.error
    ran = bare.run("ls", "-s", "s3://bucket", "--option", "client_kwargs.aws_secret_access_key=abc")
    assert ran.code == 2
    assert "client_kwargs.aws_secret_access_key looks like a secret" in ran.error
    assert bare.run("ls", "-s", "x", "--option", "nothing").code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lss"], "Did you mean"),
        (["log"], "Missing argument"),
        (["ls", "--nope"], "--nope"),
        (["log", "soccer/main", "--limit", "many"], "--limit"),
        (["prune", "soccer/main", "--older-than", "soon"], "span of time"),
        (["verify", "--since", "yesterday"], "a date such as"),
        (["show", "soccer/main@0"], "version is a number"),
        (["delete", "soccer/main@2", "--all"], "--all takes a name"),
    ],
)
def test_wrong_use_is_one_line_and_2(policystore: Command, words: list[str], message: str) -> None:
    ran = policystore.run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.error
    assert ran.error.startswith("error: ")


def test_each_error_has_its_exit_code() -> None:
    codes = {
        NotFoundError: 3, AmbiguousError: 2, InvalidInputError: 2, MismatchError: 2,
        MissingPackageError: 2,
        UntrustedError: 2, IntegrityError: 1, FormatError: 1, ReadOnlyError: 4, StorageError: 4,
        SyncError: 1, ProtectedError: 2, MatchError: 1,
    }  # fmt: skip
    assert set(codes) == set(PolicyStoreError.__subclasses__())
    assert {kind: code_of(kind("x")) for kind in codes} == codes


def test_no_store_an_empty_store_and_a_folder_that_is_none_are_told_apart(
    bare: Command, store: PolicyStore, tmp_path: Path
) -> None:
    missing = bare.run("ls", "-s", tmp_path / "nothing")
    assert (missing.code, missing.out) == (3, "")
    assert "there is no policy store at" in missing.error

    for name in store.names():
        store.delete_name(name, force=True)
    empty = bare.run("ls", "-s", store.url)
    assert (empty.code, empty.out) == (0, "")
    assert "is a store without names" in empty.error
    assert bare.run("ls", "-s", store.url, "--json").document["names"] == []

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    other = bare.run("ls", "-s", tmp_path / "other")
    assert (other.code, other.out) == (1, "")
    assert "is not a policy store" in other.error

    wrong = bare.run("ls", "-s", "nope://x")
    assert wrong.code == 2
    assert "nope://x" in wrong.error


def test_an_error_is_a_document_too_and_debug_shows_the_traceback(policystore: Command) -> None:
    ran = policystore.run("log", "soccer/mian", "--json")
    assert ran.code == 3
    assert ran.document["error"]["exit_code"] == 3
    assert ran.document["error"]["type"] == "NotFoundError"
    assert "soccer/main" in ran.document["error"]["message"]
    assert policystore.run("lss", "--json").document["error"]["exit_code"] == 2
    assert "Traceback" not in policystore.run("log", "soccer/mian").err
    assert "Traceback" in policystore.run("log", "soccer/mian", "--debug").err


def test_a_mistake_of_ours_is_told_from_one_of_the_user(
    policystore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("x")

    monkeypatch.setattr(PolicyStore, "verify", fail)
    ran = policystore.run("verify")
    assert ran.code == Code.INTERNAL
    assert "a bug in policystore" in ran.error


def test_an_interrupt_is_one_line_and_130(
    policystore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PolicyStore, "stats", interrupt)
    ran = policystore.run("stats")
    assert (ran.code, ran.out, ran.error) == (130, "", "interrupted; the store is valid")


def test_without_typer_one_line_names_the_extra(
    capsys: pytest.CaptureFixture[str], bare: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = bare.run("ls")
    assert (ran.code, ran.out) == (2, "")
    assert "pip install 'policystore[cli]'" in ran.error


def test_the_version_and_the_help(bare: Command) -> None:
    import policystore

    assert bare.run("--version").out == f"policystore {policystore.__version__}\n"
    assert "Usage: policystore" in bare.run().out
    assert bare.run().code == 0


@pytest.mark.long
def test_the_module_and_the_start_without_heavy_packages(store: PolicyStore) -> None:
    program = (
        "import sys; from policystore.cli import main; code = main(['ls', '-s', sys.argv[1], "
        "'--json']); print([m for m in ('torch', 'ray', 'fsspec', 's3fs', 'rich', 'gymnasium', "
        "'policystore.checkpoints') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, store.url], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    module = subprocess.run(
        [sys.executable, "-m", "policystore", "ls", "-s", store.url],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "soccer/main" in module.stdout
