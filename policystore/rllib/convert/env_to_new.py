"""Turn the connectors of an old-stack policy into the env interface of a new-stack module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.utils.typing import AgentID

from policystore.errors import InvalidInputError
from policystore.format.canonical_json import JsonObject
from policystore.rllib.convert.kinds import no_counterpart
from policystore.rllib.convert.old_config import OldConfig
from policystore.rllib.convert.spaces import check_observations
from policystore.rllib.new_stack.cast import CastObservations
from policystore.rllib.new_stack.connectors import piece_to_plain
from policystore.rllib.old_stack.observations import has_preprocessor
from policystore.rllib_schema.env_interface import PIPELINES, EnvInterface
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json, space_to_json

__all__ = ["env_interface_of_policy", "listed_agents"]

_PREPROCESSOR = "ObsPreprocessorConnector"
_FILTERS = (
    "MeanStdObservationFilterAgentConnector",
    "ConcurrentMeanStdObservationFilterAgentConnector",
)
# What these do is done by RLlib's default connectors, or recorded in fields of the spec.
_BY_DEFAULT = (
    "StateBufferConnector",
    "ViewRequirementAgentConnector",
    "EnvSamplingAgentConnector",
    "ConvertToNumpyConnector",
    "NormalizeActionsConnector",
    "ClipActionsConnector",
    "ImmutableActionsConnector",
)
_CLIP_REWARDS = "ClipRewardAgentConnector"


def listed_agents(agent_ids: Iterable[AgentID] | None) -> list[AgentID] | None:
    """Return ``agent_ids`` as a list.

    Raises:
        InvalidInputError: not a list of ids, or an empty one.
    """
    if agent_ids is None:
        return None
    if isinstance(agent_ids, (str, bytes)) or not isinstance(agent_ids, Iterable):
        raise InvalidInputError(f"agent_ids is a list of agent ids: agent_ids=[{agent_ids!r}]")
    agents = list(dict.fromkeys(agent_ids))
    if not agents:
        raise InvalidInputError(
            "agent_ids is empty: list at least one agent, or leave agent_ids out"
        )
    return agents


def env_interface_of_policy(
    snap: Snapshot,
    config: OldConfig,
    omit: frozenset[str],
    agents: list[AgentID] | None,
) -> tuple[EnvInterface, gym.Space[Any]]:
    """Return the env interface of the converted module, and the space of its observations.

    Args:
        snap: an old-stack policy.
        config: its config.
        omit: names of connectors that the caller gives up.
        agents: the agents that get the policy's filter statistics; None for a single-agent
            Algorithm.

    Raises:
        InvalidInputError: a connector or space without a counterpart.
    """
    spec = snap.spec
    policy_space = space_from_json(spec.observation_space or {})
    raw: gym.Space[Any] = getattr(policy_space, "original_space", policy_space)
    if spec.env_observation_space is not None:
        raw = space_from_json(spec.env_observation_space)
    names, omitted = _recorded_connectors(snap, omit)
    preprocess = _PREPROCESSOR in names if spec.connectors else has_preprocessor(config.config)
    check_observations(snap, raw, preprocess)
    stats = _filter_state(snap, names)
    if stats is not None:
        _check_filter(snap, raw)
    pieces = _pieces(raw, stats, per_agent=agents is not None)
    interface = EnvInterface(
        observation_space=spec.env_observation_space,
        action_space=spec.env_action_space,
        state={} if stats is None else {"MeanStdFilter": _new_filter_state(stats, agents)},
        normalize_actions=spec.normalize_actions,
        clip_actions=spec.clip_actions,
        omitted=omitted,
    )
    if pieces and spec.env_observation_space is None:
        # No preprocessor stands before the policy, so it sees what the environment shows.
        interface.observation_space = space_to_json(raw)
        interface.action_space = spec.action_space
    if spec.connectors or pieces or agents:
        interface.connectors = {
            "env_to_module": [piece_to_plain(piece) for piece in pieces],
            "module_to_env": [],
            "defaults": dict.fromkeys(PIPELINES, True),
            "multi_agent": agents is not None,
            "agents": agents,
            "lookback": 1,
        }
    return interface, _space_after(_pieces(raw, stats, per_agent=False), raw, spec.action_space)


def _recorded_connectors(snap: Snapshot, omit: frozenset[str]) -> tuple[list[str], dict[str, str]]:
    """Return the class names of a policy's connectors, and what is omitted of the env interface.

    Raises:
        InvalidInputError: a connector without a counterpart that the caller does not give up.
    """
    omitted = {
        place.replace("connectors.agent.", "connectors."): reason
        for place, reason in snap.spec.omitted.items()
        if place.startswith("connectors") or place in ("env_spaces", "exploration")
    }
    known = (_PREPROCESSOR, *_FILTERS, *_BY_DEFAULT, _CLIP_REWARDS)
    names = []
    for entries in snap.spec.connectors.values():
        for entry in entries:
            name = entry["class"].value.rpartition(":")[2].rpartition(".")[2]
            is_own = not entry["class"].value.startswith("ray.rllib.")
            if name in omit or (name in _FILTERS and "MeanStdFilter" in omit):
                shown = "MeanStdFilter" if name in _FILTERS else name
                omitted[f"connectors.{shown}"] = "left out on request, with its state"
                continue
            if is_own or name not in known:
                raise no_counterpart(
                    snap,
                    f"the connector {entry['class'].value}",
                    f"connectors of the new stack are other classes; with omit=[{name!r}] a player "
                    "of the result needs connectors=",
                )
            if name == _CLIP_REWARDS:
                omitted["clip_rewards"] = (
                    "rewards are clipped before learning only, by a Learner connector of the new "
                    "stack"
                )
            names.append(name)
    return names, omitted


def _filter_state(snap: Snapshot, names: list[str]) -> Mapping[str, Any] | None:
    """Return flags and statistics of a policy's filter; None if it has none."""
    found = [name for name in names if name in _FILTERS]
    if not found:
        return None
    states: Mapping[str, Mapping[str, Any]] = snap.state.get("connectors", {}).get("agent", {})
    return next(state for name, state in states.items() if name.partition("#")[0] == found[0])


