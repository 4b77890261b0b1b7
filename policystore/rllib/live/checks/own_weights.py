"""Check that a snapshot fits a module of one env runner, for ``load_local``."""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import gymnasium as gym
import numpy as np

from policystore.digest import Digest
from policystore.errors import MismatchError
from policystore.format.policy import part_digest
from policystore.rllib.common.stacks import conversion_advice
from policystore.rllib.worker_code.filters import policy_filter, runner_filters
from policystore.rllib.worker_code.tensors import PolicyAccess, TensorEntry, acting_names
from policystore.rllib_schema.weight_names import todays_weights
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.policy.policy import Policy

    from policystore.format.spec import Spec

__all__ = ["OwnWeights", "check_no_filters", "prepare_own"]

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_Shapes: TypeAlias = "tuple[tuple[str, str, tuple[int, ...]], ...]"  # name, dtype, shape


class _Fit(NamedTuple):
    """That snapshots of one spec and these tensors fit a module.

    Attributes:
        loaded: names of the weights that the module takes.
        acting: names of those that acting needs.
    """

    loaded: tuple[str, ...]
    acting: tuple[str, ...]


class OwnWeights(NamedTuple):
    """The weights of a snapshot that fits a module.

    Attributes:
        bits: by name, views of the snapshot's arrays in the form in which they are written.
        shapes: of all tensors of the module.
        digest: digest of the weights that acting needs.
    """

    bits: dict[str, np.ndarray[Any, Any]]
    shapes: _Shapes
    digest: Digest


# The snapshots of one training have the same spec and shapes, which are checked once per module.
_FITS: weakref.WeakKeyDictionary[Any, dict[tuple[Spec, _Shapes, _Shapes], _Fit]] = (
    weakref.WeakKeyDictionary()
)
_MAX_FITS = 64  # of a module

# Digest of a policy and names of weights -> digest of these weights. Content has one digest, so
# this stays true for ever.
_ACTING: dict[tuple[Digest, tuple[str, ...]], Digest] = {}
_MAX_ACTING = 4096

# A runner loads the same snapshots again and again, so each is checked and hashed once per module.
_PREPARED: weakref.WeakKeyDictionary[Snapshot, weakref.WeakKeyDictionary[Any, OwnWeights]] = (
    weakref.WeakKeyDictionary()
)


def check_no_filters(access: PolicyAccess, pid: str, snap: Snapshot) -> None:
    """Refuse a snapshot that was trained on observations that were normalised in another way."""
    if access.is_old:
        connectors = snap.state.get("connectors", {}).get("agent", {})
        with_filter = any("running_stats" in state for state in connectors.values())
        has = policy_filter(access.holder(pid)) is not None
    else:
        with_filter = bool(snap.state)
        counts, _ = runner_filters(access.worker)
        has = counts is not None
    advice = " To load the weights alone, pass filters='ignore'. Nothing was changed."
    if with_filter:
        raise MismatchError(
            f"{snap!r} for {pid!r} has filter statistics. RLlib merges the statistics of all env "
            "runners, so one env runner cannot have its own: the module would see observations "
            "that are normalised in another way than in its training." + advice
        )
    if has and _knows_connectors(access, snap):
        raise MismatchError(
            f"{snap!r} has no filter statistics, and this env runner normalises the observations "
            f"of {pid!r}: the module would see other observations than it was trained on." + advice
        )


def _knows_connectors(access: PolicyAccess, snap: Snapshot) -> bool:
    omitted = any(place.startswith("connectors.") for place in snap.spec.omitted)
    return bool(snap.spec.connectors) and (access.is_old or not omitted)


def prepare_own(access: PolicyAccess, pid: str, snap: Snapshot) -> OwnWeights:
    """Check that the weights of a snapshot fit a module, once for each snapshot and module.

    Raises:
        MismatchError: they do not fit; the message lists the differences.
    """
    holder, entries = access.holder(pid), access.entries(pid)
    by_holder = _PREPARED.setdefault(snap, weakref.WeakKeyDictionary())
    known = by_holder.get(holder)
    shapes = tuple((name, entry.dtype, entry.shape) for name, entry in entries.items())
    if known is not None and known.shapes == shapes:
        return known
    weights = todays_weights(snap.spec.cls, snap.weights)
    given = tuple((name, array.dtype.name, array.shape) for name, array in weights.items())
    fits = _FITS.setdefault(holder, {})
    fit = fits.get((snap.spec, given, shapes))
    if fit is None:
        fit = _fit(access, pid, snap, given, shapes)
        _keep(fits, (snap.spec, given, shapes), fit, _MAX_FITS)
    by_holder[holder] = OwnWeights(
        bits={name: _bits(entries[name], weights[name]) for name in fit.loaded},
        shapes=shapes,
        digest=_acting_digest(snap, weights, fit.acting),
    )
    return by_holder[holder]


