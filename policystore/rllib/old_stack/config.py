"""What of an old-stack policy's config is kept, and in which form.

An old-stack ``Policy`` is built from one dict of more than 250 keys, the whole ``AlgorithmConfig``.
Kept is all of it but what :data:`DROPPED` names: keys about rollouts, resources, logging, hosts
and other parts of an Algorithm. So every key that a policy, model or exploration may read is
recorded in full, whichever algorithm it belongs to, and the same policy gives the same record on
one machine and on a hundred.

A config can make RLlib import and call things by name, in several places: each is turned into an
import path here; :mod:`policystore.rllib.old_stack.config_restore` takes them in no other form.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.registry import POLICIES
from ray.rllib.utils import exploration as explorations
from ray.rllib.utils import schedules
from ray.rllib.utils.exploration import Exploration
from ray.rllib.utils.schedules import Schedule
from ray.tune.registry import RLLIB_ACTION_DIST, RLLIB_MODEL, _global_registry

from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.values import Tagged, encode_value
from policystore.rllib.common.trust import is_importable, path_of
from policystore.rllib_schema.config_keys import is_dropped
from policystore.spaces import space_to_json

__all__ = ["BY_NAME", "check_exploration", "lasting_path", "recorded_config"]

# Keys whose text RLlib looks up in a registry of this process, or imports:
# models/catalog.py:172-176, 372-397 and 869.
_REGISTERED = {"custom_model": RLLIB_MODEL, "custom_action_dist": RLLIB_ACTION_DIST}
BY_NAME = (*_REGISTERED, "custom_preprocessor")

# Text under these is a module, a file or YAML to RLlib (utils/from_config.py:100-170).
_BUILT = ("type", "epsilon_schedule", "scale_schedule", "sub_exploration")


class _NotPlainError(Exception):
    """A value that has no lasting form; the text says why, without addresses or ids."""


def recorded_config(config: Mapping[str, Any], what: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The part of a policy's config that rebuilds it, as plain values.

    Args:
        config: ``policy.config``; it is not changed.
        what: how messages name the policy.

    Returns:
        The plain config, and what was left out of it: place -> why.

    Raises:
        InvalidInputError: a custom model, action distribution or exploration that no other
            process could find.
    """
    omitted: dict[str, str] = {}
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if is_dropped(key):
            continue
        if key == "exploration_config":
            value = _typed_by_class(value, what)
            check_exploration(value, f"{what}: exploration_config", InvalidInputError)
        try:
            kept[key] = _plain(value, f"config.{key}", omitted, what)
        except _NotPlainError as why:
            omitted[f"config.{key}"] = str(why)
    return kept, omitted


