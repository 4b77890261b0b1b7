"""Policies to measure with: arrays of a size, networks of a known shape; and bytes in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MB", "arrays_of", "bytes_below", "resnet18_shapes"]

MB = 1_000_000
_TENSORS = 12


def arrays_of(nbytes: int, seed: int = 0, tensors: int = _TENSORS) -> dict[str, Any]:
    """Return random float32 arrays of this many bytes in all, by names such as ``layer03``."""
    random = np.random.default_rng(seed)
    each = nbytes // 4 // tensors
    return {
        f"layer{number:02}": random.standard_normal(each, dtype=np.float32)
        for number in range(tensors)
    }


def resnet18_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of ResNet-18 without its last layer, which has 45 MB in float32.

    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, 2016.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, outer: int, inner: int, width: int) -> None:
        shapes[f"{name}.conv.weight"] = (outer, inner, width, width)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (outer,)

    convolution("stem", 64, 3, 7)
    inner = 64
    for stage, outer in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            convolution(f"layer{stage}.{block}.first", outer, inner, 3)
            convolution(f"layer{stage}.{block}.second", outer, outer, 3)
            if inner != outer:
                convolution(f"layer{stage}.{block}.shortcut", outer, inner, 1)
            inner = outer
    return shapes


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
