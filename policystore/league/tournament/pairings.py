"""Who meets whom: everyone, some against others, or by the scores so far."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence

from policystore.league.tournament.plan import Pairing
from policystore.league.tournament.playing.seeds import derive_seed

__all__ = ["against_anchors", "round_robin", "swiss_round"]

_MOST_TRIES = 20_000  # of a search for a round without a second meeting


def round_robin(players: Iterable[str], size: int) -> list[Pairing]:
    """Return all sets of ``size`` players, each once."""
    return list(itertools.combinations(sorted(players), size))


def against_anchors(players: Iterable[str], anchors: Iterable[str], size: int) -> list[Pairing]:
    """Return all sets of one player and ``size - 1`` anchors, each once."""
    pairings: dict[Pairing, None] = {}
    for player in sorted(players):
        for chosen in itertools.combinations(sorted(set(anchors) - {player}), size - 1):
            pairings[tuple(sorted((player, *chosen)))] = None
    return list(pairings)


def swiss_round(
    players: Collection[str],
    scores: Mapping[str, float],
    met: Mapping[frozenset[str], int],
    byes: Mapping[str, int],
    *,
    size: int,
    number: int,
    seed: int,
) -> tuple[list[Pairing], list[str]]:
    """Return the pairings of the next round, and the players who have no match in it.

    Players of like scores meet. Equal scores are in an order that follows from the seed. Two
    players meet again only if there is no other way (of more than two players in a match: if the
    neighbours by score have met). Those with no match are the last ones by score among those who
    had the fewest such rounds.

    Args:
        players: all players.
        scores: player -> share of the best possible score so far.
        met: players -> how often they have met.
        byes: player -> rounds without a match.
        size: the players of a match.
        number: the number of the round, from 0.
        seed: the seed of the tournament.
    """
    order = sorted(
        players,
        key=lambda each: (-scores.get(each, 0.0), derive_seed("swiss", seed, number, each), each),
    )
    left_over = len(order) % size
    resting: list[str] = []
    for _ in range(left_over):
        fewest = min(byes.get(each, 0) for each in order)
        resting.append(next(each for each in reversed(order) if byes.get(each, 0) == fewest))
        order.remove(resting[-1])
    if size == 2:
        pairs = _pairs(order, met)
        return [tuple(sorted(pair)) for pair in pairs], resting
    chunks = (order[start : start + size] for start in range(0, len(order), size))
    return [tuple(sorted(chunk)) for chunk in chunks], resting


def _pairs(order: Sequence[str], met: Mapping[frozenset[str], int]) -> list[tuple[str, str]]:
    """Pair neighbours in an order such that as few as possible have met more often than others.

    First nobody may have met before, then once at most, and so on.
    """
    most = max(met.values(), default=0)
    for limit in range(most + 1):
        tries = itertools.count()
        pairs = _search(list(order), met, limit, tries)
        if pairs is not None:
            return pairs
    return list(zip(order[::2], order[1::2], strict=True))


def _search(
    order: list[str], met: Mapping[frozenset[str], int], limit: int, tries: itertools.count[int]
) -> list[tuple[str, str]] | None:
    """Pair the first player with the next one who may be met, and go on with the others."""
    pairs: list[tuple[str, str]] = []
    # Each entry: the players that were to be paired, and the next partner to try for the first.
    stack: list[tuple[list[str], int]] = [(order, 1)]
    while stack:
        waiting, partner = stack.pop()
        del pairs[len(stack) :]
        if not waiting:
            return pairs
        if next(tries) > _MOST_TRIES:
            return None
        while partner < len(waiting):
            if met.get(frozenset((waiting[0], waiting[partner])), 0) <= limit:
                break
            partner += 1
        else:
            continue
        pairs.append((waiting[0], waiting[partner]))
        stack.append((waiting, partner + 1))
        stack.append((waiting[1:partner] + waiting[partner + 1 :], 1))
    return None
