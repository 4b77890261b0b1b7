"""HTML for notebooks: every text is escaped, tags are closed, themes keep their colours."""

from __future__ import annotations

from policystore.display.html import Cell, bar, block, details, fields, line, table, text
from tests.support.html_page import HOSTILE, SHOWN, Page


def everything() -> str:
    return block(
        [
            line(HOSTILE, heading=True),
            table((HOSTILE,), [[HOSTILE], [Cell(HOSTILE, number=True, title=HOSTILE)]],
                  marked=[0], wrong=[1]),
            fields({HOSTILE: HOSTILE, "empty": ""}),
            details(HOSTILE, [line(text(HOSTILE), faint=True)], is_open=True),
            line(bar(0.5, HOSTILE)),
        ]
    ).source  # fmt: skip


def test_no_text_becomes_an_element_or_an_attribute():
    page = Page(everything())

    assert set(page.tags) == {
        "div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "span"
    }  # fmt: skip
    assert {name for name, _ in page.attributes} <= {
        "style", "title", "scope", "open", "aria-hidden"
    }  # fmt: skip
    assert page.open == []


def test_texts_are_shown_as_they_are_with_escapes_for_control_characters():
    shown = Page(everything()).texts

    assert shown.count(SHOWN) == 8
    assert "empty" not in shown


def test_no_style_fixes_the_colour_of_text():
    styles = [value or "" for name, value in Page(everything()).attributes if name == "style"]

    assert styles
    colours = [part for each in styles for part in each.split(";") if part.startswith("color")]
    assert set(colours) == {"color:inherit"}


def test_a_bar_is_never_longer_than_the_longest():
    assert "width:8.00em" in bar(7.0, "").source
    assert "width:0.00em" in bar(float("nan"), "").source
    assert "width:0.00em" in bar(-1.0, "").source
