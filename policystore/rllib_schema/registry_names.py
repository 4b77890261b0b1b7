"""Import paths in place of the names under which RLlib's registries know classes.

A model config may name a class by a text under which the training process had registered the class
(``ModelCatalog.register_custom_model``). No other process knows the text. Here the class's import
path takes the place of the text, once the caller has told the class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from policystore.errors import InvalidInputError
from policystore.rllib_schema.config_keys import REGISTRY_KEYS

__all__ = ["NamedClass", "class_place", "import_path", "replace_names"]

NamedClass: TypeAlias = "type | Callable[..., Any] | str"
"""A class, or its import path: ``"mypkg.nets:MyNet"`` or ``"mypkg.nets.MyNet"``."""

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")


def class_place(path: str) -> str | None:
    """Return the registry key that a place in a config ends with; None for any other place."""
    key = path.rpartition(".")[2]
    return key if path.startswith("config.") and key in REGISTRY_KEYS else None


def import_path(value: object, label: str) -> str:
    """Return ``module:QualName`` of a class, or of the path of one.

    Args:
        value: a class, ``"module:Name"`` or ``"module.Name"``.
        label: how messages name the argument.

    Raises:
        InvalidInputError: something else, or a class that no other process can import by name.
    """
    if isinstance(value, str):
        if not _PATH.match(value):
            raise InvalidInputError(
                f"{label}: {value[:80]!r} is neither a class nor an import path such as "
                "'mypkg.nets:MyNet'"
            )
        if ":" in value:
            return value
        module, _, name = value.rpartition(".")
        return f"{module}:{name}"
    defined_in, qualified = getattr(value, "__module__", 0), getattr(value, "__qualname__", 0)
    if not isinstance(defined_in, str) or not isinstance(qualified, str):
        raise InvalidInputError(f"{label}: expected a class, found {type(value).__qualname__}")
    if "<" in qualified:
        raise InvalidInputError(
            f"{label}: no other process can import {defined_in}.{qualified} by name. Define the "
            "class at the top level of a module."
        )
    return f"{defined_in}:{qualified}"


def replace_names(
    config: Mapping[Any, Any], make: Callable[[str, object, str], object], path: str = "config"
) -> dict[Any, Any]:
    """Return a config whose entries under RLlib's registry keys are replaced.

    Args:
        config: a config, with dicts inside.
        make: gets the registry key, the entry and its place, and returns what replaces the entry.
        path: the place of the config.
    """
    replaced: dict[Any, Any] = {}
    for key, value in config.items():
        place = f"{path}.{key}"
        if key in REGISTRY_KEYS and value:
            replaced[key] = make(key, value, place)
        elif isinstance(value, Mapping):
            replaced[key] = replace_names(value, make, place)
        else:
            replaced[key] = value
    return replaced
