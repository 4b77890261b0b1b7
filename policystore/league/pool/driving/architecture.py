"""Compare policies by what has to agree before one can play in the slot of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore._util.messages import brief
from policystore.digest import digest_of
from policystore.format.canonical_json import canonical_json
from policystore.snapshot import Snapshot

__all__ = ["architecture_of", "differences"]

_SPACES = ("observation_space", "action_space")
_LISTED = 4  # differences of one policy that a message names


def architecture_of(snap: Snapshot) -> str:
    """Return a text that is equal for policies that fit the same slots.

    Policies with different texts may fit all the same: :func:`differences` decides.
    """
    fields = {
        "stack": snap.spec.stack,
        "spaces": _spaces(snap),
        "model": _model(snap),
        "tensors": {name: [kind, list(shape)] for name, (kind, shape) in _acting(snap).items()},
    }
    return str(digest_of(canonical_json(fields)))[-16:]


def differences(snap: Snapshot, slot: Snapshot) -> list[str]:
    """Return why a policy cannot be loaded into a slot, in words; empty if it can.

    Compared are the API stack, the spaces, names, shapes and dtypes of the weights that acting
    needs, and the settings of the model that both have. (Releases of RLlib add settings.)

    Args:
        snap: the policy.
        slot: what the slot holds at the start.
    """
    stack, needed = snap.spec.stack, slot.spec.stack
    if stack not in (needed, "none", "torch"):
        return [f"API stack {stack!r}, the slot has {needed!r}"]
    found: list[str] = []
    spaces, wanted = _spaces(snap), _spaces(slot)
    found += [
        f"{name} {brief(spaces[name])}, the slot has {brief(wanted[name])}"
        for name in _SPACES
        if spaces[name] is not None and spaces[name] != wanted[name]
    ]
    tensors, slots = _acting(snap), _acting(slot)
    found += [
        f"{name} is {_shape(tensors.get(name))}, in the slot {_shape(slots.get(name))}"
        for name in sorted(tensors.keys() | slots.keys())
        if tensors.get(name) != slots.get(name)
    ]
    model, other = _model(snap), _model(slot)
    found += [
        f"model setting {key}={brief(model[key])}, the slot has {brief(other[key])}"
        for key in sorted(model.keys() & other.keys())
        if model[key] != other[key]
    ]
    return [*found[:_LISTED], *([f"and {len(found) - _LISTED} more"] if found[_LISTED:] else [])]


def _spaces(snap: Snapshot) -> dict[str, Any]:
    fields = snap.spec.to_json()
    return {name: fields.get(name) for name in _SPACES}


def _acting(snap: Snapshot) -> dict[str, tuple[str, tuple[int, ...]]]:
    names = snap.weights if snap.spec.acting is None else snap.spec.acting
    return {name: (snap.weights[name].dtype.name, snap.weights[name].shape) for name in names}


def _model(snap: Snapshot) -> dict[str, Any]:
    """Return the settings of a policy's network, as the spec's JSON has them."""
    config = snap.spec.to_json().get("config")
    for key in ("model_config", "model"):
        model = config.get(key) if isinstance(config, Mapping) else None
        if isinstance(model, Mapping):
            # How weights began says nothing of what they are now, and how often a policy of DQN
            # takes a random action nothing of what it takes otherwise.
            return {
                key: each
                for key, each in model.items()
                if "initializer" not in key and key != "epsilon"
            }
    return {}


def _shape(tensor: tuple[str, tuple[int, ...]] | None) -> str:
    return "absent" if tensor is None else f"{tensor[0]}{list(tensor[1])}"
