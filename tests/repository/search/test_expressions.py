"""Expressions: what they mean, where they are wrong, and how much they may ask for."""

from __future__ import annotations

import datetime
import math
import operator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore import Digest, InvalidInputError, Mark, Version
from policystore.format.records import Span
from policystore.repository.search.conditions import fields_of
from policystore.repository.search.fields import Row
from policystore.repository.search.parser import MAX_DEPTH, parse_expression
from policystore.repository.search.tokens import MAX_LENGTH

UTC = datetime.timezone.utc
NOW = datetime.datetime(2026, 11, 29, 12, tzinfo=UTC)
D = [Digest(f"{index:x}" * 64) for index in range(5)]
VERSION = Version(
    name="soccer/main",
    number=7,
    digest=D[0],
    weights_digest=D[1],
    acting_digest=D[2],
    state_digest=D[3],
    objects={D[0]: 1_000_000, D[1]: 500_000},
    previous=D[1],
    time=NOW - datetime.timedelta(days=3),
    author="ann",
    message="beats v6, at last",
    metrics={
        "return": 21.5,
        "loss": math.nan,
        "big": math.inf,
        "win": True,
        "opponent": "random",
        "layers": (64, "relu"),
        "array": np.array([1.5, 2.5]),
        "name": "a metric",
        "my metric!": 3,
        "env_runners/episode_return_mean": 20,
        "env_runners": {"agents": {0: {"return": 4}}},
        "nothing": None,
    },
    source={"params": {"lr": 1e-3}, "iteration": 4, "trial": "PPO_1"},
    parents=(D[4], D[3]),
    tags=("champion", "best"),
)


def holds(expression: str, version: Version = VERSION) -> bool:
    return parse_expression(expression).holds(Row(version, NOW))


TRUE = [
    # metrics
    "return > 20",
    "return == 21.5",
    "return != 20",
    "20 < return",
    "metrics.return >= 21.5",
    "`return` <= 2.15e1",
    "return > -1 and return < 1e2",
    "win == true",
    "opponent == 'random'",
    'opponent == "random"',
    "opponent != 'main'",
    "opponent < 'ro'",
    "metrics.name == 'a metric'",
    "`name` == 'a metric'",
    "`my metric!` == 3",
    "metrics.`my metric!` in (1, 2, 3)",
    "env_runners/episode_return_mean >= 20",
    "env_runners.agents.0.return == 4",
    "layers contains 64",
    "layers contains 'relu'",
    "layers == 'relu'",
    "array > 2",
    "source.params.lr < 0.01",
    "source.iteration == 4 and source.trial contains 'ppo'",
    "return > source.iteration",
    # fields of the record
    "name == 'soccer/main'",
    "ref == 'soccer/main@7'",
    "number == 7",
    "author == 'ann'",
    "author in ('bob', 'ann',)",
    "author not in ('bob', 'eve')",
    "message contains 'V6, AT'",
    "size > 1MB and size <= 1500KB",
    "nbytes == 1500000",
    "size < 1.5MiB",
    "age > 2d and age < 1w",
    "age >= 72h",
    "time > '2026-11-26'",
    "time >= '2026-11-26T12:00Z' and time == '2026-11-26 13:00:00.0+01:00'",
    f"digest == '{D[0]}'",
    "digest == 'blake3:00000000'",
    "acting == '22222222'",
    "acting_digest != 'blake3:00000000'",
    "parents contains '33333333'",
    "parents in ('33333333', '99999999')",
    "tag == 'champion'",
    "tags contains 'best'",
    "tag in ('worst', 'best')",
    "tag != 'worst'",
    "not deleted",
    "deleted == false",
    "digest != acting",
    # words
    "NOT author == 'bob' AND True",
    "false or true",
    "not not true",
    "author == 'bob' or author == 'ann' and number == 7",
    "not (author == 'ann' and number == 8)",
    # what is absent, and NaN
    "elo == null",
    "return != null",
    "not elo > 3",
    "nothing == none",
    "loss == nan",
    "return != nan",
    "big == inf",
    "big > 1e308",
    "return > -inf",
    "elo in (null, 3)",
    "source.nothing == null",
]
FALSE = [
    "elo > 3", "elo < 3", "elo == 3", "elo != 3", "elo contains 'a'", "elo == elo",
    "return == elo", "return != elo", "elo in (1, 2)", "elo not in (1, 2)", "elo != null",
    "loss > 0", "loss <= 0", "loss == 0", "loss != 0", "loss != nan", "loss == loss",
    "return > 'a'", "opponent > 3", "opponent == 3", "win == 1", "win > 0", "return == '21.5'",
    "return contains '21'", "elo == nan", "tag == 'worst'", "tag != 'best'", "tag == null",
    "deleted", "author == 'Ann'", "author contains 'annie'", "digest == '11111111'",
    "parents == '00000000'", "size > 10MB", "age < 1d", "time < '2026-11-26'",
    "author == author and false", "number in (1)",
    "layers > 100",
]  # fmt: skip


@pytest.mark.parametrize("expression", TRUE)
def test_what_holds(expression: str) -> None:
    assert holds(expression)


