"""Turn model configs of RLModules into plain values, and back.

A recorded config has all values that an RLModule's constructor reads. RLlib's Catalog fills gaps in
a config from ``DefaultModelConfig`` (``core/models/catalog.py:109-118``), and these defaults change
between versions of Ray. So the same gaps are filled here before the config is recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import ModuleType
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
from policystore.format.arrays import Array, dtype_code
from policystore.format.values import Tagged
from policystore.rllib.common.trust import Trust, is_importable, path_of, resolve
from policystore.rllib_schema.class_paths import MODULES, todays_path
from policystore.rllib_schema.plain_config import NOTHING, NotPlainError, Place, PlainWalker
from policystore.spaces import space_from_json, space_to_json

__all__ = [
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


def to_plain(value: object, where: str, omitted: dict[str, str]) -> Any:
    """Return a value in the form that :mod:`policystore.format.values` keeps.

    Numbers of numpy become numbers of Python. Classes and functions become their import path,
    spaces become JSON, and dataclasses become a mapping that names the class.

    Args:
        value: of a model config, or an argument of a connector; it is not changed.
        where: its place, for ``omitted`` and messages.
        omitted: place -> reason; an entry is added for each part without a plain form.

    Returns:
        The plain value, or :data:`policystore.rllib_schema.plain_config.NOTHING` if it has none.
    """
    return _ModelConfigWalker(omitted).value(value, where)


class _ModelConfigWalker(PlainWalker):
    """Turns the config of a live RLModule or connector into plain values."""

    whole_items = False

    def is_leaf(self, value: object) -> bool:
        """Return whether a mapping is a space of gymnasium's."""
        return isinstance(value, gym.Space)

    def leaf(self, value: object, place: Place) -> object:
        """Return the plain form of a numpy value, a dtype, a space, a dataclass or a class."""
        if type(value) is Tagged:
            return value
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return value.item()
        if isinstance(value, (bool, int, float, str, bytes, Tagged)):
            # An enum or another subclass of a plain type would come back as that plain type.
            raise NotPlainError(f"a {path_of(type(value))} would come back as a plain value")
        if isinstance(value, np.ndarray):
            return _array(value, place.path)
        if isinstance(value, torch.dtype):
            return Tagged("import", f"torch:{str(value).partition('.')[2]}")
        if isinstance(value, gym.Space):
            return Tagged("space", space_to_json(value))
        if type(value) in (set, frozenset):
            raise NotPlainError("a set has no order and no JSON form; use a sorted list")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {
                _DATACLASS: Tagged("import", path_of(type(value))),
                _FIELDS: self.plain(fields, place),
            }
        if is_importable(value):
            return Tagged("import", path_of(value))
        raise NotPlainError(f"a {path_of(type(value))} has no JSON form and no import path")


def _array(value: Array, where: str) -> Array:
    try:
        dtype_code(value.dtype, where)
    except InvalidInputError as error:
        raise NotPlainError(str(error)) from None
    return value


