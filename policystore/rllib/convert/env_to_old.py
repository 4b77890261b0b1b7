"""Turn the env interface of a new-stack module into connectors of an old-stack policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.models.preprocessors import NoPreprocessor, get_preprocessor
from ray.rllib.utils.typing import AgentID

from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.values import Tagged
from policystore.rllib.common.trust import path_of
from policystore.rllib.convert.kinds import no_counterpart
from policystore.rllib.new_stack.cast import CastObservations
from policystore.rllib_schema.class_paths import CONNECTORS, todays_path
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

__all__ = ["OldInterface", "interface_of_module"]

# RLlib exports the class itself in Ray 2.40, and a functools.partial of it in Ray 2.60.
_FLATTEN = todays_path(path_of(getattr(FlattenObservations, "func", FlattenObservations)))
_FILTER = path_of(MeanStdFilter)
_CAST = path_of(CastObservations)
_FILTER_CONNECTOR = "MeanStdObservationFilterAgentConnector"


@dataclass
class OldInterface:
    """What stands between environment and policy on the old stack.

    Attributes:
        observation_space: what the policy gets; ``original_space`` on it is the environment's.
        preprocess: whether RLlib puts a preprocessor before the policy.
        filter_state: the state of the policy's filter, as its snapshot records it; None if it has
            none.
        has_connectors: whether the connectors are known; else a player takes RLlib's default ones.
        omitted: place -> reason, of connectors that the caller gave up.
    """

    observation_space: gym.Space[Any]
    preprocess: bool
    filter_state: dict[str, Any] | None = None
    has_connectors: bool = False
    omitted: dict[str, str] = field(default_factory=dict)

    @property
    def connectors(self) -> dict[str, Any]:
        """The connectors before the action ones, as a spec records them, by pipeline."""
        names = ["ObsPreprocessorConnector"] if self.preprocess else []
        if self.filter_state is not None:
            names.append(_FILTER_CONNECTOR)
        names += ["StateBufferConnector", "ViewRequirementAgentConnector"]
        return {"agent": [_entry(name) for name in names]}

    @property
    def state(self) -> dict[str, Any]:
        """The state of the connectors, by pipeline and name."""
        if self.filter_state is None:
            return {}
        return {"agent": {_FILTER_CONNECTOR: self.filter_state}}


def _entry(name: str) -> dict[str, Any]:
    return {"name": name, "class": Tagged("import", CONNECTORS[name])}


def interface_of_module(
    snap: Snapshot, omit: frozenset[str], agent: AgentID | None
) -> OldInterface:
    """Return the old stack's counterpart of a module's env interface.

    Args:
        snap: a new-stack module.
        omit: names of connectors that the caller gives up.
        agent: the agent whose filter statistics the policy gets; None where there is one, or where
            all have the same.

    Raises:
        InvalidInputError: a connector or space without a counterpart; or ``agent`` is missing.
        NotFoundError: the snapshot has no statistics of such an agent.
    """
    spec = snap.spec
    known = spec.connectors
    pieces, omitted = _pieces(snap, known, omit)
    own = spec.env_observation_space
    if own is None and pieces:
        raise InvalidInputError(
            f"{snap!r} has connectors, but not the environment's observation space, which decides "
            "on the old stack's preprocessor. Supply the space: snap.replace(spec="
            "snap.spec.replace(env_observation_space=…))"
        )
    raw = space_from_json(own or spec.observation_space or {})
    _check_order(snap, pieces, raw)
    space, preprocess = _preprocessed(snap, raw, is_flattened=_FLATTEN in pieces)
    interface = OldInterface(space, preprocess, has_connectors=bool(known), omitted=omitted)
    if _FILTER in pieces:
        interface.filter_state = _old_filter_state(snap, agent)
    elif agent is not None:
        raise InvalidInputError(
            f"agent={agent!r}: {snap!r} has no filter statistics; leave agent out"
        )
    return interface


def _pieces(
    snap: Snapshot, known: Mapping[str, Any], omit: frozenset[str]
) -> tuple[list[str], dict[str, str]]:
    """Return the paths of a module's connectors, and what is omitted of them.

    Raises:
        InvalidInputError: a connector, or an order of connectors, without a counterpart.
    """
    omitted = {
        place.replace("connectors.", "connectors.agent."): reason
        for place, reason in snap.spec.omitted.items()
        if place.startswith("connectors") or place in ("env_spaces", "exploration")
    }
    for pipeline, given in known.get("defaults", {}).items():
        if not given:
            raise no_counterpart(
                snap,
                f"connectors.defaults ({pipeline})",
                "policies of the old stack always have RLlib's connectors",
            )
    paths = []
    for pipeline in PIPELINES:
        for entry in known.get(pipeline, ()):
            path = todays_path(entry["class"].value)
            name = path.rpartition(":")[2]
            if name in omit:
                omitted[f"connectors.agent.{name}"] = "left out on request, with its state"
                continue
            if path not in (_FLATTEN, _FILTER, _CAST) or path in paths:
                raise no_counterpart(
                    snap,
                    f"the connector {path}",
                    f"connectors of the old stack are other classes; with omit=[{name!r}] a player "
                    "of the result needs connectors=",
                )
            if path == _FLATTEN and entry.get("kwargs", {}).get("keys_to_remove"):
                raise no_counterpart(
                    snap,
                    "the argument keys_to_remove of FlattenObservations",
                    "a preprocessor flattens the whole observation",
                )
            paths.append(path)
    return paths, omitted


def _check_order(snap: Snapshot, pieces: list[str], raw: gym.Space[Any]) -> None:
    """Refuse a filter that has another place among the connectors than on the old stack.

    Preprocessors of the old stack cast and flatten all but Boxes, and filters come behind them. A
    filter keeps the dtype of what it gets (utils/filter.py:436), so behind a cast it is another
    filter than before the cast. Only for float32 it is the same.

    Raises:
        InvalidInputError: such a filter.
    """
    if _FILTER not in pieces:
        return
    if not isinstance(raw, spaces.Box):
        if pieces[-1] != _FILTER:
            raise no_counterpart(
                snap,
                "a MeanStdFilter before other connectors",
                "filters of the old stack come after preprocessors",
            )
    elif raw.dtype != np.float32 and pieces[0] != _FILTER:
        raise no_counterpart(
            snap,
            f"a MeanStdFilter behind other connectors, for the observation space {raw}",
            f"filters of the old stack get and return {raw.dtype} for this Box",
        )


def _preprocessed(
    snap: Snapshot, raw: gym.Space[Any], *, is_flattened: bool
) -> tuple[gym.Space[Any], bool]:
    """Return what an old-stack policy gets of an environment's observations.

    Args:
        snap: the module, for messages.
        raw: the environment's observation space.
        is_flattened: whether the module gets flat observations.

    Returns:
        The policy's observation space, and whether a preprocessor makes it.

    Raises:
        InvalidInputError: RLlib builds another network for these observations.
    """
    if isinstance(raw, spaces.Box):
        if len(raw.shape) == 1 or (len(raw.shape) == 3 and not is_flattened):
            # A preprocessor would scale some shapes of Atari (models/preprocessors.py:14).
            return raw, False
        why = "RLlib flattens Boxes of one dimension only, and reads images as they are"
        raise no_counterpart(snap, f"the flattened observation space {raw}", why)
    cls = get_preprocessor(raw)
    if cls is NoPreprocessor or not is_flattened or _has_image(raw):
        raise no_counterpart(
            snap,
            f"the observation space {raw}",
            "RLlib has another network for such a space (models/torch/complex_input_net.py)",
        )
    return cls(raw).observation_space, True


def _has_image(space: gym.Space[Any]) -> bool:
    """Return whether a space holds a Box of several dimensions (models/catalog.py:807)."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        inner = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        return any(_has_image(part) for part in inner)
    return isinstance(space, spaces.Box) and (len(space.shape) > 1 or space.shape == (128,))


def _old_filter_state(snap: Snapshot, agent: AgentID | None) -> dict[str, Any]:
    """Return the state of an old-stack filter with the statistics of an agent."""
    states: Mapping[Any, Any] = snap.state.get("MeanStdFilter", {})
    if agent is not None:
        if agent not in states:
            raise NotFoundError(
                f"agent={agent!r}: {snap!r} has filter statistics of the agents {list(states)!r}"
            )
        states = {agent: states[agent]}
    digests = {
        Snapshot(weights={}, state={"filter": state}).state_digest for state in states.values()
    }
    if len(digests) != 1:
        raise InvalidInputError(
            f"{snap!r} has filter statistics of the agents {list(states)!r}, and a policy of the "
            "old stack has one set for all its agents: pass agent= with the agent whose statistics "
            "the policy gets"
        )
    state = next(iter(states.values()))
    clip = state["clip_by_value"]
    return {
        "demean": bool(state["de_mean_to_zero"]),
        "destd": bool(state["de_std_to_one"]),
        "clip": None if clip is None or math.isinf(clip) else float(clip),
        "running_stats": [
            {"count": part["num_pushes"], "mean": part["mean"], "sum_sq_diff": part["sum_sq_diff"]}
            for part in state["running_stats"]
        ],
    }
