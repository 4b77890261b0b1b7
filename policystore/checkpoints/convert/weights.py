"""Checks the weights of a checkpoint and brings them into the form of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from policystore.checkpoints.files.placeholders import UnbuiltObject, kind_of
from policystore.errors import FormatError
from policystore.format.arrays import Array

__all__ = ["flatten_weights"]

# Several names may refer to one array (tied weights). With one copy for each name, the weights may
# have this many times the bytes of the file, and these bytes more. No model ties more weights.
_MAX_TIMES_STORED = 16
_MAX_EXTRA_BYTES = 1 << 20
_MAX_WEIGHTS = 1_000_000
_MAX_DEPTH = 8
_MAX_NAME = 1024


def flatten_weights(
    weights: object, label: str, *, stored: int | None = None, any_form: bool = False
) -> dict[str, Array]:
    """Return weights from a file as one flat dict.

    Args:
        weights: what the file says: arrays and numbers by name, in one mapping or in nested ones.
            The names of nested containers are joined by slashes.
        label: names the source in error messages.
        stored: bytes of the file, which limit the bytes of all weights; None: no limit.
        any_form: whether the weights may be what any policy of the old stack returned: also lists,
            as eager TensorFlow policies have them; one array, as ES and ARS have it; or None, as a
            heuristic has it. Items of lists are named by their positions: ``0000``, ``0001``.

    Raises:
        FormatError: not weights, or so many that the file must repeat the same ones.
    """
    flat: dict[str, Array] = {}
    left = _MAX_WEIGHTS

    def collect(mapping: object, prefix: str) -> None:
        nonlocal left
        for name, value in _items(mapping, prefix, label, any_form):
            left -= 1
            if left < 0:
                raise FormatError(
                    f"{label}: more than {_MAX_WEIGHTS:,} weights, or the same ones repeated"
                )
            if isinstance(value, (bool, int, float, np.generic)):
                value = np.asarray(value)
            if any_form and value is None:
                continue  # a part without weights
            if not isinstance(value, np.ndarray):
                collect(value, f"{prefix}{name}/")
            elif prefix + name in flat:
                raise FormatError(f"{label}: two weights of the name {prefix + name!r}")
            else:
                flat[prefix + name] = value

    if any_form and isinstance(weights, (np.ndarray, np.generic)):
        weights = [weights]
    if not any_form or weights is not None:
        collect(weights, "")
    total = sum(array.nbytes for array in flat.values())
    if stored is not None and total > _MAX_TIMES_STORED * stored + _MAX_EXTRA_BYTES:
        raise FormatError(
            f"{label}: {total:,} bytes of weights out of a file of {stored:,} bytes: the same ones "
            "are repeated beyond any use"
        )
    return flat


def _items(
    mapping: object, prefix: str, label: str, any_form: bool
) -> Iterator[tuple[str, object]]:
    """Yield names and values of a mapping of weights; check the names and the depth of nesting."""
    if isinstance(mapping, UnbuiltObject) and mapping.entries:
        mapping = mapping.entries
    if any_form and isinstance(mapping, (list, tuple)):
        mapping = {f"{index:04}": value for index, value in enumerate(mapping)}
    if not isinstance(mapping, Mapping) or prefix.count("/") > _MAX_DEPTH:
        raise FormatError(
            f"{label}: expected weights, arrays by their names, found {kind_of(mapping)}"
            + (f" at {prefix[:200]!r}" if prefix else "")
        )
    for name, value in mapping.items():
        if not isinstance(name, str):
            raise FormatError(f"{label}: the name of a weight is {kind_of(name)}, not a text")
        if len(prefix) + len(name) > _MAX_NAME:
            raise FormatError(f"{label}: the name of a weight has more than {_MAX_NAME} characters")
        yield name, value
