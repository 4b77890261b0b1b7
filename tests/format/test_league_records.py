"""The bytes of the records of leagues, and what a reader refuses."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policystore.digest import digest_of
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import canonical_json
from policystore.format.league_keys import (
    batch_key,
    body_key,
    deletion_key,
    parse_league_key,
    summary_key,
)
from policystore.format.records.exact import exact, exact_sums, exact_text, parse_exact, to_fraction
from policystore.format.records.match_batch import ListEnd, MatchBatch, parse_list_record
from policystore.format.records.match_summary import BodyEntry, LeagueDeletion, Summary
from policystore.format.records.matches import Match, Outcome, Returns, normal_match
from policystore.format.records.sums import Tally, body_bytes, parse_body

TIME = datetime.datetime(2026, 11, 29, 1, 2, 3, 4, datetime.timezone.utc)
RED, BLUE = "blake3:" + "a" * 64, "blake3:" + "b" * 64
PLACE: dict[str, Any] = {
    "league": "Soccer", "epoch": 1, "writer": "0" * 32, "number": 1, "nonce": "1" * 32,
    "previous": None, "time": TIME, "author": "ann",
}  # fmt: skip
MATCH = Match(
    players={"blue": BLUE, "green": "heuristic:random", "red": RED},
    episodes=2,
    outcomes=(Outcome((0, 1, 1), 1), Outcome((None, 0, None), 1)),
    returns={"red": Returns(2, Fraction(3, 2), Fraction(5, 4))},
    env="connect_four_v3",
    env_digest=BLUE,
    seeds=(7, -1),
    played={"red": (RED, BLUE)},
    refs={"red": "soccer/main@17"},
    iteration=3,
    episode_returns={"red": (0.5, -0.0)},
)
BATCH = MatchBatch(**PLACE, matches=(MATCH,), unknown={"swapped": 2})
LINES = {
    "batch": (
        BATCH,
        b'{"author":"ann","epoch":1,"format":1,"kind":"matches","league":"Soccer","matches":[{"env":2,'
        b'"env_digest":1,"episode_returns":{"red":[0.5,-0.0]},"episodes":2,"iteration":3,"outcomes":'
        b'[[[0,1,1],1],[[null,0,null],1]],"played":{"red":[0,1]},"players":{"blue":1,"green":3,"red":0},'
        b'"refs":{"red":4},"returns":{"red":[2,"3p-1","5p-2"]},"seeds":[7,-1]}],"nonce":'
        b'"11111111111111111111111111111111","number":1,"previous":null,"texts":["' + RED.encode()
        + b'","' + BLUE.encode() + b'","connect_four_v3","heuristic:random","soccer/main@17"],"time":'
        b'"2026-11-29T01:02:03.000004Z","unknown":{"swapped":2},"writer":'
        b'"00000000000000000000000000000000"}',
    ),
    "end": (
        ListEnd(**{**PLACE, "number": 2, "previous": digest_of(b"x")}),
        b'{"author":"ann","epoch":1,"format":1,"kind":"end","league":"Soccer","nonce":'
        b'"11111111111111111111111111111111","number":2,"previous":"'
        + str(digest_of(b"x")).encode() + b'","time":"2026-11-29T01:02:03.000004Z","writer":'
        b'"00000000000000000000000000000000"}',
    ),
    "summary": (
        Summary(
            league="soccer", epoch=1, number=3, nonce="1" * 32, time=TIME, author="ann",
            bodies=(BodyEntry(digest_of(b"x"), 10, 8),),
        ),
        b'{"author":"ann","bodies":[["' + str(digest_of(b"x")).encode() + b'",10,8]],"epoch":1,'
        b'"format":1,"kind":"summary","league":"soccer","nonce":"11111111111111111111111111111111",'
        b'"number":3,"time":"2026-11-29T01:02:03.000004Z"}',
    ),
    "deletion": (
        LeagueDeletion(
            league="soccer", epoch=2, nonce="1" * 32, time=TIME, author="ann", message="old"
        ),
        b'{"author":"ann","epoch":2,"format":1,"kind":"league-deletion","league":"soccer","message":'
        b'"old","nonce":"11111111111111111111111111111111","time":"2026-11-29T01:02:03.000004Z"}',
    ),
}  # fmt: skip
BODY = (
    b'{"batches":1,"ended":[],"epoch":1,"format":1,"kind":"summary-body","last":'
    b'"2026-11-29T01:02:03.000004Z","league":"Soccer","matchups":[{"env":2,"env_digest":1,"episodes":2,'
    b'"matches":1,"outcomes":[[[0,1,1],1],[[null,0,null],1]],"players":{"blue":1,"green":3,"red":0},'
    b'"returns":{"red":[2,"3p-1","5p-2"]}}],"open":{"00000000000000000000000000000000":[1,'
    b'"2026-11-29T01:02:03.000004Z"]},"refs":{"' + RED.encode() + b'":["2026-11-29T01:02:03.000004Z",'
    b'"soccer/main@17"]},"texts":["' + RED.encode() + b'","' + BLUE.encode() + b'","connect_four_v3",'
    b'"heuristic:random"],"unknown":{"swapped":2}}'
)  # fmt: skip


def parse(kind: str, data: bytes) -> Any:
    """Read the bytes of a record of a kind."""
    if kind == "summary":
        return Summary.from_bytes(data, "it")
    return (
        LeagueDeletion.from_bytes(data, "it")
        if kind == "deletion"
        else parse_list_record(data, "it")
    )


@pytest.mark.parametrize("kind", list(LINES))
def test_golden_bytes(kind: str) -> None:
    """These bytes never change: stores have them."""
    record, data = LINES[kind]
    assert record.to_bytes() == data
    found = parse(kind, data)
    if kind == "batch":
        assert found.matches[0] == replace(MATCH, time=found.matches[0].time, writer="0" * 32)
        found = replace(found, matches=(MATCH,))
    assert found == record


def test_how_a_match_was_played_stands_in_a_batch_where_it_is_known() -> None:
    known = replace(MATCH, explore=False, max_steps=200)
    data = replace(BATCH, matches=(known,)).to_bytes()
    golden = LINES["batch"][1].replace(
        b'"episodes":2,"iteration":3,',
        b'"episodes":2,"explore":false,"iteration":3,"max_steps":200,',
    )
    assert data == golden
    (found,) = parse("batch", data).matches
    assert (found.explore, found.max_steps) == (False, 200)
    (found,) = parse("batch", LINES["batch"][1]).matches
    assert (found.explore, found.max_steps) == (None, None)


def test_the_config_of_an_environment_stands_in_a_batch_where_it_is_known() -> None:
    known = replace(MATCH, env_config='{"size":5}')
    data = replace(BATCH, matches=(known,)).to_bytes()
    plain = json.loads(LINES["batch"][1])
    document = json.loads(data)
    (found,) = document["matches"]
    assert document["texts"][found.pop("env_config")] == '{"size":5}'
    assert found.keys() == plain["matches"][0].keys()
    assert parse("batch", data).matches[0].env_config == '{"size":5}'
    assert parse("batch", LINES["batch"][1]).matches[0].env_config == ""
    for wrong in ("x" * 65_537, "\ud800"):
        with pytest.raises(InvalidInputError, match="env_config"):
            normal_match(replace(MATCH, env_config=wrong))


def test_golden_body() -> None:
    tally = Tally()
    tally.add_record(BATCH)
    assert body_bytes(tally, "Soccer", 1) == [BODY]
    assert parse_body(BODY, "it", "Soccer", 1) == parse_body(BODY, "it", "Soccer", None) == tally
    for league, epoch in (("soccer", 1), ("Soccer", 2)):
        with pytest.raises(FormatError, match="malformed body of a summary"):
            parse_body(BODY, "it", league, epoch)


def test_keys() -> None:
    digest = digest_of(b"x")
    for key, expected in {
        batch_key("Soccer/a", 1, "0" * 32, 7): ("matches", 1, 7),
        summary_key("Soccer/a", 2, 7): ("summary", 2, 7),
        body_key("Soccer/a", digest): ("body", 0, 0),
        deletion_key("Soccer/a", 2): ("deleted", 2, 2),
    }.items():
        parsed = parse_league_key(key)
        assert parsed is not None
        assert parsed.league == "Soccer/a"
        assert (parsed.kind, parsed.epoch, parsed.number) == expected
        for other in (key + "x", key.replace("!s", "S"), key.replace("/@", "/", 1), key[1:],
                      key.replace("0000000002", "0"), key.replace("000.json", "00.json")):  # fmt: skip
            assert other == key or parse_league_key(other) is None, other
    assert (
        batch_key("a", 1, "0" * 32, 7)
        == f"leagues/a/@matches/0000000001/{'0' * 32}/0000000007.json"
    )
    assert parse_league_key("leagues/a/@matches/1/w/0000000001.json") is None


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=8), st.randoms())
def test_sums_are_exact_in_any_order(values: list[float], random: Any) -> None:
    total, squares = exact_sums(values)
    assert total == sum(map(Fraction, values))
    assert squares == sum(Fraction(each) ** 2 for each in values)
    random.shuffle(values)
    assert exact_sums(values) == (total, squares)
    for number in (total, squares):
        assert to_fraction(parse_exact(exact_text(number))) == number


def test_exact_numbers_have_one_form() -> None:
    texts = {1.5: "3p-1", -4: "-1p2", 0: "0", 255: "ff"}
    for number, text in texts.items():
        assert exact_text(exact(number)) == text
    for text in ("00", "-0", "2", "1p0", "1p+1", "1p01", "A", "1p9999", "", "1p", "0x1", "f" * 5000, 1,
                 "1p2200", "1p-2201"):  # fmt: skip
        with pytest.raises(ValueError, match="not an exact number"):
            parse_exact(text)
    for value in (math.nan, math.inf, "1", None, True, 1j, Fraction(1, 3), 2**3000):
        with pytest.raises(InvalidInputError, match="expected a"):
            exact(value)


def changed(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    """Return a document with one value changed."""
    *places, last = path
    at = document
    for place in places:
        at = at[place]
    at[last] = value
    return canonical_json(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("epoch",), 0), (("number",), 2), (("writer",), "x"), (("league",), "/"), (("kind",), "end"),
        (("matches",), {}), (("unknown",), {"swapped": 0}), (("unknown",), {"": 1}), (("texts",), []),
        (("texts", 3), "heuristic:?"), (("texts", 4), "heuristic:random"), (("matches", 0), []),
        (("matches", 0, "players"), {}), (("matches", 0, "players", "red"), 99),
        (("matches", 0, "players", "red"), -1), (("matches", 0, "players", "red"), True),
        (("matches", 0, "episodes"), 0), (("matches", 0, "episodes"), 2.0),
        (("matches", 0, "episodes"), 10**18), (("matches", 0, "outcomes"), []),
        (("matches", 0, "outcomes", 0), [[1, 2, 3], 1]), (("matches", 0, "outcomes", 0), [[0, 1], 1]),
        (("matches", 0, "outcomes", 0), [[0, 1, None], 1]), (("matches", 0, "outcomes", 0, 1), 3),
        (("matches", 0, "returns", "red"), [3, "1", "1"]), (("matches", 0, "returns", "red", 1), "ff"),
        (("matches", 0, "returns", "red", 1), 1.5), (("matches", 0, "returns", "red"), [1]),
        (("matches", 0, "seeds"), [1]), (("matches", 0, "iteration"), None),
        (("matches", 0, "iteration"), -1), (("matches", 0, "teams"), {"red": 0}),
        (("matches", 0, "episode_returns", "red"), [1, 2]), (("matches", 0, "env"), "x"),
        (("matches", 0, "played", "red"), [0]), (("matches", 0, "more"), 1), (("more",), 1),
        (("matches", 0, "explore"), None), (("matches", 0, "explore"), 1),
        (("matches", 0, "max_steps"), None), (("matches", 0, "max_steps"), 0),
        (("matches", 0, "max_steps"), True), (("matches", 0, "max_steps"), 2.0),
        (("matches", 0, "env_config"), "{}"), (("matches", 0, "env_config"), 99),
    ],
)  # fmt: skip
def test_another_batch_is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(FormatError):
        parse_list_record(changed(json.loads(BATCH.to_bytes()), path, value), "it")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("batches",), -1), (("last",), "x"), (("last",), 1), (("open",), []), (("open", "x"), [1, ""]),
        (("ended",), ["0" * 32]), (("ended",), ["1" * 32, "1" * 32]), (("texts",), ["a"]),
        (("matchups", 0, "episodes"), 1), (("matchups", 0, "matches"), 0), (("matchups",), [1]),
        (("matchups", 0, "players", "red"), 2), (("matchups", 0, "players"), {}),
        (("matchups", 0, "outcomes", 0, 0), [9, 0, 0]), (("matchups", 0, "returns"), {"x": [1, "1", "1"]}),
        (("refs",), {"x": ["", ""]}), (("unknown",), {"a": 0}), (("matchups", 0, "teams"), {"x": 0}),
    ],
)  # fmt: skip
def test_another_body_is_refused(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(FormatError):
        parse_body(changed(json.loads(BODY), path, value), "it", "Soccer", 1)


@given(st.binary(max_size=60), st.integers(0, 500), st.integers(0, 3))
def test_any_bytes_give_a_record_or_a_format_error(junk: bytes, at: int, kind: int) -> None:
    name = list(LINES)[kind]
    data = LINES[name][1]
    for changed_bytes in (junk, data[:at] + junk + data[at:], data[:at]):
        try:
            parse(name, changed_bytes)
        except FormatError:
            continue


def test_many_roles_take_little_time() -> None:
    """A hostile batch has as many roles as its length allows; no check is quadratic in them."""
    players = {f"{index:03d}": RED for index in range(1000)}
    match = Match(
        players=players,
        episodes=1,
        outcomes=(Outcome((None,) * 500 + (0,) * 500, 1),),
        teams={role: "x" if role < "500" else "y" for role in players},
    )
    assert normal_match(match).outcomes == (Outcome((1,) * 500 + (0,) * 500, 1),)
    with pytest.raises(InvalidInputError, match="1 to 1,000 roles"):
        normal_match(replace(match, players={**players, "x": RED}))
