"""Find the environment that a match names, without importing what only a store names."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from typing import Any

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.records.matches import Match
from policystore.league.env_config import missing_values, read_config
from policystore.league.tournament.playing.env_source import EnvSource, env_source, registered_name

__all__ = ["recorded_env"]

_PATH = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)\Z")
_CLASSES = (
    ("gymnasium", "Env"),
    ("ray.rllib.env.multi_agent_env", "MultiAgentEnv"),
    ("pettingzoo.utils.env", "AECEnv"),
    ("pettingzoo.utils.env", "ParallelEnv"),
)
# An environment of this package makes another one: of any module that the config names.
_MAKERS = ("shimmy",)


def recorded_env(match: Match, env: object, trust: Any) -> EnvSource:
    """Return the environment of a match, with the config that the match holds.

    Args:
        match: the match.
        env: what the caller gave; None for the environment that the match names. This is an id of
            gymnasium or a name of RLlib's registry in this process, a class of an environment whose
            module this process has imported, or anything that ``trust`` covers.
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
        raise InvalidInputError(
            f"pass env=(env, config): the match does not hold {'; '.join(missing[:4])}{more}"
        )
    return read_config(match.env_config) if match.env_config else {}


def _named(match: Match, trust: Any) -> Any:
    """Return the environment that a match names.

    Raises:
        InvalidInputError: it is not known in this process.
    """
    path = _PATH.match(match.env)
    found: Any = _registered_here(match)
    if found is None and path is not None:
        found = _of_path(path[1], path[2], trust)
    if found is not None:
        return found
    if path is not None:
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
    if entry is None or (match.env_config and str(entry).partition(".")[0] in _MAKERS):
        return None
    return match.env


def _of_path(module: str, name: str, trust: Any) -> Any:
    """Return what an import path names, if it is trusted, or a class that is imported already."""
    if isinstance(trust, (str, type)) or not isinstance(trust, Iterable):
        raise InvalidInputError(
            f"trust is a list of prefixes and classes, not one of them: trust=[{brief(trust)}]"
        )
    items = list(trust)
    for item in items:
        if not isinstance(item, str) and _own_path(item) == f"{module}:{name}":
            return item
    prefixes = [item for item in items if isinstance(item, str)]
    dotted = f"{module}.{name}"
    if any(_covers(prefix, dotted) for prefix in prefixes):
        try:
            importlib.import_module(module)
        except Exception as error:  # a module's own code may raise anything
            raise NotFoundError(
                f"the match was played in {module}:{name}, which cannot be imported here: "
                f"{error!r}. Install the package, or pass env="
            ) from error
        target = _loaded(module, name)
        # A trusted module may have imported anything, such as os.
        own = (_own_path(target) or "").replace(":", ".")
        return target if any(_covers(prefix, own) for prefix in prefixes) else None
    target = _loaded(module, name)
    return target if _is_environment(target) else None


def _loaded(module: str, name: str) -> Any:
    target: Any = sys.modules.get(module)
    for part in name.split("."):
        target = getattr(target, part, None)
    return target


def _is_environment(target: Any) -> bool:
    if not isinstance(target, type) or target.__module__.partition(".")[0] in _MAKERS:
        return False
    bases = (getattr(sys.modules.get(module), name, None) for module, name in _CLASSES)
    return any(isinstance(base, type) and issubclass(target, base) for base in bases)


def _own_path(target: Any) -> str | None:
    name = getattr(target, "__qualname__", None)
    return f"{target.__module__}:{name}" if isinstance(name, str) else None


def _covers(prefix: str, dotted: str) -> bool:
    """Return whether a prefix covers a path: ``mypkg`` covers ``mypkg.x`` but not ``mypkg2.x``."""
    return dotted == prefix or dotted.startswith(prefix if prefix.endswith(".") else prefix + ".")
