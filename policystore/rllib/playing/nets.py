"""Networks of torch: what their parts are, how much they compute, and what goes in and out.

What comes out is checked: without numbers there is no action.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
import tree as dm_tree
from ray.rllib.utils.numpy import convert_to_numpy

from policystore.errors import InvalidInputError

__all__ = [
    "Row",
    "States",
    "check_actions",
    "check_distribution",
    "is_ready_made",
    "operations",
    "states_of",
    "to_numpy",
    "to_tensor",
    "without_distribution",
]

_CAUSES = (
    "Either its weights have NaN or infinite numbers (snap.weights; version.nonfinite names them), "
    "or the observation has numbers that are too large for the network"
)
_WITHOUT_DISTRIBUTION = (
    "Expected parameter ",
    "probability tensor contains",
    "invalid multinomial distribution",
    "normal expects all elements of std",
)
_KNOWN = ("ray.rllib.", "torch.nn.")


def is_ready_made(net: torch.nn.Module) -> bool:
    """Return whether all parts of a network are of RLlib's and torch's own classes."""
    return all(type(part).__module__.startswith(_KNOWN) for part in net.modules())


def operations(net: torch.nn.Module, observation_space: gym.Space[Any] | None) -> int:
    """Return about how many multiplications a network makes for one observation.

    A matrix counts once; the kernel of a convolution counts for each place of its output. Parts
    that do not act, such as a critic, count as well. Convolutions are taken to follow each other
    in the order of the network's parts; one that takes the channels of the image begins anew.

    Args:
        net: the network.
        observation_space: what the network observes; an image is a Box with 3 axes.
    """
    height, width, channels = _image(observation_space)
    sides = (height, width)
    total = 0
    for part in net.modules():
        own = sum(each.numel() for each in part.parameters(recurse=False) if each.ndim > 1)
        if isinstance(part, torch.nn.ZeroPad2d):
            left, right, top, bottom = part.padding
            sides = (sides[0] + top + bottom, sides[1] + left + right)
        elif isinstance(part, torch.nn.Conv2d):
            if part.in_channels == channels:
                sides = max(sides, (height, width))
            sides = (_places(part, sides, 0), _places(part, sides, 1))
            own *= math.prod(sides)
        total += own
    return total


def _image(space: Any) -> tuple[int, int, int]:
    """Return the shape of the largest image of an observation, ``(1, 1, 0)`` if there is none."""
    shape: Any = getattr(space, "shape", None) or ()
    if len(shape) == 3:
        height, width, channels = shape
        return height, width, channels
    inner = getattr(space, "original_space", space)  # of an observation that RLlib has flattened
    parts: Any = getattr(inner, "spaces", ())
    parts = parts.values() if isinstance(parts, Mapping) else parts
    images = [_image(part) for part in parts]
    return max(images, key=math.prod, default=(1, 1, 0))


def _places(part: torch.nn.Conv2d, sides: tuple[int, int], axis: int) -> int:
    """Return how many places the output of a convolution has along an axis."""
    side, kernel = sides[axis], part.kernel_size[axis]
    if part.padding == "same":
        return side
    padded = side if isinstance(part.padding, str) else side + 2 * part.padding[axis]
    return max(1, (padded - kernel) // part.stride[axis] + 1)


class States:
    """The recurrent states of several environments, as one batch.

    The batch stays in one piece while its environments take their steps together.

    Attributes:
        parts: tensors whose first axis is the environments.
        count: the number of environments.
    """

    __slots__ = ("count", "parts")

    def __init__(self, parts: Sequence[torch.Tensor], count: int) -> None:
        self.parts = parts
        self.count = count

    def rows(self) -> list[Row]:
        """Return the memory of each environment."""
        return list(zip(repeat(self), range(self.count)))


Row: TypeAlias = "tuple[States, int]"
"""What a recurrent network remembers of one environment: a batch, and the row in it."""


def states_of(
    memories: Sequence[Row | None], initial: Callable[[], Sequence[torch.Tensor]]
) -> Sequence[torch.Tensor]:
    """Return the recurrent states of several environments, as tensors whose first axis is these.

    Args:
        memories: what :meth:`States.rows` returned for each environment, in any order and of any
            batches; None for an episode that begins.
        initial: returns the tensors of an episode that begins, with a first axis of length 1. It is
            called if an episode begins.
    """
    first = memories[0]
    if first is not None and first[0].count == len(memories) and memories == first[0].rows():
        return first[0].parts
    fresh = (States(initial(), 1), 0) if None in memories else None
    # The rows of each batch, and the places that they take in the batch to be made.
    batches: dict[States, tuple[list[int], list[int]]] = {}
    for place, memory in enumerate(memories):
        states, row = memory or fresh  # type: ignore[misc]
        rows, places = batches.setdefault(states, ([], []))
        rows.append(row)
        places.append(place)
    taken = [(states.parts, torch.tensor(rows)) for states, (rows, _) in batches.items()]
    order = [place for _, places in batches.values() for place in places]
    back = torch.tensor(order).argsort() if order != sorted(order) else None
    made = []
    for number in range(len(taken[0][0])):
        part = torch.cat([parts[number].index_select(0, rows) for parts, rows in taken])
        made.append(part if back is None else part.index_select(0, back))
    return made


def to_tensor(array: Any) -> torch.Tensor:
    """Return a tensor as ``convert_to_torch_tensor`` makes it (utils/torch_utils.py)."""
    tensor = torch.from_numpy(array)
    if tensor.dtype is torch.float64:
        return tensor.float()
    return tensor


def to_numpy(actions: Any) -> Any:
    """Return arrays as ``convert_to_numpy`` makes them, with up to 32 bits (utils/numpy.py)."""
    if not isinstance(actions, torch.Tensor):
        return convert_to_numpy(actions)
    array = actions.detach().numpy()
    if array.dtype == np.int64:
        return array.astype(np.int32)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def check_distribution(inputs: Any) -> None:
    """Refuse NaN in what a network computes of the action distribution.

    Infinite numbers are allowed here: a network that forbids actions gives them -inf.

    Args:
        inputs: a tensor or array whose first axis is the rows. Anything else is not looked at.

    Raises:
        InvalidInputError: NaN; the message names the first such row.
    """
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        total = inputs.sum().item()
        if total == total:  # with NaN among them the sum is NaN, which is not equal to itself
            return
        inputs = to_numpy(inputs)
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind == "f":
        _refuse(np.isnan(inputs), "NaN")


def check_actions(actions: Any, row: int | None = None) -> None:
    """Refuse NaN and infinite numbers among the actions of Boxes.

    Args:
        actions: arrays in dicts and tuples.
        row: the row that all the actions belong to; None if the first axis of the arrays is the
            rows.

    Raises:
        InvalidInputError: such a number; the message names the first such row.
    """
    parts = [actions] if isinstance(actions, np.ndarray) else dm_tree.flatten(actions)
    for part in parts:
        is_float = isinstance(part, (np.ndarray, np.floating)) and part.dtype.kind == "f"
        if is_float and not np.isfinite(part).all():
            _refuse(~np.isfinite(part), "NaN or an infinite number", row)


def _refuse(wrong: Any, what: str, row: int | None = None) -> None:
    """Refuse what a network has computed, if any of it is wrong.

    Args:
        wrong: which numbers are wrong.
        what: what they are.
        row: the row that they belong to; None if the first axis is the rows.
    """
    if row is None and wrong.any():
        row = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0])
    if row is not None:
        raise InvalidInputError(
            f"observation {row}: the policy's network computed {what}, so there is no action. "
            f"{_CAUSES}"
        )


def without_distribution(error: Exception) -> InvalidInputError | None:
    """Return the error for numbers of which torch makes no action distribution.

    Args:
        error: an error of a step.

    Returns:
        None if ``error`` is another one than torch's for the parameters of a distribution
        (torch/distributions/distribution.py:77), or for probabilities (``torch.multinomial``).
    """
    said = str(error)
    if not said.startswith(_WITHOUT_DISTRIBUTION):
        return None
    return InvalidInputError(
        "the policy's network computed numbers of which no action distribution can be made. "
        f"{_CAUSES}. torch says: {' '.join(said.split())[:300]}"
    )
