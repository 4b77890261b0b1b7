"""Plays an exported ONNX file by onnxruntime and the metadata alone, and compares it with a player."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import onnxruntime

from policystore.play.metadata import Metadata
from policystore.play.spaces import flatten, read_space
from policystore.rllib.exporting.samples import extreme_observations, random_observation

ROWS = 1000
EPISODE = 50


class ExportedFile:
    """A file that acts in one environment."""

    def __init__(self, path: Path, metadata: Metadata) -> None:
        self.metadata = metadata
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.spaces = [
            read_space(space) for space in (metadata.observation_space, metadata.action_space)
        ]
        self.reset()

    def reset(self) -> None:
        self.state = {
            part.input: np.zeros((1, *part.shape), part.dtype) for part in self.metadata.state
        }

    def act(self, obs: Any) -> list[Any]:
        """Return the parts of the action."""
        infos, parts = self.metadata.inputs, flatten(self.spaces[0], obs)
        feeds = {
            info.name: np.asarray(part)[None].astype(info.dtype)
            for info, part in zip(infos, parts, strict=True)
        }
        found = self.session.run(None, {**feeds, **self.state})
        count = len(self.metadata.outputs)
        self.state = {
            part.input: array
            for part, array in zip(self.metadata.state, found[count:], strict=True)
        }
        return [array[0] for array in found[:count]]

    def check(self, obs: Any, action: Any, *, live: bool = False) -> None:
        """Compare the file's action with another one: integers are equal, floats nearly.

        Args:
            obs: the observation.
            action: a player's action, which has the dtype of the file's action as well.
            live: whether RLlib itself acted: it gives the new stack's environments int32.
        """
        wanted = flatten(self.spaces[1], action)
        for info, has, needs in zip(self.metadata.outputs, self.act(obs), wanted, strict=True):
            assert has.dtype == info.dtype
            assert live or has.dtype == np.asarray(needs).dtype
            if has.dtype.kind in "iu":
                np.testing.assert_array_equal(has, needs)
            else:
                np.testing.assert_allclose(has, needs, rtol=1e-5, atol=1e-4)

    def check_thousand(self, player: Any) -> None:
        """Compare the file with a player on 1,000 observations, in episodes of 50 steps."""
        for index, obs in enumerate(_observations(player.observation_space)):
            if index % EPISODE == 0:
                player.reset()
                self.reset()
            self.check(obs, player.act(obs))


def _observations(space: gym.Space[Any]) -> list[Any]:
    random = np.random.default_rng(77)
    extremes = extreme_observations(space)
    return [*extremes, *(random_observation(space, random) for _ in range(ROWS - len(extremes)))]
