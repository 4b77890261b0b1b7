"""The fields of a spec: their defaults, and the checks of their values.

``docs/format.md`` section 4 describes the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.canonical_json import Json, JsonObject
from policystore.format.values import decode_value, encode_value

__all__ = [
    "ARGUMENTS",
    "DEFAULTS",
    "SPACES",
    "STACKS",
    "check_fields",
    "sorted_names",
    "space_field",
]

STACKS = ("none", "torch", "old", "new")
"""Where a policy comes from: ``none``, weights given by hand; ``torch``, a plain ``nn.Module``;
``old`` and ``new``, RLlib's API stacks."""

_WEIGHTS_KINDS = ("full", "inference-only")

# JSON key -> its default. A field with its default is never written. So if a later format adds a
# field, the digests of older policies stay the same.
DEFAULTS: JsonObject = {
    "stack": "none",
    "algorithm": None,
    "class": None,
    "observation_space": None,
    "action_space": None,
    "env_observation_space": None,
    "env_action_space": None,
    "config": {},
    "weights": "full",
    "acting": None,
    "normalize_actions": None,
    "clip_actions": None,
    "connectors": {},
    "modules": None,
    "left_out": {},
}

# JSON key -> the constructor argument, where the two names differ.
ARGUMENTS = {"class": "cls", "left_out": "omitted"}

SPACES = ("observation_space", "action_space", "env_observation_space", "env_action_space")


def space_field(name: str, value: object) -> Any:
    """Return the JSON of a space.

    Args:
        name: one of :data:`SPACES`.
        value: a space of gymnasium or RLlib, its JSON, or None.

    Raises:
        InvalidInputError: another value, or a space that cannot be kept.
    """
    if value is None or isinstance(value, dict):
        return value
    # Compared by the names of modules, because gymnasium is not imported here.
    packages = {base.__module__.partition(".")[0] for base in type(value).__mro__}
    if not packages & {"gymnasium", "gym"}:
        raise InvalidInputError(
            f"spec.{name} is a gymnasium space, its JSON, or None; not {brief(value)}"
        )
    from policystore.spaces import space_to_json  # late: most specs are read, and hold JSON

    return space_to_json(value, label=f"spec.{name}")  # type: ignore[arg-type]


def sorted_names(acting: object) -> list[str]:
    """Return the names of the weights that acting needs, sorted.

    Raises:
        InvalidInputError: not a list of names.
    """
    if isinstance(acting, str) or not isinstance(acting, Iterable):
        raise InvalidInputError(f"spec.acting is a list of parameter names, not {brief(acting)}")
    names = list(acting)
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"spec.acting is a list of parameter names, not {brief(names)}")
    return sorted(names)


def check_fields(full: JsonObject, check_module: Callable[[Json, str], object]) -> None:
    """Check the type of every field. The properties of a Spec rely on these types.

    Args:
        full: all fields by JSON key.
        check_module: checks the JSON of the spec of one module; the text names its place.

    Raises:
        InvalidInputError, FormatError: a field of another type; the message names the field.
    """
    if not isinstance(full["stack"], str) or full["stack"] not in STACKS:
        raise InvalidInputError(f"spec.stack is one of {STACKS}, not {brief(full['stack'])}")
    if not isinstance(full["weights"], str) or full["weights"] not in _WEIGHTS_KINDS:
        raise InvalidInputError(
            f"spec.weights is one of {_WEIGHTS_KINDS}, not {brief(full['weights'])}"
        )
    for key in ("algorithm", "class"):
        _check_type(full, key, str)
    for key in SPACES:
        _check_type(full, key, dict)
    for key in ("normalize_actions", "clip_actions"):
        _check_type(full, key, bool)
    for key in ("config", "connectors", "left_out"):
        if not isinstance(full[key], dict):
            name = ARGUMENTS.get(key, key)
            raise InvalidInputError(f"spec.{name} is a dict, not {type(full[key]).__name__}")
    for key, why in full["left_out"].items():
        if not isinstance(why, str):
            raise InvalidInputError(f"spec.omitted[{brief(key)}] is a string, not {brief(why)}")
    acting = full["acting"]
    if acting is not None and not (
        isinstance(acting, list)
        and all(isinstance(name, str) for name in acting)
        and acting == sorted(set(acting))
    ):
        raise InvalidInputError("spec.acting is a sorted list of parameter names, each once")
    for key in ("config", "connectors"):
        plain = decode_value(full[key], f"spec.{key}")
        if type(plain) is not dict or encode_value(plain, f"spec.{key}") != full[key]:
            raise InvalidInputError(f"spec.{key} is not a dict of plain values in canonical form")
    modules = full["modules"]
    if modules is not None:
        if not isinstance(modules, dict) or not modules:
            raise InvalidInputError("spec.modules maps module ids to specs, at least one")
        for name, module in modules.items():
            if isinstance(module, dict) and "modules" in module:
                raise InvalidInputError(f"spec.modules[{brief(name)}] has modules itself")
            check_module(module, f"spec.modules[{brief(name)}]")


def _check_type(full: JsonObject, key: str, kind: type) -> None:
    if full[key] is not None and type(full[key]) is not kind:
        raise InvalidInputError(
            f"spec.{key} is {kind.__name__} or absent, not {type(full[key]).__name__}"
        )
