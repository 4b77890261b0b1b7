"""The networks of both API stacks as torch modules that take and return plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tree as dm_tree

from policystore.rllib.exporting.refusal import not_exportable

__all__ = ["DIST_INPUTS", "VALUE", "Network", "StatePart", "state_parts"]

DIST_INPUTS = "action_dist_inputs"
VALUE = "value"


@dataclass(frozen=True)
class StatePart:
    """A tensor of the recurrent state.

    Attributes:
        name: the name in an exported file, without ``state_in/``.
        dtype, shape: of one row.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Network(torch.nn.Module):
    """Computes a policy's network.

    Attributes:
        state_parts: the recurrent state, in order.
        with_value: whether the value is computed, too.
    """

    state_parts: tuple[StatePart, ...] = ()
    with_value: bool = False

    def forward(
        self, obs: Any, state: Sequence[torch.Tensor]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Compute one step of each row.

        Args:
            obs: what the network sees, in the structure of its observation space.
            state: the recurrent state, in the order of ``state_parts``.

        Returns:
            The outputs by name, and the next state.
        """
        raise NotImplementedError

    def action(self, outputs: dict[str, Any]) -> Any:
        """Return the deterministic action in RLlib's structure, from the outputs of ``forward``."""
        raise NotImplementedError


def state_parts(initial: Any) -> tuple[StatePart, ...]:
    """Return the parts of a recurrent state, from its value at the start of an episode.

    Args:
        initial: arrays or tensors without a batch axis, in dicts, tuples or lists.

    Raises:
        InvalidInputError: a state that does not begin with zeros.
    """
    parts = []
    for path, value in dm_tree.flatten_with_path(initial):
        name = "/".join(map(str, path)) or "0"
        tensor = torch.as_tensor(np.asarray(value))
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        if bool(tensor.any()):
            raise not_exportable(
                f"the recurrent state {name!r}",
                "does not begin with zeros, and a file holds no other initial state",
            )
        parts.append(StatePart(name, tensor.dtype, tuple(tensor.shape)))
    return tuple(parts)
