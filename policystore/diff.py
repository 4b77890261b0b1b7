"""What differs between two snapshots, tensor by tensor and field by field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policystore.digest import Digest
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json
from policystore.snapshot import Snapshot

__all__ = ["Diff", "FieldDiff", "TensorDiff", "diff_snapshots"]


@dataclass(frozen=True)
class TensorDiff:
    """How one tensor differs between ``a`` and ``b``.

    Attributes:
        status: ``equal`` (bit for bit), ``changed``, ``only in a``, ``only in b``,
            ``shape differs`` or ``dtype differs``. Zeros of different signs are ``changed`` by 0.
        a, b: dtype and shape on each side, such as ``float32[64, 4]``; empty where it is not.
        max_change, mean_change: largest and mean absolute difference of elements, in float64; NaN
            where an element is NaN on one side. 0.0 if equal, None if the tensors do not compare.
        relative_norm: Euclidean norm of the difference over that of ``a``; inf where ``a`` is zero.
    """

    status: str
    a: str = ""
    b: str = ""
    max_change: float | None = None
    mean_change: float | None = None
    relative_norm: float | None = None


@dataclass(frozen=True)
class FieldDiff:
    """A value of spec or state that differs; ``None`` with ``has_…`` False where it is absent."""

    path: str
    a: Json
    b: Json
    has_a: bool = True
    has_b: bool = True


@dataclass(frozen=True, repr=False)
class Diff:
    """What differs between two snapshots; prints as a table.

    Attributes:
        a, b: their digests.
        tensors: every tensor of either side by name, in order.
        state: the same for the arrays of the state, as they are numbered in the file.
        spec: fields of the spec, and plain values of the state, that differ.
    """

    a: Digest
    b: Digest
    tensors: Mapping[str, TensorDiff]
    state: Mapping[str, TensorDiff]
    spec: tuple[FieldDiff, ...]

    @property
    def equal(self) -> bool:
        """Whether both are the same policy, bit for bit."""
        return self.a == self.b

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        if self.equal:
            return f"{self.a.short} and {self.b.short}: equal"
        lines = [f"a: {self.a}", f"b: {self.b}"]
        rows = {**self.tensors, **self.state}
        width = max([len(name) for name in rows] or [0])
        for name, row in rows.items():
            lines.append(f"  {name:<{width}}  {_describe(row)}")
        for field in self.spec:
            left = repr(field.a) if field.has_a else "absent"
            right = repr(field.b) if field.has_b else "absent"
            lines.append(f"  {field.path}: {_shorten(left)} -> {_shorten(right)}")
        return "\n".join(lines)


def _describe(row: TensorDiff) -> str:
    if row.status == "changed":
        return (
            f"changed  max {row.max_change:.3g}  mean {row.mean_change:.3g}  "
            f"relative norm {row.relative_norm:.3g}"
        )
    if row.status.endswith("differs"):
        return f"{row.status}: {row.a} -> {row.b}"
    return row.status


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def diff_snapshots(a: Snapshot, b: Snapshot) -> Diff:
    """Compare two snapshots."""
    fields: list[FieldDiff] = []
    _diff_json("spec", a.spec.to_json(), b.spec.to_json(), fields)
    _diff_json("state", a.state_json, b.state_json, fields)
    return Diff(
        a.digest,
        b.digest,
        _diff_arrays(a.weights, b.weights),
        _diff_arrays(a.state_arrays, b.state_arrays),
        tuple(fields),
    )


def _diff_arrays(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, TensorDiff]:
    return {name: _diff_array(a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())}


def _diff_array(a: Array | None, b: Array | None) -> TensorDiff:
    left = "" if a is None else f"{a.dtype}{list(a.shape)}"
    right = "" if b is None else f"{b.dtype}{list(b.shape)}"
    if a is None or b is None:
        return TensorDiff("only in b" if a is None else "only in a", left, right)
    if a.shape != b.shape:
        return TensorDiff("shape differs", left, right)
    if a.dtype != b.dtype:
        return TensorDiff("dtype differs", left, right)
    if a.tobytes() == b.tobytes():
        return TensorDiff("equal", left, right, 0.0, 0.0, 0.0)
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        # Equal infinities differ by nothing, not by NaN.
        same = (wide_a == wide_b) | (np.isnan(wide_a) & np.isnan(wide_b))
        change = np.where(same, 0.0, np.abs(wide_b - wide_a))
        if a.dtype.kind in "iu":
            change = _integer_change(a, b)
        norm, base = float(np.linalg.norm(change)), float(np.linalg.norm(wide_a))
    relative = norm / base if base else (math.inf if norm else 0.0)
    return TensorDiff("changed", left, right, float(change.max()), float(change.mean()), relative)


def _integer_change(a: Array, b: Array) -> Array:
    """Exact also where float64 would round: 64-bit differences wrap into the unsigned range."""
    wide = np.uint64 if a.dtype.kind == "u" else np.int64
    larger, smaller = np.maximum(a, b).astype(wide), np.minimum(a, b).astype(wide)
    found: Array = (larger.view(np.uint64) - smaller.view(np.uint64)).astype(np.float64)
    return found


def _diff_json(path: str, a: Json, b: Json, found: list[FieldDiff]) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            where = f"{path}.{key}"
            if key in a and key in b:
                _diff_json(where, a[key], b[key], found)
            else:
                found.append(FieldDiff(where, a.get(key), b.get(key), key in a, key in b))
    elif type(a) is not type(b) or a != b:
        found.append(FieldDiff(path, a, b))
