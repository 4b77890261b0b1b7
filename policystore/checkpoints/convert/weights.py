"""Weights as they stand in a checkpoint, checked before they become a snapshot's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policystore.checkpoints.files.placeholders import UnbuiltObject, kind_of
from policystore.errors import FormatError
from policystore.format.arrays import Array

__all__ = ["checked_weights"]

# Many names may stand for one array, as tied weights do; no model ties this many of all it has.
_COPIES = 16
_SOME = 1 << 20
_MOST = 1_000_000
_DEEPEST = 8
_LONGEST = 1024  # characters of a name


def checked_weights(found: Any, what: str, *, stored: int | None = None) -> dict[str, Array]:
    """Weights by name.

    Args:
        found: a mapping of names to arrays, flat or nested; nested names are joined by a slash.
        what: how messages name it.
        stored: bytes of the file that they come from, which bounds what they may come to.

    Raises:
        FormatError: something else.
    """
    weights: dict[str, Array] = {}
    _collect(found, "", weights, what, [_MOST])
    total = sum(array.nbytes for array in weights.values())
    if stored is not None and total > _COPIES * stored + _SOME:
        raise FormatError(
            f"{what}: {total:,} bytes of weights out of a file of {stored:,}: the same ones are "
            "repeated beyond any use"
        )
    return weights


def _collect(found: Any, prefix: str, into: dict[str, Array], what: str, left: list[int]) -> None:
    if isinstance(found, UnbuiltObject) and found.entries:
        found = found.entries
    if not isinstance(found, Mapping) or prefix.count("/") > _DEEPEST:
        raise FormatError(
            f"{what}: expected weights, arrays by their names, found {kind_of(found)}"
            + (f" at {prefix[:200]!r}" if prefix else "")
        )
    for name, value in found.items():
        left[0] -= 1
        if left[0] < 0:
            raise FormatError(f"{what}: more than {_MOST:,} weights, or the same ones repeated")
        if not isinstance(name, str):
            raise FormatError(f"{what}: a weight is named by {kind_of(name)}, not by a text")
        if len(prefix) + len(name) > _LONGEST:
            raise FormatError(f"{what}: a weight with a name of more than {_LONGEST} characters")
        if isinstance(value, np.generic):
            value = np.asarray(value)
        if isinstance(value, (bool, int, float)):
            value = np.asarray(value)
        if isinstance(value, np.ndarray):
            if prefix + name in into:
                raise FormatError(f"{what}: two weights of the name {prefix + name!r}")
            into[prefix + name] = value
        else:
            _collect(value, f"{prefix}{name}/", into, what, left)