def _check_filter(snap: Snapshot, space: gym.Space[Any]) -> None:
    """Refuse the filter of a Box of integers.

    A filter keeps the dtype of what it gets (utils/filter.py:436), so on the old stack the filter
    of a Box of integers returns integers. The new stack's filter of such a Box has no observation
    space (connectors/env_to_module/mean_std_filter.py:42).

    Raises:
        InvalidInputError: ``space`` is a Box of integers.
    """
    if isinstance(space, spaces.Box) and np.dtype(space.dtype).kind != "f":
        raise no_counterpart(
            snap,
            f"the filter of the observation space {space}",
            f"the old stack casts filtered observations to {space.dtype}, and no connector of "
            "RLlib's does this; with omit=['MeanStdFilter'] a player of the result needs "
            "connectors=",
        )


def _pieces(
    space: gym.Space[Any], stats: Mapping[str, Any] | None, *, per_agent: bool
) -> list[ConnectorV2]:
    """Return the connectors that do what those of an old-stack policy do.

    Args:
        space: the environment's observation space (one agent's).
        stats: flags and statistics of the policy's filter; None if it has none.
        per_agent: whether the connectors are for a multi-agent Algorithm.
    """
    pieces: list[ConnectorV2] = []
    is_box = isinstance(space, spaces.Box)
    if is_box and len(space.shape or ()) == 3:
        if not _is_taken(space):
            pieces.append(CastObservations())
    elif not is_box or len(space.shape or ()) != 1 or not _is_taken(space):
        pieces.append(FlattenObservations(multi_agent=per_agent))
    if stats is not None:
        arguments = _filter_flags(stats)
        if stats["clip"] is None:
            # For None, RLlib's connector fails when it gets its spaces.
            arguments["clip_by_value"] = math.inf
        # A filter keeps the dtype of what it gets (utils/filter.py:436). No preprocessor casts a
        # Box on the old stack, so the filter of a Box comes before the cast.
        pieces.insert(
            0 if is_box else len(pieces), MeanStdFilter(multi_agent=per_agent, **arguments)
        )
    return pieces


def _is_taken(space: gym.Space[Any]) -> bool:
    """Return whether networks of the new stack take observations of a space's dtype.

    RLlib casts only float64 on the way to a network (utils/torch_utils.py:convert_to_torch_tensor).
    """
    return space.dtype in (np.float32, np.float64)


def _filter_flags(stats: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "de_mean_to_zero": bool(stats["demean"]),
        "de_std_to_one": bool(stats["destd"]),
        "clip_by_value": stats["clip"],
    }


def _new_filter_state(
    stats: Mapping[str, Any], agents: list[AgentID] | None
) -> dict[AgentID, dict[str, Any]]:
    """Return the state of a new-stack filter, by agent; of a single agent, under None."""
    state = {
        **_filter_flags(stats),
        "running_stats": [
            {"num_pushes": part["count"], "mean": part["mean"], "sum_sq_diff": part["sum_sq_diff"]}
            for part in stats["running_stats"]
        ],
    }
    return dict.fromkeys([None] if agents is None else agents, state)


def _space_after(
    pieces: list[ConnectorV2], space: gym.Space[Any], actions: JsonObject | None
) -> gym.Space[Any]:
    """Return the space of observations behind the connectors of a single-agent Algorithm."""
    action_space = None if actions is None else space_from_json(actions)
    for piece in pieces:
        piece.input_action_space = action_space
        piece.input_observation_space = space
        space, action_space = piece.observation_space, piece.action_space
    return space
