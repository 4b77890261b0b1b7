"""Text for messages: short, on one line and printable, also for hostile values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore._util.messages import brief, counted, printable, shorten

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("naïve", "'naïve'"),
        ("a\nb", r"'a\nb'"),
        ("\ud800", r"'\ud800'"),
        ("x" * 70, "'" + "x" * 40 + "'... (70 characters)"),
        (7, "7"),
        (10**5000, "an integer of more than 64 bits"),
        ([1, -1], "[1, -1]"),
        ((1,), "(1,)"),
        ([], "[]"),
        (["a", 10**30], "['a', an integer of more than 64 bits]"),
        ([0] * 9, "a list of 9 items"),
        ([[]], "a list of 1 item"),
        ({"a": 1}, "a dict of 1 item"),
        (np.float32, "<class 'numpy.float32'>"),
        (np.ones((2, 2), int), "array([[1, 1],        [1, 1]])"),
    ],
    ids=lambda each: ascii(each)[:20] if not isinstance(each, int) else "number",
)
def test_brief(value: object, text: str) -> None:
    assert brief(value) == text


@given(VALUES)
def test_brief_is_short_and_printable(value: Any) -> None:
    assert len(brief(value)) <= 80
    assert brief(value).isprintable()


def test_a_list_within_itself_is_not_walked() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert brief(endless) == "a list of 1 item"


@given(st.text(), st.integers(3, 40))
def test_shorten(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text or (short.endswith("...") and text.startswith(short[:-3]))


@given(st.text())
def test_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text


def test_a_number_agrees_with_its_noun() -> None:
    assert [counted(number, "version") for number in (0, 1, 2048)] == [
        "0 versions", "1 version", "2,048 versions"
    ]  # fmt: skip
    assert counted(2, "policy", "policies") == "2 policies"
