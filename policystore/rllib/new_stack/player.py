"""New API stack: play a snapshot, raw observation in, environment action out.

This module builds the parts of a player. What plays them is in ``playing/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import tree as dm_tree
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import FlattenObservations, PrevActionsPrevRewards
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.typing import AgentID

from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.player import Player
from policystore.rllib.common.player_args import (
    EnvSpaces,
    NanHandling,
    PlayerArguments,
    check_actions,
    check_stack,
    player_arguments,
    refuse_omitted_connectors,
)
from policystore.rllib.common.trust import Trust
from policystore.rllib.new_stack.cast import CastObservations
from policystore.rllib.new_stack.connectors import walk
from policystore.rllib.new_stack.env_interface import default_pipelines
from policystore.rllib.new_stack.player_checks import (
    check_connectors,
    check_observations,
    pick_agent,
)
from policystore.rllib.new_stack.player_pieces import Pieces, own_pieces, recorded_pieces
from policystore.rllib.new_stack.playing.direct import direct_engine
from policystore.rllib.new_stack.playing.episodes import MultiAgentEpisodes, SingleAgentEpisodes
from policystore.rllib.new_stack.playing.pipelines import PipelineEngine
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot

__all__ = ["ModulePlayer"]

_MODULE_ID = "module"
_EXAMPLE = "connectors=[…]"
# Pieces that remember nothing of an episode. From env_to_module/flatten_observations.py RLlib
# exports the class itself in Ray 2.40, and a functools.partial of it in Ray 2.60.
_MEMORYLESS = (
    getattr(FlattenObservations, "func", FlattenObservations),
    MeanStdFilter,
    CastObservations,
)


@dataclass(frozen=True)
class _Around:
    """The parts around a module in a player.

    Attributes:
        observation_space, action_space: the environment's; by agent (``Dict``) if multi-agent.
        agent: the agent that is played; None if single-agent.
        module_id: the module that acts.
        pieces: connector pieces beside RLlib's default ones, by pipeline.
    """

    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    agent: AgentID | None
    module_id: str
    pieces: dict[str, list[ConnectorV2]]


class ModulePlayer(Player):
    """Acts with a new-stack policy as its Algorithm's env runners did.

    Deterministic actions are those that the Algorithm's env runner takes with ``explore=False``.
    Filters apply their statistics and do not update them. Recurrent state, stacked frames and
    previous actions are kept between calls until :meth:`reset`; memory stays bounded however long
    the episode.

    The arguments are those of :class:`policystore.rllib.old_stack.player.PolicyPlayer`. The stacks
    differ in three points. ``connectors`` holds pieces of the new stack. ``agent`` and
    ``module_id`` have a meaning here, because connectors belong to agents, and modules may go
    together. And observations are cast to the dtype of their space, as vectorized environments
    cast them; an observation that numpy does not cast safely is refused.

    Args:
        snap: a snapshot of the new API stack.
        trust: see :func:`policystore.rllib.new_stack.rebuild.rebuild_module`; for the classes of
            connectors as well.
        env_spaces: observation and action space of the environment (one agent's). Needed for a
            snapshot of a module alone; else it replaces the recorded spaces.
        connectors: the caller's own connector pieces, which replace the recorded ones: a list for
            env-to-module, or ``{"env_to_module": […], "module_to_env": […]}``. RLlib's default
            pieces go around them as recorded. The player uses these very objects.
        agent: the agent to act as, where the snapshot has several.
        module_id: the module to act through, where the snapshot has several that go together.
        normalize_actions: whether Box actions are unsquashed to the action space's bounds,
            for a snapshot that does not say.
        clip_actions: whether Box actions are clipped, for a snapshot that does not say.
        nan: ``"error"`` to refuse observations with NaN, ``"allow"`` to play them.

    Attributes:
        module: the rebuilt module; of a multi-agent snapshot, the MultiRLModule that holds it.
        agent: the agent that is played; None if single-agent.
        observation_space, action_space: the environment's (one agent's).

    Raises:
        InvalidInputError: an argument is malformed, missing or of no use for this snapshot, or
            the environment does not fit the policy.
        NotFoundError: the snapshot has no such agent or module.
        UntrustedError: a class that the caller does not trust.
        MismatchError: weights or filter statistics do not fit.
        FormatError: a spec or state that is not as snapshots write it.
    """

    module: RLModule

    def __init__(
        self,
        snap: Snapshot,
        *,
        trust: Trust = (),
        env_spaces: EnvSpaces | None = None,
        connectors: Pieces | None = None,
        agent: AgentID | None = None,
        module_id: str | None = None,
        normalize_actions: bool | None = None,
        clip_actions: bool | None = None,
        nan: NanHandling = "error",
    ) -> None:
        check_stack(snap, "new")
        with guarded(f"making a player of {snap!r}"):
            check_connectors(snap.spec.connectors)
            arguments = player_arguments(
                snap,
                trust=trust,
                env_spaces=env_spaces,
                agent=agent,
                module_id=module_id,
                normalize_actions=normalize_actions,
                clip_actions=clip_actions,
                nan=nan,
            )
            own = None if connectors is None else own_pieces(connectors)
            super().__init__(
                snap,
                arguments,
                {
                    "trust": arguments.trust,
                    "env_spaces": env_spaces,
                    "connectors": own,
                    "agent": agent,
                    "module_id": module_id,
                    "normalize_actions": normalize_actions,
                    "clip_actions": clip_actions,
                    "nan": nan,
                },
            )
            around = _around(snap, arguments, own)
            self.agent = around.agent
            self._pipelines = _pipelines(snap, arguments, around)
            self.module = _playable_module(snap, arguments, around, self._pipelines)
            # Always there: what plays a module that the direct engine does not play.
            self._pipeline_engine = _pipeline_engine(
                snap, arguments, around, self.module, self._pipelines
            )
            direct = direct_engine(
                self._pipeline_engine,
                around.pieces,
                normalize_actions=arguments.normalize_actions,
                clip_actions=arguments.clip_actions,
            )
            self._engine = direct or self._pipeline_engine


def _around(
    snap: Snapshot, arguments: PlayerArguments, own: Mapping[str, list[ConnectorV2]] | None
) -> _Around:
    """Return the parts around the module, with the connectors that are given or recorded."""
    observation_space, action_space = arguments.observation_space, arguments.action_space
    agent = None
    if arguments.per_agent:
        agent = pick_agent(snap, arguments.agent)
        observation_space, action_space = (
            gym.spaces.Dict({agent: space}) for space in (observation_space, action_space)
        )
    if own is None:
        refuse_omitted_connectors(snap, _EXAMPLE)
        pieces = recorded_pieces(snap, observation_space, action_space, agent, arguments.trust)
    else:
        pieces = dict(own)
    return _Around(
        observation_space=observation_space,
        action_space=action_space,
        agent=agent,
        module_id=arguments.module_id or _MODULE_ID,
        pieces=pieces,
    )


def _pipelines(
    snap: Snapshot, arguments: PlayerArguments, around: _Around
) -> dict[str, ConnectorPipelineV2]:
    """Build RLlib's two pipelines with the pieces in them."""
    return default_pipelines(
        observation_space=around.observation_space,
        action_space=around.action_space,
        module_id=around.module_id if arguments.per_agent else None,
        pieces=around.pieces,
        defaults=snap.spec.connectors.get("defaults", dict.fromkeys(PIPELINES, True)),
        normalize_actions=arguments.normalize_actions,
        clip_actions=arguments.clip_actions,
    )


