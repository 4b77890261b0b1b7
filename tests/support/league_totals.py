"""Make totals of leagues, written by hand and drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from policystore.format.records.matches import MatchTotal, Outcome, Returns


def player(number: int | str) -> str:
    """Return the id of a player, which sorts by its number."""
    return f"heuristic:{number:05d}" if isinstance(number, int) else f"heuristic:{number}"


def total(
    first: int | str,
    second: int | str,
    wins: int,
    draws: int = 0,
    losses: int = 0,
    *,
    roles: tuple[str, str] = ("a", "b"),
    env: str = "env",
    returns: Mapping[str, Returns] | None = None,
    unknown: int = 0,
) -> MatchTotal:
    """Return the total of two players, as the first of them sees it; the first has the first role."""
    return ranked(
        {roles[0]: first, roles[1]: second},
        {(0, 1): wins, (0, 0): draws, (1, 0): losses},
        env=env,
        returns=returns,
        unknown=unknown,
    )


def ranked(
    players: Mapping[str, int | str],
    outcomes: Mapping[tuple[int | None, ...], int],
    *,
    teams: Mapping[str, str] | None = None,
    env: str = "env",
    returns: Mapping[str, Returns] | None = None,
    unknown: int = 0,
) -> MatchTotal:
    """Return a total of outcomes: ranks in the order of ``players`` -> episodes."""
    given = list(players)
    order = sorted(given)
    entries = [
        Outcome(tuple(ranks[given.index(role)] for role in order), episodes)
        for ranks, episodes in outcomes.items()
        if episodes
    ]
    return MatchTotal(
        players={role: player(players[role]) for role in order},
        teams=teams or {},
        env=env,
        env_digest=f"blake3:{env.encode().hex():0<64.64}" if env else "",
        matches=1,
        episodes=sum(each.episodes for each in entries) + unknown,
        outcomes=tuple(entries),
        returns=returns or {},
    )


def returned(*values: float) -> Returns:
    """Return the exact sums of returns."""
    exact = [Fraction(value) for value in values]
    return Returns(len(exact), sum(exact, Fraction(0)), sum((x * x for x in exact), Fraction(0)))


def simulate(
    skills: np.ndarray, games: int, rng: np.random.Generator, *, draws: float = 0.0
) -> list[MatchTotal]:
    """Draw a round robin of players whose skills are points of the Elo scale.

    Args:
        skills: one for each player.
        games: games of each pair.
        rng: random numbers.
        draws: the share of draws among games of equal players.
    """
    totals = []
    for i in range(len(skills)):
        for j in range(i + 1, len(skills)):
            expected = 1 / (1 + 10 ** ((skills[j] - skills[i]) / 400))
            draw = 2 * draws * min(expected, 1 - expected)
            shares = [expected - draw / 2, draw, 1 - expected - draw / 2]
            won, drawn, lost = rng.multinomial(games, shares).tolist()
            totals.append(total(i, j, won, drawn, lost))
    return totals


counts = st.integers(0, 40)
names = st.integers(0, 6)
two_player_totals = st.lists(
    st.tuples(names, names, counts, counts, counts).map(lambda each: total(*each)), max_size=15
)
"""Any two-player leagues of at most seven players, with self-play."""
