"""The command imports and builds only what a call needs, and knows all commands without that."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from policystore import PolicyStore
from policystore.cli import app
from policystore.cli.common import command
from policystore.cli.common.command import PANELS
from policystore.cli.common.parameters import without_needless_conversion
from policystore.cli.terminal.tables import Column, draw_table
from tests.cli.conftest import fill
from tests.support.command import Command

COMMANDS = Path(app.__file__).parent / "commands"


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return fill(PolicyStore(tmp_path / "policies"))


def defined(path: Path) -> list[str]:
    """Return the commands and groups of commands that a module defines at the top level."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("command", "group_of_commands")
        and "group" not in [keyword.arg for keyword in node.keywords]
    ]
    return [ast.literal_eval(call.args[0]) for call in calls]


def test_the_table_names_the_module_of_each_command() -> None:
    found = {
        name: path.relative_to(COMMANDS).parts[0].removesuffix(".py")
        for path in COMMANDS.rglob("*.py")
        for name in defined(path)
    }
    assert found == app._MODULES


def test_the_help_has_the_groups_in_their_order() -> None:
    program: Any = typer.main.get_command(app.app)
    panels = [command.rich_help_panel for command in program.commands.values()]
    assert list(dict.fromkeys(panels)) == PANELS
    assert panels == sorted(panels, key=PANELS.index)


def test_ls_imports_the_modules_of_no_other_command(store: PolicyStore) -> None:
    program = (
        "import sys, json; from policystore.cli import main; main(['-s', sys.argv[1], 'ls']); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, store.url], capture_output=True, text=True, check=True
    )
    *table, last = done.stdout.splitlines()
    loaded = set(json.loads(last))
    assert table[1].startswith("duo/p0")
    modules = {name for name in loaded if name.startswith("policystore.cli.commands.")}
    assert modules == {"policystore.cli.commands.names"}
    assert not loaded & {
        "rich.console", "policystore.store", "policystore.spaces", "policystore.backends.fsspec",
        "policystore.repository.collect", "policystore.repository.search", "policystore.report",
    }  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["--version"], ["--help"], ["ls"], ["ls", "--json"], ["ls", "--help"],
        ["log", "soccer/main"], ["tags", "soccer/main"], ["tag", "soccer/main", "best"],
        ["search", "soccer/main", "--where", "return > 10"], ["league", "ls"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_touches_no_array_imports_nothing_heavy(
    store: PolicyStore, words: list[str]
) -> None:
    program = (
        "import sys, json; from policystore.cli import main; code = main(sys.argv[1:]); "
        "print(json.dumps(sorted(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "-s", store.url, *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    heavy = {"numpy", "ml_dtypes", "pydantic", "importlib.metadata", "asyncio", "fsspec"}
    if "--help" not in words:
        heavy.add("rich.console")
    if "--version" in words:
        heavy |= {"policystore.backends", "policystore.format", "blake3"}
    assert not loaded & heavy


def every_command() -> Iterator[Any]:
    """Yield all commands and groups, as typer builds them anew."""
    program: Any = typer.main.get_command(app.app)
    yield program
    for name in program.commands:
        program.commands[name]  # imports the module
        built: Any = typer.main.get_command(command._programs[name])
        first = getattr(built, "commands", {name: built})[name]
        yield first
        yield from getattr(first, "commands", {}).values()


def test_values_without_a_conversion_are_those_that_typer_converts() -> None:
    def outcome(process: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
        try:
            return process(context, value)
        except app._UsageError as error:
            return str(error)

    kept = 0
    for each in every_command():
        context = each.make_context("x", [], resilient_parsing=True)
        own = each.get_params(context)
        plain = {id(parameter): parameter.process_value for parameter in own}
        without_needless_conversion(each)
        for parameter in each.get_params(context):
            if parameter.callback is not None:
                continue
            several = parameter.multiple or parameter.nargs == -1
            texts = [["a", "b"], ("a",), (), [""]] if several else ["a", "", "7", " x "]
            for value in [None, parameter.default, *texts]:
                converted = outcome(plain[id(parameter)], context, value)
                assert outcome(parameter.process_value, context, value) == converted
                kept += converted == value
    assert kept > 100


def test_commands_that_are_not_imported_yet_are_suggested_and_called(policystore: Command) -> None:
    ran = policystore.run("serch")
    assert ran.code == 2
    assert "Did you mean 'search'?" in ran.error
    assert policystore.run("cache", "sow").code == 2
    assert policystore.run("cache", "show").code == 0


def settled(text: str) -> list[str]:
    """Return the lines of a text without colours, without ages and without spaces at their ends."""
    plain = re.sub(r"\x1b\[[0-9;]*m|\b\d+s\b", "", text)
    return [line.rstrip() for line in plain.splitlines()]


def test_an_output_that_is_no_terminal_gets_colours_if_it_asks_for_them(
    policystore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [policystore.run(*words).out for words in (["ls"], ["show", "duo/p0"])]
    assert "\x1b" not in "".join(plain)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = [policystore.run(*words).out for words in (["ls"], ["show", "duo/p0"])]
    assert all("\x1b[1m" in text for text in coloured)
    assert [settled(text) for text in coloured] == [settled(text) for text in plain]


def test_a_table_aligns_characters_of_two_columns() -> None:
    file = io.StringIO()
    draw_table(
        file,
        [Column("name"), Column("count", right=True), Column("note")],
        [["日本", "7", "x"], ["abc", "1,000", ""]],
    )
    assert file.getvalue() == "name  count  note\n日本      7  x\nabc   1,000\n"
