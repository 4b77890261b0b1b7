"""Check that snapshots fit the policies of a running Algorithm, before anything is sent."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import gymnasium as gym
import numpy as np

from policystore.digest import Digest, digest_of
from policystore.errors import InvalidInputError, MismatchError
from policystore.format.arrays import CODES, Array, raw
from policystore.format.safetensors import header_layout
from policystore.format.spec import Spec
from policystore.rllib.common.stacks import conversion_advice
from policystore.rllib.worker_code.messages.answers import PolicyInfo, Spaces
from policystore.rllib.worker_code.messages.requests import DigestPlan
from policystore.rllib_schema.weight_names import todays_weights
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json
from policystore.spaces.bounds import without_bounds

__all__ = ["Compare", "PreparedWeights", "digest_plan", "plan_of", "prepare"]

Compare: TypeAlias = Literal["exact", "shape"]
"""How a snapshot's spaces are compared with a policy's: all of them, or all but Box bounds."""

_CARRIERS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


@dataclass(frozen=True)
class PreparedWeights:
    """The weights of a snapshot that fits a policy, ready to be sent.

    Attributes:
        arrays: name -> torch dtype and bits, in the form in which workers take them.
        plan: how workers compute the digest of the weights that acting needs.
        expected: the digest that each worker must find.
        acting: names of the weights that acting needs.
        notes: observations for the report, such as NaN among the weights.
        ref: where the snapshot came from, if it was pulled by name.
    """

    arrays: dict[str, tuple[str, Array]]
    plan: DigestPlan
    expected: Digest
    acting: frozenset[str]
    notes: tuple[str, ...]
    ref: str | None = None


# torch and numpy use the same names for these dtypes.
_DTYPES = {dtype.name: dtype for dtype in CODES}
_NAMES = {dtype: dtype.name for dtype in CODES}


@functools.lru_cache(maxsize=256)
def digest_plan(shapes: tuple[tuple[str, str, tuple[int, ...]], ...]) -> DigestPlan:
    """Return how to compute the digest of weights.

    Args:
        shapes: name, torch dtype and shape of each tensor.
    """
    named = {name: (dtype, shape) for name, dtype, shape in shapes}
    layout = header_layout(
        {name: (_DTYPES[dtype], shape) for name, (dtype, shape) in named.items()}, None
    )
    return layout.header, tuple((name, *named[name]) for name in layout.offsets)


def plan_of(info: PolicyInfo) -> DigestPlan:
    """Return how to compute the digest of a policy that a learner has described.

    Raises:
        InvalidInputError: the policy has tensors of a dtype that no snapshot can have.
    """
    tensors = info.tensors
    strange = sorted(name for name in info.acting if tensors[name][0] not in _DTYPES)
    if strange:
        raise InvalidInputError(
            f"{strange[:5]} are of {tensors[strange[0]][0]}, which has no form in a snapshot"
        )
    return digest_plan(tuple((name, *tensors[name]) for name in sorted(info.acting)))


def prepare(
    policy_id: str, snap: Snapshot, info: PolicyInfo, stack: str, compare: Compare = "exact"
) -> PreparedWeights:
    """Check a snapshot against the policy that it is to be loaded into.

    Args:
        policy_id: id of the policy.
        snap: the snapshot to be loaded.
        info: the learner's description of the policy.
        stack: the Algorithm's API stack, ``new`` or ``old``.
        compare: how the spaces are compared.

    Raises:
        MismatchError: names, shapes, dtypes or spaces differ; the message lists the differences.
    """
    # The repr of a snapshot computes its whole digest, which takes longer than a load. So only
    # messages compute the repr.
    load = _Load(snap, policy_id)
    needed = info.tensors
    # A dict of the snapshot's own, read-only arrays.
    weights = todays_weights(snap.spec.cls, snap.weights)
    _check_stack(snap, stack, load)
    notes = _check_spaces(snap.spec, info.spaces, load, compare)
    missing = needed.keys() - weights.keys()
    if missing:
        missing = _really_missing(missing, snap, info)
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
            f"{load}: the weights do not fit; nothing was sent, and nothing changed.",
            missing=missing,
            unexpected=unexpected,
            wrong=wrong,
        )
    plan = plan_of(info)
    return PreparedWeights(
        arrays=arrays,
        plan=plan,
        expected=_expected(plan, weights),
        acting=frozenset(info.acting),
        notes=tuple(f"{policy_id!r}: {note}" for note in notes) + _notes(policy_id, weights),
        ref=snap._named_ref,
    )


class _Load:
    """The beginning of messages about loading a snapshot into a policy."""

    def __init__(self, snap: Snapshot, policy_id: str) -> None:
        self._parts = snap, policy_id

    def __str__(self) -> str:
        return f"{self._parts[0]!r} into policy {self._parts[1]!r}"


def _really_missing(missing: Iterable[str], snap: Snapshot, info: PolicyInfo) -> set[str]:
    """Return those of the missing names that a snapshot must have.

    Target networks become copies of their networks, and frozen policies need no critic.
    """
    required = set(missing) - set(info.targets)
    if snap.spec.weights == "inference-only" and not info.trained:
        required &= set(info.acting)
    return required


def _expected(plan: DigestPlan, weights: Mapping[str, Array]) -> Digest:
    """Return the digest of the weights that acting needs, with the header of a digest plan."""
    header, order = plan
    return digest_of(header, *(raw(weights[name]) for name, _, _ in order))


def _notes(policy_id: str, weights: Mapping[str, Array]) -> tuple[str, ...]:
    not_finite = [
        name
        for name, array in weights.items()
        if array.dtype.kind in "fV" and not np.isfinite(array).all()
    ]
    if not not_finite:
        return ()
    more = f" and {len(not_finite) - 5} more" if not_finite[5:] else ""
    return (f"{policy_id!r}: NaN or infinite values in {', '.join(not_finite[:5])}{more}",)


def _check_stack(snap: Snapshot, stack: str, load: _Load) -> None:
    if snap.spec.stack in (stack, "none", "torch"):
        return
    raise MismatchError(
        f"{load}: the snapshot is of stack {snap.spec.stack!r} and the Algorithm of RLlib's "
        f"{stack} API stack. Nothing was sent." + conversion_advice(snap.spec.stack, stack)
    )


@functools.lru_cache(maxsize=256)
def _spaces(spec: Spec) -> tuple[gym.Space[Any] | None, gym.Space[Any] | None]:
    observation, action = spec.observation_space, spec.action_space
    return (
        None if observation is None else space_from_json(observation),
        None if action is None else space_from_json(action),
    )


class _SameSpace:
    """A space as a key of a cache: comparing two spaces takes longer than loading weights."""

    def __init__(self, space: gym.Space[Any] | None) -> None:
        self.space = space

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameSpace) and self.space is other.space

    def __hash__(self) -> int:
        return id(self.space)


@functools.lru_cache(maxsize=1024)
def _differing(spec: Spec, observation: _SameSpace, action: _SameSpace) -> tuple[str, bool]:
    """Return how spaces differ, empty if they do not; and whether only bounds differ."""
    wrong, only_bounds = [], True
    target = (observation.space, action.space)
    for kind, have, need in zip(("observation", "action"), _spaces(spec), target, strict=True):
        if have is not None and need is not None and have != need:
            wrong.append(f"its {kind} space is {have}, and the target's is {need}")
            only_bounds = only_bounds and without_bounds(have) == without_bounds(need)
    return "; ".join(wrong), only_bounds


def _check_spaces(spec: Spec, target: Spaces, load: _Load, compare: Compare) -> tuple[str, ...]:
    """Compare the spaces; return a note if only bounds differ and ``compare`` allows this."""
    wrong, only_bounds = _differing(spec, _SameSpace(target[0]), _SameSpace(target[1]))
    if not wrong:
        return ()
    if only_bounds and compare == "shape":
        return (f'{wrong}; loaded all the same, because of spaces="shape"',)
    remedy = (
        'Only bounds differ. If the same weights are meant for both, pass spaces="shape".'
        if only_bounds
        else "add_policy() adds a policy of other spaces under a new id. adapt(snap, algorithm, "
        "keep=[…]) makes a snapshot that fits, with the target's own tensors where shapes differ. "
        "If the spaces have the same meaning, put the target's spaces into the snapshot: "
        "snap.replace(spec=snap.spec.replace(observation_space=…, action_space=…))."
    )
    raise MismatchError(f"{load}: {wrong}. Nothing was sent. {remedy}")
