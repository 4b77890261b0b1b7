"""What a new-stack player and its environment must agree on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

__all__ = [
    "action_handling",
    "check_actions",
    "check_connectors",
    "check_observations",
    "check_size",
    "env_spaces_of",
]

# An observation that flattens to more numbers than this is a mistake, or an attack.
_MOST = 1 << 24


def env_spaces_of(snap: Snapshot, given: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
    """The environment's spaces: as given, or as recorded; InvalidInputError where neither is."""
    if given is not None:
        if not (
            isinstance(given, (tuple, list))
            and len(given) == 2
            and all(isinstance(space, gym.Space) for space in given)
        ):
            raise InvalidInputError(
                f"env_spaces is a pair of gymnasium spaces (observation, action), not {given!r}"
            )
        return given[0], given[1]
    spec = snap.spec
    if spec.env_observation_space is None or spec.env_action_space is None:
        why = spec.omitted.get("env_spaces", "it was made of a module, not of an Algorithm")
        raise InvalidInputError(
            f"{snap!r} does not know the environment's spaces ({why}): pass "
            "env_spaces=(env.observation_space, env.action_space), and connectors=[…] if it was "
            "trained behind any"
        )
    return space_from_json(spec.env_observation_space), space_from_json(spec.env_action_space)


def action_handling(
    snap: Snapshot, space: gym.Space[Any], normalize: bool | None, clip: bool | None
) -> tuple[bool, bool]:
    """Whether actions are normalised and clipped, by the snapshot or by the caller's word."""
    if snap.spec.normalize_actions is not None:
        if normalize is not None or clip is not None:
            raise InvalidInputError(
                f"{snap!r} knows how its actions are handled; leave normalize_actions and "
                "clip_actions out"
            )
        return snap.spec.normalize_actions, bool(snap.spec.clip_actions)
    if normalize is None and _has_box(space):
        raise InvalidInputError(
            f"{snap!r} was made of a module and does not know whether its actions are in the "
            "environment's own range: pass normalize_actions=True if it puts out [-1, 1] for "
            "the bounds of the action space (RLlib's default), else False"
        )
    return bool(normalize), bool(clip)


def _has_box(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Dict):
        return any(_has_box(inner) for inner in space.spaces.values())
    if isinstance(space, gym.spaces.Tuple):
        return any(_has_box(inner) for inner in space.spaces)
    return isinstance(space, gym.spaces.Box)


def check_observations(snap: Snapshot, space: Any, module: RLModule) -> None:
    """What comes out of the pipeline must be what the module was built for."""
    needed = module.observation_space
    if isinstance(module, MultiRLModule) or not isinstance(needed, gym.spaces.Box):
        return
    if isinstance(space, gym.spaces.Dict) and len(space.spaces) == 1 and snap.spec.connectors:
        space = next(iter(space.spaces.values()))
    if isinstance(space, gym.spaces.Box) and space.shape == needed.shape:
        return
    raise InvalidInputError(
        f"{snap!r} needs observations of {needed}, but its pipeline puts out {space}: pass "
        "connectors=[…] with what it was trained behind, or the right env_spaces="
    )


def check_connectors(recorded: dict[str, Any]) -> None:
    """Refuse connectors that are not as snapshots of the new stack write them.

    Raises:
        FormatError: names what is not.
    """
    kinds: dict[str, tuple[type, ...]] = {
        "env_to_module": (list,),
        "module_to_env": (list,),
        "defaults": (dict,),
        "multi_agent": (bool,),
        "agents": (list, type(None)),
        "lookback": (int,),
    }
    for key, value in recorded.items():
        if type(value) not in kinds.get(key, ()):
            raise FormatError(f"spec.connectors: snapshots do not hold {key!r}: {brief(value)}")
    defaults = recorded.get("defaults", {})
    if recorded and not (
        defaults.keys() == {"env_to_module", "module_to_env"}
        and all(type(value) is bool for value in defaults.values())
    ):
        raise FormatError(f"spec.connectors: malformed defaults: {brief(defaults)}")


def check_size(space: gym.Space[Any]) -> None:
    """Refuse an observation space that connectors would need gigabytes to flatten.

    Raises:
        InvalidInputError: it has more than 2**24 numbers.
    """
    if space.is_np_flattenable and gym.spaces.utils.flatdim(space) > _MOST:
        raise InvalidInputError(f"observations of {gym.spaces.utils.flatdim(space)} numbers")


def check_actions(env: gym.Space[Any], module: RLModule, what: str) -> None:
    """What the module decides must be an action of the environment, bounds of boxes aside.

    Raises:
        InvalidInputError: it is not.
    """
    needed = module.action_space
    if isinstance(module, MultiRLModule) or needed is None or _alike(env, needed):
        return
    raise InvalidInputError(
        f"{what} decides on actions of {needed}, and the environment takes {env}: the policy is "
        "not for this environment"
    )


def _alike(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    if isinstance(one, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        return one.shape == other.shape
    if isinstance(one, gym.spaces.Dict) and isinstance(other, gym.spaces.Dict):
        return one.spaces.keys() == other.spaces.keys() and all(
            _alike(one[key], other[key]) for key in one.spaces
        )
    if isinstance(one, gym.spaces.Tuple) and isinstance(other, gym.spaces.Tuple):
        return len(one) == len(other) and all(
            _alike(*pair) for pair in zip(one.spaces, other.spaces, strict=True)
        )
    return one == other
