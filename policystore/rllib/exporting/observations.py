"""Do with tensors what RLlib's preprocessors, connectors and filters do with an observation.

Each stage is a torch module. It takes a batch of observations, in the structure of a space with a
tensor for each array or number, and returns a batch of another structure. What RLlib computes in
numpy is computed in the same order and in the same dtypes, so that the numbers are the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree as dm_tree
from gymnasium import spaces
from ray.rllib.models import preprocessors
from ray.rllib.utils.filter import RunningStat
from ray.rllib.utils.numpy import SMALL_NUMBER

from policystore.rllib.exporting.refusal import NETWORK_INSTEAD, not_exportable

__all__ = ["AsFloat", "AsModuleInput", "Filter", "Flatten", "Preprocess", "Stages"]


class Stages(torch.nn.Module):
    """Applies several stages, one after the other."""

    def __init__(self, stages: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList(stages)

    def forward(self, obs: Any) -> Any:
        """Return the observation that the network gets."""
        for stage in self.stages:
            obs = stage(obs)
        return obs


class AsModuleInput(torch.nn.Module):
    """Casts as RLlib casts arrays when it makes tensors: floats but float16 become float32.

    See ``convert_to_torch_tensor`` (utils/torch_utils.py:230).
    """

    def forward(self, obs: Any) -> Any:
        """Return the observation with other dtypes."""
        return dm_tree.map_structure(_as_torch, obs)


class AsFloat(torch.nn.Module):
    """Casts an observation to float32, as ``CastObservations`` of converted policies does."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return the observation in float32."""
        return obs.float()


