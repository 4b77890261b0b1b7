"""Encode and parse the bodies of summaries: sums over some records of a league."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject
from policystore.format.metadata import FORMAT
from policystore.format.records.exact import exact_text, parse_exact
from policystore.format.records.fields import (
    encode_record,
    expect,
    format_time,
    parse_list,
    parse_nonce,
    parse_number,
    parse_record,
    parse_time,
)
from policystore.format.records.match_summary import MAX_BODY
from policystore.format.records.matches import MAX_ROLES, check_label, is_player
from policystore.format.records.sums.tally import ListState, Matchup, ReturnSums, Sums, Tally
from policystore.format.refs import check_name

__all__ = ["body_bytes", "parse_body"]

_FIELDS = {
    "league", "epoch", "batches", "last", "open", "ended", "texts", "matchups", "refs", "unknown",
}  # fmt: skip
_ROW = {"players", "teams", "env", "env_digest", "matches", "episodes", "outcomes", "returns"}


def body_bytes(tally: Tally, league: str, epoch: int, *, limit: int = MAX_BODY) -> list[bytes]:
    """Return the bodies that hold the sums of a tally: one, or several if one would be too long.

    Args:
        tally: the sums.
        league: the name of the league.
        epoch: the epoch of the league.
        limit: how many bytes a body may have at most.

    Raises:
        InvalidInputError: the lists, refs and reasons alone take more than ``limit`` bytes, or a
            sum is too large.
    """
    return _bodies(tally, sorted(tally.matchups), league, epoch, limit)


def _bodies(
    tally: Tally, matchups: list[Matchup], league: str, epoch: int, limit: int
) -> list[bytes]:
    try:
        return [encode_record(_document(tally, matchups, league, epoch), limit=limit)]
    except InvalidInputError:
        if len(matchups) < 2:
            raise
    half = len(matchups) // 2
    rest = Tally(matchups=tally.matchups)  # only the first body has the lists, refs and reasons
    return [
        *_bodies(tally, matchups[:half], league, epoch, limit),
        *_bodies(rest, matchups[half:], league, epoch, limit),
    ]


def _document(tally: Tally, matchups: list[Matchup], league: str, epoch: int) -> JsonObject:
    names = {text for matchup in matchups for text in _texts_of(matchup)}
    texts = {text: index for index, text in enumerate(sorted(names))}
    return {
        "format": FORMAT,
        "kind": "summary-body",
        "league": league,
        "epoch": epoch,
        "batches": tally.batches,
        "last": tally.last,
        "open": {
            writer: [state.number, state.time]
            for writer, state in tally.lists.items()
            if not state.sealed
        },
        "ended": sorted(writer for writer, state in tally.lists.items() if state.sealed),
        "texts": list(texts),
        "matchups": [_row(each, tally.matchups[each], texts) for each in matchups],
        "refs": {player: list(label) for player, label in tally.refs.items()},
        "unknown": dict(tally.unknown),
    }


def _texts_of(matchup: Matchup) -> list[str]:
    env = [text for text in (matchup.env, matchup.env_digest) if text]
    return env + [text for _, text in matchup.players + matchup.teams]


def _row(matchup: Matchup, sums: Sums, texts: Mapping[str, int]) -> JsonObject:
    row: JsonObject = {
        "players": {role: texts[player] for role, player in matchup.players},
        "teams": {role: texts[team] for role, team in matchup.teams},
        "matches": sums.matches,
        "episodes": sums.episodes,
        "outcomes": [[list(ranks), n] for ranks, n in sorted(sums.outcomes.items(), key=_order)],
        "returns": {
            role: [each.episodes, exact_text(each.sum), exact_text(each.squares)]
            for role, each in sums.returns.items()
        },
    }
    row = {name: value for name, value in row.items() if value}
    for name, text in (("env", matchup.env), ("env_digest", matchup.env_digest)):
        if text:
            row[name] = texts[text]
    return row


def _order(item: tuple[tuple[int | None, ...], int]) -> list[tuple[bool, int]]:
    return [(rank is None, rank or 0) for rank in item[0]]


def parse_body(data: bytes | memoryview, label: str, league: str, epoch: int | None) -> Tally:
    """Read the bytes of a body.

    Args:
        data: the bytes.
        label: how messages name the body.
        league: the league that the body should belong to.
        epoch: the epoch that the body should belong to; None for any epoch.

    Raises:
        FormatError: not a body of this epoch of this league, of format 1.
    """
    document = parse_record(data, "summary-body", _FIELDS, label)
    try:
        expect(check_name(document["league"]) == league, "league")
        expect(parse_number(document["epoch"]) == epoch or epoch is None, "epoch")
        return _parse(document)
    except (InvalidInputError, ValueError, TypeError, KeyError, IndexError) as error:
        raise FormatError(f"{label}: malformed body of a summary: {error}") from None


def _parse(document: JsonObject) -> Tally:
    tally = Tally(batches=_count(document["batches"], "batches", 0), last=document["last"])
    expect(tally.last == "" or format_time(parse_time(tally.last)) == tally.last, "last")
    for writer, (number, time) in _object(document["open"], "open").items():
        parse_time(time)
        tally.lists[parse_nonce(writer)] = ListState(parse_number(number), time, False)
    ended = parse_list(document["ended"])
    for writer in ended:
        tally.lists[parse_nonce(writer)] = ListState(0, "", True)
    expect(ended == sorted(set(ended)) and document["open"].keys().isdisjoint(ended), "ended")
    texts = parse_list(document["texts"])
    expect(all(isinstance(text, str) and text for text in texts), "texts")
    expect(texts == sorted(set(texts)), "texts")
    rows = [_parse_row(row, texts) for row in parse_list(document["matchups"])]
    tally.matchups = dict(rows)
    matchups = [matchup for matchup, _ in rows]
    expect(matchups == sorted(set(matchups)), "matchups")
    for player, (time, ref) in _object(document["refs"], "refs").items():
        parse_time(time)
        expect(is_player(player) and isinstance(ref, str), "refs")
        tally.refs[player] = time, ref
    for reason, count in _object(document["unknown"], "unknown").items():
        tally.unknown[check_label(reason)] = _count(count, "unknown", 1)
    return tally


def _parse_row(row: Json, texts: list[str]) -> tuple[Matchup, Sums]:
    expect({"players", "matches", "episodes"} <= _object(row, "matchups").keys() <= _ROW, "row")

    def text(index: Json) -> str:
        expect(type(index) is int and 0 <= index < len(texts), "texts")
        return texts[index]

    def pairs(name: str) -> tuple[tuple[str, str], ...]:
        named = _object(row.get(name, {}), name).items()
        return tuple((role, text(index)) for role, index in named)

    matchup = Matchup(
        text(row["env"]) if "env" in row else "",
        text(row["env_digest"]) if "env_digest" in row else "",
        pairs("players"),
        pairs("teams"),
    )
    roles = [role for role, _ in matchup.players]
    expect(1 <= len(roles) <= MAX_ROLES, "players")
    expect(all(is_player(player) for _, player in matchup.players), "players")
    expect({role for role, _ in matchup.teams} <= set(roles), "teams")
    sums = Sums(_count(row["matches"], "matches", 1), _count(row["episodes"], "episodes", 1))
    for ranks, count in parse_list(row.get("outcomes", [])):
        expect(len(parse_list(ranks)) == len(roles), "outcomes")
        expect(all(r is None or (type(r) is int and 0 <= r < len(roles)) for r in ranks), "ranks")
        sums.outcomes[tuple(ranks)] = _count(count, "outcomes", 1)
    expect(sum(sums.outcomes.values()) <= sums.episodes, "outcomes")
    for role, (count, total, squares) in _object(row.get("returns", {}), "returns").items():
        expect(role in roles, "returns")
        sums.returns[role] = ReturnSums(
            _count(count, "returns", 1), parse_exact(total), parse_exact(squares)
        )
    return matchup, sums


def _object(value: Json, name: str) -> dict[str, Any]:
    expect(isinstance(value, dict), name)
    return value  # type: ignore[no-any-return]


def _count(value: Json, name: str, low: int) -> int:
    expect(type(value) is int and value >= low, name)
    return value  # type: ignore[no-any-return]
