from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore import FormatError, InvalidInputError
from policystore.format import canonical_json as canonical_json_module
from policystore.format.canonical_json import MAX_DEPTH, canonical_json, parse_canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner))


def same(a: Any, b: Any) -> bool:
    """Compare two values with their types and the sign of zero: 1, 1.0 and True differ."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


@given(JSON, st.randoms(use_true_random=False))
def test_one_value_has_one_text_whatever_the_order(value: Any, shuffle: random.Random) -> None:
    def shuffled(item: Any) -> Any:
        if isinstance(item, list):
            return [shuffled(inner) for inner in item]
        if isinstance(item, dict):
            pairs = [(key, shuffled(inner)) for key, inner in item.items()]
            shuffle.shuffle(pairs)
            return dict(pairs)
        return item

    text = canonical_json(value)
    assert canonical_json(shuffled(value)) == text
    assert same(parse_canonical(text, "test"), value)
    assert same(json.loads(text), value)  # any JSON reader reads it


def test_the_text_is_fixed() -> None:
    value = {"ä": [1, -0.0, 1e22, 0.1, True, None], "Z": 'a"\\\n\x1f\x7f\u2028', "a": {}, "": []}
    assert (
        canonical_json(value)
        == (
            '{"":[],"Z":"a\\"\\\\\\n\\u001f\x7f\u2028","a":{},"ä":[1,-0.0,1e+22,0.1,true,null]}'
        ).encode()
    )
    # Keys are sorted by code points, not by UTF-16 units, so the astral character is last.
    assert canonical_json({"\U0001f600": 1, "\uffff": 2}) == '{"\uffff":2,"\U0001f600":1}'.encode()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "nan"),
        ({"a": [float("inf")]}, r"\$\['a'\]\[0\]"),
        (2**63, "64 signed bits"),
        (-(2**63) - 1, "64 signed bits"),
        ("\ud800", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        ({1: 2}, "not a string"),
        ((1,), "tuple"),
        (b"x", "bytes"),
        ({1, 2}, "set"),
    ],
)
def test_a_value_without_json_form_is_refused_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        canonical_json(value)


def test_depth_is_bounded_on_both_sides() -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]
    assert parse_canonical(canonical_json(deep), "test") == deep
    with pytest.raises(InvalidInputError, match="deeper"):
        canonical_json([deep])
    for levels in (MAX_DEPTH + 1, 5_000, 1_000_000):
        with pytest.raises(FormatError):
            parse_canonical(b"[" * levels + b"]" * levels, "test")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1}\n',
        b'"\\u0041"',
        b'"\\/"',
        b'"\\ud800"',
        b"1.0e0",
        b"1E5",
        b"01",
        b"-0",
        b"NaN",
        b"Infinity",
        b"9223372036854775808",
        b"1" * 5_000_000,
        b"\xff",
        b"\xef\xbb\xbf1",
        b'"\x00"',
        b"0.10000000000000000001",
        b"1e999",
    ],
)
def test_any_other_text_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError, match="thing"):
        parse_canonical(text, "thing")


@given(JSON)
def test_what_is_canonical_is_read_without_a_walk_through_the_value(value: Any) -> None:
    text = canonical_json(value)
    read = canonical_json_module._read_canonical(text)
    # Long integers and many levels are looked at step by step.
    if read is not canonical_json_module._NOT_READ:
        assert same(read, value)
    assert same(canonical_json_module._explain(text, "test"), value)


def test_a_record_takes_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"a": [{"b": [1, 2.5, None, True, "ä"]}] * 40, "n": {"m": -7}}
    text = canonical_json(value)
    monkeypatch.setattr(canonical_json_module, "_check", None)
    assert parse_canonical(text, "test") == value


@given(st.text('[]{}",:01e.-\\u d8falsn'), st.integers(0, 200))
def test_both_ways_to_read_refuse_the_same(noise: str, at: int) -> None:
    text = canonical_json({"a": [1, 1.5, {"b": "c"}], "d": None, "e": "\n"}).decode()
    for each in (noise, text[:at] + noise + text[at:], text[:at] + noise + text[at + 1 :]):
        data = each.encode()
        try:
            value = canonical_json_module._explain(data, "test")
        except FormatError:
            assert canonical_json_module._read_canonical(data) is canonical_json_module._NOT_READ
        else:
            assert same(parse_canonical(data, "test"), value)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}', '{"b":1,"a":1}', "[1, 2]", "[1] ", "NaN", "[Infinity]", "1e999", "1.0e5",
        "9223372036854775808", "123456789012345678901", '"\\ud800"', '"\\u0041"', "[" * 65 + "]" * 65,
        '{"a":' * 65 + "1" + "}" * 65, "", "01", '"\x01"', "[" * 100_000,
    ],
)  # fmt: skip
def test_no_other_text_takes_the_fast_way(text: str) -> None:
    assert canonical_json_module._read_canonical(text.encode()) is canonical_json_module._NOT_READ
    with pytest.raises(FormatError):
        parse_canonical(text.encode(), "test")
