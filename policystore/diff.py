"""Differences between two snapshots, tensor by tensor and field by field."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policystore._util.messages import shorten
from policystore.digest import Digest
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json
from policystore.format.policy import named_state
from policystore.snapshot import Snapshot

__all__ = ["Diff", "FieldDiff", "TensorDiff", "diff_snapshots"]


@dataclass(frozen=True)
class TensorDiff:
    """How one tensor differs between ``a`` and ``b``.

    Attributes:
        status: ``equal`` (bit for bit), ``changed``, ``only in a``, ``only in b``,
            ``shape differs`` or ``dtype differs``. Zeros of different signs are ``changed`` by 0.
        a, b: dtype and shape in each snapshot, such as ``float32[64, 4]``; empty if the snapshot
            does not have the tensor.
        max_change, mean_change: the largest and the mean absolute difference of elements, in
            float64; NaN if an element is NaN in only one of the snapshots.
        relative_norm: the Euclidean norm of the difference, divided by the Euclidean norm of ``a``;
            inf if all elements of ``a`` are 0.

    The three numbers are 0.0 if the tensors are equal, and None if the tensors cannot be compared.
    """

    status: str
    a: str = ""
    b: str = ""
    max_change: float | None = None
    mean_change: float | None = None
    relative_norm: float | None = None


@dataclass(frozen=True)
class FieldDiff:
    """A value of the spec or the state that differs.

    Attributes:
        path: the place of the value, such as ``spec.config.lr``.
        a, b: the value as JSON in each snapshot; None if it is absent.
        has_a, has_b: whether each snapshot has the value.
    """

    path: str
    a: Json
    b: Json
    has_a: bool = True
    has_b: bool = True


@dataclass(frozen=True, repr=False)
class Diff:
    """The differences between two snapshots; ``str(diff)`` is a table.

    Attributes:
        a, b: the digests of the snapshots.
        tensors: every weight of either snapshot by name, in order.
        state: every array of either state, by its name in a file (``__state__/0`` and on).
        spec: the fields of the spec, and the plain values of the state, that differ.
    """

    a: Digest
    b: Digest
    tensors: Mapping[str, TensorDiff]
    state: Mapping[str, TensorDiff]
    spec: tuple[FieldDiff, ...]

    @property
    def equal(self) -> bool:
        """Whether both snapshots are the same policy, bit for bit."""
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
            lines.append(f"  {field.path}: {shorten(left, 60)} -> {shorten(right, 60)}")
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


def diff_snapshots(a: Snapshot, b: Snapshot) -> Diff:
    """Compare two snapshots tensor by tensor and field by field."""
    fields: list[FieldDiff] = []
    _diff_json("spec", a.spec.to_json(), b.spec.to_json(), fields)
    # Copied, because the values in a FieldDiff must not be the containers of a snapshot.
    state_a, state_b = copy.deepcopy(a._state_json), copy.deepcopy(b._state_json)
    _diff_json("state", state_a, state_b, fields)
    return Diff(
        a.digest,
        b.digest,
        _diff_arrays(a.weights, b.weights),
        _diff_arrays(named_state(a._state_arrays), named_state(b._state_arrays)),
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
    """Subtract integers exactly, where the conversion to float64 would round them.

    The difference of two 64-bit integers may not fit into int64. A subtraction with wrap-around in
    uint64 is exact.
    """
    wide = np.uint64 if a.dtype.kind == "u" else np.int64
    larger, smaller = np.maximum(a, b).astype(wide), np.minimum(a, b).astype(wide)
    change: Array = (larger.view(np.uint64) - smaller.view(np.uint64)).astype(np.float64)
    return change


def _diff_json(path: str, a: Json, b: Json, fields: list[FieldDiff]) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            where = f"{path}.{key}"
            if key in a and key in b:
                _diff_json(where, a[key], b[key], fields)
            else:
                fields.append(FieldDiff(where, a.get(key), b.get(key), key in a, key in b))
    elif type(a) is not type(b) or a != b:
        fields.append(FieldDiff(path, a, b))
