"""Find NaN and infinite numbers in arrays and metrics, fast enough for every push.

A sum is NaN or infinite if one of its terms is, and a sum is the fastest operation on an array. So
arrays whose sum is finite have been checked with one pass over their memory, and without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from policystore._util.late import is_array, np
from policystore._util.messages import shorten
from policystore.format.arrays import CODES, Array
from policystore.format.plain import flatten

__all__ = ["MAX_NONFINITE", "NONFINITE_PARTS", "describe_nonfinite", "is_finite", "nonfinite"]

NONFINITE_PARTS = ("weights", "state", "metrics")
"""The parts of a push that may have NaN or infinite numbers."""

_MAX_NAMED = 4  # tensors or metrics of each part that a record names
_MAX_NAME = 64  # characters of such a name
MAX_NONFINITE = len(NONFINITE_PARTS) * _MAX_NAMED
"""The most tensors and metrics that a record names."""

_BLOCK = 1 << 18  # elements, which the cache of a processor holds

# For each type of floats that numpy adds up slowly: the unsigned type of the same width, the mask
# of the bits without the sign, and the smallest of these bit patterns that is not finite.
_PATTERNS = {
    "F8_E4M3": ("u1", 0x7F, 0x7F),
    "F8_E5M2": ("u1", 0x7F, 0x7C),
    "F16": ("u2", 0x7FFF, 0x7C00),
    "BF16": ("u2", 0x7FFF, 0x7F80),
}


def is_finite(array: Array) -> bool:
    """Return whether all elements of an array are finite numbers.

    Args:
        array: a C-contiguous array of any shape, of a dtype that the store keeps.
    """
    code = CODES.get(array.dtype, "")
    flat = array.reshape(-1)
    if code in _PATTERNS:
        width, mask, least = _PATTERNS[code]
        kind = np.dtype(width).type
        bits = flat.view(kind)
        return all(
            not block.size or int((block & kind(mask)).max()) < least for block in _blocks(bits)
        )
    if array.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # The sum of large finite numbers may be infinite, too: such a block is looked at again.
        return all(
            np.isfinite(np.add.reduce(block)) or np.isfinite(block).all() for block in _blocks(flat)
        )


def _blocks(flat: Array) -> Iterable[Array]:
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def nonfinite(
    weights: Mapping[str, Array], state_arrays: Iterable[Array], metrics: Mapping[Any, Any]
) -> tuple[str, ...]:
    """Name the tensors and metrics of a push that have NaN or infinite numbers.

    Args:
        weights: the weights by name.
        state_arrays: the arrays of the state, in order.
        metrics: the metrics of the push.

    Returns:
        Names such as ``weights.pi.bias``, ``state.0`` and ``metrics.loss``: at most 4 of each part,
        each with at most 64 characters behind the part.
    """
    found = {
        "weights": [name for name, array in weights.items() if not is_finite(array)],
        "state": [str(at) for at, array in enumerate(state_arrays) if not is_finite(array)],
        "metrics": [name for name, value in flatten(metrics).items() if _has_nonfinite(value)],
    }
    return tuple(
        f"{part}.{shorten(name, _MAX_NAME)}"
        for part in NONFINITE_PARTS
        for name in found[part][:_MAX_NAMED]
    )


def _has_nonfinite(value: object) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, (list, tuple)):
        return any(map(_has_nonfinite, value))
    if is_array(value):
        array = np.asarray(value)
        is_float = array.dtype.kind == "f" or array.dtype in CODES
        return is_float and not np.isfinite(array.astype(np.float64)).all()
    if isinstance(value, Mapping):
        return any(map(_has_nonfinite, value.values()))
    return False


def describe_nonfinite(names: Iterable[str]) -> str:
    """Return a short text for tables, such as ``NaN or infinite: weights, metrics``; or nothing."""
    parts = dict.fromkeys(name.partition(".")[0] for name in names)
    return f"NaN or infinite: {', '.join(parts)}" if parts else ""
