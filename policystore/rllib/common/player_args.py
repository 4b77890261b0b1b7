"""Check the arguments that players of both API stacks are made with.

The players of both API stacks take the same arguments. The same mistake gives the same error on
both stacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import gymnasium as gym
import numpy as np
from ray.rllib.utils.typing import AgentID

from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.ids import pick_id
from policystore.rllib.common.trust import Trust, listed
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

__all__ = [
    "EnvSpaces",
    "NanHandling",
    "PlayerArguments",
    "check_actions",
    "check_stack",
    "connector_lists",
    "observation_mismatch",
    "player_arguments",
    "refuse_omitted_connectors",
    "spaces_mismatch",
]

EnvSpaces: TypeAlias = tuple[gym.Space[Any], gym.Space[Any]]
"""Observation and action space of an environment; a list of the two is taken as well."""

NanHandling: TypeAlias = Literal["error", "allow"]
"""What a player does with observations that have NaN."""

_PLAYERS = {"old": "PolicyPlayer", "new": "ModulePlayer"}
# An observation that flattens to more numbers than this is a mistake, or an attack.
_MAX_OBSERVATION_SIZE = 1 << 24


@dataclass(frozen=True)
class PlayerArguments:
    """Checked arguments of a player.

    Attributes:
        observation_space, action_space: the environment's (one agent's).
        digest: the digest of the snapshot.
        algorithm: RLlib's name of the algorithm; None if the snapshot does not tell.
        trust: prefixes and classes that the caller trusts.
        module_id: the module to act through; None where the snapshot holds a single one.
        agent: the agent to act as, as the caller gave it.
        per_agent: whether agents have ids: in a snapshot of a multi-agent Algorithm or of several
            modules.
        normalize_actions, clip_actions: whether actions are unsquashed, and whether they are
            clipped, before the environment gets them.
        allow_nan: whether observations may have NaN.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    digest: Digest
    algorithm: str | None
    trust: tuple[Any, ...]
    module_id: str | None
    agent: AgentID | None
    per_agent: bool
    normalize_actions: bool
    clip_actions: bool
    allow_nan: bool


def check_stack(snap: object, stack: str) -> None:
    """Check that a value is a snapshot of the given API stack.

    Args:
        snap: what the caller wants to play.
        stack: ``"old"`` or ``"new"``.

    Raises:
        InvalidInputError: no snapshot, or one of another stack.
    """
    check_snapshot(snap)
    own_stack = snap.spec.stack if isinstance(snap, Snapshot) else None
    if own_stack != stack:
        raise InvalidInputError(
            f"{snap!r} is of stack {own_stack!r}, and {_PLAYERS[stack]} plays stack {stack!r}: "
            "rebuild_player(snap) makes the right player for either stack"
        )


def player_arguments(
    snap: Snapshot,
    *,
    trust: Trust,
    env_spaces: EnvSpaces | None,
    agent: AgentID | None,
    module_id: str | None,
    normalize_actions: bool | None,
    clip_actions: bool | None,
    nan: NanHandling,
) -> PlayerArguments:
    """Check a player's arguments, and complete them with what the snapshot records.

    Raises:
        InvalidInputError: a malformed argument; one that is missing and not recorded; or one that
            the snapshot has no use for.
        NotFoundError: a module that the snapshot does not hold.
    """
    trusted = listed(trust)
    if nan not in ("error", "allow"):
        raise InvalidInputError(f"nan is 'error' or 'allow', not {nan!r}")
    observation_space, action_space = _env_spaces(snap, env_spaces)
    _check_size(observation_space)
    normalize, clip = _action_handling(snap, action_space, normalize_actions, clip_actions)
    modules = snap.spec.modules
    if modules is not None:
        module_id = pick_id(modules, module_id, f"{snap!r}", argument="module_id=")
    elif module_id is not None:
        raise InvalidInputError(
            f"module_id={module_id!r}: {snap!r} holds a single policy; leave module_id out"
        )
    per_agent = bool(snap.spec.connectors.get("multi_agent")) or modules is not None
    if agent is not None and not per_agent:
        raise InvalidInputError(
            f"agent={agent!r}: {snap!r} does not tell agents apart; leave agent out"
        )
    return PlayerArguments(
        observation_space=observation_space,
        action_space=action_space,
        digest=snap.digest,
        algorithm=snap.spec.algorithm,
        trust=trusted,
        module_id=module_id,
        agent=agent,
        per_agent=per_agent,
        normalize_actions=normalize,
        clip_actions=clip,
        allow_nan=nan == "allow",
    )


