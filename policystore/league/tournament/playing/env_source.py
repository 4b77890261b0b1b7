"""What a caller gives as an environment: how it is made, in this process or another one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, MissingPackageError, NotFoundError
from policystore.league.env_config import without_config, write_config
from policystore.league.env_identity import EnvIdentity, identify_env
from policystore.league.tournament.playing.environments import GameEnv, adapt_env

__all__ = ["ARGUMENTS", "EnvSource", "env_source", "registered_name"]

ARGUMENTS = "the arguments of the "
"""The start of the words that a match has in place of the arguments of a partial."""


@dataclass(frozen=True)
class EnvSource:
    """An environment that can be made any number of times, in any process.

    Attributes:
        make: an id of gymnasium, a class, or a function that returns an environment.
        config: what the environment is made with.
        identity: its id and digest.
        written: the config as the text that matches hold, see ``write_config``.
        render_mode: what ``render_mode`` the environments are made with; None for the default.
    """

    make: Any
    config: Mapping[str, Any]
    identity: EnvIdentity
    written: str = ""
    render_mode: str | None = None

    def rendering(self, render_mode: str) -> EnvSource:
        """Return the same environment, made with a render mode."""
        return replace(self, render_mode=render_mode)

    def open(self) -> GameEnv:
        """Make an environment.

        Raises:
            InvalidInputError: what was made is no environment.
            NotFoundError: gymnasium does not know the id.
        """
        more = {} if self.render_mode is None else {"render_mode": self.render_mode}
        if not callable(self.make):  # an id of gymnasium, or an EnvSpec
            gym = _gymnasium()
            try:
                return adapt_env(gym.make(self.make, **{**self.config, **more}))
            except gym.error.UnregisteredEnv as error:
                raise NotFoundError(
                    f"no environment {brief(self.make)}: neither gymnasium nor RLlib's registry in "
                    f"this process has this name ({error}). Import the module that registers it, "
                    "or give the class or a function"
                ) from None
        parameters = _parameters(self.make)
        if not _takes_config(parameters):  # such as PettingZoo's functions
            return adapt_env(self.make(**{**self.config, **more}))
        if "render_mode" in parameters:
            return adapt_env(self.make(_context(dict(self.config)), **more))
        return adapt_env(self.make(_context({**self.config, **more})))


def env_source(env: object) -> EnvSource:
    """Read what a caller gave as ``env=``.

    Args:
        env: an id of gymnasium; a name that ``ray.tune.register_env`` got; a class; a function that
            makes an environment; or ``(env, config)``. Classes and functions are called as RLlib
            calls them, with the config as the only argument; those without positional arguments get
            the entries of the config as keywords.

    Raises:
        InvalidInputError: ``env`` is none of these, or its config has no identity in other
            processes.
    """
    config: Mapping[str, Any] = {}
    if isinstance(env, tuple):
        if len(env) != 2 or not isinstance(env[1], Mapping):
            raise InvalidInputError(
                "env: a pair is (env, config), such as ('CartPole-v1', {'sutton_barto_reward': "
                f"True}}); found {brief(env)}"
            )
        env, config = env
    if env is None:
        raise InvalidInputError("env: expected an environment, found None")
    if not isinstance(env, type) and (hasattr(env, "possible_agents") or hasattr(env, "step")):
        raise InvalidInputError(
            f"env: {brief(env)} is an environment that was made already. A tournament makes "
            "several, in several processes: give the class, or a function that makes it"
        )
    identity = identify_env(env, config)
    make = _registered(env) if isinstance(env, str) else env
    return EnvSource(make, dict(config), identity, _written(env, config))


def _written(env: object, config: Mapping[str, Any]) -> str:
    if isinstance(env, (str, type)) or hasattr(env, "__qualname__"):
        return write_config(config)
    # A functools.partial or an EnvSpec: the id of a match does not say which arguments it holds.
    return without_config(f"{ARGUMENTS}{type(env).__qualname__} that was given as env=")


def registered_name(name: str) -> object:
    """Return what gymnasium or RLlib has registered under a name, in this process; None if nothing.

    Nothing but gymnasium itself is imported.
    """
    creator = _creator(name)
    if creator is not None or ":" in name:
        return creator
    spec = _gymnasium().registry.get(name)
    return None if spec is None else spec.entry_point or name


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError:
        raise MissingPackageError.of(
            "an environment with an id of gymnasium", "gymnasium", extra="rllib"
        ) from None
    return gymnasium


def _registered(name: str) -> Any:
    """Return the function that RLlib's registry has under a name; the name if there is none.

    Other processes do not have this process' registry, so they get the function itself.
    """
    return _creator(name) or name


def _creator(name: str) -> Any:
    if "ray.tune.registry" not in sys.modules:
        return None
    from ray.tune.registry import ENV_CREATOR, _global_registry  # as RLlib's own modules do

    try:
        is_known = _global_registry.contains(ENV_CREATOR, name)
    except UnicodeEncodeError:
        return None  # a connected Ray writes names in ASCII, and so has no such name
    return _global_registry.get(ENV_CREATOR, name) if is_known else None


def _parameters(make: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function; none if Python does not know them."""
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}


def _takes_config(parameters: Mapping[str, inspect.Parameter]) -> bool:
    positional = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    named = [name for name, each in parameters.items() if each.kind in positional]
    # gymnasium's own classes and PettingZoo's functions have the render mode there.
    return bool(named) and named[0] != "render_mode"


class _Context(dict[str, Any]):
    """A config with the attributes of RLlib's ``EnvContext``, for processes without RLlib."""

    worker_index = 0
    vector_index = 0
    num_workers = 0
    remote = False
    recreated_worker = False


def _context(config: dict[str, Any]) -> Any:
    module = sys.modules.get("ray.rllib.env.env_context")
    return _Context(config) if module is None else module.EnvContext(config, 0)