@pytest.mark.parametrize("expression", FALSE)
def test_what_does_not_hold(expression: str) -> None:
    assert not holds(expression)


def test_not_turns_what_is_absent_into_true() -> None:
    assert holds("return > 30 or not elo > 3")
    assert holds("not loss > 0")


def test_a_version_without_tags_size_or_parents() -> None:
    bare = replace(VERSION, tags=(), objects=None, parents=(), metrics={}, source={})

    assert holds("tag == null and size == null and parents == null", bare)
    assert holds("not size < 10MB and tag != 'best' and tag not in ('a', 'b')", bare)


def test_a_deleted_version() -> None:
    mark = Mark("soccer/main", 1, "delete", ((7, 7),), (Span(7, 7, 1),), None, NOW, "bob", "")

    assert holds("deleted", replace(VERSION, deleted=mark))
    assert holds("deleted != false", replace(VERSION, deleted=mark))


# An expression, the column of the error (from 1) and a part of the message.
WRONG: list[tuple[str, int, str]] = [
    ("return", 7, "expected a comparison such as '==', '>', 'in' or 'contains' after 'return'"),
    ("win and true", 5, "expected a comparison"),
    ("return >", 9, "expected a value or a field, found the end"),
    ("return > and", 10, "expected a value or a field, found 'and'"),
    ("> 3", 1, "expected a field or a value, found '>'"),
    ("return = 3", 8, "'=' is no sign of an expression: write =="),
    ("return => 3", 8, "'=>' is no sign of an expression: write >="),
    ("return =< 3", 8, "'=<' is no sign of an expression: write <="),
    ("return <> 3", 8, "'<>' is no sign of an expression: write !="),
    ("return === 3", 8, "'===' is no sign of an expression: write =="),
    ("return > 3 & x > 1", 12, "joined with 'and'"),
    ("return > 3 || x > 1", 12, "joined with 'or'"),
    ("!deleted", 1, "negated with 'not'"),
    ("message ~ 'x'", 9, "'contains'"),
    ("author in ['a']", 11, "round brackets"),
    ("return > 3 retrun > 1", 12, "expected 'and', 'or' or the end, found 'retrun'"),
    ("return > 3 adn x > 1", 12, "Did you mean 'and'?"),
    ("message contain 'x'", 9, "Did you mean 'contains'?"),
    ("1 < return < 3", 12, "Join two comparisons with 'and'"),
    ("(return > 3", 12, "expected a ')' for the '(' in column 1"),
    ("return > 3)", 11, "expected 'and', 'or' or the end"),
    ("author == 'ann", 11, "has no ' at its end"),
    ("author == 'a\\x'", 13, "after a backslash"),
    ("`odd > 3", 1, "has no ` at its end"),
    ("`` > 3", 1, "between two backquotes"),
    ("author in 'ann'", 11, "expected a '(' after 'in'"),
    ("author in ()", 12, "expected a value"),
    ("author in (ann)", 12, "a text stands in quotes"),
    ("author in ('a' 'b')", 16, "expected ',' or ')'"),
    ("author not 'a'", 12, "expected 'in' after 'author' and 'not'"),
    ("3 > 2", 1, "a field on one side"),
    ("3", 2, "expected a comparison such as '==' after '3'"),
    ("author > 3", 10, "'author' is a text in quotes"),
    ("author == ann2 or", 18, "found the end"),
    ("number == '7'", 11, "'number' is a number"),
    ("number contains 7", 8, "is compared with '==', '!=', 'in', '<', '<=', '>', '>='"),
    ("deleted > true", 9, "'deleted' is true or false"),
    ("deleted == 1", 12, "'deleted' is true or false"),
    ("age < 7", 7, "Give the number a unit: 7d"),
    ("age < 7x", 8, "'x' is no unit"),
    ("size > '10MB'", 8, "a number of bytes such as 500KB"),
    ("time > 2026", 8, "a time in quotes such as '2026-11-21'"),
    ("time > 'yesterday'", 8, "a time in quotes"),
    ("time > '2026-13-01'", 8, "a time in quotes"),
    ("time > '2026-01-01Z'", 8, "a time in quotes"),
    ("digest == 'ab'", 11, "of at least 8 digits"),
    ("digest > 'blake3:ab12cd34'", 8, "compared with '==', '!=', 'in', 'contains'"),
    ("author == number", 11, "they cannot be compared"),
    ("return > null", 10, "only '==' and '!=' compare with null"),
    ("return < nan", 10, "only '==' and '!=' compare with nan"),
    ("message contains null", 18, "only '==' and '!='"),
    ("message contains true", 18, "'message' is a text"),
    ("return contains true", 17, "expected a text in quotes or a number"),
    ("return > 1" + "0" * 41, 10, "at most 40 characters"),
    ("age < 99999999999w", 7, "a duration of at most"),
    ("return > $x", 10, "'$' is no sign"),
    ("\x00 > 3", 1, r"'\x00' is no sign"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "column", "message"), WRONG)
