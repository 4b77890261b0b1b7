"""Mix the players of a league: a probability for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policystore._util.messages import brief, counted, text_table
from policystore.display.html import Cell, Html, block, line, table
from policystore.display.pretty import print_text
from policystore.errors import InvalidInputError
from policystore.league.analysis.alpharank import fixation, stationary_shares
from policystore.league.analysis.labels import player_labels
from policystore.league.analysis.nash import equilibrium
from policystore.league.analysis.payoff_values import Floats, Payoffs

__all__ = ["MetaStrategy", "meta_strategy"]

_KINDS = ("nash", "alpharank", "uniform")
_MAX_SHOWN, _MAX_SHOWN_HTML = 20, 50
_DIGITS = 9  # of a weight, after the point; what differs between processors comes later
_NEGLIGIBLE = 1e-8


@dataclass(frozen=True, eq=False, repr=False)
class MetaStrategy:
    """Hold a probability for each player of a league.

    Attributes:
        kind: how the probabilities were found.
        by_role: role -> player -> probability; those of a role add up to 1. If the roles were
            counted together, there is one role, the empty text.
        win_rates: role -> player -> expected win rate of the player, if the opponents are drawn by
            the probabilities. At an equilibrium no player has more than the ``value`` of its role.
        value: the expected win rate of the first role, if both are drawn by the probabilities. It
            is 0.5 if there is one role.
        refs: player -> ref, for players that have one.
    """

    kind: str
    by_role: Mapping[str, Mapping[str, float]]
    win_rates: Mapping[str, Mapping[str, float]]
    value: float
    refs: Mapping[str, str]

    @property
    def weights(self) -> Mapping[str, float]:
        """Player -> probability, sorted as the players of the payoffs.

        Raises:
            InvalidInputError: the roles were kept apart.
        """
        if len(self.by_role) > 1:
            raise InvalidInputError(
                f"this strategy has weights for each of the roles {', '.join(self.by_role)}: "
                "see by_role"
            )
        return next(iter(self.by_role.values()), {})

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each player, for ``pandas.DataFrame(records)``.

        The keys are ``player``, ``ref`` (None if there is none), ``role``, ``weight`` and
        ``win_rate``: the expected win rate of the player against the strategy. The most probable
        players come first.
        """
        return [
            {
                "player": player,
                "ref": self.refs.get(player),
                "role": role,
                "weight": weight,
                "win_rate": self.win_rates[role][player],
            }
            for role, weights in self.by_role.items()
            for player, weight in sorted(weights.items(), key=lambda each: -each[1])
        ]

    def __repr__(self) -> str:
        players = {player for weights in self.by_role.values() for player in weights}
        return f"<MetaStrategy: {self.kind}, {counted(len(players), 'player')}>"

    _repr_pretty_ = print_text

    def _rows(self, most: int) -> list[list[str]]:
        records = [each for each in self.to_records() if each["weight"] > 0][:most]
        labels = player_labels(tuple(dict.fromkeys(each["player"] for each in records)), self.refs)
        return [
            [
                labels[each["player"]],
                each["role"],
                f"{each['weight']:.3f}",
                f"{100 * each['win_rate']:.0f}",
            ]
            for each in records
        ]

    def _rest(self, shown: int) -> list[str]:
        weights = [weight for each in self.by_role.values() for weight in each.values()]
        unused = sum(weight == 0 for weight in weights)
        more = len(weights) - unused - shown
        facts = [f"and {counted(more, 'player')} more, with smaller weights"] if more > 0 else []
        facts += [f"{counted(unused, 'player')} with the weight 0"] if unused else []
        return facts or ([] if weights else ["no players"])

    def __str__(self) -> str:
        rows = self._rows(_MAX_SHOWN)
        head = ["player", "role", "weight", "win rate in %"]
        lines = [text_table(head, rows, {2, 3})] if rows else []
        return "\n".join([*lines, *self._rest(len(rows))])

    def _repr_html_(self) -> str:
        rows = self._rows(_MAX_SHOWN_HTML)
        cells: list[list[str | Html | Cell]] = [
            [name, role, *(Cell(text, number=True) for text in numbers)]
            for name, role, *numbers in rows
        ]
        parts = [table(["player", "role", "weight", "win rate in %"], cells)] if rows else []
        return block([*parts, *(line(fact, faint=True) for fact in self._rest(len(rows)))]).source