def _env_spaces(snap: Snapshot, given: EnvSpaces | None) -> EnvSpaces:
    """Return the environment's spaces: the given ones, else the recorded ones."""
    if given is not None:
        if not (
            isinstance(given, (tuple, list))
            and len(given) == 2
            and all(isinstance(space, gym.Space) for space in given)
        ):
            raise InvalidInputError(
                "env_spaces is a pair of gymnasium spaces, (env.observation_space, "
                f"env.action_space), not {given!r}"
            )
        return given[0], given[1]
    spec = snap.spec
    if spec.env_observation_space is None or spec.env_action_space is None:
        reason = spec.omitted.get(
            "env_spaces", "it was made of a policy or module alone, not of an Algorithm"
        )
        raise InvalidInputError(
            f"{snap!r} does not know the environment's spaces ({reason}): pass "
            "env_spaces=(env.observation_space, env.action_space), and connectors= if the policy "
            "was trained behind other connectors than RLlib's default ones"
        )
    return space_from_json(spec.env_observation_space), space_from_json(spec.env_action_space)


def _check_size(space: gym.Space[Any]) -> None:
    """Refuse an observation space that would take gigabytes to flatten."""
    if space.is_np_flattenable and gym.spaces.utils.flatdim(space) > _MAX_OBSERVATION_SIZE:
        raise InvalidInputError(
            f"an observation has {gym.spaces.utils.flatdim(space):,} numbers when flattened; "
            f"players take up to {_MAX_OBSERVATION_SIZE:,}"
        )


def _action_handling(
    snap: Snapshot, space: gym.Space[Any], normalize: bool | None, clip: bool | None
) -> tuple[bool, bool]:
    """Return whether actions are normalized and clipped, as recorded or as the caller says."""
    for name, value in (("normalize_actions", normalize), ("clip_actions", clip)):
        if value is not None and not isinstance(value, (bool, np.bool_)):
            raise InvalidInputError(f"{name} is True, False or None, not {value!r}")
    if snap.spec.normalize_actions is not None:
        if normalize is not None or clip is not None:
            raise InvalidInputError(
                f"{snap!r} records how actions go back to the environment; leave "
                "normalize_actions and clip_actions out"
            )
        return snap.spec.normalize_actions, bool(snap.spec.clip_actions)
    if normalize is None and _has_box(space):
        raise InvalidInputError(
            f"{snap!r} does not say whether the policy's actions are in the environment's own "
            "range: pass normalize_actions=True if the policy puts out [-1, 1] for the bounds of "
            "the action space (RLlib's default), else normalize_actions=False"
        )
    return bool(normalize), bool(clip)


def _has_box(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Dict):
        return any(_has_box(inner) for inner in space.spaces.values())
    if isinstance(space, gym.spaces.Tuple):
        return any(_has_box(inner) for inner in space.spaces)
    return isinstance(space, gym.spaces.Box)


def connector_lists(
    given: object, pipelines: Sequence[str], description: str
) -> dict[str, list[Any]]:
    """Return the caller's connectors as a list for each pipeline.

    Args:
        given: a mapping of pipeline names to iterables of connectors, with any of the pipelines.
        pipelines: the names of the stack's pipelines.
        description: the form that is expected, as messages tell it.

    Raises:
        InvalidInputError: another form, or an unknown pipeline.
    """
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"connectors: expected {description}, found {given!r}")
    unknown = [name for name in given if name not in pipelines]
    if unknown:
        raise InvalidInputError(f"connectors: expected {description}, found the keys {unknown!r}")
    for name, connectors in given.items():
        if isinstance(connectors, (str, bytes, Mapping)) or not isinstance(connectors, Iterable):
            raise InvalidInputError(
                f"connectors: expected {description}, found {connectors!r} for {name!r}"
            )
    return {name: list(connectors) for name, connectors in given.items()}


