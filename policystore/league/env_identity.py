"""Say which environment a match was played in, by an id and a digest of its config.

Two programs that make the same environment get the same identity, in every process and on every
machine. ``docs/tournaments.md`` has the rules for people who compare matches.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from policystore._util.messages import brief
from policystore.digest import digest_of
from policystore.errors import InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json
from policystore.spaces import space_to_json

__all__ = ["EnvIdentity", "identify_env"]

_INT_MAX = 2**63 - 1
_MOST_LEVELS = 48  # of a config; canonical JSON takes 64 levels, and some values take two


@dataclass(frozen=True)
class EnvIdentity:
    """What an environment is called in a league, and a digest that tells its configs apart.

    Attributes:
        id: ``CartPole-v1``, the name under which RLlib's registry has the environment, or the
            import path of a class or function, ``mypkg.envs:Soccer``; empty if there is none.
        digest: ``blake3:…`` of the canonical JSON of the id and the config; empty if ``id`` is.
    """

    id: str
    digest: str


def identify_env(env: object, config: Mapping[str, Any] | None = None) -> EnvIdentity:
    """Return the identity of an environment: of ``config.env`` and ``config.env_config`` in RLlib.

    No address in memory, time or host is a part of an identity. No config and an empty one are the
    same. These rules make one text of each value:

    - A text is a name: the id of gymnasium, or the name that ``ray.tune.register_env`` got. What is
      registered under the name is not looked at.
    - A class or function is its import path. A function that no import path leads to (a lambda, a
      function in a function) is its path, and a digest of its bytecode, defaults and closure: the
      same in every process of one minor version of Python. Global variables that the function reads
      are not a part of it. A class in a function is its path, and a digest of its methods.
    - A ``functools.partial`` has the id of its function; its arguments belong to the digest.
    - A ``gymnasium.envs.registration.EnvSpec`` is its id and kwargs.
    - In a config, numbers, texts, None, lists and dicts are JSON; a tuple is a list, and numbers of
      numpy are numbers. Arrays are dtype, shape and digest of their bytes. Bytes, sets, enums,
      paths, infinite numbers, spaces of gymnasium, dataclasses, classes and functions have forms of
      their own. Any other value is an error.

    Args:
        env: an id, a registered name, a class, a function that makes the environment, a partial of
            one of these, or an EnvSpec; None for no environment.
        config: what the environment is made with.

    Raises:
        InvalidInputError: a value that has no form which is the same in another process; the
            message names the place of the value.
    """
    if env is None:
        return EnvIdentity("", "")
    identity, more = _named(env, "env")
    encoded: JsonObject = {"config": _mapping(config or {}, "config", 0), "id": identity}
    if more:
        encoded["env"] = more
    return EnvIdentity(identity, str(digest_of(canonical_json(encoded))))


def _named(env: object, place: str) -> tuple[str, Json]:
    """Return the id of an environment, and what else belongs to its digest."""
    if isinstance(env, str):
        if not env:
            raise InvalidInputError("env: an empty text names no environment")
        return env, None
    if _is_of("gymnasium.envs.registration", "EnvSpec", env):
        registered: Any = env
        return registered.id, _value(dict(registered.kwargs), f"{place}.kwargs", 0)
    if isinstance(env, functools.partial):
        identity, more = _named(env.func, f"{place}.func")
        return identity, [
            more,
            _items(env.args, f"{place}.args", 0),
            _mapping(env.keywords, f"{place}.keywords", 0),
        ]
    path = _callable_path(env, place, 0)
    if path is None:
        raise InvalidInputError(
            f"{place}: expected the id of an environment, a class, or a function that makes the "
            f"environment; found {brief(env)}. An object is only known in this process: give the "
            "class and its config, or register a function under a name"
        )
    return path, None


def _is_of(module: str, name: str, value: object) -> bool:
    """Return whether a value is of a class of a module; without an import of the module.

    A module that is not loaded has made no value.
    """
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def _callable_path(value: object, place: str, depth: int) -> str | None:
    """Return the import path of a class or function; None for any other value."""
    if isinstance(value, types.MethodType) and isinstance(value.__self__, type):
        owner = _callable_path(value.__self__, place, depth)
        return f"{owner}.{value.__func__.__name__}"
    if isinstance(value, types.BuiltinFunctionType) and not isinstance(
        value.__self__, (type(None), types.ModuleType)
    ):
        return None  # a method of an object, such as [].append
    if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        module = "__main__" if value.__module__ == "__mp_main__" else value.__module__
        path = f"{module}:{value.__qualname__}"
        if "<" not in value.__qualname__:
            return path
        if isinstance(value, types.FunctionType):
            return f"{path}#{_function_digest(value, place, depth)}"
        # A class in a function: its methods are what tells it from the next one of that name.
        methods = {
            name: _function_digest(member, f"{place}.{name}", depth)
            for name, member in vars(value).items()
            if isinstance(member, types.FunctionType)
        }
        return f"{path}#{digest_of(canonical_json(methods)).hex[:16]}"
    return None


def _function_digest(function: types.FunctionType, place: str, depth: int) -> str:
    """Return 16 digits that tell a function from others that have the same path."""
    cells: JsonObject = {}
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=True):
        if name == "__class__":  # what super() reads; the class whose method this is
            continue
        try:
            content = cell.cell_contents
        except ValueError:  # empty until the function around has set the variable
            content = None
        if content is not function:
            cells[name] = _value(content, f"{place}: the variable {name}", depth + 1)
    encoded = {
        "closure": cells,
        "code": _code(function.__code__),
        "defaults": _items(function.__defaults__ or (), f"{place}: the defaults", depth + 1),
        "keywords": _mapping(function.__kwdefaults__ or {}, f"{place}: the defaults", depth + 1),
    }
    return digest_of(canonical_json(encoded)).hex[:16]


def _code(code: types.CodeType) -> Json:
    return [code.co_code.hex(), list(code.co_names), [_constant(each) for each in code.co_consts]]


def _constant(value: object) -> Json:
    """Return the form of a constant in bytecode; its types are a closed list of Python's."""
    if isinstance(value, types.CodeType):
        return _code(value)
    if isinstance(value, (tuple, frozenset)):
        items = [_constant(item) for item in value]
        return (
            [type(value).__name__, sorted(items, key=canonical_json)]
            if isinstance(value, frozenset)
            else [type(value).__name__, items]
        )
    return repr(value)


