"""Put the commands together, and run the one that was asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from policystore.cli.common.command import (
    MARKUP,
    Debug,
    Json,
    Option,
    Shared,
    Store,
    built,
    flowing,
)
from policystore.cli.common.exit_codes import Code, one_line
from policystore.cli.common.parameters import without_needless_conversion
from policystore.cli.terminal.output import (
    as_json,
    discard_output,
    mapped_output,
    tell,
    usable_streams,
)
from policystore.errors import StorageError

__all__ = ["app", "run"]

# Each command, in the order of the help, and the module of cli/commands/ that defines the command.
_MODULES = {
    "ls": "names",
    "log": "names",
    "report": "report",
    "search": "search",
    "show": "show",
    "diff": "show",
    "tags": "tags",
    "watch": "watching",
    "league": "league",
    "push": "moving",
    "pull": "moving",
    "copy": "moving",
    "export": "exporting",
    "import": "checkpoints",
    "inspect": "checkpoints",
    "delete": "deleting",
    "restore": "deleting",
    "prune": "deleting",
    "annotate": "notes",
    "tag": "tags",
    "untag": "tags",
    "protect": "tags",
    "unprotect": "tags",
    "gc": "deleting",
    "doctor": "doctor",
    "verify": "upkeep",
    "stats": "upkeep",
    "cache": "upkeep",
}

# typer has no public name for the base of its errors of usage, of which this is one.
_UsageError = cast(type[Exception], typer.BadParameter.__mro__[1])


class _Commands(MutableMapping[str, Any]):
    """Map the word of each command to the command, which is built when it is first asked for.

    To import the modules of all commands takes several times as long as to list the names of a
    store. So only the help of all commands imports all of them.
    """

    def __init__(self) -> None:
        self._modules = dict(_MODULES)
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            importlib.import_module(f"policystore.cli.commands.{self._modules[name]}")
            self._built[name] = built(name)
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._modules[name], self._built[name] = "", command

    def __delitem__(self, name: str) -> None:
        del self._modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


class _Group(TyperGroup):
    """The command ``policystore``, whose commands are imported when they are asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()


app = typer.Typer(
    name="policystore",
    cls=_Group,
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from policystore import __version__

        sys.stdout.write(f"policystore {__version__}\n")
        raise typer.Exit


_HELP = """\
Look at a store of RLlib policies, search it, and change it.

A ref names a policy: soccer/main (the newest version), soccer/main@7, soccer/main@champion (a tag)
or blake3:ab12cd34 (a digest). The options below may stand before or after the command.
"""


@app.callback(help=flowing(_HELP))
def _read_shared(
    ctx: typer.Context,
    store: Store = None,
    option: Option = None,
    json: Json = False,
    debug: Debug = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Keep the options that stand before the name of the command."""
    ctx.obj = Shared(store, tuple(option or ()), json, debug)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    command = without_needless_conversion(typer.main.get_command(app))
    with usable_streams():
        try:
            with mapped_output():
                code = command.main(
                    list(arguments) or ["--help"], prog_name="policystore", standalone_mode=False
                )
                sys.stdout.flush()
        except _UsageError as error:
            return _wrong_use(error, json="--json" in arguments)
        except (typer.Abort, KeyboardInterrupt):
            tell("interrupted")
            return Code.INTERRUPTED
        except BrokenPipeError:
            discard_output()
            return Code.FINE
        except StorageError as error:  # the help cannot be written; a command has told its errors
            tell(f"error: {one_line(str(error))}")
            return Code.STORAGE
        return int(code or 0)


def _wrong_use(error: Exception, *, json: bool) -> int:
    """Print an error about the command line as one line that says how to go on."""
    format_message = getattr(error, "format_message", error.__str__)
    context = getattr(error, "ctx", None)
    path = "policystore" if context is None else context.command_path
    line = f"{one_line(format_message()).rstrip('.')}. See: {path} --help"
    tell(f"error: {line}")
    if json:
        document = {"error": {"type": "Usage", "message": line, "exit_code": int(Code.WRONG_USE)}}
        try:
            sys.stdout.write(as_json(document) + "\n")
            sys.stdout.flush()
        except OSError:  # the output is closed or full; the standard error has the message
            discard_output()
    return Code.WRONG_USE
