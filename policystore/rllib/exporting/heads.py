"""The deterministic action of a distribution, from the distribution's inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import tree as dm_tree
from gymnasium import spaces
from ray.rllib.models.torch import torch_action_dist as old

from policystore.rllib.compat import Distribution, TorchDistribution, likeliest_actions
from policystore.rllib.exporting.refusal import NETWORK_INSTEAD, not_exportable, path_of_type

__all__ = ["Head", "new_stack_head", "old_stack_head"]

Head: TypeAlias = Callable[[torch.Tensor], Any]
"""Takes a distribution's inputs, and returns the deterministic action in RLlib's structure."""

_OURS = ("ray.rllib.", "policystore.")


def new_stack_head(cls: type[Distribution] | None, module: object) -> Head:
    """Return RLlib's own computation (connectors/module_to_env/get_actions.py:60).

    Args:
        cls: the distribution class of a module for inference; None if the module has none.
        module: the module, for messages.

    Raises:
        InvalidInputError: a distribution that is not RLlib's.
    """
    if cls is None:
        raise not_exportable(
            f"the module {path_of_type(module)}",
            "has no action distribution for its outputs",
            NETWORK_INSTEAD,
        )
    known = (TorchDistribution, Distribution)
    for base in cls.__mro__:
        if issubclass(base, known) and not base.__module__.startswith(_OURS):
            raise _custom(base)
    return functools.partial(likeliest_actions, cls)


def _custom(cls: object) -> Exception:
    return not_exportable(
        f"the action distribution {path_of_type(cls)}",
        "is not one of RLlib's, so what it does to an action is not known",
        NETWORK_INSTEAD,
    )


def old_stack_head(cls: Any) -> Head:
    """Return what ``deterministic_sample()`` of a distribution of the old stack computes.

    RLlib's own code cannot be traced, because torch's distributions look at the values of their
    arguments (``validate_args``). See models/torch/torch_action_dist.py.

    Args:
        cls: a distribution class, or a ``functools.partial`` of one, as policies hold them.

    Raises:
        InvalidInputError: a distribution that is not one of these.
    """
    settings: Mapping[str, Any] = {}
    if isinstance(cls, functools.partial):
        cls, settings = cls.func, cls.keywords
    if cls is old.TorchMultiActionDistribution:
        return _multi_action(settings)
    if cls is old.TorchMultiCategorical:
        return _multi_categorical(settings)
    if cls in _SIMPLE:
        return _SIMPLE[cls]
    if _is_tempered(cls):
        temperature = float(cls.__init__.__defaults__[-1])
        return lambda inputs: _most_likely(inputs / temperature)
    raise _custom(cls)


def _is_tempered(cls: Any) -> bool:
    """Return whether a class is from ``get_torch_categorical_class_with_temperature``."""
    maker = old.get_torch_categorical_class_with_temperature
    return (
        isinstance(cls, type)
        and cls.__bases__ == (old.TorchCategorical,)
        and cls.__module__ == maker.__module__
        and cls.__qualname__.startswith(f"{maker.__name__}.")
    )


def _most_likely(logits: torch.Tensor) -> torch.Tensor:
    # The old stack takes the maximum of the probabilities, in which logits that are nearly equal
    # can be equal (torch_action_dist.py:70).
    normalized = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    return torch.softmax(normalized, dim=-1).argmax(dim=-1)


def _mean(inputs: torch.Tensor) -> torch.Tensor:
    return torch.chunk(inputs, 2, dim=1)[0]


def _squashed(inputs: torch.Tensor) -> torch.Tensor:
    low, high = -1.0, 1.0
    squashed = ((torch.tanh(_mean(inputs)) + 1.0) / 2.0) * (high - low) + low
    return torch.clamp(squashed, low, high)


def _beta(inputs: torch.Tensor) -> torch.Tensor:
    bound = -float(np.log(old.SMALL_NUMBER))
    clamped = torch.log(torch.exp(torch.clamp(inputs, -bound, bound)) + 1.0) + 1.0
    alpha, beta = torch.chunk(clamped, 2, dim=-1)
    return alpha / (alpha + beta)


def _dirichlet(inputs: torch.Tensor) -> torch.Tensor:
    return torch.softmax(torch.exp(inputs) + 1e-7, dim=-1)


_SIMPLE: dict[Any, Head] = {
    old.TorchCategorical: _most_likely,
    old.TorchDiagGaussian: _mean,
    old.TorchSquashedGaussian: _squashed,
    old.TorchBeta: _beta,
    old.TorchDeterministic: lambda inputs: inputs,
    old.TorchDirichlet: _dirichlet,
}


def _multi_categorical(settings: Mapping[str, Any]) -> Head:
    lengths = [int(length) for length in settings["input_lens"]]
    space = settings.get("action_space")

    def head(inputs: torch.Tensor) -> torch.Tensor:
        parts = torch.split(inputs, lengths, dim=1)
        action = torch.stack([_most_likely(part) for part in parts], dim=1)
        if isinstance(space, spaces.Box):  # of integers
            action = action.reshape(action.shape[0], *space.shape)
        return action

    return head


def _multi_action(settings: Mapping[str, Any]) -> Head:
    lengths = [int(length) for length in dm_tree.flatten(settings["input_lens"])]
    heads = [old_stack_head(child) for child in dm_tree.flatten(settings["child_distributions"])]
    struct = old.get_base_struct_from_space(settings["action_space"])

    def head(inputs: torch.Tensor) -> Any:
        parts = torch.split(inputs, lengths, dim=1)
        actions = [child(part) for child, part in zip(heads, parts, strict=True)]
        return dm_tree.unflatten_as(struct, actions)

    return head
