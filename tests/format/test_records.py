from __future__ import annotations

import datetime
import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policystore import Digest, FormatError, InvalidInputError, Version
from policystore.format.canonical_json import canonical_json
from policystore.format.keys import MAX_RECORD
from policystore.format.records import Hint, Protection, TagMove, check_marker, marker_bytes
from policystore.format.records.fields import MAX_OBJECTS

D = [Digest(f"{index:064x}") for index in range(4)]
TIME = datetime.datetime(2026, 11, 21, 1, 25, 37, 123, tzinfo=datetime.timezone.utc)
VERSION = Version(
    name="soccer/Main",
    number=7,
    digest=D[0],
    weights_digest=D[1],
    acting_digest=D[2],
    state_digest=D[3],
    objects={D[0]: 10, D[1]: 20},
    previous=D[1],
    time=TIME,
    author="ann",
    message="beats v6",
    metrics={"nan": float("nan"), "return": 21.5, 3: [1, (2,)]},
    source={"iteration": 4},
    parents=(D[3],),
    nonce="0" * 32,
)
MOVE = TagMove("a", "best", 2, 7, D[0], D[1], TIME, "ann", "0" * 32)


def test_golden_records() -> None:
    assert (
        VERSION.to_bytes()
        == (
            '{"author":"ann","digest":"blake3:%(d0)s","format":1,"kind":"version","message":"beats v6",'
            '"metrics":{"~map":[["nan",{"~float":"nan"}],["return",21.5],[3,[1,{"~tuple":[2]}]]]},'
            '"name":"soccer/Main","nonce":"00000000000000000000000000000000","number":7,'
            '"objects":{"blake3:%(d0)s":10,"blake3:%(d1)s":20},"parents":["blake3:%(d3)s"],'
            '"parts":{"acting":"blake3:%(d2)s","state":"blake3:%(d3)s","weights":"blake3:%(d1)s"},'
            '"previous":"blake3:%(d1)s","source":{"iteration":4},"time":"2026-11-21T01:25:37.000123Z"}'
            % {f"d{index}": digest.hex for index, digest in enumerate(D)}
        ).encode()
    )
    assert (
        MOVE.to_bytes()
        == (
            '{"author":"ann","digest":"blake3:%s","format":1,"kind":"tag","name":"a","nonce":"%s",'
            '"number":2,"previous":"blake3:%s","tag":"best","target":7,'
            '"time":"2026-11-21T01:25:37.000123Z"}' % (D[0].hex, "0" * 32, D[1].hex)
        ).encode()
    )
    assert (
        Hint(7, D[1]).to_bytes()
        == ('{"digest":"blake3:%s","format":1,"kind":"hint","number":7}' % D[1].hex).encode()
    )
    assert marker_bytes() == b'{"format":1,"kind":"store"}'


def test_golden_bytes_of_a_protected_tag() -> None:
    protected = replace(MOVE, protected=Protection(("ann", "bob"), "eve", TIME))
    data = MOVE.to_bytes().replace(
        b'"tag":"best"',
        b'"protected":{"author":"eve","by":["ann","bob"],"time":"2026-11-21T01:25:37.000123Z"},'
        b'"tag":"best"',
    )
    assert protected.to_bytes() == data
    assert TagMove.from_bytes(data, "it") == protected
    assert protected.to_dict()["protected"] == {
        "by": ["ann", "bob"], "author": "eve", "time": "2026-11-21T01:25:37.000123+00:00",
    }  # fmt: skip
    nobody = replace(MOVE, protected=Protection((), "eve", TIME))
    assert TagMove.from_bytes(nobody.to_bytes(), "it") == nobody
    assert "nobody may move it" in str(nobody.protected)


@pytest.mark.parametrize(
    "change",
    [{"by": ["bob", "ann"]}, {"by": ["ann", "ann"]}, {"by": "ann"}, {"by": [1]}, {"by": [""]},
     {"by": ["x" * 4097]}, {"by": [f"{n:04}" for n in range(700)]}, {"by": None},
     {"author": None}, {"time": "2026"}, {"more": 1}, None],
    ids=lambda change: str(change)[:20],
)  # fmt: skip
def test_another_protection_is_refused(change: dict[str, Any] | None) -> None:
    document = json.loads(MOVE.to_bytes())
    good = {"author": "eve", "by": ["ann", "bob"], "time": "2026-11-21T01:25:37.000123Z"}
    document["protected"] = good
    assert TagMove.from_bytes(canonical_json(document), "it").protected is not None
    document["protected"] = None if change is None else good | change
    with pytest.raises(FormatError, match="the record"):
        TagMove.from_bytes(canonical_json(document), "the record")


def test_the_longest_move_is_a_record() -> None:
    text = "\x01" * 4096  # six bytes each in JSON
    by = tuple(f"{n:04}" for n in range(580))
    full = replace(MOVE, author=text, protected=Protection(by, text, TIME))
    assert 50_000 < len(full.to_bytes()) <= MAX_RECORD
    with pytest.raises(InvalidInputError, match="by is too long"):
        replace(full, protected=Protection((*by, "x" * 500), text, TIME)).to_bytes()