def meta_strategy(
    payoffs: Payoffs,
    *,
    kind: str = "nash",
    missing: float | None = None,
    pairwise: bool = False,
    alpha: float = 100.0,
    population: int = 50,
) -> MetaStrategy:
    """Return a probability for each player, from the win rates of all pairs.

    The game is: two people choose a player each, and the win rate is what the one gets and the
    other does not. ``"nash"`` is the equilibrium of this game that has the largest entropy: nobody
    beats it in the mean. It ignores players that others dominate, and gives equal players equal
    weights (Balduzzi and others, 2018, https://arxiv.org/abs/1806.02643). ``"alpharank"`` is the
    share of time that an evolving population spends with each player (Omidshafiei and others, 2019,
    https://arxiv.org/abs/1903.01373); it takes time with the third power of the number of players.
    ``"uniform"`` gives all the same weight.

    Weights have 9 digits, and weights of 1e-8 and less are 0. The same payoffs give the same
    weights on one machine. Between machines, digits of an equilibrium may differ by about 1e-6.

    Args:
        payoffs: the win rates. If they keep roles apart, there have to be two roles, and the kind
            is ``"nash"`` or ``"uniform"``.
        kind: ``"nash"``, ``"alpharank"`` or ``"uniform"``.
        missing: the win rate of pairs that never met, such as 0.5; by default they are refused.
        pairwise: take the win rates of matches with more than two sides, too: then the game is
            which of two players comes out better.
        alpha: for alpharank, how strongly a higher win rate is selected; a difference of 1 / alpha
            between win rates matters.
        population: for alpharank, the number of individuals.

    Raises:
        InvalidInputError: an argument has the wrong form; pairs never met; or the game is not
            zero-sum between two.
        MissingPackageError: scipy is not installed, and the kind is ``"nash"``.
    """
    if kind not in _KINDS:
        raise InvalidInputError(f"kind={brief(kind)}: expected {', '.join(map(repr, _KINDS))}")
    if missing is not None and not (_is_number(missing) and 0 <= missing <= 1):
        raise InvalidInputError(f"missing={brief(missing)}: expected a win rate from 0 to 1")
    if not (_is_number(alpha) and 0 <= alpha < 1e12):
        raise InvalidInputError(f"alpha={brief(alpha)}: expected a number from 0 to 1e12")
    if not (_is_number(population) and 2 <= population < 1e9):
        raise InvalidInputError(f"population={brief(population)}: expected a number from 2 on")
    if not isinstance(payoffs, Payoffs):
        raise InvalidInputError(
            f"meta_strategy takes the Payoffs of a league, not {brief(payoffs)}"
        )
    _check_game(payoffs, kind, pairwise)
    if payoffs.by_role:
        return _of_two_roles(payoffs, kind, missing)
    gains = _gains(
        payoffs, np.arange(len(payoffs.players)), np.arange(len(payoffs.players)), missing
    )
    weights = _weights(gains, kind, alpha, population)
    return _strategy(payoffs, kind, {"": (range(len(gains)), weights, 0.5 + gains @ weights)}, 0.5)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _check_game(payoffs: Payoffs, kind: str, pairwise: bool) -> None:
    if not len(payoffs.first) and payoffs.unranked:
        raise InvalidInputError(
            f"the {counted(payoffs.unranked, 'episode')} have returns only, and no wins or losses: "
            "such a game need not be zero-sum, and has no strategy of this kind. scores() compares "
            "the returns of groups of players"
        )
    if payoffs.sides > 2 and not pairwise:
        raise InvalidInputError(
            f"there are matches of {payoffs.sides} sides, and a meta-strategy is of games between "
            "two. pairwise=True takes each two sides of a match as a game of two, which the better "
            "rank wins"
        )
    roles = sorted(set(payoffs.roles))
    if payoffs.by_role and (len(roles) > 2 or kind == "alpharank"):
        raise InvalidInputError(
            f"the payoffs keep {counted(len(roles), 'role')} apart, and kind={kind!r} needs "
            f"{'one population' if kind == 'alpharank' else 'two roles'}: leave by_role out"
        )