def refuse_omitted_connectors(snap: Snapshot, example: str) -> None:
    """Refuse to play a snapshot without some of the connectors that the policy was trained with.

    Args:
        snap: a snapshot that is to be played with its recorded connectors.
        example: the argument to pass instead, as the message shows it.

    Raises:
        InvalidInputError: connectors were omitted when the snapshot was made.
    """
    lacking = sorted(key for key in snap.spec.omitted if key.startswith("connectors."))
    if lacking:
        raise InvalidInputError(
            f"{snap!r} was made without {lacking}, so it cannot be played as it was trained: pass "
            f"{example} with the connectors to use instead"
        )


def check_actions(snap: Snapshot, env_space: gym.Space[Any], policy_space: gym.Space[Any]) -> None:
    """Check that the actions of a policy are actions of the environment.

    Bounds and float widths of Boxes may differ: connectors unsquash and clip actions.

    Raises:
        InvalidInputError: the policy is not for this environment.
    """
    if not _same_actions(env_space, policy_space):
        raise InvalidInputError(
            f"{snap!r} decides on actions in {policy_space}, and the environment takes actions in "
            f"{env_space}: the policy is not for this environment"
        )


def _same_actions(one: gym.Space[Any], other: gym.Space[Any]) -> bool:
    if isinstance(one, gym.spaces.Box) and isinstance(other, gym.spaces.Box):
        kinds = (np.dtype(one.dtype).kind, np.dtype(other.dtype).kind)
        return one.shape == other.shape and (kinds[0] == "f") == (kinds[1] == "f")
    if isinstance(one, gym.spaces.Dict) and isinstance(other, gym.spaces.Dict):
        return one.spaces.keys() == other.spaces.keys() and all(
            _same_actions(one[key], other[key]) for key in one.spaces
        )
    if isinstance(one, gym.spaces.Tuple) and isinstance(other, gym.spaces.Tuple):
        return len(one) == len(other) and all(
            _same_actions(*pair) for pair in zip(one.spaces, other.spaces, strict=True)
        )
    return one == other


def observation_mismatch(
    snap: Snapshot, env_space: gym.Space[Any], made: object, needed: gym.Space[Any]
) -> InvalidInputError:
    """Return the error for observations that the policy was not built for.

    Args:
        snap: the snapshot that is to be played.
        env_space: the environment's observation space.
        made: the space that preprocessing and connectors turn ``env_space`` into.
        needed: the policy's own observation space.
    """
    return InvalidInputError(
        f"{snap!r} takes observations in {needed}, but the environment's {env_space} is turned "
        f"into {made}: either the policy is not for this environment, or connectors are missing. "
        "Pass rebuild_player the right env_spaces=, or connectors= with what the policy was "
        "trained behind"
    )


class _Spaces(Protocol):
    """What has the spaces of an environment."""

    @property
    def observation_space(self) -> gym.Space[Any]: ...

    @property
    def action_space(self) -> gym.Space[Any]: ...


def spaces_mismatch(present: _Spaces, new: _Spaces) -> str:
    """Return why clients of one player cannot go on with another one; "" if they can.

    Bounds of Boxes in observations may differ: no player looks at these bounds.
    """
    if _unbounded(present.observation_space) != _unbounded(new.observation_space):
        return (
            f"observations were in {present.observation_space}, and the new policy takes "
            f"observations in {new.observation_space}"
        )
    if present.action_space != new.action_space:
        return (
            f"actions were in {present.action_space}, and the new policy decides on actions in "
            f"{new.action_space}"
        )
    return ""


def _unbounded(space: gym.Space[Any]) -> object:
    """Return what decides whether an observation has the form of a space, to be compared."""
    if isinstance(space, gym.spaces.Dict):
        return {key: _unbounded(inner) for key, inner in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return [_unbounded(inner) for inner in space.spaces]
    if isinstance(space, gym.spaces.Box):
        return "Box", space.shape, str(space.dtype)
    return space
