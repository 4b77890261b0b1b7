"""Turn functions into commands: the options that all commands share, errors, exit codes."""

from __future__ import annotations

import inspect
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

import typer

from policystore._util.log import logger
from policystore.cli.common.exit_codes import Code, code_of
from policystore.cli.common.parameters import without_needless_conversion
from policystore.cli.terminal.output import discard_output, mapped_output, tell
from policystore.errors import PolicyStoreError

if TYPE_CHECKING:
    from policystore.cli.common.session import Session

__all__ = [
    "CHANGE",
    "CHECKPOINTS",
    "COPY",
    "LEAGUES",
    "LOOK",
    "MARKUP",
    "PANELS",
    "UPKEEP",
    "Author",
    "Debug",
    "Json",
    "Message",
    "Option",
    "Shared",
    "Store",
    "built",
    "command",
    "flowing",
    "group_of_commands",
    "guarded",
]

# The groups of commands in the help.
LOOK = "Look"
COPY = "Push, pull and copy"
CHANGE = "Change"
UPKEEP = "Look after a store"
CHECKPOINTS = "Checkpoints of RLlib"
LEAGUES = "Leagues"
PANELS = [LOOK, LEAGUES, COPY, CHECKPOINTS, CHANGE, UPKEEP]

Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="STORE",
        help="Folder or URL of the store. Default: $POLICYSTORE_URL, or store in the section "
        "tool.policystore of the nearest pyproject.toml.",
    ),
]
Option = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="Option for the filesystem of the store, such as endpoint_url=http://…; may be "
        "repeated. Secrets are refused here.",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one JSON document and nothing else.")
]
Debug = Annotated[bool, typer.Option("--debug", metavar="", help="Show the traceback of an error.")]

Author = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The author in the record. Default: $POLICYSTORE_AUTHOR, or your user name.",
    ),
]
Message = Annotated[
    str, typer.Option("--message", "-m", metavar="TEXT", help="The reason, for the record.")
]

_FRAMED = 72  # columns of a terminal on which the help has frames

_Function: TypeAlias = Callable[..., int | None]

# The frames of rich cut words on a narrow terminal.
MARKUP: Literal["rich"] | None = "rich" if shutil.get_terminal_size().columns >= _FRAMED else None

_programs: dict[str, typer.Typer] = {}


@dataclass
class Shared:
    """Hold the options that were given before the name of the command."""

    store: str | None = None
    option: tuple[str, ...] = ()
    json: bool = False
    debug: bool = False


def command(
    name: str, panel: str, *, group: typer.Typer | None = None, without_store: bool = False
) -> Callable[[_Function], None]:
    """Return a decorator that makes a function a command.

    The function gets a Session, and then the arguments that typer reads for its other parameters.
    The function returns an exit code; None means 0, or 1 if the session has faults. The docstring
    of the function is the help of the command.

    Args:
        name: the word of the command.
        panel: the part of the help in which the command stands.
        group: the group of the command, such as that of ``policystore cache``; None for a command
            of ``policystore`` itself.
        without_store: True for a command that works on no store.
    """

    def register(function: _Function) -> None:
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        own = [each.replace(annotation=hints[each.name]) for each in parameters]
        common = {"store": Store, "option": Option, "json": Json, "debug": Debug}
        if without_store:
            common = {"json": Json, "debug": Debug}
        shared = [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if key in ("json", "debug") else None,
                annotation=annotation,
            )
            for key, annotation in common.items()
        ]
        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)

        def run(**given: Any) -> None:
            from policystore.cli.common.session import Session  # late: --version opens no store

            before: Shared = given.pop("ctx").obj or Shared()
            values = {key: given.pop(key, None) for key in ("store", "option", "json", "debug")}
            session = Session(
                store_url=values["store"] or before.store,
                options=[*before.option, *(values["option"] or ())],
                json=values["json"] or before.json,
                debug=values["debug"] or before.debug,
            )
            raise typer.Exit(guarded(session, lambda: function(session, **given)))

        every = [
            *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own),
            *shared,
            context,
        ]
        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in every}
        run.__name__ = function.__name__
        place = _top_level(name) if group is None else group
        place.command(name, rich_help_panel=panel, help=flowing(function.__doc__ or ""))(run)

    return register


def group_of_commands(name: str, panel: str, *, summary: str) -> typer.Typer:
    """Return a new group of commands, such as that of ``policystore cache``.

    Args:
        name: the word of the group.
        panel: the part of the help in which the group stands.
        summary: the help of the group.
    """
    group = typer.Typer(help=summary)
    _top_level(name).add_typer(group, name=name, rich_help_panel=panel)
    return group


def _top_level(name: str) -> typer.Typer:
    """Return a program for one command or group alone, so that the command can be built alone."""
    _programs[name] = typer.Typer(
        rich_markup_mode=MARKUP, add_completion=False, pretty_exceptions_enable=False
    )
    return _programs[name]


def built(name: str) -> Any:
    """Build a command or a group of commands, after its module was imported."""
    program = typer.main.get_command(_programs[name])
    # typer makes no group of a single command.
    command = getattr(program, "commands", {name: program})[name]
    for each in [command, *getattr(command, "commands", {}).values()]:
        without_needless_conversion(each)
    return command


def flowing(text: str) -> str:
    """Return a docstring with each paragraph on one line, so that the help can wrap it anew."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def guarded(session: Session, call: Callable[[], int | None]) -> int:
    """Run a command; return its exit code, and print each error as one line.

    A closed pipe ends the command without a message. Ctrl-C ends the command with code 130. What
    was pushed or copied before stays in the store, and no key of a store is half written.
    """
    try:
        with logger.heard_by(session.warn):
            code = call()
        if code is None:
            code = Code.FAULTS if session.faults else Code.FINE
        with mapped_output():
            sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return Code.FAULTS if session.faults else Code.FINE
    except PolicyStoreError as error:
        return _fail(session, type(error).__name__, str(error), code_of(error))
    except KeyboardInterrupt:
        return _fail(session, "Interrupted", "interrupted; the store is valid", Code.INTERRUPTED)
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:  # a bug in policystore
        text = f"{type(error).__name__}: {error} (a bug in policystore; --debug shows where)"
        return _fail(session, type(error).__name__, text, Code.INTERNAL)
    return code


def _fail(session: Session, kind: str, text: str, code: Code) -> int:
    """Print an error on the standard error and, with ``--json``, also as the document."""
    if session.debug:
        traceback.print_exc()
    lines = session.translated(text)
    tell(f"error: {lines}" if code is not Code.INTERRUPTED else lines)
    if session.json:
        line = lines.split("\n")[0]
        document = {"error": {"type": kind, "message": line, "exit_code": int(code)}}
        try:
            session.show(document, lambda: None)
            sys.stdout.flush()
        except OSError:  # the output is closed or full; the standard error has the message
            discard_output()
    return code