def _gains(payoffs: Payoffs, rows: Any, columns: Any, missing: float | None) -> Floats:
    """Return win rates above one half; those of equal players are 0, and (i, j) is -(j, i)."""
    wins, losses = payoffs.wins[np.ix_(rows, columns)], payoffs.losses[np.ix_(rows, columns)]
    number = payoffs.episodes[np.ix_(rows, columns)]
    gains = (wins - losses) / (2.0 * np.maximum(number, 1))
    same = np.equal.outer(rows, columns)
    absent = (number == 0) & ~same
    if absent.any() and missing is None:
        row, column = np.argwhere(absent)[0]
        count = int(absent.sum()) // (2 if same.any() else 1)
        raise InvalidInputError(
            f"{counted(count, 'pair')} never met, among them {payoffs.labels[rows[row]]} and "
            f"{payoffs.labels[columns[column]]}: play them, or give missing= their win rate, such "
            "as missing=0.5"
        )
    if missing is not None and missing != 0.5 and absent.any():
        if same.any():
            raise InvalidInputError(
                f"missing={missing}: the win rates of two players add up to 1, so a pair that "
                "never met can have 0.5 only"
            )
        gains[absent] = missing - 0.5
    return np.asarray(gains, dtype=np.float64)


def _weights(gains: Floats, kind: str, alpha: float, population: int) -> Floats:
    if len(gains) == 0 or kind == "uniform":
        return np.full(len(gains), 1.0 / max(1, len(gains)))
    if kind == "nash":
        return equilibrium(gains)[0]
    return stationary_shares(fixation(gains, alpha, population))


def _of_two_roles(payoffs: Payoffs, kind: str, missing: float | None) -> MetaStrategy:
    roles = sorted(set(payoffs.roles))
    if len(roles) < 2:
        raise InvalidInputError(
            f"the payoffs keep roles apart and have {counted(len(roles), 'role')}: expected two"
        )
    places = [np.flatnonzero(np.array(payoffs.roles) == role) for role in roles]
    gains = _gains(payoffs, places[0], places[1], missing)
    if kind == "uniform":
        one, other = (np.full(len(each), 1.0 / len(each)) for each in places)
    else:
        one, other, _ = equilibrium(gains)
    parts = {
        roles[0]: (places[0], one, 0.5 + gains @ other),
        roles[1]: (places[1], other, 0.5 - one @ gains),
    }
    return _strategy(payoffs, kind, parts, 0.5 + float(one @ gains @ other))


def _strategy(
    payoffs: Payoffs, kind: str, parts: Mapping[str, tuple[Any, Floats, Floats]], value: float
) -> MetaStrategy:
    weights, rates = {}, {}
    for role, (places, shares, expected) in parts.items():
        players = [payoffs.players[place] for place in places]
        kept = np.where(shares > _NEGLIGIBLE, shares, 0.0)
        rounded = np.round(kept / max(kept.sum(), _NEGLIGIBLE), _DIGITS).tolist()
        weights[role] = dict(zip(players, rounded, strict=True))
        rates[role] = dict(zip(players, np.round(expected, _DIGITS).tolist(), strict=True))
    return MetaStrategy(kind, weights, rates, round(value, _DIGITS), payoffs.refs)