def from_plain(value: object, where: str, trust: Trust = ()) -> Any:
    """Return the value that :func:`to_plain` turned into a plain one.

    Args:
        value: as :func:`to_plain` returned it.
        where: its place, for messages.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        UntrustedError: a class or function that may not be imported without the caller's trust.
        MismatchError: a dataclass that the installed Ray has with other fields.
        FormatError: a value that :func:`to_plain` does not write.
    """
    if isinstance(value, Tagged):
        if value.tag == "space":
            return space_from_json(value.value)
        return _resolve_value(str(value.value), trust)
    if isinstance(value, list):
        return [from_plain(item, where, trust) for item in value]
    if isinstance(value, tuple):
        return tuple(from_plain(item, where, trust) for item in value)
    if isinstance(value, dict):
        if value.keys() == {_DATACLASS, _FIELDS}:
            return _make_dataclass(value, where, trust)
        return {key: from_plain(item, f"{where}.{key}", trust) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return np.array(value, copy=True)
    return value


# Today's name of a class -> its old name. Some classes replaced several old ones. The old name is
# then the first one in the table: so the module of PPO does not get the old name of MARWIL's.
_OLD_NAMES = {new: old for old, new in reversed(MODULES.items())}


def resolve_class(path: str, base: type, where: str, trust: Trust = ()) -> Any:
    """Import a class that a spec names, under its name today or an earlier name.

    Args:
        path: ``module:QualName``.
        base: the class that it must be, or be derived from.
        where: the place of ``path``, for messages.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        UntrustedError: a class outside ``ray.rllib``, or of its examples, that the caller does not
            trust.
        NotFoundError: RLlib has the class under none of these names.
        FormatError: ``path`` names something else.
    """
    # Today's name first: under some old names, RLlib now has something else than the class.
    newest = todays_path(path)
    names = dict.fromkeys((newest, path, _OLD_NAMES.get(newest, path)))
    errors: list[NotFoundError] = []
    for name in names:
        try:
            cls = resolve(name, trust)
            break
        except NotFoundError as error:
            errors.append(error)
    else:
        raise errors[0]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise FormatError(f"{where}: {path} is no subclass of {path_of(base)}")
    return cls


def _resolve_value(path: str, trust: Trust) -> Any:
    """Import a class or function that a config names.

    Without the caller's trust only what builds networks is imported: initializers and activations
    of torch, dtypes, and classes of building blocks under ``ray.rllib``. A *function* of RLlib is
    not among them: the code that receives it would call it with arguments from the spec.
    """
    module, _, name = path.partition(":")
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if module in _TORCH_BLOCKS and not name.startswith("_"):
        block = getattr(_TORCH_BLOCKS[module], name, None)
        if getattr(block, "__module__", None) == module:
            return block
    target = resolve(path, trust)
    is_block = isinstance(target, type) and issubclass(target, _BUILDING_BLOCKS)
    if path.startswith("ray.rllib.") and not is_block and not _is_trusted(path, trust):
        raise UntrustedError(
            f"the snapshot's config names {path}, which is no building block of networks. "
            f"If you trust it, pass trust=[{path.replace(':', '.')!r}]."
        )
    return target


_TORCH_BLOCKS: dict[str, ModuleType] = {
    "torch.nn.init": torch.nn.init,
    "torch.nn.modules.activation": torch.nn.modules.activation,
}


def _is_trusted(path: str, trust: Trust) -> bool:
    """Return whether ``trust`` names a path, although the path is under ``ray.rllib``."""
    dotted = path.replace(":", ".") + "."
    return any(
        dotted.startswith(item if item.endswith(".") else item + ".")
        if isinstance(item, str)
        else path_of(item) == path
        for item in trust
    )


def _make_dataclass(plain: Mapping[str, Any], where: str, trust: Trust) -> object:
    """Build a dataclass from its class and fields, as :func:`to_plain` wrote them."""
    cls = _resolve_value(plain[_DATACLASS].value, trust)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise FormatError(f"{where}: {path_of(cls)} is not a dataclass")
    fields = from_plain(plain[_FIELDS], where, trust)
    unknown = sorted(set(fields) - {f.name for f in dataclasses.fields(cls) if f.init})
    if unknown:
        raise MismatchError(
            f"{where}: {path_of(cls)} of the Ray that is installed here has no {unknown}. The "
            "snapshot comes from another version of Ray: use that one, or a newer one."
        )
    return cls(**fields)


def model_config_to_plain(config: object, *, has_catalog: bool, omitted: dict[str, str]) -> Any:
    """Return an RLModule's ``model_config`` as a plain mapping, in full.

    Args:
        config: a dict, a dataclass (such as ``DefaultModelConfig``), or None.
        has_catalog: whether the module has a Catalog, which fills gaps in a dict from the fields
            of ``DefaultModelConfig``; these are then written out.
        omitted: ``config.model_config…`` -> reason, of all that has no plain form; added to.

    Raises:
        InvalidInputError: ``config`` is something else.
    """
    if isinstance(config, Mapping) and has_catalog:
        config = {**dataclasses.asdict(DefaultModelConfig()), **config}
    missing: dict[str, str] = {}
    plain = to_plain(config, "model_config", missing)
    if plain is NOTHING:
        raise InvalidInputError(
            f"model_config: expected a dict or a dataclass, found {path_of(type(config))}"
        )
    omitted |= {f"config.{place}": reason for place, reason in missing.items()}
    return plain


def model_config_from_plain(plain: object, trust: Trust = ()) -> Any:
    """Return what :func:`model_config_to_plain` turned into plain values, of the same kind.

    Args:
        plain: ``spec.config["model_config"]``.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        UntrustedError, MismatchError, FormatError: as :func:`from_plain`.
    """
    return from_plain(plain, "spec.config.model_config", trust)