def _as_torch(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point() and tensor.dtype != torch.float16:
        return tensor.float()
    return tensor


class Filter(torch.nn.Module):
    """Applies the statistics of a MeanStdFilter (utils/filter.py:406) to an observation.

    Args:
        stat: RLlib's running statistics.
        demean, destd: whether the mean is subtracted, and whether the deviation divides.
        clip: the bound of the result; None for no bound.
    """

    mean: torch.Tensor
    divisor: torch.Tensor

    def __init__(self, stat: RunningStat, demean: bool, destd: bool, clip: float | None) -> None:
        super().__init__()
        self.demean, self.destd, self.clip = demean, destd, clip
        self.register_buffer("mean", torch.from_numpy(np.array(stat.mean)[None]))
        divisor = np.asarray(stat.std + SMALL_NUMBER)
        self.register_buffer("divisor", torch.from_numpy(np.array(divisor)[None]))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return the filtered observation, in the dtype of the observation."""
        filtered = obs
        if self.demean:
            filtered = filtered - self.mean
        if self.destd:
            filtered = filtered / self.divisor
        if self.clip:
            filtered = torch.clamp(filtered, -self.clip, self.clip)
        return filtered.to(obs.dtype)


class Flatten(torch.nn.Module):
    """Flattens an observation as the new stack's FlattenObservations does (utils/numpy.py:205).

    Args:
        space: the space of the observations.
        removed: the keys of a Dict space that are left out.
    """

    def __init__(self, space: gym.Space[Any], removed: Sequence[Any] = ()) -> None:
        super().__init__()
        self.removed = list(removed)
        self.space = _struct(space)
        if self.removed:
            self.space = {key: one for key, one in self.space.items() if key not in self.removed}
        for leaf in dm_tree.flatten(self.space):
            _check_starts_at_zero(leaf)

    def forward(self, obs: Any) -> torch.Tensor:
        """Return one float32 vector for each row."""
        if self.removed:
            obs = {key: part for key, part in obs.items() if key not in self.removed}
        leaves = zip(dm_tree.flatten(obs), dm_tree.flatten(self.space), strict=True)
        return torch.cat([_flat(part, space) for part, space in leaves], dim=-1)


def _struct(space: gym.Space[Any]) -> Any:
    """Return the leaves of a space in dicts and tuples, as dm_tree walks observations."""
    if isinstance(space, spaces.Dict):
        return {key: _struct(inner) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_struct(inner) for inner in space.spaces)
    return space


def _check_starts_at_zero(space: gym.Space[Any]) -> None:
    if isinstance(space, (spaces.Discrete, spaces.MultiDiscrete)) and np.any(space.start):
        raise not_exportable(
            f"an observation in {space}",
            "does not start at 0, and RLlib's FlattenObservations encodes numbers from 0 on only",
            NETWORK_INSTEAD,
        )


def _flat(part: torch.Tensor, space: gym.Space[Any]) -> torch.Tensor:
    if isinstance(space, spaces.Discrete):
        return _one_hot(part, int(space.n), int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        counts, starts = space.nvec.reshape(-1), np.asarray(space.start).reshape(-1)
        columns = part.reshape(part.shape[0], len(counts))
        return torch.cat(
            [
                _one_hot(columns[:, index], int(counts[index]), int(starts[index]))
                for index in range(len(counts))
            ],
            dim=-1,
        )
    return part.reshape(part.shape[0], _size(space)).float()


def _one_hot(values: torch.Tensor, count: int, start: int) -> torch.Tensor:
    known = torch.arange(start, start + count, dtype=torch.int64)
    return (values.to(torch.int64).unsqueeze(-1) == known).float()


def _size(space: gym.Space[Any]) -> int:
    return int(np.prod(space.shape or (), dtype=np.int64))


class Preprocess(torch.nn.Module):
    """Does what a preprocessor of the old stack does (models/preprocessors.py).

    Args:
        preprocessor: RLlib's preprocessor for ``space``.
        space: the environment's observation space.
    """

    def __init__(self, preprocessor: Any, space: gym.Space[Any]) -> None:
        super().__init__()
        self.preprocessor, self.space = preprocessor, space
        _check_preprocessor(preprocessor, space)

    def forward(self, obs: Any) -> Any:
        """Return the observation in the form that the policy takes."""
        if isinstance(self.preprocessor, preprocessors.NoPreprocessor):
            return obs
        return _preprocessed(self.preprocessor, self.space, obs)


_FLATTENING = (
    preprocessors.DictFlatteningPreprocessor,
    preprocessors.TupleFlatteningPreprocessor,
)
_SIMPLE = (
    preprocessors.NoPreprocessor,
    preprocessors.OneHotPreprocessor,
    preprocessors.AtariRamPreprocessor,
    preprocessors.MultiBinaryPreprocessor,
)


def _parts(space: gym.Space[Any]) -> list[gym.Space[Any]]:
    if isinstance(space, spaces.Dict):
        return list(space.spaces.values())
    return list(space.spaces) if isinstance(space, spaces.Tuple) else []


def _check_preprocessor(preprocessor: Any, space: gym.Space[Any]) -> None:
    """Refuse a preprocessor without a counterpart here, also inside a Dict or Tuple."""
    if type(preprocessor) in _FLATTENING:
        for inner, part in zip(preprocessor.preprocessors, _parts(space), strict=True):
            _check_preprocessor(inner, part)
    elif type(preprocessor) not in _SIMPLE:
        raise not_exportable(
            f"the preprocessor {type(preprocessor).__name__} of an observation in {space}",
            "has no counterpart in a graph",
            NETWORK_INSTEAD,
        )


def _preprocessed(preprocessor: Any, space: gym.Space[Any], obs: Any) -> Any:
    """Return the vector that a preprocessor makes, in float32."""
    if type(preprocessor) in _FLATTENING:
        parts = [
            _preprocessed(inner, part, value)
            for inner, part, value in zip(
                preprocessor.preprocessors, _parts(space), _in_order(obs), strict=True
            )
        ]
        return torch.cat(parts, dim=-1)
    if isinstance(preprocessor, preprocessors.OneHotPreprocessor):
        return _flat(obs, space)
    if isinstance(preprocessor, preprocessors.AtariRamPreprocessor):
        return (obs.float() - 128) / 128
    if isinstance(preprocessor, preprocessors.MultiBinaryPreprocessor):
        return obs.float()
    return obs.reshape(obs.shape[0], _size(space)).float()


def _in_order(obs: Any) -> list[Any]:
    """Return the parts in RLlib's order: a plain dict is sorted by key (preprocessors.py:334)."""
    if isinstance(obs, OrderedDict):
        return list(obs.values())
    return [obs[key] for key in sorted(obs)] if isinstance(obs, dict) else list(obs)