def _value(value: object, place: str, depth: int) -> Json:
    """Return the canonical form of a value in a config."""
    if depth > _MOST_LEVELS:
        raise InvalidInputError(f"{place}: nested deeper than {_MOST_LEVELS} levels")
    if isinstance(value, np.generic):
        value = value.item()
    if _is_of("gymnasium", "Space", value):
        space: Any = value
        return {"$space": space_to_json(space)}
    for kinds, write in _FORMS:
        if isinstance(value, kinds):
            return write(value, place, depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        path = _callable_path(type(value), place, depth)
        return {"$dataclass": [path, _mapping(fields, place, depth + 1)]}
    path = _callable_path(value, place, depth)
    if path is not None:
        return {"$path": path}
    raise InvalidInputError(
        f"{place}: {brief(value)} has no form that is the same in another process, so the "
        "environment has no digest. Give numbers, texts, lists, dicts, arrays, classes or "
        "functions, or make the object in the environment"
    )


def _integer(value: Any, place: str, depth: int) -> Json:
    if value is True or value is False:
        return value
    number = int(value)
    return number if abs(number) <= _INT_MAX else {"$int": hex(number)}


def _float(value: Any, place: str, depth: int) -> Json:
    number = float(value)
    return number if math.isfinite(number) else {"$float": str(number)}


def _mapping(value: Mapping[Any, Any], place: str, depth: int) -> Json:
    """Return a dict with texts as keys as it is, and any other one as pairs.

    A key that begins with ``$`` makes pairs, too: no config looks like the form of another value.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{place}: expected a dict, found {brief(value)}")
    items = {key: _value(item, f"{place}[{brief(key)}]", depth + 1) for key, item in value.items()}
    if all(type(key) is str and not key.startswith("$") for key in items):
        return items
    pairs = [
        [_value(key, f"{place}: the key {brief(key)}", depth + 1), item]
        for key, item in items.items()
    ]
    return {"$dict": sorted(pairs, key=canonical_json)}


def _items(value: Sequence[Any], place: str, depth: int) -> Json:
    return [_value(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]


def _set(value: Any, place: str, depth: int) -> Json:
    items = [_value(item, f"{place}: an item", depth + 1) for item in value]
    return {"$set": sorted(items, key=canonical_json)}


def _array(value: Any, place: str, depth: int) -> Json:
    if value.dtype.hasobject:
        return {"$objects": _items(value.tolist(), place, depth)}
    # Little-endian and in C order: the same bytes on every machine.
    plain = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C")
    return {"$array": [plain.dtype.str, list(plain.shape), str(digest_of(plain.tobytes()))]}


def _partial(value: functools.partial[Any], place: str, depth: int) -> Json:
    return {
        "$partial": [
            _value(value.func, f"{place}.func", depth + 1),
            _items(value.args, f"{place}.args", depth + 1),
            _mapping(value.keywords, f"{place}.keywords", depth + 1),
        ]
    }


def _enum(value: Any, place: str, depth: int) -> Json:
    return {"$enum": [_callable_path(type(value), place, depth), value.name]}


_Form = Callable[[Any, str, int], Json]
# What writes a value, by its type; the first that fits. An enum may be a number or a text, too.
_FORMS: tuple[tuple[type | tuple[type, ...], _Form], ...] = (
    (Enum, _enum),
    (type(None), lambda value, place, depth: None),
    (int, _integer),
    (float, _float),
    (str, lambda value, place, depth: str(value)),
    (Mapping, _mapping),
    ((list, tuple), _items),
    ((set, frozenset), _set),
    ((bytes, bytearray), lambda value, place, depth: {"$bytes": value.hex()}),
    (complex, lambda value, place, depth: {"$complex": repr(value)}),
    (PurePath, lambda value, place, depth: {"$path_text": value.as_posix()}),
    (np.ndarray, _array),
    (functools.partial, _partial),
)
