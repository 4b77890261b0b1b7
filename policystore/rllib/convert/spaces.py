"""Refuse spaces that the other API stack does not encode, or has no distribution for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.models.preprocessors import ATARI_OBS_SHAPE, ATARI_RAM_OBS_SHAPE

from policystore.rllib.convert.kinds import no_counterpart
from policystore.snapshot import Snapshot

__all__ = ["check_actions", "check_observations", "check_vectors"]


def check_observations(snap: Snapshot, space: gym.Space[Any], preprocess: bool) -> None:
    """Refuse observations that the new stack does not encode as a preprocessor does.

    Raises:
        InvalidInputError: the message names the space and the preprocessor.
    """
    for part in _parts(space):
        if isinstance(part, (spaces.Discrete, spaces.MultiDiscrete)):
            if _is_matrix(part):
                raise no_counterpart(
                    snap,
                    f"the observation space {part}",
                    "FlattenObservations takes a MultiDiscrete of one dimension only",
                )
            if np.any(np.asarray(part.start)):
                raise no_counterpart(
                    snap,
                    f"the observation space {part}",
                    "FlattenObservations of the new stack encodes numbers from 0 on only",
                )
        elif not isinstance(part, (spaces.Box, spaces.MultiBinary)):
            raise no_counterpart(
                snap,
                f"the observation space {part}",
                "FlattenObservations does not take this space",
            )
        elif 0 in part.shape:
            raise no_counterpart(
                snap, f"the observation space {part}", "this space holds no numbers"
            )
        elif preprocess and part.shape in (ATARI_OBS_SHAPE, ATARI_RAM_OBS_SHAPE):
            name = {3: "GenericPixelPreprocessor", 1: "AtariRamPreprocessor"}[len(part.shape)]
            raise no_counterpart(
                snap,
                f"the {name} of the observation space {part}",
                "no connector of RLlib's scales observations in this way",
            )


def check_actions(snap: Snapshot, space: gym.Space[Any]) -> None:
    """Refuse an action space that the new stack has no distribution for.

    Raises:
        InvalidInputError: the message names the space.
    """
    for part in _parts(space):
        if isinstance(part, (spaces.Discrete, spaces.MultiDiscrete)):
            if not _is_matrix(part):
                continue
            why = "the new stack takes a MultiDiscrete of one dimension only"
        elif not isinstance(part, spaces.Box):
            why = "the new stack has no distribution for this space"
        elif np.dtype(part.dtype).kind != "f":
            why = "the new stack takes integer actions as MultiDiscrete only"
        elif len(part.shape) != 1:
            why = "the new stack takes Boxes of one dimension only"
        else:
            continue
        raise no_counterpart(snap, f"the action space {part}", why)


def check_vectors(snap: Snapshot, *both: gym.Space[Any]) -> None:
    """Refuse a MultiDiscrete of several dimensions, which the old stack has no networks for.

    Args:
        snap: a snapshot of the new stack.
        both: its observation and action space.

    Raises:
        InvalidInputError: the message names the space.
    """
    for space in both:
        for part in _parts(space):
            if _is_matrix(part):
                raise no_counterpart(
                    snap,
                    f"the space {part}",
                    "the old stack takes a MultiDiscrete of one dimension only",
                )


def _is_matrix(space: gym.Space[Any]) -> bool:
    """Return whether a space is a MultiDiscrete that is no vector."""
    return isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim != 1


def _parts(space: gym.Space[Any]) -> Iterator[gym.Space[Any]]:
    """Yield the spaces inside a Dict or Tuple at any depth; another space is its own part."""
    if isinstance(space, spaces.Dict):
        for inner in space.spaces.values():
            yield from _parts(inner)
    elif isinstance(space, spaces.Tuple):
        for inner in space.spaces:
            yield from _parts(inner)
    else:
        yield space
