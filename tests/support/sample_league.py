"""Matches of a league as a training writes them, for pages, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from blake3 import blake3

from policystore import PolicyStore, Snapshot
from policystore.format.records.matches import MatchTotal, Outcome, Returns
from policystore.league import League
from tests.support.report_store import Clock, written_at

ENV = "Soccer-v1"
ENV_DIGEST = f"blake3:{blake3(b'Soccer-v1').hexdigest()}"


def digest_of(text: str) -> str:
    """Return the digest of a policy that no store has."""
    return f"blake3:{blake3(text.encode()).hexdigest()}"


def sample_players(count: int) -> dict[str, str]:
    """Return the players of a league, oldest first, and the ref of each.

    The first one is a heuristic; seven of ten others are versions of ``soccer/main``.
    """
    refs = {"heuristic:random": "random"}
    numbers = dict.fromkeys(("soccer/main", "soccer/exploiter"), 0)
    for at in range(count - 1):
        name = "soccer/exploiter" if at % 10 in (3, 6, 9) else "soccer/main"
        numbers[name] += 1
        ref = f"{name}@{numbers[name]}"
        refs[digest_of(ref)] = ref
    return refs


def strengths(refs: Mapping[str, str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the true ratings of sample players on Elo's scale: later players are stronger."""
    ranks = np.arange(len(refs)) / max(1, len(refs) - 1)
    weak = np.array([80.0 if "exploiter" in ref else 0.0 for ref in refs.values()])
    return 900 + 700 * ranks**0.7 - weak


def sample_matches(
    refs: Mapping[str, str], *, pairs: int, episodes: int = 20, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield matches of two players, in the form that ``League.record`` takes.

    Args:
        refs: the players, as :func:`sample_players` returns them.
        pairs: how many matches.
        episodes: how many episodes a match has.
        seed: seed of who meets whom, and of who wins.
    """
    rng = np.random.default_rng(seed)
    players, elo = list(refs), strengths(refs)
    for at in range(pairs):
        red = int(rng.integers(1, len(players)))
        near = int(rng.normal(red, len(players) / 6))
        blue = near if 0 <= near < len(players) and near != red else red - 1
        chance = 1 / (1 + 10 ** ((elo[blue] - elo[red]) / 400))
        draws = int(rng.binomial(episodes, 0.1))
        wins = int(rng.binomial(episodes - draws, chance))
        score = wins - (episodes - draws - wins)
        yield {
            "players": {"red": players[red], "blue": players[blue]},
            "refs": {"red": refs[players[red]], "blue": refs[players[blue]]},
            "episodes": episodes,
            "wins": {"red": wins, "blue": episodes - draws - wins},
            "draws": draws,
            "returns": {
                "red": {"sum": float(score), "squares": float(episodes - draws)},
                "blue": {"sum": float(-score), "squares": float(episodes - draws)},
            },
            "env": ENV if at % 8 else "SoccerRain-v1",
            "env_digest": ENV_DIGEST,
        }


def totals_of(matches: Iterator[dict[str, Any]]) -> tuple[MatchTotal, ...]:
    """Return the totals of matches of two players, as a league makes them."""
    sums: dict[tuple[str, str, str], list[int]] = {}
    for match in matches:
        key = (match["players"]["red"], match["players"]["blue"], match["env"])
        total = sums.setdefault(key, [0, 0, 0, 0])
        counts = (1, match["wins"]["red"], match["wins"]["blue"], match["draws"])
        total[:] = [one + two for one, two in zip(total, counts, strict=True)]
    made = []
    for (red, blue, env), (count, red_wins, blue_wins, draws) in sorted(sums.items()):
        ways = (((0, 0), draws), ((0, 1), blue_wins), ((1, 0), red_wins))
        episodes = red_wins + blue_wins + draws
        decided = Fraction(red_wins + blue_wins)
        made.append(
            MatchTotal(
                players={"blue": blue, "red": red},
                teams={},
                env=env,
                env_digest=ENV_DIGEST,
                matches=count,
                episodes=episodes,
                outcomes=tuple(Outcome(ranks, number) for ranks, number in ways if number),
                returns={
                    "blue": Returns(episodes, Fraction(blue_wins - red_wins), decided),
                    "red": Returns(episodes, Fraction(red_wins - blue_wins), decided),
                },
            )
        )
    return tuple(made)


def push_players(store: PolicyStore, refs: Mapping[str, str]) -> dict[str, str]:
    """Push a small policy for each ref; return the players with their digests in the store.

    The parent of a version is the one before it, and that of the first exploiter the newest version
    of ``soccer/main`` at that time.
    """
    clock = Clock()
    newest: dict[str, Any] = {}
    pushed: dict[str, str] = {}
    with written_at(clock):
        for at, (player, ref) in enumerate(refs.items()):
            name = ref.partition("@")[0]
            if "@" not in ref:
                pushed[player] = ref
                continue
            clock.wait(3)
            parent = newest.get(name) or newest.get("soccer/main")
            snap = Snapshot(weights={"w": np.full((2, 3), at, np.float32)})
            newest[name] = store.push(
                snap, name, parents=[parent] if parent else (), metrics={"return": at / 2}
            )
            pushed[str(newest[name].digest)] = ref
    return pushed


def sample_league(
    store: PolicyStore, name: str = "soccer", *, players: int = 24, pairs: int = 400
) -> League:
    """Push the players of a league, and record their matches.

    Args:
        store: a store without ``soccer/main`` and ``soccer/exploiter``.
        name: the name of the league.
        players: how many players, a heuristic among them.
        pairs: how many matches.
    """
    refs = push_players(store, sample_players(players))
    league = League(store, name, author="ann")
    league.unknown("the opponent changed during the episode", 120)
    league.record(list(sample_matches(refs, pairs=pairs)))
    league.seal()
    return league
