"""Differences between two snapshots, tensor by tensor and field by field."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policystore._util.late import np
from policystore._util.messages import printable, shorten
from policystore.digest import Digest
from policystore.display.html import Html, bar, block, line, table, text
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json
from policystore.format.plain import plain_fields, to_plain
from policystore.format.policy import named_state
from policystore.snapshot import Snapshot

__all__ = ["Diff", "FieldDiff", "TensorDiff", "diff_metrics", "diff_snapshots", "diff_tensor"]

_MOST_ROWS = 60  # tensors, and fields, that a notebook shows


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
        a_ref, b_ref: the refs of the snapshots, such as ``soccer/main@7``; None for a snapshot that
            was not pulled from a store.
        metrics: the metrics of the two versions that differ, with annotations over those of the
            push, if ``store.diff`` got two refs with names; paths are ``metrics.return``.
    """

    a: Digest
    b: Digest
    tensors: Mapping[str, TensorDiff]
    state: Mapping[str, TensorDiff]
    spec: tuple[FieldDiff, ...]
    a_ref: str | None = None
    b_ref: str | None = None
    metrics: tuple[FieldDiff, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether both snapshots are the same policy, bit for bit."""
        return self.a == self.b

    @property
    def summary(self) -> str:
        """One line: how many tensors differ, by how much at most, and how many fields differ."""
        if self.equal:
            return "equal, bit for bit"
        rows = [*self.tensors.values(), *self.state.values()]
        changed = [row.relative_norm for row in rows if row.status == "changed"]
        counts = Counter(row.status for row in rows)
        parts = [
            f"{counts[status]:,} of {len(rows):,} tensors {status}"
            for status in ("changed", "shape differs", "dtype differs", "only in a", "only in b")
            if counts[status]
        ]
        known = [norm for norm in changed if norm is not None and norm == norm]
        if known:
            parts.append(f"by a relative norm of at most {max(known):.3g}")
        if self.spec:
            count = len(self.spec)
            parts.append(f"{count} {'field differs' if count == 1 else 'fields differ'}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the differences as nested plain values, and ``equal``, for ``json.dumps``.

        Numbers that JSON does not have are the texts ``"nan"``, ``"inf"`` and ``"-inf"``.
        """
        return {"equal": self.equal, **plain_fields(self)}

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        head = line(
            text(f"a: {_name(self.a, self.a_ref)}, b: {_name(self.b, self.b_ref)}: {self.summary}"),
            heading=True,
        )
        rows = {**self.tensors, **self.state}
        differing = {name: row for name, row in rows.items() if row.status != "equal"}
        shown = dict(list(differing.items())[:_MOST_ROWS])
        norms = [row.relative_norm or 0.0 for row in shown.values()]
        longest = max((norm for norm in norms if math.isfinite(norm)), default=0.0)
        parts = [head]
        if shown:
            lines = [
                (shorten(name, 100), row.a or row.b, _change_html(row, longest))
                for name, row in shown.items()
            ]
            parts.append(table(("tensor", "", "relative norm of the change"), lines))
        hidden = len(differing) - len(shown)
        equal = len(rows) - len(differing)
        notes = [f"and {hidden:,} more that differ"] if hidden else []
        notes += [f"{equal:,} tensors are equal"] if equal and not self.equal else []
        parts += [line(note, faint=True) for note in notes]
        fields = (*self.metrics[:_MOST_ROWS], *self.spec[:_MOST_ROWS])
        if fields:
            lines = [(shorten(field.path, 100), *_sides(field)) for field in fields]
            parts.append(table(("field", "a", "b"), lines))
        return block(parts).source

    def __str__(self) -> str:
        metrics = [f"  {field.path}: {' -> '.join(_sides(field))}" for field in self.metrics]
        if self.equal:
            equal = f"{_name(self.a, self.a_ref)} and {_name(self.b, self.b_ref)}: equal"
            return "\n".join([equal, *metrics])
        sides = (("a", self.a, self.a_ref), ("b", self.b, self.b_ref))
        lines = [
            f"{side}: {digest}" + ("" if ref in (None, str(digest)) else f"  {ref}")
            for side, digest, ref in sides
        ]
        rows = {**self.tensors, **self.state}
        width = max([len(name) for name in rows] or [0])
        for name, row in rows.items():
            lines.append(f"  {name:<{width}}  {_describe(row)}")
        lines += metrics
        lines += [f"  {field.path}: {' -> '.join(_sides(field))}" for field in self.spec]
        return "\n".join(map(printable, lines))


def _sides(field: FieldDiff) -> tuple[str, str]:
    """Return the value of a field in each snapshot, as a short text."""
    left = repr(field.a) if field.has_a else "absent"
    right = repr(field.b) if field.has_b else "absent"
    return shorten(left, 60), shorten(right, 60)


def _change_html(row: TensorDiff, longest: float) -> str | Html:
    """Return a bar for the change of a tensor, relative to the longest bar of the table."""
    if row.status != "changed" or row.relative_norm is None:
        return _describe(row)
    label = f"{row.relative_norm:.3g} (max {row.max_change:.3g}, mean {row.mean_change:.3g})"
    share = row.relative_norm / longest if longest else 0.0
    return bar(share if math.isfinite(share) else 1.0, label)


def _describe(row: TensorDiff) -> str:
    if row.status == "changed":
        return (
            f"changed  max {row.max_change:.3g}  mean {row.mean_change:.3g}  "
            f"relative norm {row.relative_norm:.3g}"
        )
    if row.status.endswith("differs"):
        return f"{row.status}: {row.a} -> {row.b}"
    return row.status


def _name(digest: Digest, ref: str | None) -> str:
    """Return how a line names a snapshot: by its ref, or by the beginning of its digest."""
    return digest.short if ref in (None, str(digest)) else str(ref)


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
        a.ref,
        b.ref,
    )


def diff_metrics(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> tuple[FieldDiff, ...]:
    """Compare the metrics of two versions; nested metrics have paths such as ``metrics.eval.n``.

    Numbers that JSON does not have are texts, as in ``Version.to_dict``.
    """
    fields: list[FieldDiff] = []
    _diff_json("metrics", to_plain(a), to_plain(b), fields)
    return tuple(fields)


def _diff_arrays(a: Mapping[str, Array], b: Mapping[str, Array]) -> dict[str, TensorDiff]:
    return {name: diff_tensor(a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())}


def diff_tensor(a: Array | None, b: Array | None) -> TensorDiff:
    """Compare two tensors; None stands for a tensor that a snapshot does not have."""
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