def _playable_module(
    snap: Snapshot,
    arguments: PlayerArguments,
    around: _Around,
    pipelines: Mapping[str, ConnectorPipelineV2],
) -> RLModule:
    """Rebuild the module, and check its observations and actions against the environment.

    Returns:
        The module; in a MultiRLModule where the pipelines are multi-agent ones.
    """
    module = rebuild_module(
        snap,
        trust=arguments.trust,
        # Where the snapshot lacks a space, the module saw the environment's own.
        **{
            name: getattr(around, name)
            for name in ("observation_space", "action_space")
            if name in snap.spec.omitted
        },
    )
    if module.framework is None:
        # A heuristic gets tensors as well: it plays beside modules of torch, whose
        # framework the MultiRLModule takes over (core/rl_module/multi_rl_module.py:setup).
        module.framework = "torch"
    made = pipelines["env_to_module"].observation_space
    check_observations(snap, arguments.observation_space, made, module)
    if not isinstance(module, MultiRLModule) and module.action_space is not None:
        check_actions(snap, arguments.action_space, module.action_space)
    if not arguments.per_agent or isinstance(module, MultiRLModule):
        return module
    multi = MultiRLModule(rl_module_specs={})
    multi.add_module(around.module_id, module)
    return multi


def _pipeline_engine(
    snap: Snapshot,
    arguments: PlayerArguments,
    around: _Around,
    module: RLModule,
    pipelines: Mapping[str, ConnectorPipelineV2],
) -> PipelineEngine:
    """Return what plays a module through RLlib's pipelines."""
    pieces = [piece for name in PIPELINES for _, piece in walk(around.pieces[name])]
    keeps_episodes = MultiAgentEpisodes if arguments.per_agent else SingleAgentEpisodes
    return PipelineEngine(
        module,
        pipelines,
        keeps_episodes(
            around.observation_space,
            around.action_space,
            around.agent,
            around.module_id,
            int(snap.spec.connectors.get("lookback", 1)),
        ),
        (arguments.observation_space, arguments.action_space),
        remembers=module.is_stateful() or any(type(piece) not in _MEMORYLESS for piece in pieces),
        reads_rewards=any(
            isinstance(piece, PrevActionsPrevRewards) and piece.n_prev_rewards for piece in pieces
        ),
        memory_layout=_memory_layout(module, around, pieces),
        allow_nan=arguments.allow_nan,
    )


def _memory_layout(module: RLModule, around: _Around, pieces: list[ConnectorV2]) -> object:
    """Return what decides whether a module can go on with the episodes of another one.

    Episodes hold recurrent state, and what RLlib's own connectors look back to. A connector of the
    caller's own may keep anything anywhere: None.
    """
    if not all(type(piece).__module__.startswith("ray.rllib.") for piece in pieces):
        return None
    states = dm_tree.map_structure(np.shape, module.get_initial_state())
    return [type(piece) for piece in pieces], around.agent, around.module_id, states
