"""docs/commands.md tells every command, option, key and exit code, and what the commands print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import policystore as package
from policystore import PolicyStore
from policystore.cli.app import app
from policystore.cli.common.exit_codes import Code, code_of
from policystore.league import League
from scripts.tools import record_session
from tests.support.checkpoint_corpus import given
from tests.support.command import Command
from tests.support.doc_blocks import DOCS, PAGES

PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")
COMMON = {"--store", "--option", "--json", "--debug", "--help"}
VERBS = {
    "Add", "Ask", "Bring", "Check", "Compare", "Copy", "Count", "Delete", "End", "Find", "Import", "List",
    "Move", "Play", "Pull", "Push", "Read", "Remove", "Show", "Tell", "Write",
}  # fmt: skip


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command with the words that call it."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())
        else:
            yield name, command


COMMANDS = dict(commands())


def section(title: str) -> str:
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S)
    assert found is not None, f"the page has no heading '{title}'"
    return found[2]


def rows(title: str) -> list[list[str]]:
    """Return the cells of a table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.long
@pytest.mark.parametrize("page", record_session.PAGES, ids=lambda page: page.name)
def test_the_page_has_what_the_commands_print(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert record_session.settled(text) == record_session.settled(record_session.recorded(text))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented_with_its_options(name: str) -> None:
    text = section(name)
    assert f"`policystore {name}" in text
    options = {
        option
        for param in COMMANDS[name].params
        for option in (*param.opts, *param.secondary_opts)
        if option.startswith("--")
    } - COMMON
    documented = set(re.findall(r"--[a-z][a-z-]*", "".join(row[0] for row in rows(name))))
    assert documented == options
    shared = section("Options of every command")
    assert all(f"`{option}" in shared for option in COMMON)


def shell_lines(page: Path) -> list[str]:
    """Return what a reader types: the lines of ``sh`` blocks, and those of ``console`` with ``$``."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(sh|console)\n(.*?)^```$", text, re.M | re.S)
    return [
        line.removeprefix("$ ")
        for kind, block in blocks
        for line in block.splitlines()
        if kind == "sh" or line.startswith("$ ")
    ]


def parse(line: str) -> None:
    """Parse a command line as the command does, and run nothing; raise typer's error of usage."""
    program, *words = shlex.split(line, comments=True)
    assert program == "policystore"
    end = next((at for at, word in enumerate(words) if word in ("|", ">", "&&", ";")), len(words))
    command: Any = typer.main.get_command(app)
    words = words[:end]
    while True:
        context = command.context_class(command, info_name="policystore")
        parser = command.make_parser(context)
        given, words, _ = parser.parse_args(args=words)
        arguments = [each for each in command.params if each.param_type_name == "argument"]
        assert all(given[each.name] is not None for each in arguments if each.required), line
        if not hasattr(command, "commands"):
            assert words == [], line
            return
        if not words:
            assert any(given.values()), line
            return
        _, command, words = command.resolve_command(context, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_each_page_exist_with_their_options(page: Path) -> None:
    for line in shell_lines(page):
        if re.match(r"policystore\s", line):
            parse(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_within_the_sentences_of_each_page_exist(page: Path) -> None:
    for text in re.findall(r"`policystore ([a-z][^`]*)`", page.read_text(encoding="utf-8")):
        name = next((each for each in COMMANDS if f"{text} ".startswith(f"{each} ")), None)
        assert name is not None, text
        options = {option for param in COMMANDS[name].params for option in param.opts}
        assert set(re.findall(r"--[a-z][a-z-]*", text)) <= options | COMMON, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_a_page_runs_can_be_run(page: Path) -> None:
    for module in re.findall(r"python -m (policystore[\w.]*)", page.read_text(encoding="utf-8")):
        if page.name != "CHANGELOG.md":  # which also names what is gone
            assert find_spec(f"{module}.__main__"), module


def test_lines_that_are_wrong_are_found() -> None:
    usage_error = typer.BadParameter.__mro__[1]
    for line in ("policystore lock", "policystore ls --sotre x", "policystore prune a --keep-last"):
        with pytest.raises(usage_error):
            parse(line)
    for line in ("policystore log", "policystore gc now"):
        with pytest.raises(AssertionError):
            parse(line)
    assert sum(map(len, map(shell_lines, PAGES))) > 60


@pytest.mark.parametrize("name", COMMANDS)
def test_each_help_begins_with_a_verb(name: str) -> None:
    assert COMMANDS[name].help.split()[0] in VERBS
    for param in COMMANDS[name].params:
        assert getattr(param, "help", None) or "--help" in param.opts, param.name


def test_the_exit_codes_are_those_of_the_page() -> None:
    table = {int(code): re.findall(r"`(\w+)`", errors) for code, _, errors in rows("Exit codes")}
    assert set(table) == {int(code) for code in Code}
    named = {error: code for code, errors in table.items() for error in errors}
    classes = {cls.__name__: cls for cls in package.PolicyStoreError.__subclasses__()}
    assert named == {name: int(code_of(cls("x"))) for name, cls in classes.items()}


KEYS = {
    name: set(re.findall(r"`(\w+)`", keys))
    for names, keys in rows("JSON")
    for name in re.findall(r"`([^`]+)`", names)
}

CALLS = [
    ["ls"], ["log", "soccer/main"], ["show", "soccer/main"], ["search"],
    ["diff", "soccer/main@1", "soccer/main@2"], ["tags", "soccer/main"],
    ["pull", "soccer/main", "x.safetensors"], ["push", "x.safetensors", "pushed"],
    ["copy", "memory://mirror-of-the-keys", "duo/"], ["tag", "soccer/main@1", "old"],
    ["untag", "soccer/main", "old", "--yes"], ["annotate", "soccer/main", "-m", "hi"],
    ["protect", "soccer/main", "champion"], ["unprotect", "soccer/main", "champion"],
    ["delete", "soccer/main@1", "--yes"], ["restore", "soccer/main@1"],
    ["prune", "soccer/main", "--keep-last", "1", "--dry-run"], ["gc"], ["verify"], ["stats"],
    ["watch", "soccer/main", "--timeout", "0"], ["report"], ["cache", "show"], ["cache", "clear"], ["doctor"],
    ["league", "ls"], ["league", "ratings", "soccer"], ["league", "payoffs", "soccer"],
    ["league", "matches", "soccer"], ["league", "report", "soccer", "soccer.html"],
    ["league", "delete", "soccer", "--yes"],
]  # fmt: skip


def name_of(words: list[str]) -> str:
    return " ".join(words[:2]) if words[0] in ("cache", "league") else words[0]


def test_every_command_prints_the_keys_of_the_page(
    policystore: Command, store: PolicyStore
) -> None:
    match = {"players": {"a": "duo/p0", "b": "soccer/main"}, "episodes": 3, "wins": {"a": 2}}
    League(store, "soccer").record([match])
    found = {name_of(words): set(policystore.json(*words)) for words in CALLS}
    assert found == {name: keys for name, keys in KEYS.items() if name in found}
    assert set(KEYS) == set(COMMANDS) == {
        *found, "export", "import", "inspect", "league play", "league replay"
    }  # fmt: skip
    assert set(policystore.json("log", "nothing", code=3)) == {"error"}
    (fault,) = [row for row in rows("JSON") if row[0].startswith("any")]
    assert set(policystore.json("log", "nothing", code=3)["error"]) == set(
        re.findall(r"`(\w+)`", fault[1])
    ) - {"error"}


@pytest.mark.long
def test_the_commands_for_checkpoints_print_the_keys_of_the_page(
    policystore: Command, tmp_path: Path
) -> None:
    path = next(each.path for each in given() if "ray-2.60" in str(each.path))
    found = {
        "import": set(policystore.json("import", path, "--name", "x")),
        "inspect": set(policystore.json("inspect", path)),
    }
    assert found == {name: KEYS[name] for name in found}
