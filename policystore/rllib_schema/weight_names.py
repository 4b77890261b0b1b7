"""Names that weights of RLlib's own modules had in earlier versions, and have today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

__all__ = ["todays_weights"]

_Array = TypeVar("_Array")

# Class -> earlier prefix -> prefix today. The networks are the same:
# algorithms/appo/torch/appo_torch_rl_module.py.
_PREFIXES = {
    "ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module:DefaultAPPOTorchRLModule": {
        "old_encoder.": "_old_encoder.",
        "old_pi.": "_old_pi.",
    },
}


def todays_weights(cls: str | None, weights: Mapping[str, _Array]) -> dict[str, _Array]:
    """Return weights under the names that the newest supported Ray (2.60) gives them.

    Args:
        cls: the import path of the module's class today.
        weights: arrays by the names that a checkpoint has.
    """
    prefixes = _PREFIXES.get(cls or "", {})
    renamed = {}
    for name, array in weights.items():
        start = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        renamed[name if start is None else prefixes[start] + name[len(start) :]] = array
    return renamed
