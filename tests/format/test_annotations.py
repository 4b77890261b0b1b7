"""Annotations as bytes, and versions that know their annotations."""

from __future__ import annotations

import datetime
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest

from policystore import Annotation, Digest, FormatError, InvalidInputError
from policystore.format import keys
from policystore.format.canonical_json import canonical_json
from policystore.format.keys import MAX_RECORD
from tests.format.test_records import VERSION

TIME = datetime.datetime(2026, 11, 28, 1, 25, 37, 123, tzinfo=datetime.timezone.utc)
DIGEST = Digest("0" * 64)
ANNOTATION = Annotation(
    name="soccer/Main",
    number=7,
    digest=DIGEST,
    time=TIME,
    author="ann",
    metrics={"elo": 1200.0, "nan": float("nan")},
    note="do not use",
    nonce="ab" * 16,
)
GOLDEN = (
    '{"author":"ann","digest":"blake3:%s","format":1,"kind":"annotation",'
    '"metrics":{"elo":1200.0,"nan":{"~float":"nan"}},"name":"soccer/Main",'
    '"nonce":"abababababababababababababababab","note":"do not use","number":7,'
    '"time":"2026-11-28T01:25:37.000123Z"}' % ("0" * 64)
).encode()


def test_golden_bytes() -> None:
    assert ANNOTATION.to_bytes() == GOLDEN
    again = Annotation.from_bytes(GOLDEN, "it")
    assert again.to_bytes() == GOLDEN
    assert replace(again, metrics={}) == replace(ANNOTATION, metrics={})  # NaN equals nothing
    assert hash(again) == hash(ANNOTATION)
    copy = replace(again, metrics={"elo": 1.0})
    assert pickle.loads(pickle.dumps(copy)) == copy


def test_the_key_is_fixed_and_parses_back() -> None:
    key = keys.annotation_key("Soccer/main", 7, "ab" * 16)
    assert key == f"names/!soccer/main/@notes/0000000007/{'ab' * 16}.json"
    assert key.startswith(keys.annotations_prefix("Soccer/main", 7))
    assert keys.annotation_of_key(key, "Soccer/main") == (7, "ab" * 16)
    assert keys.annotation_of_key(key, "soccer/main") is None
    parsed = keys.parse_name_key(key)
    assert parsed == keys.NameKey("Soccer/main", "annotation", number=7, nonce="ab" * 16)
    assert keys.number_of(key) is None  # no number of a list
    longest = "/".join(["A" * 80] * 4 + ["A" * 76])
    assert len(keys.annotation_key(longest, 10**10 - 1, "ab" * 16)) <= 1024


@pytest.mark.parametrize(
    "rest",
    ["0000000000/" + "ab" * 16 + ".json", "7/" + "ab" * 16 + ".json", "0000000007/x.json",
     "0000000007/" + "AB" * 16 + ".json", "0000000007/" + "ab" * 16, "0000000007/../x.json",
     "0000000007/" + "ab" * 16 + ".json/x", "0000000007/" + "ab" * 16 + ".json\n", "x",
     "٠٠٠٠٠٠٠٠٠7/" + "ab" * 16 + ".json"],
)  # fmt: skip
def test_a_key_of_another_form_is_no_annotation(rest: str) -> None:
    key = f"names/a/@notes/{rest}"
    assert keys.annotation_of_key(key, "a") is None
    assert keys.parse_name_key(key) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"number": 0}, {"number": True}, {"name": "../x"}, {"name": None}, {"digest": "0" * 64},
        {"time": "2026-11-28"}, {"time": 7}, {"author": None}, {"author": "x" * 4097},
        {"note": None}, {"note": "x" * 4097}, {"metrics": []}, {"metrics": {"~unknown": 1}},
        {"metrics": {}, "note": ""}, {"nonce": "x"}, {"kind": "version"}, {"format": 2}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_another_document_is_no_annotation(changed: dict[str, Any]) -> None:
    document = {**json.loads(GOLDEN), **changed}
    with pytest.raises(FormatError, match="the record"):
        Annotation.from_bytes(canonical_json(document), "the record")


@pytest.mark.parametrize(
    "change",
    [{"note": "x" * 4097}, {"note": 7}, {"author": "\ud800"}, {"metrics": {"x": object()}},
     {"metrics": {"x": "y" * 17_000}}, {"metrics": [1]}],
    ids=lambda change: str(change)[:24],
)  # fmt: skip
def test_a_value_that_a_record_cannot_hold_is_refused_by_field(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=rf"{next(iter(change))}|\$"):
        replace(ANNOTATION, **change).to_bytes()


def test_the_largest_annotation_is_a_record() -> None:
    text = "é" * 2048
    full = replace(ANNOTATION, note=text, author=text, metrics={"x": "y" * 16_000})
    assert len(full.to_bytes()) <= MAX_RECORD
    assert Annotation.from_bytes(full.to_bytes(), "it") == full


def test_an_annotation_prints_as_one_line() -> None:
    line = str(replace(ANNOTATION, note="\x1b[2Jdo not\nuse"))
    assert "\x1b" not in line
    assert "\n" not in line
    for part in ("soccer/Main@7", "2026-11-28 01:25:37", "ann", "elo=1200", "nan=nan", "do not"):
        assert part in line
    assert repr(ANNOTATION) == f"<Annotation {ANNOTATION}>"


def test_newer_metrics_of_annotations_are_over_those_of_the_push() -> None:
    pushed = replace(VERSION, metrics={"return": 21.5, "elo": 1000.0})
    first = replace(ANNOTATION, metrics={"elo": 1100.0, "wins": 3})
    second = replace(ANNOTATION, metrics={"elo": 1200.0}, nonce="cd" * 16)
    assert pushed.all_metrics == pushed.metrics
    version = replace(pushed, annotations=(first, second))
    assert version.all_metrics == {"return": 21.5, "elo": 1200.0, "wins": 3}
    assert list(version.all_metrics) == ["return", "elo", "wins"]
    assert version.metrics == {"return": 21.5, "elo": 1000.0}


def test_tags_and_annotations_are_no_part_of_the_record() -> None:
    plain = replace(VERSION, metrics={"return": 1.0})
    full = replace(plain, tags=("best",), annotations=(ANNOTATION,))
    assert full.to_bytes() == plain.to_bytes()
    assert full == plain
    assert hash(full) == hash(plain)
    assert (plain.tags, plain.annotations) == (None, None)
    assert "(best)" in str(full)
    assert "[do not use]" in str(full)
