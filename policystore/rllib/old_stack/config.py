"""Record the config of an old-stack policy as plain values.

An old-stack ``Policy`` is built from one dict of more than 250 keys, the whole ``AlgorithmConfig``.
All of it is recorded except what :data:`policystore.rllib_schema.config_keys.DROPPED` names: keys
about rollouts, resources, logging, hosts and other parts of an Algorithm. So every key that a
policy, model or exploration may read is recorded in full, whichever algorithm the key belongs to,
and the same policy gives the same record on one machine and on a hundred.

In several places a config makes RLlib import and call things by name. Each such name is turned
into an import path here; :mod:`policystore.rllib.old_stack.config_restore` takes no other form.
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
from policystore.format.values import Tagged
from policystore.rllib.common.trust import is_importable, path_of
from policystore.rllib_schema.config_keys import REGISTRY_KEYS, is_dropped
from policystore.rllib_schema.plain_config import (
    NOTHING,
    NotPlainError,
    Place,
    PlainWalker,
    check_plain_value,
    is_plain_key,
    plain_scalar,
)
from policystore.spaces import space_to_json

__all__ = ["check_exploration", "importable_path", "recorded_config"]

_CATEGORIES = {"custom_model": RLLIB_MODEL, "custom_action_dist": RLLIB_ACTION_DIST}

# Keys under which RLlib takes a text for a module, a file or YAML (utils/from_config.py:100-170).
_BUILT_FROM_TEXT = ("type", "epsilon_schedule", "scale_schedule", "sub_exploration")


def recorded_config(config: Mapping[str, Any], label: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the part of a policy's config that rebuilds the policy, as plain values.

    Args:
        config: ``policy.config``; it is not changed.
        label: how messages name the policy.

    Returns:
        The plain config, and what was left out of it: place -> reason.

    Raises:
        InvalidInputError: the config names a custom model, action distribution or exploration
            that no other process could find.
    """
    omitted: dict[str, str] = {}
    recorded: dict[str, Any] = {}
    walker = _PolicyConfigWalker(label, omitted)
    for key, value in config.items():
        if is_dropped(key):
            continue
        if key == "exploration_config":
            value = _with_exploration_classes(value, label)
            check_exploration(value, f"{label}: exploration_config", InvalidInputError)
        plain = walker.value(value, f"config.{key}")
        if plain is not NOTHING:
            recorded[key] = plain
    return recorded, omitted


class _PolicyConfigWalker(PlainWalker):
    """Turns the config of a live policy into plain values.

    Args:
        label: how messages name the policy.
        omitted: place -> reason; added to.
    """

    def __init__(self, label: str, omitted: dict[str, str]) -> None:
        super().__init__(omitted)
        self._label = label

    def is_leaf(self, value: object) -> bool:
        """Return whether a mapping is a space of gymnasium's."""
        return isinstance(value, gym.Space)

    def entry_place(self, key: object, place: Place) -> Place:
        """Return the place of an entry; a key that is not plain refuses the whole mapping."""
        if not is_plain_key(key):
            raise NotPlainError(f"a key of type {type(key).__name__} is not plain")
        return place.inside(f".{key}")

    def entry(self, key: object, item: object, place: Place) -> object:
        """Return the plain form of an item; a name in RLlib's registry becomes an import path."""
        if isinstance(key, str) and key in REGISTRY_KEYS and item:
            return Tagged("import", _registered_class_path(key, item, self._label))
        return super().entry(key, item, place)

    def leaf(self, value: object, place: Place) -> object:
        """Return the plain form of a numpy value, a space, a class or a function."""
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        if isinstance(value, np.generic):
            return plain_scalar(value, kind)
        if isinstance(value, gym.Space):
            return Tagged("space", space_to_json(value))
        if isinstance(value, type) or callable(value):
            path = importable_path(value)
            if path is None:
                raise NotPlainError(
                    f"a {type(value).__name__} that no other process can import by name"
                )
            return Tagged("import", path)
        check_plain_value(value, kind)
        return value


