"""Draw tables for people: aligned columns, or one block for each row where columns do not fit.

All texts may come from a foreign store. They are drawn as they are: rich reads no markup in them,
and no control character reaches the terminal.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from policystore._util.messages import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["Column", "console", "draw_fields", "draw_table", "wrapped"]

_GAP = 2  # spaces between columns
_UNBOUNDED = 10_000  # columns of an output that is no terminal: nothing is cut or wrapped there
_LEAST = 16  # columns that a text which may wrap needs
_INDENT = "  "


@dataclass(frozen=True)
class Column:
    """Describe a column of a table.

    Attributes:
        title: the word above the column.
        style: how rich draws the cells, such as ``"cyan"``.
        right: whether the cells are aligned at their right, as numbers are.
        wraps: whether a cell may take several lines; other columns are never broken.
    """

    title: str
    style: str = ""
    right: bool = False
    wraps: bool = False


def console(file: TextIO) -> Console:
    """Return a console of rich that writes to a file, and never wider than the terminal.

    Colours appear only on a terminal, and not if ``$NO_COLOR`` is set.
    """
    from rich.console import Console  # late: takes a third of the time of a short command

    return Console(
        file=file,
        # Without a height, and where $TERM is dumb, rich would take no width.
        width=shutil.get_terminal_size().columns if file.isatty() else _UNBOUNDED,
        height=shutil.get_terminal_size().lines,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False if sys.platform != "win32" else None,
    )


def wrapped(line: str, file: TextIO) -> str:
    """Return a line, broken between words if the file is a terminal that is narrower."""
    width = shutil.get_terminal_size().columns
    if not file.isatty() or len(line) <= width:
        return line
    import textwrap  # late: most lines fit

    indent = " " * (len(line) - len(line.lstrip(" ")) + len(_INDENT))
    return "\n".join(
        textwrap.wrap(
            line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
    )


def draw_table(file: TextIO, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Draw rows below their columns; columns that are empty in all rows are left out."""
    from rich.cells import cell_len

    used = [i for i in range(len(columns)) if i == 0 or any(row[i] for row in rows)]
    columns = [columns[i] for i in used]
    cells = [[printable(row[i]) for i in used] for row in rows]
    widths = [
        max([cell_len(column.title), *(cell_len(row[i]) for row in cells)])
        for i, column in enumerate(columns)
    ]
    if _is_plain(file):
        _write_columns(file, columns, cells, widths)
        return
    least = [
        min(width, _LEAST) if column.wraps else width
        for width, column in zip(widths, columns, strict=True)
    ]
    out = console(file)
    if sum(least) + _GAP * (len(columns) - 1) <= out.width:
        _draw_columns(out, columns, cells)
    else:
        _draw_blocks(out, columns, cells)


def _is_plain(file: TextIO) -> bool:
    """Return whether texts are written without colours and widths, for which rich is not needed.

    rich draws in colours, too, where ``$FORCE_COLOR`` is set, as in the logs of a CI.
    """
    return not file.isatty() and not os.environ.get("FORCE_COLOR")


def _write_columns(
    file: TextIO, columns: Sequence[Column], cells: list[list[str]], widths: list[int]
) -> None:
    """Write rows without colours, each on one line."""
    from rich.cells import cell_len

    for row in [[column.title for column in columns], *cells]:
        padded = []
        for cell, column, width in zip(row, columns, widths, strict=True):
            space = " " * (width - cell_len(cell))
            padded.append(space + cell if column.right else cell + space)
        file.write((" " * _GAP).join(padded).rstrip() + "\n")


def _draw_columns(out: Console, columns: Sequence[Column], cells: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            overflow="fold",
        )
    for row in cells:
        table.add_row(
            *(Text(cell, column.style) for cell, column in zip(row, columns, strict=True))
        )
    _write(out, [table])


def _draw_blocks(out: Console, columns: Sequence[Column], cells: list[list[str]]) -> None:
    """Draw each row as a line with its first cell, and a line below it for each other cell."""
    from rich.text import Text

    lines = []
    for row in cells:
        lines.append(Text(row[0], columns[0].style or "bold"))
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if cell:
                title = (f"{column.title}: ", "bold")
                lines.append(Text.assemble(_INDENT, title, (cell, column.style)))
    _write(out, lines)


def _write(out: Console, parts: Iterable[RenderableType]) -> None:
    """Draw parts below each other.

    rich would end the process with code 1 where a reader has closed the pipe, so it does not write
    to the file itself.
    """
    with out.capture() as captured:
        for part in parts:
            out.print(part, overflow="fold")
    # Spaces at the ends of lines would make a terminal that gets narrower wrap each line.
    out.file.writelines(line.rstrip() + "\n" for line in captured.get().splitlines())


def draw_fields(file: TextIO, fields: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
    """Draw names with values, a line for each; values of several lines stay below each other.

    A field without a value is left out, and one without a name continues the field above it.
    """
    shown = [(name, printable(value)) for name, value in fields if value]
    width = max([len(name) for name, _ in shown] or [0])
    if _is_plain(file):
        for name, value in shown:
            line = f"{' ' * indent}{name:<{width}}{' ' * _GAP}{value}"
            file.write(line.rstrip() + "\n")
        return
    from rich.text import Text

    out = console(file)
    narrow = width + _LEAST + _GAP > out.width
    lines = []
    for name, value in shown:
        title = f"{name}: " if narrow and name else f"{name:<{width}}{' ' * _GAP}"
        lines.append(Text.assemble(" " * indent, (title, "bold"), value))
    _write(out, lines)
