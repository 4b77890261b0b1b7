"""Patterns of names: what fits, what is refused, and the prefix that a listing takes."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore import InvalidInputError
from policystore.repository.search.names import parse_pattern

NAMES = [
    "main",
    "soccer",
    "soccer/main",
    "soccer/b/main",
    "soccer/b/c/foe",
    "Soccer/main",
    "duo/p0",
]

FITTING = {
    None: NAMES,
    "**": NAMES,
    "*": ["main", "soccer"],
    "soccer": ["soccer"],
    "soccer/*": ["soccer/main"],
    "soccer/**": ["soccer/main", "soccer/b/main", "soccer/b/c/foe"],
    "soccer/": ["soccer/main", "soccer/b/main", "soccer/b/c/foe"],
    "**/main": ["main", "soccer/main", "soccer/b/main", "Soccer/main"],
    "soccer/**/main": ["soccer/main", "soccer/b/main"],
    "?occer/main": ["soccer/main", "Soccer/main"],
    "soccer/*/*": ["soccer/b/main"],
    "*/**/foe": ["soccer/b/c/foe"],
    "s*r*/m*n": ["soccer/main"],
    "**/b/**": ["soccer/b/main", "soccer/b/c/foe"],
    "du?/p?": ["duo/p0"],
    "nothing/*": [],
}


@pytest.mark.parametrize("pattern", FITTING)
def test_which_names_fit(pattern: str | None) -> None:
    parsed = parse_pattern(pattern)

    assert [name for name in NAMES if parsed.matches(name)] == FITTING[pattern]
    assert all(name.startswith(parsed.prefix) for name in FITTING[pattern])


def test_the_prefix_is_what_stands_before_the_first_wildcard() -> None:
    prefixes = [
        parse_pattern(each).prefix for each in (None, "soccer/ma*", "soccer/", "a/?", "a/b")
    ]

    assert prefixes == ["", "soccer/ma", "soccer/", "a/", "a/b"]
    assert [parse_pattern(each).is_name for each in ("a", "a/b", "a/", "*", "a?")] == [
        True, True, False, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pattern",
    ["", "/", "//", "/a", "a//b", "a/***", "a**/b", "a/**b", "[ab]", "a b*", "ä*", "a@1", "*" * 401,
     "a/.b", 3, b"a*"],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(pattern: object) -> None:
    with pytest.raises(InvalidInputError):
        parse_pattern(pattern)  # type: ignore[arg-type]


def as_regex(pattern: str) -> str:
    """Return a pattern as a regular expression; fine for short patterns, and slow for others."""
    parts = pattern.split("/")
    last = parts[-1] in ("**", "")
    text = ""
    for part in parts[:-1] if last else parts:
        text += (
            "(?:[^/]+/)*"
            if part == "**"
            else re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]") + "/"
        )
    return (text + "(?:[^/]+/)*[^/]+" if last else text.removesuffix("/")) + r"\Z"


SEGMENTS = st.sampled_from(["a", "b", "*", "**", "?", "a*", "*b", "*a*", "ab", "?b*"])


@given(st.lists(SEGMENTS, min_size=1, max_size=4), st.booleans())
def test_patterns_mean_what_a_regular_expression_says(parts: list[str], slash: bool) -> None:
    pattern = "/".join(parts) + ("/" if slash and parts[-1] != "**" else "")
    parsed = parse_pattern(pattern)
    segments = ["a", "b", "ab", "aab"]
    names = [
        "/".join(each) for count in (1, 2, 3) for each in itertools.product(segments, repeat=count)
    ]

    for name in names:
        assert parsed.matches(name) == bool(re.match(as_regex(pattern), name)), (pattern, name)


def test_a_pattern_of_many_stars_is_matched_without_branching() -> None:
    assert not parse_pattern("*a" * 199 + "*b").matches("a" * 399)
    assert not parse_pattern("**/a/" * 79 + "b").matches("/".join("a" * 200))
    assert parse_pattern("*a" * 40 + "*").matches("a" * 399)