def test_an_error_points_to_its_place(expression: str, column: int, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_expression(expression)

    problem, shown, caret = str(caught.value).splitlines()
    assert message in problem
    assert f"(column {column})" in problem
    assert caret.endswith("^")
    if len(expression) < 40:
        assert shown.strip("\n") == "  " + expression.replace("\x00", " ")
        assert len(caret) == 2 + column


def test_the_caret_stands_below_the_error_in_long_and_wide_and_broken_lines() -> None:
    for expression in (
        "author == '" + "x" * 500 + "' and and",
        "author == '李雷李雷' and and",
        "author == 'a'\n\tand and",
    ):
        with pytest.raises(InvalidInputError) as caught:
            parse_expression(expression)
        _, shown, caret = str(caught.value).splitlines()
        width = sum(2 if "一" <= char <= "鿿" else 1 for char in shown.rpartition("and")[0])
        assert len(caret) == width + 1
        assert len(shown) < 100


@pytest.mark.parametrize("value", [None, 3, b"return > 3", ["return > 3"], "", "  \n"])
def test_only_texts_that_say_something_are_expressions(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="expression"):
        parse_expression(value)


def test_depth_and_length_are_limited() -> None:
    deep = "(" * MAX_DEPTH + "true" + ")" * MAX_DEPTH
    assert holds(deep)
    assert holds("not " * MAX_DEPTH + "true")
    for nested in (f"({deep})", "not " * (MAX_DEPTH + 1) + "true", "(" * 9_000):
        with pytest.raises(InvalidInputError, match=f"nested {MAX_DEPTH} times at most"):
            parse_expression(nested)
    with pytest.raises(InvalidInputError, match="at most 10,000 characters, this one 10,001"):
        parse_expression(" " * (MAX_LENGTH + 1))


def test_the_longest_expressions_are_read_without_a_step_that_branches() -> None:
    hostile = {
        "a == 1 or " * 900 + "a == 'b'": False,
        "not (" * 15 + "a == 1" + ")" * 15 + " and a in (" + "1," * 4_000 + "1)": False,
        "a != '" + "\\\\" * 4_900 + "'": True,
        "`" + "a" * 9_980 + "` == 1": False,
        "a." * 4_000 + "b == null": True,
        "a contains '" + "a" * 9_900 + "'": True,
    }
    version = replace(VERSION, metrics={"a": "a" * 15_000}, source={})

    assert {each: holds(each, version) for each in hostile} == hostile


def test_metrics_of_any_depth_are_found_without_a_search_that_branches() -> None:
    nested: dict[str, Any] = {"x": 1}
    for _ in range(60):
        nested = {"a": nested}

    assert holds("a." * 60 + "x == 1", replace(VERSION, metrics=nested))


def test_the_fields_of_an_expression_are_known() -> None:
    condition = parse_expression("a > 1 and not (tag == 'x' or b == null) and c == source.d")

    assert [field.name for field in fields_of(condition)] == ["a", "tag", "b", "c", "source.d"]
    compared = [field.name for field in fields_of(condition, compared=True)]
    assert compared == ["a", "tag", "c", "source.d"]


# Random expressions against the same expressions in Python.

VALUES: dict[str, Any] = {"a": 1, "b": 2.5, "c": "x", "d": True}
SIGNS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">=": operator.ge}
LEAVES = st.sampled_from(
    [
        (f"{name} {sign} {other!r}", SIGNS[sign](value, other))
        for name, value in VALUES.items()
        for other in (1, 2.5, -1, "x", "y")
        for sign in SIGNS
        if type(value) is type(other) or (sign in ("==", "!=") and name != "d")
    ]
)


def joined(parts: st.SearchStrategy[tuple[str, bool]]) -> st.SearchStrategy[tuple[str, bool]]:
    both = st.tuples(parts, parts)
    return st.one_of(
        both.map(lambda p: (f"({p[0][0]}) and ({p[1][0]})", p[0][1] and p[1][1])),
        both.map(lambda p: (f"({p[0][0]}) or ({p[1][0]})", p[0][1] or p[1][1])),
        both.map(
            lambda p: (
                f"not ({p[0][0]}) or {p[1][0]}" if "or" not in p[1][0] else "true",
                (not p[0][1] or p[1][1]) if "or" not in p[1][0] else True,
            )
        ),
        parts.map(lambda p: (f"not ({p[0]})", not p[1])),
    )


@given(st.recursive(LEAVES, joined, max_leaves=12))
def test_random_expressions_mean_what_they_mean_in_python(case: tuple[str, bool]) -> None:
    expression, expected = case

    assert holds(expression, replace(VERSION, metrics=VALUES)) is expected


@given(st.text(max_size=60) | st.text("ab()'\"`<>=!.,- 1in\\", max_size=60))
def test_any_text_is_an_expression_or_an_error_that_points_into_it(text: str) -> None:
    try:
        condition = parse_expression(text)
    except InvalidInputError as error:
        lines = str(error).splitlines()
        assert len(lines) == 3 or "is empty" in lines[0]
        return
    assert condition.holds(Row(VERSION, NOW)) in (True, False)
