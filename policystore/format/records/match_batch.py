"""Encode and parse the records of a writer's list of matches: batches, and the end of the list."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical
from policystore.format.metadata import FORMAT
from policystore.format.records.exact import exact_text, parse_exact, to_fraction
from policystore.format.records.fields import (
    check_text,
    encode_record,
    expect,
    format_time,
    parse_list,
    parse_nonce,
    parse_number,
    parse_optional_digest,
    parse_record,
    parse_time,
)
from policystore.format.records.matches import (
    Match,
    Outcome,
    Returns,
    check_label,
    normal_match,
)
from policystore.format.refs import check_name

__all__ = ["MAX_BATCH", "ListEnd", "ListRecord", "MatchBatch", "parse_list_record"]

MAX_BATCH = 1 << 20
"""The longest batch of matches, in bytes. A writer makes several batches of more matches."""

_LIST = {"league", "epoch", "writer", "number", "nonce", "previous", "time", "author"}
_BATCH = {*_LIST, "texts", "matches", "unknown"}
_MATCH = {"players", "episodes"}
_OPTIONAL = {
    "outcomes", "teams", "returns", "env", "env_digest", "seeds", "played", "refs", "iteration",
    "episode_returns", "explore", "max_steps", "env_config",
}  # fmt: skip
_TEXTS = ("env", "env_digest", "env_config")
"""Optional fields that are one text."""
_SCALARS = ("iteration", "explore", "max_steps")
"""Optional fields that stand for themselves, also if they are 0 or False."""


@dataclass(frozen=True, kw_only=True)
class ListEnd:
    """Record that a writer's list has ended; no record follows.

    Attributes:
        league: the name of the league.
        epoch: the epoch of the league, from 1 on; each deletion of the league begins a new one.
        writer: id of the list, 32 hexadecimal digits: random, or for a list that processes share,
            those that follow from what they play.
        number: the number of the record in the list.
        nonce: 32 random hexadecimal digits.
        previous: digest of the bytes of the record before; None for number 1.
        time: when the record was made, by the clock of the writer, in UTC.
        author: who made the record.
    """

    league: str
    epoch: int
    writer: str
    number: int
    nonce: str
    previous: Digest | None
    time: datetime.datetime
    author: str

    def _document(self, kind: str) -> JsonObject:
        return {
            "format": FORMAT,
            "kind": kind,
            "league": self.league,
            "epoch": self.epoch,
            "writer": self.writer,
            "number": self.number,
            "nonce": self.nonce,
            "previous": None if self.previous is None else str(self.previous),
            "time": format_time(self.time),
            "author": check_text(self.author, "author"),
        }

    def to_bytes(self) -> bytes:
        """Return the bytes of the record."""
        return encode_record(self._document("end"))


@dataclass(frozen=True, kw_only=True)
class MatchBatch(ListEnd):
    """Record matches that were written together.

    Attributes:
        matches: the matches, in the form of :func:`normal_match`. Their ``time`` and ``writer`` are
            those of the batch.
        unknown: number of episodes that were played and not recorded, by reason.
        league, epoch, writer, number, nonce, previous, time, author: as in :class:`ListEnd`.
    """

    matches: tuple[Match, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)

    def to_bytes(self, *, limit: int | None = MAX_BATCH) -> bytes:
        """Return the bytes of the record.

        Args:
            limit: how many bytes the record may have at most; None for any number.

        Raises:
            InvalidInputError: the batch would take more than ``limit`` bytes.
        """
        texts: dict[str, int] = {text: 0 for match in self.matches for text in _texts_of(match)}
        texts = {text: index for index, text in enumerate(sorted(texts))}
        document = self._document("matches") | {
            "texts": list(texts),
            "matches": [_encode(match, texts) for match in self.matches],
            "unknown": dict(self.unknown),
        }
        return canonical_json(document) if limit is None else encode_record(document, limit=limit)


ListRecord: TypeAlias = MatchBatch | ListEnd


def parse_list_record(data: bytes | memoryview, label: str) -> ListRecord:
    """Read the bytes of a record of a writer's list; ``label`` names the record in messages.

    Raises:
        FormatError: not such a record of format 1.
    """
    document = parse_canonical(data, label)
    if isinstance(document, dict) and document.get("kind") == "end":
        document = parse_record(data, "end", _LIST, label)
        build: type[ListEnd] = ListEnd
    else:
        document = parse_record(data, "matches", _BATCH, label)
        build = MatchBatch
    try:
        common: dict[str, Any] = {
            "league": check_name(document["league"]),
            "epoch": parse_number(document["epoch"]),
            "writer": parse_nonce(document["writer"]),
            "number": parse_number(document["number"]),
            "nonce": parse_nonce(document["nonce"]),
            "previous": parse_optional_digest(document["previous"]),
            "time": parse_time(document["time"]),
            "author": check_text(document["author"], "author"),
        }
        expect((common["number"] == 1) == (common["previous"] is None), "previous")
        if build is ListEnd:
            return ListEnd(**common)
        return MatchBatch(**common, **_parse_content(document))
    except (InvalidInputError, ValueError, TypeError, KeyError, IndexError) as error:
        raise FormatError(f"{label}: malformed record of matches: {error}") from None


def _texts_of(match: Match) -> list[str]:
    """Return the texts of a match that the batch holds once."""
    return [
        *match.players.values(),
        *match.teams.values(),
        *match.refs.values(),
        *(digest for pair in match.played.values() for digest in pair),
        *(text for name in _TEXTS if (text := getattr(match, name))),
    ]


def _encode(match: Match, texts: Mapping[str, int]) -> JsonObject:
    document: JsonObject = {
        "players": {role: texts[player] for role, player in match.players.items()},
        "episodes": match.episodes,
        "outcomes": [[list(outcome.ranks), outcome.episodes] for outcome in match.outcomes],
        "teams": {role: texts[team] for role, team in match.teams.items()},
        "returns": {
            role: [each.episodes, exact_text(each.sum), exact_text(each.squares)]
            for role, each in match.returns.items()
        },
        "seeds": list(match.seeds),
        "played": {role: [texts[digest] for digest in pair] for role, pair in match.played.items()},
        "refs": {role: texts[ref] for role, ref in match.refs.items()},
        "episode_returns": {role: list(each) for role, each in match.episode_returns.items()},
    }
    document = {name: value for name, value in document.items() if value}
    for name in _TEXTS:
        if text := getattr(match, name):
            document[name] = texts[text]
    for name in _SCALARS:
        value = getattr(match, name)
        if value is not None:
            document[name] = value
    return document


def _parse_content(document: JsonObject) -> dict[str, Any]:
    texts = parse_list(document["texts"])
    expect(all(isinstance(text, str) for text in texts), "texts")
    expect(texts == sorted(set(texts)), "texts")
    parser = _Parser(texts, document["time"], document["writer"])
    matches = tuple(parser.match(each) for each in parse_list(document["matches"]))
    expect(len(parser.used) == len(texts), "texts")
    unknown = document["unknown"]
    expect(isinstance(unknown, dict), "unknown")
    for reason, episodes in unknown.items():
        check_label(reason)
        expect(type(episodes) is int and episodes >= 1, "unknown")
    expect(bool(matches or unknown), "matches")
    return {"matches": matches, "unknown": unknown}


class _Parser:
    """Parse the matches of a batch.

    Args:
        texts: the texts of the batch.
        time: the time of the batch.
        writer: the writer of the batch.

    Attributes:
        used: the indices of the texts that a match has used.
    """

    def __init__(self, texts: list[str], time: str, writer: str) -> None:
        self._texts, self._time, self._writer = texts, time, writer
        self.used: set[int] = set()

    def match(self, document: Json) -> Match:
        """Parse one match; raise ValueError or InvalidInputError for another value."""
        expect(isinstance(document, dict), "matches")
        expect(_MATCH <= document.keys() <= _MATCH | _OPTIONAL, "matches")
        for name in document.keys() & (_OPTIONAL - {*_TEXTS, *_SCALARS}):
            expect(bool(document[name]), name)
        text = self._text
        texts: dict[str, Any] = {name: text(document[name]) for name in _TEXTS if name in document}
        match = Match(
            players=_by_role(document, "players", text),
            episodes=document["episodes"],
            outcomes=tuple(map(_parse_outcome, parse_list(document.get("outcomes", [])))),
            teams=_by_role(document, "teams", text),
            returns=_by_role(document, "returns", _parse_returns),
            **texts,
            seeds=tuple(parse_list(document.get("seeds", []))),
            played=_by_role(document, "played", self._pair),
            refs=_by_role(document, "refs", text),
            **{name: document.get(name) for name in _SCALARS},
            time=self._time,
            writer=self._writer,
            episode_returns=_by_role(
                document, "episode_returns", lambda value: tuple(parse_list(value))
            ),
        )
        for name in document.keys() & {*_SCALARS}:
            expect(document[name] is not None, name)
        expect(normal_match(match) == match, "matches")
        return match

    def _text(self, index: Json) -> str:
        expect(type(index) is int and 0 <= index < len(self._texts), "matches")
        self.used.add(index)
        return self._texts[index]

    def _pair(self, indices: Json) -> tuple[str, str]:
        first, last = parse_list(indices)
        return self._text(first), self._text(last)


def _by_role(document: JsonObject, name: str, parse: Any) -> dict[str, Any]:
    values = document.get(name, {})
    expect(isinstance(values, dict), name)
    return {role: parse(value) for role, value in values.items()}


def _parse_outcome(value: Json) -> Outcome:
    ranks, episodes = parse_list(value)
    expect(all(rank is None or type(rank) is int for rank in parse_list(ranks)), "outcomes")
    return Outcome(tuple(ranks), episodes)


def _parse_returns(value: Json) -> Returns:
    episodes, total, squares = parse_list(value)
    return Returns(episodes, to_fraction(parse_exact(total)), to_fraction(parse_exact(squares)))
