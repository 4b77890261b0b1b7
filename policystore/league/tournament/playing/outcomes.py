"""Who won an episode: by the returns, or by a function of the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError

__all__ = ["Judge", "Ranks", "judge_of"]

Ranks: TypeAlias = "tuple[int | None, ...]"
"""One rank for each role, in the order of the sorted roles; see ``Outcome`` of the records."""


@dataclass(frozen=True)
class Judge:
    """Ranks the roles of an episode.

    Attributes:
        rule: see :func:`judge_of`.
        teams: role -> team, for roles that play together.
    """

    rule: Any = "returns"
    teams: Mapping[str, str] = field(default_factory=dict)

    def ranks(self, returns: Mapping[str, float], infos: Mapping[str, Any]) -> Ranks | None:
        """Return the ranks of an episode; None if nobody won or lost.

        Raises:
            InvalidInputError: the function of the caller returned something else than ranks.
        """
        roles = sorted(returns)
        if self.rule is None:
            return None
        if self.rule == "returns":
            # A role without a team is a side of its own.
            sides = [("team", self.teams[role]) if role in self.teams else ("role", role)
                     for role in roles]  # fmt: skip
            scores: dict[tuple[str, str], float] = {}
            for role, side in zip(roles, sides, strict=True):  # sums of floats have an order
                scores[side] = scores.get(side, 0.0) + returns[role]
            order = sorted(set(scores.values()), reverse=True)
            places = {score: place for place, score in enumerate(order)}
            return tuple(places[scores[side]] for side in sides)
        ranks = self.rule(dict(returns), dict(infos))
        if ranks is None:
            return None
        if not isinstance(ranks, Mapping) or set(ranks) != set(roles):
            raise InvalidInputError(
                f"outcome: expected a rank for each of {roles}, found {brief(ranks)}"
            )
        listed = tuple(ranks[role] for role in roles)
        if not all(rank is None or (type(rank) is int and rank >= 0) for rank in listed):
            raise InvalidInputError(
                f"outcome: a rank is a whole number from 0, or None; found {brief(list(listed))}"
            )
        return listed


def judge_of(outcome: object, teams: Mapping[str, str]) -> Judge:
    """Return what ranks the roles.

    Args:
        outcome: ``"returns"``: the higher return is better, equal ones are a draw, and the roles of
            a team are added up. None: nobody wins or loses, as in a cooperative environment. Or a
            function of ``{role: return}`` and ``{role: last info}``, which returns
            ``{role: rank}``, 0 for the best, or None.
        teams: role -> team.

    Raises:
        InvalidInputError: ``outcome`` is none of these.
    """
    if outcome is None or outcome == "returns" or callable(outcome):
        return Judge(outcome, dict(teams))
    raise InvalidInputError(
        f"outcome is 'returns', None, or a function of returns and infos; found {brief(outcome)}"
    )
