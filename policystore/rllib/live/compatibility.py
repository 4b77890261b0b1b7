"""Whether snapshots fit the policies of a running Algorithm, found out before anything is sent."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from policystore.digest import Digest, digest_of
from policystore.errors import InvalidInputError, MismatchError
from policystore.format.arrays import CODES, Array, raw
from policystore.format.safetensors import header_layout
from policystore.format.spec import Spec
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

__all__ = ["DigestPlan", "PreparedWeights", "fit", "plan_of"]

DigestPlan = tuple[bytes, tuple[tuple[str, str, tuple[int, ...]], ...]]
"""How workers make an ``acting`` digest: see ``worker_side.py``."""

_CARRIERS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True)
class PreparedWeights:
    """A snapshot that fits, ready to be sent.

    Attributes:
        arrays: name -> (torch dtype, bits), the form of ``worker_side.put``.
        plan: how its digest is made by who holds it.
        expected: the digest that everyone must find.
        acting: names of the weights that acting needs.
        notes: what is allowed and worth knowing.
    """

    arrays: dict[str, tuple[str, Array]]
    plan: DigestPlan
    expected: Digest
    acting: frozenset[str]
    notes: tuple[str, ...]


# torch and numpy call the dtypes of the table by the same names.
_DTYPES = {dtype.name: dtype for dtype in CODES}
_NAMES = {dtype: dtype.name for dtype in CODES}


@functools.lru_cache(maxsize=256)
def _plan(shapes: tuple[tuple[str, str, tuple[int, ...]], ...]) -> DigestPlan:
    named = {name: (dtype, shape) for name, dtype, shape in shapes}
    where = header_layout(
        {name: (_DTYPES[dtype], shape) for name, (dtype, shape) in named.items()}, None
    )
    return where.header, tuple((name, *named[name]) for name in where.offsets)


def plan_of(described: Mapping[str, Any]) -> DigestPlan:
    """The plan for what a learner says of a policy (``worker_side.look``).

    Raises:
        InvalidInputError: it holds tensors of a dtype that no snapshot can have.
    """
    tensors = described["tensors"]
    strange = sorted(name for name in described["acting"] if tensors[name][0] not in _DTYPES)
    if strange:
        raise InvalidInputError(
            f"{strange[:5]} are of {tensors[strange[0]][0]}, which has no form in a snapshot"
        )
    return _plan(tuple((name, *tensors[name]) for name in sorted(described["acting"])))


def fit(
    policy_id: str, snap: Snapshot, described: Mapping[str, Any], stack: str
) -> PreparedWeights:
    """Check a snapshot against the policy that it is to be loaded into.

    Args:
        policy_id: of the policy.
        snap: to be loaded.
        described: what the learner says of the policy (``worker_side.look``).
        stack: ``new`` or ``old``: that of the Algorithm.

    Raises:
        MismatchError: lists how names, shapes, dtypes or spaces differ.
    """
    # A snapshot's repr has its whole digest, which takes longer than a load: only for messages.
    what = _Into(snap, policy_id)
    needed = described["tensors"]
    # Snapshots own read-only arrays; this is a plain dict of them.
    weights = dict(snap.weights)
    _check_kind(snap, stack, what)
    _check_spaces(snap.spec, described["spaces"], what)
    missing = needed.keys() - weights.keys()
    if missing:
        missing = _really_missing(missing, snap, described)
    unexpected = weights.keys() - needed.keys()
    wrong = {}
    arrays: dict[str, tuple[str, Array]] = {}
    for name, array in weights.items():
        if name in unexpected:
            continue
        dtype, shape = needed[name]
        have = _NAMES[array.dtype]
        if have != dtype or array.shape != shape:
            wrong[name] = (
                f"the target needs {dtype}{list(shape)}, the snapshot has {have}{list(array.shape)}"
            )
        elif array.dtype == np.bool_:
            arrays[name] = (dtype, array)
        else:
            arrays[name] = (dtype, array.view(_CARRIERS[array.dtype.itemsize]))
    if missing or unexpected or wrong:
        raise MismatchError(
            f"{what}: the weights do not fit; nothing was sent, and nothing changed.",
            missing=missing,
            unexpected=unexpected,
            wrong=wrong,
        )
    acting = frozenset(described["acting"])
    plan = plan_of(described)
    return PreparedWeights(
        arrays=arrays,
        plan=plan,
        expected=_expected(plan, weights),
        acting=acting,
        notes=_notes(policy_id, weights),
    )


class _Into:
    """What a message begins with."""

    def __init__(self, snap: Snapshot, policy_id: str) -> None:
        self._parts = snap, policy_id

    def __str__(self) -> str:
        return f"{self._parts[0]!r} into policy {self._parts[1]!r}"


def _really_missing(
    missing: Iterable[str], snap: Snapshot, described: Mapping[str, Any]
) -> set[str]:
    """Names that it may not lack: target networks are copies, frozen ones need no critic."""
    left = set(missing) - set(described["targets"])
    if snap.spec.weights == "inference-only" and not described["trained"]:
        left &= set(described["acting"])
    return left


def _expected(plan: DigestPlan, weights: Mapping[str, Array]) -> Digest:
    """``encoding.part_digest`` of what acting needs, by the header that is there already."""
    header, order = plan
    return digest_of(header, *(raw(weights[name]) for name, _, _ in order))


def _notes(policy_id: str, weights: Mapping[str, Array]) -> tuple[str, ...]:
    bad = [
        name
        for name, array in weights.items()
        if array.dtype.kind in "fV" and not np.isfinite(array).all()
    ]
    if not bad:
        return ()
    return (f"{policy_id!r}: NaN or infinite values in {', '.join(bad[:5])}"
            + (f" and {len(bad) - 5} more" if bad[5:] else ""),)  # fmt: skip


def _check_kind(snap: Snapshot, stack: str, what: _Into) -> None:
    if snap.spec.stack in (stack, "none", "torch"):
        return
    raise MismatchError(
        f"{what}: the snapshot is of stack {snap.spec.stack!r} and the Algorithm of RLlib's "
        f"{stack} API stack. Nothing was sent."
    )


@functools.lru_cache(maxsize=256)
def _spaces(spec: Spec) -> tuple[gym.Space[Any] | None, gym.Space[Any] | None]:
    found = (spec.observation_space, spec.action_space)
    return (
        None if found[0] is None else space_from_json(found[0]),
        None if found[1] is None else space_from_json(found[1]),
    )


class _Same:
    """A space as a key of a cache: comparing two spaces takes longer than loading weights."""

    def __init__(self, space: Any) -> None:
        self.space = space

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.space is other.space

    def __hash__(self) -> int:
        return id(self.space)


@functools.lru_cache(maxsize=1024)
def _differing(spec: Spec, observation: _Same, action: _Same) -> tuple[str, ...]:
    wrong = []
    target = (observation.space, action.space)
    for kind, have, need in zip(("observation", "action"), _spaces(spec), target, strict=True):
        if have is not None and need is not None and have != need:
            wrong.append(f"its {kind} space is {have}, and the target's is {need}")
    return tuple(wrong)


def _check_spaces(spec: Spec, target: tuple[Any, Any], what: _Into) -> None:
    wrong = _differing(spec, _Same(target[0]), _Same(target[1]))
    if wrong:
        raise MismatchError(
            f"{what}: {'; '.join(wrong)}. Nothing was sent. A policy of other spaces gets an id of "
            "its own with add_policy(); if they mean the same all the same, say so with "
            "snap.replace(spec=…) of the target's spaces."
        )
