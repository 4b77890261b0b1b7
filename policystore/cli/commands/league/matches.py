"""Show a match in words and as JSON, and give it an id by which ``league replay`` finds it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from policystore.digest import digest_of
from policystore.errors import FormatError
from policystore.format.canonical_json import Json, canonical_json, parse_canonical
from policystore.format.plain import iso_time, to_plain
from policystore.format.records.fields import parse_time
from policystore.format.records.matches import Match, Returns

__all__ = ["match_document", "match_id", "result_words", "shown_player"]

_DIGITS = 8  # of a digest, and of the id of a match, in a table


def shown_player(player: str, ref: str | None) -> str:
    """Return what a table calls a player: its ref, or a short form of its id."""
    if ref:
        return ref
    kind, _, rest = player.partition(":")
    return f"{kind}:{rest[:_DIGITS]}" if kind == "blake3" else player


def match_document(match: Match) -> dict[str, Any]:
    """Return a match in values that JSON has; ``id`` is the whole id of :func:`match_id`."""
    return {"id": match_id(match), **_plain(match), "env_config": _config(match.env_config)}


def match_id(match: Match) -> str:
    """Return 64 hexadecimal digits that tell matches apart: a BLAKE3 of the fields of a match.

    The config of the environment and the returns of single episodes are no part of it: the digest
    of the environment and the exact sums of the returns stand for them. Two equal matches of one
    batch have the same id; they are replayed alike.
    """
    return digest_of(canonical_json(_exact(match))).hex


def _config(text: str) -> Json:
    """Return the config of an environment; the text itself if it is no canonical JSON."""
    try:
        return parse_canonical(text.encode(), "env_config") if text else None
    except FormatError:  # somebody else's; the other matches are shown all the same
        return text


def _plain(match: Match) -> dict[str, Any]:
    return {
        "time": iso_time(parse_time(match.time)) if match.time else None,
        "players": dict(match.players),
        "refs": dict(match.refs),
        "teams": dict(match.teams),
        "episodes": match.episodes,
        "outcomes": [
            {"ranks": dict(zip(match.players, each.ranks, strict=True)), "episodes": each.episodes}
            for each in match.outcomes
        ],
        "returns": {role: _means(known) for role, known in match.returns.items()},
        "env": match.env,
        "env_digest": match.env_digest,
        "seeds": list(match.seeds),
        "played": {role: list(digests) for role, digests in match.played.items()},
        "iteration": match.iteration,
        "explore": match.explore,
        "max_steps": match.max_steps,
        "writer": match.writer,
    }


def _means(known: Returns) -> dict[str, Any]:
    """Return the number of known returns, their mean, and the mean of their squares."""
    number = known.episodes
    return {
        "episodes": number,
        "mean": to_plain(_float(known.sum / number)) if number else None,
        "mean_square": to_plain(_float(known.squares / number)) if number else None,
    }


def _float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def _exact(match: Match) -> Json:
    sums: dict[str, Json] = {
        role: [known.episodes, str(known.sum), str(known.squares)]
        for role, known in match.returns.items()
    }
    return {**_plain(match), "returns": sums, "seeds": [str(seed) for seed in match.seeds]}


def result_words(match: Match) -> str:
    """Return how the episodes of a match ended: ``blue 12, red 6, 2 draws``.

    A role has won an episode if no other role has a rank as good as its own; roles of one team win
    together. For a match without outcomes, the words are the mean returns.
    """
    if not match.outcomes:
        means = [
            f"{role} {_float(known.sum / known.episodes):.4g}"
            for role, known in match.returns.items()
            if known.episodes
        ]
        return f"mean returns: {', '.join(means)}" if means else ""
    roles = list(match.players)
    sides = [match.teams.get(role, role) for role in roles]
    wins = dict.fromkeys(sides, 0)
    draws = unknown = 0
    for outcome in match.outcomes:
        best = {side for side, rank in zip(sides, outcome.ranks, strict=True) if rank == 0}
        if len(best) == 1:
            wins[best.pop()] += outcome.episodes
        else:
            draws += outcome.episodes
    unknown = match.episodes - sum(outcome.episodes for outcome in match.outcomes)
    parts = [f"{side} {count:,}" for side, count in wins.items()]
    parts += [f"{draws:,} draw{'' if draws == 1 else 's'}"] if draws else []
    parts += [f"{unknown:,} unknown"] if unknown else []
    return ", ".join(parts)
