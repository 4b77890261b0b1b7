"""Parts of a policy that its snapshot lacks and that the caller supplies when rebuilding it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from policystore.errors import InvalidInputError
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib_schema.registry_names import NamedClass, class_place
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

__all__ = ["check_complete", "policy_space", "with_classes"]


def with_classes(
    snap: Snapshot, trust: Trust, classes: Mapping[str, NamedClass | None]
) -> tuple[Snapshot, Trust]:
    """Return a snapshot whose model config names the caller's classes, and whom to trust.

    Args:
        snap: a snapshot of an old-stack policy.
        trust: what the caller trusts; a class that is given as such is trusted, too.
        classes: key of the model config -> class or import path; None leaves the key as it is.

    Raises:
        InvalidInputError: not a class, or one that no other process can import by name.
    """
    given = {key: value for key, value in classes.items() if value is not None}
    if not given:
        return snap, trust
    config = snap.spec.config
    config["model"] = {**config.get("model", {}), **given}
    told = snap.replace(spec=snap.spec.replace(config=config))
    own = [value for value in given.values() if not isinstance(value, str)]
    return told, (*listed(trust), *own)


def check_complete(snap: Snapshot) -> None:
    """Refuse a snapshot without its config, or without the class of its model.

    RLlib would build its default network instead, which acts in another way.

    Raises:
        InvalidInputError: the message says what is missing and how to supply it.
    """
    omitted = snap.spec.omitted
    for place in ("config", "config.model", "config.model_config"):
        if place in omitted:
            raise InvalidInputError(
                f"{snap!r} cannot be rebuilt without its {place}: {omitted[place]}. Supply it: "
                "snap.replace(spec=snap.spec.replace(config={…}))"
            )
    for place, reason in omitted.items():
        key = class_place(place)
        if key is not None:
            raise InvalidInputError(
                f"{snap!r} cannot be rebuilt without {place}: {reason}. Supply the class: "
                f"rebuild_policy(snap, {key}=MyClass)"
            )


def policy_space(
    spec: Spec, name: str, supplied: gym.Space[Any] | None, function: str
) -> gym.Space[Any]:
    """Return the space that a policy is built for: the supplied or the recorded one.

    Args:
        spec: the policy's spec.
        name: ``"observation_space"`` or ``"action_space"``.
        supplied: what the caller gave.
        function: the function that the caller called, for messages.

    Raises:
        InvalidInputError: not a space, or the spec has none and the caller gave none.
    """
    if supplied is not None:
        if not isinstance(supplied, gym.Space):
            raise InvalidInputError(
                f"{name} is a gymnasium space, not {type(supplied).__qualname__}"
            )
        return copy.deepcopy(supplied)
    recorded: JsonObject | None = getattr(spec, name)
    if recorded is None:
        reason = spec.omitted.get(name, "its source did not have it")
        raise InvalidInputError(
            f"{spec!r} has no {name}: {reason}. Supply the space: {function}(snap, {name}=…)"
        )
    return space_from_json(recorded)