def _fit(access: PolicyAccess, pid: str, snap: Snapshot, given: _Shapes, needed: _Shapes) -> _Fit:
    """Check that tensors of a snapshot fit a module; errors as in :func:`prepare_own`."""
    holder = access.holder(pid)
    _check_target(holder, pid, snap, "old" if access.is_old else "new")
    shapes = {name: (dtype, shape) for name, dtype, shape in needed}
    weights = {name: (dtype, shape) for name, dtype, shape in given}
    all_act = access.is_old or access.network(pid) is None
    acting = list(shapes) if all_act else acting_names(holder, shapes)
    loaded = weights.keys() & shapes.keys()
    wrong = {
        name: f"the module needs {shapes[name][0]}{list(shapes[name][1])}, the snapshot has "
        f"{weights[name][0]}{list(weights[name][1])}"
        for name in loaded
        if weights[name] != shapes[name]
    }
    missing = set(acting) - weights.keys()
    unexpected = weights.keys() - shapes.keys() - _needless(holder, snap, weights)
    if missing or unexpected or wrong:
        raise MismatchError(
            f"{snap!r} into {pid!r} of this env runner: the weights do not fit; nothing was "
            "changed.",
            missing=missing,
            unexpected=unexpected,
            wrong=wrong,
        )
    return _Fit(tuple(sorted(loaded)), tuple(sorted(acting)))


def _acting_digest(
    snap: Snapshot, weights: Mapping[str, np.ndarray[Any, Any]], acting: tuple[str, ...]
) -> Digest:
    """Return the digest of the weights that acting needs, hashed once for each stored policy."""
    digest = _ACTING.get((snap.digest, acting))
    if digest is None:
        digest = part_digest({name: weights[name] for name in acting})
        _keep(_ACTING, (snap.digest, acting), digest, _MAX_ACTING)
    return digest


def _keep(table: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Put an entry into a table; the oldest ones go."""
    table[key] = value
    while len(table) > most:
        table.pop(next(iter(table)), None)


def _check_target(holder: Policy | RLModule, pid: str, snap: Snapshot, stack: str) -> None:
    """Refuse a snapshot of the other API stack or of other spaces."""
    spec = snap.spec
    if spec.stack not in (stack, "none", "torch"):
        raise MismatchError(
            f"{snap!r} into {pid!r}: the snapshot is of stack {spec.stack!r}, and the env runner "
            f"of RLlib's {stack} API stack. Nothing was changed."
            + conversion_advice(spec.stack, stack)
        )
    wrong = []
    for kind, described, needed in (
        ("observation", spec.observation_space, holder.observation_space),
        ("action", spec.action_space, holder.action_space),
    ):
        space = None if described is None else _space(json.dumps(described, sort_keys=True))
        if space is not None and needed is not None and space != needed:
            wrong.append(f"its {kind} space is {space}, and the module's is {needed}")
    if wrong:
        raise MismatchError(
            f"{snap!r} into {pid!r}: {'; '.join(wrong)}. Nothing was changed. A module of other "
            "spaces needs an id of its own: add_policy()."
        )


@functools.lru_cache(maxsize=64)
def _space(described: str) -> gym.Space[Any]:
    """Return a space by the text of its JSON. The opponents of a league have the same spaces."""
    return space_from_json(json.loads(described))


def _needless(holder: Policy | RLModule, snap: Snapshot, names: Iterable[str]) -> set[str]:
    """Return names of weights that acting does not need, by the snapshot or by RLlib."""
    acting = snap.spec.acting
    needless = set()
    if acting is not None:
        needless = set(names) - set(todays_weights(snap.spec.cls, dict.fromkeys(acting)))
    if hasattr(holder, "get_non_inference_attributes"):
        left = holder.get_non_inference_attributes()
        needless |= {n for n in names if any(n == a or n.startswith(a + ".") for a in left)}
    return needless


def _bits(entry: TensorEntry, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a view of an array in the form in which bits are written."""
    carriers = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
    return array if entry.dtype == "bool" else array.view(carriers[array.dtype.itemsize])
