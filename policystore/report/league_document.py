"""Put together the data of the leagues on a page, as JSON that is small enough."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from policystore.display.refs import shorten_names
from policystore.format.canonical_json import Json, JsonObject
from policystore.report.columns import Strings, clean, encode_number
from policystore.report.leagues import LeagueData, LeaguePlayer

__all__ = ["LeagueDetail", "encode_league"]

_MAX_LABEL = 24  # characters of a player beside the heat map
_MAX_PLAYER = 26  # characters of a player that is no version of the page
_MAX_ENVIRONMENTS = 20
_MAX_REASONS = 20
_BANDS = (1, 10, 100, 1000)  # least episodes of a pair; the page counts the pairs between these


@dataclass(frozen=True)
class LeagueDetail:
    """Say how much of each league a page shows.

    Attributes:
        players: how many players the table has; those with the best ratings.
        heat: how many players the heat map has.
        opponents: how many of the best and of the worst opponents of a player.
        never: how many pairs that never met.
    """

    players: int
    heat: int
    opponents: int
    never: int


def encode_league(
    data: LeagueData, detail: LeagueDetail, strings: Strings, times: list[int]
) -> JsonObject:
    """Return the data of one league.

    Args:
        data: the league.
        detail: how much to show.
        strings: numbers the texts of the page.
        times: the time of each version of the page, in seconds.
    """
    content = data.content
    shown = data.players[: detail.players]
    heat = choose_players(shown, detail.heat, times)
    short = shorten_names((clean(player.label, 200) for player in shown), _MAX_LABEL)
    environments = _environments(data)
    reasons = sorted(content.unknown.items(), key=lambda item: (-item[1], item[0]))
    return {
        "name": clean(content.name, 200),
        "matches": content.matches,
        "episodes": content.episodes,
        "writers": content.writers,
        "unknown": [[clean(reason, 120), episodes] for reason, episodes in reasons[:_MAX_REASONS]],
        "unknown_episodes": sum(content.unknown.values()),
        "environments": environments[:_MAX_ENVIRONMENTS],
        "environment_count": len(environments),
        "problem": clean(data.problem, 400),
        "notes": list(data.notes),
        "player_count": data.player_count,
        "rated_count": len(data.players),
        "players": [
            [
                strings.number(clean(player.label, 200)),
                strings.number(short[clean(player.label, 200)]),
                clean(player.player, _MAX_PLAYER) if player.version is None else "",
                player.version,
                strings.number(clean(player.name, 200)),
                player.number,
                encode_number(player.rating),
                encode_number(player.error),
                player.episodes,
                encode_number(player.mean_return),
                int((data.episodes[at] > 0).sum()),
                _permille(_share(data, at)),
                *_extremes(data, at, detail),
            ]
            for at, player in enumerate(shown)
        ],
        "heat": list(heat),
        "pairs": _encode_pairs(data, heat),
        "coverage": _coverage(data, heat, detail.never),
    }


def choose_players(players: list[LeaguePlayer], most: int, times: list[int]) -> list[int]:
    """Return the indices of the players for the heat map: the best ones and the newest ones.

    If there are more players than ``most``, half of them are those with the best ratings, and the
    others are the newest of the rest: by the times of their versions, or else by their numbers.
    """
    if len(players) <= most:
        return list(range(len(players)))
    best = set(range(most // 2))

    def age(at: int) -> tuple[int, int, int]:
        player = players[at]
        time = -1 if player.version is None else times[player.version]
        return (-time, -(player.number or 0), at)

    newest = sorted((at for at in range(len(players)) if at not in best), key=age)
    return sorted(best | set(newest[: most - len(best)]))


def _permille(share: float) -> int | None:
    return None if np.isnan(share) else round(1000 * float(share))


def _share(data: LeagueData, at: int) -> float:
    """Return the win rate of a player over all its opponents, each weighed by its episodes."""
    met = (data.episodes[at] > 0) & ~np.isnan(data.rates[at])
    if not met.any():
        return float("nan")
    return float(np.average(data.rates[at][met], weights=data.episodes[at][met]))


def _extremes(data: LeagueData, at: int, detail: LeagueDetail) -> tuple[Json, Json]:
    """Return the opponents that a player surely beats, and those that surely beat the player.

    The interval of the win rate decides, so that one lucky episode is no best opponent.
    """
    rates = data.rates[at][: detail.players]
    met = np.flatnonzero((data.episodes[at][: detail.players] > 0) & ~np.isnan(rates))
    met = met[met != at]

    def encode(chosen: Any) -> list[Json]:
        return [
            [int(each), _permille(rates[each]), int(data.episodes[at][each])] for each in chosen
        ]

    best = met[np.lexsort((met, -data.low[at][met]))][: detail.opponents]
    worst = met[np.lexsort((met, data.high[at][met]))][: detail.opponents]
    return encode(best), encode(worst)


def _encode_pairs(data: LeagueData, heat: list[int]) -> list[Json]:
    """Return the pairs of the heat map that have met, as one flat list of six numbers each.

    These are the places of both players in ``heat``, the win rate of the first one and the ends
    of its interval in thousandths, and the episodes. A pair stands once: the numbers of the second
    player are what is missing to 1.
    """
    flat: list[Json] = []
    chosen = np.asarray(heat, dtype=int)
    for row, at in enumerate(heat):
        columns = chosen[row + 1 :]
        met = np.flatnonzero(data.episodes[at][columns] > 0)
        for column in met:
            other = columns[column]
            flat += [
                row,
                row + 1 + int(column),
                _permille(data.rates[at][other]),
                _permille(data.low[at][other]),
                _permille(data.high[at][other]),
                int(data.episodes[at][other]),
            ]
    return flat


def _environments(data: LeagueData) -> list[Json]:
    """Return each environment with its digest, matches, episodes and players; most played first."""
    sums: dict[tuple[str, str], list[int]] = {}
    players: dict[tuple[str, str], set[str]] = {}
    for total in data.content.totals:
        key = (total.env, total.env_digest)
        counts = sums.setdefault(key, [0, 0])
        counts[0] += total.matches
        counts[1] += total.episodes
        players.setdefault(key, set()).update(total.players.values())
    ordered = sorted(sums, key=lambda key: (-sums[key][1], key))
    return [
        [clean(env, 120), clean(digest, 80), *sums[env, digest], len(players[env, digest])]
        for env, digest in ordered
    ]


def _coverage(data: LeagueData, heat: list[int], most: int) -> JsonObject:
    """Return how many pairs have met how often, and some that never met.

    The pairs that never met are those of the heat map, those with the closest ratings first: for
    these it is the least clear who would win.
    """
    count = len(data.players)
    upper = data.episodes[np.triu_indices(count, 1)]
    bands = [0, *_BANDS, np.inf]
    numbers = [int(((upper >= low) & (upper < high)).sum()) for low, high in pairwise(bands)]
    chosen = np.asarray(heat, dtype=int)
    rows, columns = np.triu_indices(len(heat), 1)
    apart = data.episodes[np.ix_(chosen, chosen)][rows, columns] == 0
    rows, columns = chosen[rows[apart]], chosen[columns[apart]]
    rated = np.array(
        [np.nan if player.rating is None else player.rating for player in data.players]
    )
    distance = np.abs(rated[rows] - rated[columns])
    nearest = np.lexsort((columns, rows, distance))[:most]  # NaN comes last
    return {
        "pairs": len(upper),
        "bands": list(numbers),
        "never": [[int(rows[at]), int(columns[at])] for at in nearest],
    }
