"""Connect four of PettingZoo for RLlib, as ``league.py`` and ``league_by_hand.py`` play it.

PettingZoo offers each observation together with a mask of the legal moves, and an illegal move ends
the game. RLlib masks actions only by a network of one's own (``ActionMaskingTorchRLModule`` in
RLlib's examples, for PPO only, with another layout of the observation). So this file changes the
environment in place of the network: a disc that is thrown into a full column falls into the next
column to the right that has room. Each move is then legal, no legal game is lost, and any algorithm
learns what an action does, because the same action on the same board always does the same.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from pettingzoo.classic import connect_four_v3
from pettingzoo.utils.wrappers import BaseWrapper
from ray.rllib.env.wrappers.pettingzoo_env import PettingZooEnv

__all__ = ["AGENTS", "COLUMNS", "RoomForEachDisc", "make_connect_four"]

AGENTS = "player_0", "player_1"
COLUMNS = 7
_BOARD: Any = gym.spaces.Box(0.0, 1.0, (6 * COLUMNS * 2,), np.float32)


class RoomForEachDisc(BaseWrapper):  # type: ignore[misc]
    """Show flat boards without a mask, and move a disc from a full column to the next with room."""

    def observation_space(self, agent: str) -> Any:
        """Return the space of the boards: own discs and the opponent's, for each of 42 fields."""
        return _BOARD

    def observe(self, agent: str) -> Any:
        """Return the board as an agent sees it."""
        return self.env.observe(agent)["observation"].ravel().astype(np.float32)

    def step(self, action: Any) -> None:
        """Play a move; None for an agent whose game is over."""
        if action is not None:
            has_room = self.env.observe(self.agent_selection)["action_mask"]
            right = (np.arange(COLUMNS) + action) % COLUMNS
            action = int(right[np.argmax(has_room[right])])
        super().step(action)


def make_connect_four(config: Any = None) -> Any:
    """Return the environment as RLlib takes it."""
    return PettingZooEnv(RoomForEachDisc(connect_four_v3.env()))
