"""Reasons why an episode that was played is not recorded, as answers and leagues count them."""

from __future__ import annotations

__all__ = [
    "CHANGED",
    "ENV_FAILED",
    "FAILED",
    "INCOMPLETE",
    "LATER_EPISODE",
    "NOT_DRAWN",
    "NOT_FETCHED",
    "NOT_FINITE",
    "NOT_LOADED",
    "NO_PLAYER",
    "OTHER_POLICIES",
    "OUTCOME_FAILED",
    "UNFINISHED",
]

NOT_DRAWN = "no opponents to draw from"
"""The driver has sent no table yet, as for a restarted env runner, or the table is empty."""

NO_PLAYER = "learner without a snapshot"
"""The driver has not said which snapshot the learner's episodes are booked under."""

NOT_LOADED = "opponent not loaded"
"""The opponent could not be pulled or loaded, and its slot held nothing known."""

CHANGED = "opponent's weights changed"
"""The weights of a slot were not those of the opponent from the first step to the last."""

OTHER_POLICIES = "other policies than drawn"
"""The episode's agents played policies that the pool had not chosen for them."""

UNFINISHED = "unfinished at a reset"
"""RLlib started all sub-environments anew while the episode was under way."""

LATER_EPISODE = "not among the first episodes"
"""``first_episodes=`` counts only the first episodes of a sub-environment after each reset."""

OUTCOME_FAILED = "outcome function failed"
"""The user's function raised an error, or returned something else than scores."""

NOT_FINITE = "return not finite"
"""A return or a score is infinite or NaN."""

NOT_FETCHED = "records not fetched"
"""The driver did not ask for so long that the oldest records were dropped."""

ENV_FAILED = "environment failed"
"""The environment raised an error, and RLlib made it anew."""

INCOMPLETE = "earlier steps unknown"
"""RLlib did not hand over the earlier chunks of an episode that it had cut."""

FAILED = "bookkeeping failed"
"""An error inside of the pool, which the log of the env runner has."""