def test_records_read_back_unchanged() -> None:
    again = Version.from_bytes(VERSION.to_bytes(), "it")
    assert repr(again) == repr(VERSION)  # NaN is not equal to itself
    assert again.metrics[3] == [1, (2,)]
    assert replace(again, metrics={}) == replace(VERSION, metrics={})
    assert hash(again) == hash(VERSION)
    assert pickle.loads(pickle.dumps(replace(again, metrics={}))) == replace(VERSION, metrics={})
    assert TagMove.from_bytes(MOVE.to_bytes(), "it") == MOVE
    gone = replace(MOVE, target=None, digest=None)
    assert TagMove.from_bytes(gone.to_bytes(), "it") == gone
    assert Hint.from_bytes(Hint(7, D[1]).to_bytes(), "it") == Hint(7, D[1])
    check_marker(marker_bytes(), "it")


def test_other_time_zones_are_the_same_moment() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=-5))
    there = replace(VERSION, time=TIME.astimezone(zone))
    assert there.to_bytes() == VERSION.to_bytes()


def test_metrics_of_numpy_read_back_as_numbers() -> None:
    metrics = {"a": np.float32(0.5), "b": {"c": np.int64(3), "d": [np.bool_(True)]}}
    again = Version.from_bytes(replace(VERSION, metrics=metrics).to_bytes(), "it").metrics
    assert again == {"a": 0.5, "b": {"c": 3, "d": [True]}}
    assert [type(x) for x in (again["a"], again["b"]["c"], again["b"]["d"][0])] == [
        float,
        int,
        bool,
    ]


def test_a_policy_of_very_many_objects_still_has_a_record_that_can_be_read() -> None:
    many = {Digest(f"{index:064x}"): 1 << 20 for index in range(MAX_OBJECTS + 1)}
    full = {digest: many[digest] for digest in list(many)[:MAX_OBJECTS]}
    text = replace(VERSION, objects=full, message="m" * 4096, metrics={"m": "x" * 16000},
                   source={"s": "y" * 16000}, author="a").to_bytes()  # fmt: skip
    assert len(text) <= MAX_RECORD
    assert Version.from_bytes(text, "it").objects == full
    assert Version.from_bytes(replace(VERSION, objects=many).to_bytes(), "it").objects is None


@pytest.mark.parametrize(
    "change",
    [
        {"message": "m" * 4097},
        {"message": 7},
        {"author": None},
        {"author": "\ud800"},
        {"metrics": {"x": object()}},
        {"metrics": {"x": "y" * 17000}},
        {"metrics": [1]},
        {"source": {"x": {1, 2}}},
        {"source": "text"},
    ],
    ids=lambda change: str(change)[:24],
)
def test_a_value_that_a_record_cannot_hold_is_refused_by_field(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=rf"{next(iter(change))}|\$"):
        replace(VERSION, **change).to_bytes()


def changed(**fields: Any) -> bytes:
    found = {**json.loads(VERSION.to_bytes()), **fields}
    return canonical_json({key: value for key, value in found.items() if value != "DROP"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"{",
        marker_bytes(),
        MOVE.to_bytes(),
        VERSION.to_bytes() + b"\n",
        VERSION.to_bytes().replace(b'":', b'": ', 1),
        changed(format="1"),
        changed(format=True),
        changed(extra=1),
        changed(author="DROP"),
        changed(number=0),
        changed(number=True),
        changed(number="7"),
        changed(number=1),
        changed(previous=None),
        changed(name="../x"),
        changed(name=None),
        changed(nonce="x"),
        changed(digest="sha256:00"),
        changed(parts={}),
        changed(parts=None),
        changed(parents="x"),
        changed(parents=[1]),
        changed(objects=[]),
        changed(objects={}),
        changed(objects={str(D[0]): -1}),
        changed(objects={str(D[0]): True}),
        changed(objects={"x": 1}),
        changed(time="2026-11-21"),
        changed(time=7),
        changed(time="2026-13-21T01:25:37.000123Z"),
        changed(message=1),
        changed(metrics=[]),
        changed(metrics={"~map": []}),
        changed(metrics={"~unknown": 1}),
        changed(source=None),
    ],
    ids=range(38),
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="the record"):
        Version.from_bytes(data, "the record")
    assert Version.from_bytes(changed(), "the record").number == 7


def test_a_record_of_a_newer_format_advises_to_upgrade() -> None:
    for parse in (Version.from_bytes, TagMove.from_bytes, Hint.from_bytes, check_marker):
        with pytest.raises(FormatError, match=r"format 2.*Upgrade"):
            parse(b'{"format":2,"kind":"whatever","more":{}}', "it")


def test_a_version_prints_as_a_line_of_a_log() -> None:
    line = str(replace(VERSION, metrics={"return": 21.51234}))
    for part in ("soccer/Main@7", "blake3:0000", "2026-11-21 01:25:37", "ann", "beats v6", "21.51"):
        assert part in line
    assert replace(VERSION, name=None, number=None).ref == str(D[0])
