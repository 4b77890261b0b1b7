"""Find the environment that a match names, without importing what only a store names."""

from __future__ import annotations

import functools
import importlib
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.records.matches import Match
from policystore.league.env_config import missing_values, read_config
from policystore.league.tournament.playing.env_source import (
    ARGUMENTS,
    EnvSource,
    env_source,
    registered_name,
)
from policystore.rllib_schema.trusted import covers

__all__ = ["recorded_env"]

_PATH = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_][\w.]*\Z")
_CLASSES = (
    ("gymnasium", "Env"),
    ("ray.rllib.env.multi_agent_env", "MultiAgentEnv"),
    ("pettingzoo.utils.env", "AECEnv"),
    ("pettingzoo.utils.env", "ParallelEnv"),
)
# An environment of this package makes another one: of any module that the config names.
_MAKERS = ("shimmy",)


def recorded_env(match: Match, env: object, trust: Sequence[Any]) -> EnvSource:
    """Return the environment of a match, with the config that the match holds.

    Args:
        match: the match.
        env: what the caller gave; None for the environment that the match names. This is an id of
            gymnasium or a name of RLlib's registry in this process, a class of an environment whose
            module this process has imported, or a class of an environment or a function that
            ``trust`` covers. It gets the config that the match holds.
        trust: prefixes of import paths, and classes and functions.

    Raises:
        InvalidInputError: the environment is not known here, or it is another one, or the match
            does not hold its whole config. The message says what to pass.
        NotFoundError: a module that ``trust`` covers cannot be imported.
        FormatError: the match has a config that policystore does not write.
    """
    if env is None:
        target = _named(match, trust)
        config = _config_of(match)
    else:
        given = env_source(env)
        if _fits(given, match) or isinstance(env, tuple) or not match.env_config:
            return _checked(given, match)
        target, config = env, _config_of(match)
    return _checked(env_source((target, config)), match)


def _fits(source: EnvSource, match: Match) -> bool:
    return not match.env_digest or source.identity.digest == match.env_digest


def _checked(source: EnvSource, match: Match) -> EnvSource:
    if not _fits(source, match):
        raise InvalidInputError(
            f"the match was played in {match.env!r} with the digest {match.env_digest}, and this "
            f"is {source.identity.id!r} with {source.identity.digest}: pass env=(env, config) with "
            "the config of the match"
        )
    return source


def _config_of(match: Match) -> dict[Any, Any]:
    missing = missing_values(match.env_config) if match.env_config else []
    if missing:
        more = f"; and {len(missing) - 4} more" if len(missing) > 4 else ""
        given = any(each.startswith(ARGUMENTS) for each in missing)
        advice = "give env= as it was for play" if given else "pass env=(env, config)"
        raise InvalidInputError(f"{advice}: the match does not hold {'; '.join(missing[:4])}{more}")
    return read_config(match.env_config) if match.env_config else {}


def _named(match: Match, trust: Sequence[Any]) -> Any:
    """Return the environment that a match names.

    Raises:
        InvalidInputError: it is not known in this process.
    """
    path = _PATH.match(match.env)
    found: Any = _registered_here(match)
    if found is None and path is not None:
        found = _of_path(match.env, trust)
    if found is not None:
        return found
    if path is not None and _is_covered(match.env, trust):
        advice = "which is neither a class of an environment nor a function of this package"
    elif path is not None:
        advice = (
            f"which is not imported in this process, or is no class of an environment. A replay "
            f"imports nothing and calls nothing that only a store names: pass env=, or trust="
            f"[{path[1] + '.'!r}] if you trust this code"
        )
    elif "<" in match.env:
        advice = "which only the program that played the match has"
    else:
        advice = (
            "which is neither an id of gymnasium nor a name of RLlib's registry in this process"
        )
    raise InvalidInputError(
        f"pass env=: the match was played in {match.env or 'an unknown environment'!r}, {advice}"
    )


def _registered_here(match: Match) -> str | None:
    """Return the name of the environment of a match, if a registry of this process has it."""
    entry = registered_name(match.env)
    if entry is None or (match.env_config and _is_maker(entry)):
        return None
    return match.env


def _of_path(path: str, trust: Sequence[Any]) -> Any:
    """Return what an import path names, if it is trusted, or a class that is imported already.

    Prefixes cover classes of environments, and functions: a match may name either. They cover no
    other class and no other object that can be called.
    """
    for item in trust:
        if not isinstance(item, str) and _own_path(item) == path:
            return item
    if not _is_covered(path, trust):
        target = _loaded(path)
        return target if _is_environment(target) and not _is_maker(target) else None
    try:
        importlib.import_module(path.partition(":")[0])
    except Exception as error:  # a module's own code may raise anything
        raise NotFoundError(
            f"the match was played in {path}, which cannot be imported here: {error!r}. Install "
            "the package, or pass env="
        ) from error
    target = _loaded(path)
    if type(target) not in (types.FunctionType, types.MethodType) and not _is_environment(target):
        return None
    # A trusted module may have imported anything.
    return target if _is_covered(_own_path(target) or "", trust) else None


def _is_covered(path: str, trust: Sequence[Any]) -> bool:
    dotted = path.replace(":", ".")
    return any(covers(item, dotted) for item in trust if isinstance(item, str))


def _loaded(path: str) -> Any:
    """Return what an import path names in the modules that are loaded; None for nothing.

    A name of an instance's attribute or method is nothing, too.
    """
    module, _, name = path.partition(":")
    owner: Any = None
    target: Any = sys.modules.get(module)
    for part in name.split("."):
        owner, target = target, _entry(target, part)
    if not _is_class(owner):
        return target
    if type(target) is classmethod:
        function = target.__func__
        return types.MethodType(function, owner) if type(function) is types.FunctionType else None
    if type(target) is staticmethod:
        return target.__func__
    return target if _is_class(target) else None


def _entry(owner: Any, name: str) -> Any:
    """Return what the dict of a module or class has under a name.

    getattr would run code: the ``__getattr__`` of a module, which may import others, a property, or
    the loading of a lazy module. isinstance may run code as well: a proxy's ``__class__``.
    """
    if issubclass(type(owner), types.ModuleType):
        return types.ModuleType.__getattribute__(owner, "__dict__").get(name)
    return vars(owner).get(name) if _is_class(owner) else None


def _is_class(target: Any) -> bool:
    return issubclass(type(target), type)


def _is_environment(target: Any) -> bool:
    """Return whether something is a class of environments."""
    if not _is_class(target):
        return False
    bases = (_loaded(f"{module}:{name}") for module, name in _CLASSES)
    return any(_is_class(base) and issubclass(target, base) for base in bases)


def _is_maker(target: Any) -> bool:
    """Return whether a class, a function or its import path belongs to a package in _MAKERS."""
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, str):
        modules = [target]
    else:
        owners = target.__mro__ if _is_class(target) else (target,)
        modules = [str(getattr(owner, "__module__", "")) for owner in owners]
    return any(re.split("[.:]", module)[0] in _MAKERS for module in modules)


def _own_path(target: Any) -> str | None:
    """Return the import path of a class or function; None for what has none."""
    module = getattr(target, "__module__", None)
    name = getattr(target, "__qualname__", None)
    return f"{module}:{name}" if isinstance(module, str) and isinstance(name, str) else None
