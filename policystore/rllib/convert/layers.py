"""The layers of a network by their role, and the copying of weights from layer to layer.

Both API stacks build the same layers in the same order under other names. So a network is described
here by its roles: the layers of the encoder, of the policy head and so on, each in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from policystore.format.arrays import Array

__all__ = ["Network", "Refuse", "check_known", "copy_weights", "layers_under"]

Refuse = Callable[[str, str], Exception]
"""Makes the error for a part and the reason why it has no counterpart."""

_NUMBERS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Network:
    """The layers of one policy.

    Attributes:
        layers: role -> the layers in order, each by the common beginning of its tensors' names.
            Roles: ``encoder``, ``critic_encoder``, ``lstm``, ``pi``, ``vf``, ``af``.
        log_std: the name of the tensor of free log standard deviations; None if there is none.
        idle: the beginning of names of tensors that take no part in acting or in the value -> why
            they are not carried.
    """

    layers: dict[str, list[str]]
    log_std: str | None = None
    idle: dict[str, str] = field(default_factory=dict)


def layers_under(names: Iterable[str], start: str) -> list[str]:
    """Return the layers below a place in a network, in the order of their numbers.

    Args:
        names: the names of all tensors.
        start: the beginning of the names, up to and with a dot.

    Returns:
        For each layer its name, which is the name of its tensors up to the last dot.
    """
    found = {name.rpartition(".")[0] for name in names if name.startswith(start)}
    return sorted(
        found, key=lambda name: [int(s) if s.isdigit() else s for s in _NUMBERS.split(name)]
    )


def check_known(names: Iterable[str], network: Network, refuse: Refuse) -> None:
    """Refuse tensors that are in no layer of a network.

    Args:
        names: the names of all tensors of the source.
        network: its layers.
        refuse: makes the error.

    Raises:
        Exception: made by ``refuse``, for the first such tensor.
    """
    layers = {layer for role in network.layers.values() for layer in role}
    for name in names:
        if (
            name.rpartition(".")[0] not in layers
            and name != network.log_std
            and not name.startswith(tuple(network.idle))
        ):
            raise refuse(
                f"the tensor {name}", "the networks of RLlib's default models have no such tensor"
            )


def copy_weights(
    weights: Mapping[str, Array],
    source: Network,
    shapes: Mapping[str, tuple[int, ...]],
    target: Network,
    refuse: Refuse,
) -> dict[str, Array]:
    """Return the weights of the target's network, by name.

    Args:
        weights: the weights of the source.
        source, target: the two networks.
        shapes: the shape of each tensor of the target.
        refuse: makes the error.

    Returns:
        Weights for all layers of the target. Bits are as in the source; only lengths of one are
        added or taken away (a 1x1 convolution on one stack is a linear layer on the other).

    Raises:
        Exception: made by ``refuse``, if a layer or tensor has no counterpart.
    """
    copied: dict[str, Array] = {}
    for role, layers in source.layers.items():
        others = target.layers.get(role, [])
        if len(layers) > len(others):
            raise refuse(
                _first_tensor(weights, layers[len(others)]),
                f"the {role} of that stack has no such layer",
            )
        for layer, other in zip(layers, others, strict=False):
            _copy_layer(weights, layer, other, shapes, copied, refuse)
    if source.log_std is not None:
        if target.log_std is None:
            raise refuse(
                f"the tensor {source.log_std}",
                "standard deviations of that stack depend on the observation",
            )
        copied[target.log_std] = weights[source.log_std]
    for name in shapes:
        if name not in copied and not name.startswith(tuple(target.idle)):
            raise refuse(f"a network without {name}", "the network of that stack has this tensor")
    return copied


def _first_tensor(weights: Iterable[str], layer: str) -> str:
    return "the tensor " + min(name for name in weights if name.startswith(f"{layer}."))


def _copy_layer(
    weights: Mapping[str, Array],
    layer: str,
    other: str,
    shapes: Mapping[str, tuple[int, ...]],
    copied: dict[str, Array],
    refuse: Refuse,
) -> None:
    """Copy one layer into ``copied``."""
    names = {name for name in weights if name.rpartition(".")[0] == layer}
    for name in sorted(names):
        other_name = f"{other}.{name.rpartition('.')[2]}"
        if other_name not in shapes:
            raise refuse(f"the tensor {name}", f"the layer {other} has no such tensor")
        array, shape = weights[name], shapes[other_name]
        if array.dtype != np.float32:
            raise refuse(
                f"the tensor {name}",
                f"RLlib's default networks are of float32, and this is {array.dtype}",
            )
        if _without_ones(array.shape) != _without_ones(shape):
            raise refuse(
                f"the tensor {name}",
                f"it has the shape {array.shape}, and {other_name} has {shape}",
            )
        copied[other_name] = array.reshape(shape)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [length for length in shape if length != 1]
