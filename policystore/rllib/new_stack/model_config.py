"""Model configs of RLModules as plain values, and back.

What an RLModule's constructor reads is written out in full: RLlib's Catalog fills gaps from
``DefaultModelConfig`` (``core/models/catalog.py:109-118``), whose defaults change between versions,
so the same filling is done here before anything is recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.models.base import Model
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore.errors import (
    FormatError,
    InvalidInputError,
    MismatchError,
    NotFoundError,
    UntrustedError,
)
from policystore.format.arrays import dtype_code
from policystore.format.values import Tagged
from policystore.rllib.common.trust import Trust, is_importable, path_of, resolve
from policystore.rllib_schema.class_paths import MODULES
from policystore.spaces import space_from_json, space_to_json

__all__ = [
    "NOTHING",
    "LeftOut",
    "from_plain",
    "model_config_from_plain",
    "model_config_to_plain",
    "resolve_class",
    "to_plain",
]

_DATACLASS = "dataclass"
_FIELDS = "fields"

# Classes that are harmless to name in a config: building blocks, which compute and do nothing else.
_BUILDING_BLOCKS = (
    Catalog,
    DefaultModelConfig,
    Model,
    ModelConfig,
    RLModule,
    torch.nn.Module,
)

LeftOut = Callable[[str, str], None]
"""Called with the place of a value that cannot be kept, and why."""


def to_plain(value: Any, what: str, omitted: LeftOut) -> Any:
    """A value as :mod:`policystore.format.values` keeps it.

    Numpy scalars become Python's, classes and functions their import path, spaces their JSON,
    dataclasses a mapping with their class. What has no such form goes to ``omitted``.

    Returns:
        The plain value, or :data:`NOTHING` for one that was left out.
    """
    if value is None or isinstance(value, (bool, int, float, str, bytes, Tagged)):
        return _scalar(value, what, omitted)
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, np.ndarray):
        return _array(value, what, omitted)
    if isinstance(value, torch.dtype):
        return Tagged("import", f"torch:{str(value).partition('.')[2]}")
    if isinstance(value, gym.Space):
        return Tagged("space", space_to_json(value))
    if isinstance(value, Mapping):
        return _mapping(value, what, omitted)
    if type(value) in (list, tuple, set, frozenset):
        return _items(value, what, omitted)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {
            _DATACLASS: Tagged("import", path_of(type(value))),
            _FIELDS: to_plain(fields, what, omitted),
        }
    if is_importable(value):
        return Tagged("import", path_of(value))
    omitted(what, f"a {path_of(type(value))} has no JSON form and no import path")
    return NOTHING


class _Nothing:
    """Stands for a value that was left out."""


NOTHING = _Nothing()


def _scalar(value: Any, what: str, omitted: LeftOut) -> Any:
    # An enum or another subclass of a plain type would come back as that plain type.
    if type(value) in (type(None), bool, int, float, str, bytes, Tagged):
        return value
    omitted(what, f"a {path_of(type(value))} would come back as a plain value")
    return NOTHING


def _array(value: Any, what: str, omitted: LeftOut) -> Any:
    try:
        dtype_code(value.dtype, what)
    except InvalidInputError as error:
        omitted(what, str(error))
        return NOTHING
    return value


def _mapping(value: Mapping[Any, Any], what: str, omitted: LeftOut) -> Any:
    found = {}
    for key, item in value.items():
        plain = to_plain(item, f"{what}.{key}", omitted)
        if plain is not NOTHING:
            found[key] = plain
    return found


def _items(value: Any, what: str, omitted: LeftOut) -> Any:
    if isinstance(value, (set, frozenset)):
        omitted(what, "a set has no order and no JSON form; use a sorted list")
        return NOTHING
    items = [to_plain(item, f"{what}[{index}]", omitted) for index, item in enumerate(value)]
    if any(item is NOTHING for item in items):
        # A list with holes would be another list.
        omitted(what, "holds items that cannot be kept")
        return NOTHING
    return items if type(value) is list else tuple(items)


def from_plain(value: Any, what: str, trust: Trust = ()) -> Any:
    """The inverse of :func:`to_plain`.

    Raises:
        UntrustedError: a class or function that may not be imported without the caller's word.
        FormatError: a value that :func:`to_plain` does not write.
    """
    if isinstance(value, Tagged):
        if value.tag == "space":
            return space_from_json(value.value)
        return _resolve_value(value.value, trust)
    if isinstance(value, list):
        return [from_plain(item, what, trust) for item in value]
    if isinstance(value, tuple):
        return tuple(from_plain(item, what, trust) for item in value)
    if isinstance(value, dict):
        if value.keys() == {_DATACLASS, _FIELDS}:
            return _make_dataclass(value, what, trust)
        return {key: from_plain(item, f"{what}.{key}", trust) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return np.array(value, copy=True)
    return value


def resolve_class(path: str, base: type, what: str, trust: Trust = ()) -> Any:
    """A class that a spec names, which must be a subclass of ``base``.

    Raises:
        UntrustedError: outside ``ray.rllib``, or of its examples, and not vouched for.
        FormatError: it is something else.
    """
    try:
        found = resolve(path, trust)
    except NotFoundError:
        if path not in _OTHER_NAMES:
            raise
        found = resolve(_OTHER_NAMES[path], trust)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise FormatError(f"{what}: {path} is no subclass of {path_of(base)}")
    return found


# As Ray 2.40 and as later versions call them.
_OTHER_NAMES = MODULES | {new: old for old, new in MODULES.items()}


def _resolve_value(path: str, trust: Trust) -> Any:
    """A class or function that a config names.

    Free of trust are only what builds networks: initializers and activations of torch, dtypes,
    and classes of building blocks under ``ray.rllib``. A *function* of RLlib is not: the receiving
    code would call it with arguments of the spec's choosing.
    """
    module, _, name = path.partition(":")
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module in _TORCH_BLOCKS and not name.startswith("_"):
        found = getattr(_TORCH_BLOCKS[module], name, None)
        if getattr(found, "__module__", None) == module:
            return found
    found = resolve(path, trust)
    is_block = isinstance(found, type) and issubclass(found, _BUILDING_BLOCKS)
    if path.startswith("ray.rllib.") and not is_block and not _vouched(path, trust):
        raise UntrustedError(
            f"the snapshot's config names {path}, which is no building block of networks. "
            f"If you trust it, pass trust=[{path.replace(':', '.')!r}]."
        )
    return found


_TORCH_BLOCKS: dict[str, Any] = {
    "torch.nn.init": torch.nn.init,
    "torch.nn.modules.activation": torch.nn.modules.activation,
}


def _vouched(path: str, trust: Trust) -> bool:
    """Whether the caller vouches for a path, though it is under ``ray.rllib``."""
    dotted = path.replace(":", ".") + "."
    return any(
        dotted.startswith(item if item.endswith(".") else item + ".")
        if isinstance(item, str)
        else path_of(item) == path
        for item in trust
    )


def _make_dataclass(value: Mapping[str, Any], what: str, trust: Trust) -> Any:
    cls = _resolve_value(value[_DATACLASS].value, trust)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise FormatError(f"{what}: {path_of(cls)} is not a dataclass")
    fields = from_plain(value[_FIELDS], what, trust)
    unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls) if f.init})
    if unknown:
        raise MismatchError(
            f"{what}: {path_of(cls)} of the Ray that is installed here has no {unknown}. The "
            "snapshot comes from another version of it: use that one, or a newer one."
        )
    return cls(**fields)


def model_config_to_plain(config: Any, *, has_catalog: bool, omitted: LeftOut) -> Any:
    """An RLModule's ``model_config`` as a plain mapping, in full.

    Args:
        config: a dict, a dataclass (such as ``DefaultModelConfig``), or None.
        has_catalog: whether the module has a Catalog, which fills gaps in a dict from the fields
            of ``DefaultModelConfig``; these are then written out.
        omitted: told of what cannot be kept.
    """
    if isinstance(config, Mapping) and has_catalog:
        config = {**dataclasses.asdict(DefaultModelConfig()), **config}
    plain = to_plain(config, "model_config", omitted)
    if plain is NOTHING:
        raise InvalidInputError(
            f"model_config: expected a dict or a dataclass, found {path_of(type(config))}"
        )
    return plain


def model_config_from_plain(plain: Any, trust: Trust = ()) -> Any:
    """The inverse of :func:`model_config_to_plain`, of the same kind as the original."""
    return from_plain(plain, "spec.config.model_config", trust)