def _plain(value: Any, where: str, omitted: dict[str, str], what: str) -> Any:
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, gym.Space):
        return Tagged("space", space_to_json(value))
    if isinstance(value, Mapping):
        return _plain_mapping(value, where, omitted, what)
    if type(value) in (list, tuple):
        # All or nothing: a list without one of its items would mean something else.
        items = [_whole(item, f"{where}[{index}]", what) for index, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    if isinstance(value, type) or callable(value):
        path = lasting_path(value)
        if path is None:
            raise _NotPlainError(
                f"a {type(value).__name__} that no other process can import by name"
            )
        return Tagged("import", path)
    try:
        encode_value(value, where)
    except InvalidInputError:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise _NotPlainError(f"a {kind} is not a plain value") from None
    return value


def _whole(value: Any, where: str, what: str) -> Any:
    missing: dict[str, str] = {}
    plain = _plain(value, where, missing, what)
    if missing:
        raise _NotPlainError(next(iter(missing.values())))
    return plain


def _plain_mapping(
    value: Mapping[Any, Any], where: str, omitted: dict[str, str], what: str
) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, item in value.items():
        try:
            encode_value({key: None}, where)
        except InvalidInputError:
            raise _NotPlainError(f"a key of type {type(key).__name__} is not plain") from None
        place = f"{where}.{key}"
        if key in BY_NAME and item:
            found[key] = Tagged("import", _class_by_name(key, item, what))
            continue
        try:
            found[key] = _plain(item, place, omitted, what)
        except _NotPlainError as why:
            omitted[place] = str(why)
    return found


def _class_by_name(key: str, found: Any, what: str) -> str:
    """Import path of a custom model or action distribution, which a config names by registry."""
    name = found
    if isinstance(found, str):
        category = _REGISTERED.get(key)
        if category is None or not _global_registry.contains(category, found):
            raise InvalidInputError(
                f"{what}: model.{key} is the text {found!r}, which is not registered with RLlib's "
                "ModelCatalog in this process. Register the class under this name before taking "
                "the snapshot."
            )
        found = _global_registry.get(category, found)
    path = lasting_path(found)
    if path is None:
        raise InvalidInputError(
            f"{what}: model.{key} is {name!r}, a class that no other process can import "
            f"({getattr(found, '__qualname__', found)}). Define it at the top level of a module."
        )
    return path


def _typed_by_class(value: Any, what: str) -> Any:
    """``exploration_config`` with every ``type`` a class, or a name of RLlib's own ones.

    The names stay: DQN compares one with text (algorithms/dqn/dqn_torch_policy.py:184).
    """
    if not isinstance(value, Mapping):
        return value
    found = {
        key: _typed_by_class(item, what) if isinstance(item, Mapping) else item
        for key, item in value.items()
    }
    kind = found.get("type")
    if isinstance(kind, str) and not _is_known_name(kind):
        # A dotted path: it built this policy, so it has been imported.
        module_name, _, attribute = kind.rpartition(".")
        kind = found["type"] = getattr(sys.modules.get(module_name), attribute, kind)
    if kind is None or _is_known_name(kind):
        return found
    if not isinstance(kind, type) or lasting_path(kind) is None:
        raise InvalidInputError(
            f"{what}: exploration_config needs {kind!r}, which no other process can import. Define "
            "it at the top level of a module."
        )
    return found


def _is_known_name(name: object) -> bool:
    """Whether text names one of RLlib's own explorations or schedules."""
    if not isinstance(name, str):
        return False
    found = getattr(explorations, name, None) or getattr(schedules, name, None)
    return isinstance(found, type) and issubclass(found, (Exploration, Schedule))


def lasting_path(found: Any) -> str | None:
    """Import path under which another process finds the same class or function, or None.

    RLlib's older policies are classes made by ``build_policy_class``, whose own path
    (``ray.rllib.policy.policy_template:DQNTorchPolicy``) leads nowhere; they are found through
    RLlib's registry of policies (algorithms/registry.py:124).
    """
    if not is_importable(found):
        return None
    path = path_of(found)
    module_name, _, qualified = path.partition(":")
    if _at(module_name, qualified) is found:
        return path
    folder = POLICIES.get(qualified)
    if folder is not None and _at(f"ray.rllib.algorithms.{folder}", qualified) is found:
        return f"ray.rllib.algorithms.{folder}:{qualified}"
    return None


def _at(module_name: str, qualified: str) -> Any:
    found: Any = sys.modules.get(module_name)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found


def check_exploration(value: Any, where: str, error: type[PolicyStoreError]) -> None:
    """Refuse text where RLlib would import or read what it names.

    Raises:
        PolicyStoreError: of the class ``error``.
    """
    if value is not None and not isinstance(value, Mapping):
        raise error(f"{where}: expected a dict, found {type(value).__name__}")
    for key, item in (value or {}).items():
        if key in _BUILT and isinstance(item, str) and not (key == "type" and _is_known_name(item)):
            raise error(f"{where}.{key}: expected a class or a dict, found the text {item!r}")
        if isinstance(item, Mapping):
            check_exploration(item, f"{where}.{key}", error)