def _registered_class_path(key: str, value: object, label: str) -> str:
    """Return the import path of a class that a model config names by RLlib's registry.

    Args:
        key: one of :data:`REGISTRY_KEYS`.
        value: the class, or the name under which it is registered in this process.
        label: how messages name the policy.
    """
    cls = value
    if isinstance(value, str):
        category = _CATEGORIES.get(key)
        if category is None or not _global_registry.contains(category, value):
            raise InvalidInputError(
                f"{label}: model.{key} is the text {value!r}, which is not registered with RLlib's "
                "ModelCatalog in this process. Register the class under this name before taking "
                "the snapshot."
            )
        cls = _global_registry.get(category, value)
    path = importable_path(cls)
    if path is None:
        raise InvalidInputError(
            f"{label}: model.{key} is {value!r}, a class that no other process can import "
            f"({getattr(cls, '__qualname__', cls)}). Define it at the top level of a module."
        )
    return path


def _with_exploration_classes(config: object, label: str) -> object:
    """Return ``exploration_config`` with each ``type`` as a class, or as a name that RLlib knows.

    Names of RLlib's own explorations stay texts, because DQN compares such a name with a text
    (algorithms/dqn/dqn_torch_policy.py:184).
    """
    if not isinstance(config, Mapping):
        return config
    typed = {
        key: _with_exploration_classes(item, label) if isinstance(item, Mapping) else item
        for key, item in config.items()
    }
    kind = typed.get("type")
    if isinstance(kind, str) and not _is_known_name(kind):
        # A dotted path: it built this policy, so its module has been imported.
        module_name, _, attribute = kind.rpartition(".")
        kind = typed["type"] = getattr(sys.modules.get(module_name), attribute, kind)
    if kind is None or _is_known_name(kind):
        return typed
    if not isinstance(kind, type) or importable_path(kind) is None:
        raise InvalidInputError(
            f"{label}: exploration_config needs {kind!r}, which no other process can import. "
            "Define it at the top level of a module."
        )
    return typed


def _is_known_name(name: object) -> bool:
    """Return whether a value is the name of one of RLlib's own explorations or schedules."""
    if not isinstance(name, str):
        return False
    cls = getattr(explorations, name, None) or getattr(schedules, name, None)
    return isinstance(cls, type) and issubclass(cls, (Exploration, Schedule))


def importable_path(target: object) -> str | None:
    """Return the import path under which another process finds the same class or function.

    RLlib's older policies are classes made by ``build_policy_class``. The path that such a class
    has itself (``ray.rllib.policy.policy_template:DQNTorchPolicy``) leads nowhere, but RLlib's
    registry of policies has a path that does (algorithms/registry.py:124).

    Returns:
        ``module:QualName``, or None if there is no such path.
    """
    if not is_importable(target):
        return None
    path = path_of(target)
    module_name, _, qualified = path.partition(":")
    if _loaded_attribute(module_name, qualified) is target:
        return path
    folder = POLICIES.get(qualified)
    if folder is not None:
        module_name = f"ray.rllib.algorithms.{folder}"
        if _loaded_attribute(module_name, qualified) is target:
            return f"{module_name}:{qualified}"
    return None


def _loaded_attribute(module_name: str, qualified: str) -> object:
    """Return the object at a path in a module that is imported already; None if there is none."""
    target: object = sys.modules.get(module_name)
    for part in qualified.split("."):
        target = getattr(target, part, None)
    return target


def check_exploration(config: object, where: str, error: type[PolicyStoreError]) -> None:
    """Refuse text where RLlib would import or read what the text names.

    Args:
        config: an ``exploration_config``, or a mapping inside of one.
        where: its place, for messages.
        error: the class to raise.

    Raises:
        PolicyStoreError: of the class ``error``.
    """
    if config is None:
        return
    if not isinstance(config, Mapping):
        raise error(f"{where}: expected a dict, found {type(config).__name__}")
    for key, item in config.items():
        is_text = key in _BUILT_FROM_TEXT and isinstance(item, str)
        if is_text and not (key == "type" and _is_known_name(item)):
            raise error(f"{where}.{key}: expected a class or a dict, found the text {item!r}")
        if isinstance(item, Mapping):
            check_exploration(item, f"{where}.{key}", error)
