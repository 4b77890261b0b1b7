"""Build small pieces of HTML for notebooks, in which every text is escaped.

A notebook may drop style sheets and scripts, and may have a light or a dark theme. So each element
has its own style, text has the colour of the notebook, and lines and bars are half transparent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policystore._util.messages import printable

__all__ = ["Cell", "Html", "bar", "block", "details", "fields", "line", "table", "text"]

_LINE = "1px solid rgba(128,128,128,0.35)"
_CELL = f"text-align:left;vertical-align:top;padding:3px 8px;border-bottom:{_LINE};"
_NUMBER = _CELL.replace("left", "right") + "font-variant-numeric:tabular-nums;white-space:nowrap;"
# In a page without a document type, a table does not inherit colour and size by itself.
_TABLE = "border-collapse:collapse;margin:4px 0;color:inherit;font-size:inherit;"
_WIDE = "overflow-x:auto;max-width:100%;"
_FAINT = "opacity:0.7;"
_MARKED = "background:rgba(46,160,67,0.18);"
_WRONG = "background:rgba(248,81,73,0.18);"
_BAR = "display:inline-block;height:0.7em;background:rgba(56,139,253,0.75);"


@dataclass(frozen=True)
class Html:
    """Hold a piece of HTML in which all texts are escaped. Only this module makes one.

    Attributes:
        source: the HTML.
    """

    source: str


@dataclass(frozen=True)
class Cell:
    """Describe a cell of a table that needs more than its text.

    Attributes:
        value: the text, or a piece of HTML.
        number: whether the text is a number, which stands at the right.
        title: a text that a browser shows while the pointer is over the cell.
        marked: whether the cell stands out because its value is good.
    """

    value: str | Html
    number: bool = False
    title: str = ""
    marked: bool = False


def text(value: str) -> Html:
    """Return a text, printable and escaped."""
    import html  # late: few programs show HTML

    return Html(html.escape(printable(value)))


def _html(value: str | Html) -> str:
    return value.source if isinstance(value, Html) else text(value).source


def line(value: str | Html, *, faint: bool = False, heading: bool = False) -> Html:
    """Return one line of text.

    Args:
        value: the text.
        faint: whether the text is less important than the rest.
        heading: whether the text names what follows.
    """
    style = (_FAINT if faint else "") + ("font-weight:600;" if heading else "")
    return Html(f'<div style="margin:2px 0;{style}">{_html(value)}</div>')


def block(parts: Iterable[Html]) -> Html:
    """Return pieces below each other, as one element."""
    inner = "".join(part.source for part in parts)
    return Html(f'<div style="font-size:13px;line-height:1.45;{_WIDE}">{inner}</div>')


def details(summary: str, parts: Iterable[Html], *, is_open: bool = False) -> Html:
    """Return pieces that a click on their summary shows and hides."""
    inner = "".join(part.source for part in parts)
    return Html(
        f"<details{' open' if is_open else ''}>"
        f'<summary style="cursor:pointer;">{_html(summary)}</summary>{inner}</details>'
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str | Html | Cell]],
    *,
    marked: Iterable[int] = (),
    wrong: Iterable[int] = (),
) -> Html:
    """Return a table.

    Args:
        head: the names of the columns.
        rows: the cells of each row.
        marked: numbers of rows that stand out because they are good.
        wrong: numbers of rows that stand out because something is wrong with them.
    """
    colours = {**dict.fromkeys(marked, _MARKED), **dict.fromkeys(wrong, _WRONG)}
    cells = "".join(f'<th scope="col" style="{_CELL}{_FAINT}">{_html(name)}</th>' for name in head)
    lines = [f"<thead><tr>{cells}</tr></thead><tbody>"]
    for number, row in enumerate(rows):
        style = f' style="{colours[number]}"' if number in colours else ""
        lines.append(f"<tr{style}>{''.join(map(_cell, row))}</tr>")
    inner = "".join(lines)
    return Html(f'<table style="{_TABLE}">{inner}</tbody></table>')


def _cell(value: str | Html | Cell) -> str:
    cell = value if isinstance(value, Cell) else Cell(value)
    title = f' title="{text(cell.title).source}"' if cell.title else ""
    style = (_NUMBER if cell.number else _CELL) + (_MARKED if cell.marked else "")
    return f'<td style="{style}"{title}>{_html(cell.value)}</td>'


def fields(values: Mapping[str, str | Html]) -> Html:
    """Return names and values, a line each; a name whose value is an empty text is left out."""
    lines = "".join(
        f'<tr><th scope="row" style="{_CELL}{_FAINT}font-weight:400;">{_html(name)}</th>'
        f'<td style="{_CELL}">{_html(value)}</td></tr>'
        for name, value in values.items()
        if value != ""
    )
    return Html(f'<table style="{_TABLE}">{lines}</table>')


def bar(share: float, label: str) -> Html:
    """Return a bar and its label; the label is also what a screen reader reads.

    Args:
        share: the length of the bar, from 0 to 1 of the longest.
        label: the value in words.
    """
    width = 8 * min(max(share, 0.0), 1.0) if share == share else 0.0  # NaN has no length
    return Html(
        f'<span aria-hidden="true" style="{_BAR}width:{width:.2f}em;"></span> {text(label).source}'
    )
