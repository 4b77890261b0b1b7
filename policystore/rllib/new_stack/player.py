"""New API stack: play a snapshot, raw observation in, environment action out.

RLlib's own pipelines run here as in its env runners (``env/single_agent_env_runner.py:_sample``),
around episodes that hold only as much of the past as connectors may look back to.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import FlattenObservations, PrevActionsPrevRewards
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.typing import AgentID, EnvActionType, EnvObsType

from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.player import Player
from policystore.rllib.common.player_args import (
    EnvSpaces,
    PlayerArguments,
    check_actions,
    check_stack,
    player_arguments,
    refuse_omitted_connectors,
)
from policystore.rllib.common.trust import Trust
from policystore.rllib.new_stack.connectors import walk
from policystore.rllib.new_stack.env_interface import default_pipelines
from policystore.rllib.new_stack.episodes import (
    EpisodeRows,
    MultiAgentRows,
    SingleAgentRows,
    as_vectorized,
)
from policystore.rllib.new_stack.player_checks import (
    check_connectors,
    check_observations,
    pick_agent,
)
from policystore.rllib.new_stack.player_pieces import Pieces, own_pieces, recorded_pieces
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot

__all__ = ["ModulePlayer"]

_MODULE_ID = "module"
_EXAMPLE = "connectors=[…]"
# Exploration schedules (DQN's epsilon) depend on the number of steps sampled so far. A snapshot
# does not hold this number, so a player explores as at the end of the schedule.
_LATE = 10**12
# Pieces that remember nothing of an episode. From env_to_module/flatten_observations.py RLlib
# exports the class itself in Ray 2.40, and a functools.partial of it in Ray 2.60.
_MEMORYLESS = (getattr(FlattenObservations, "func", FlattenObservations), MeanStdFilter)
# RLlib's pieces take several multi-agent episodes at once in the versions that have vectorized
# multi-agent environments. In earlier versions (Ray 2.40) they assert that there is one episode.
_VECTORIZED = importlib.util.find_spec("ray.rllib.env.vector") is not None


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
    the episode. A player is for one thread at a time, and cannot be pickled.

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
            )
            super().__init__(arguments)
            around = _around(snap, arguments, connectors)
            self.agent = around.agent
            self._pipelines = _pipelines(snap, arguments, around)
            self.module = _playable_module(snap, arguments, around, self._pipelines)
            self._reads_rewards = any(
                isinstance(piece, PrevActionsPrevRewards) and piece.n_prev_rewards
                for _, piece in walk(around.pieces["env_to_module"])
            )
            self._remembers = self.module.is_stateful() or any(
                type(piece) not in _MEMORYLESS
                for name in PIPELINES
                for _, piece in walk(around.pieces[name])
            )
            self._new_rows = _rows_factory(snap, arguments, around)
            # Episodes that go through the pipelines together, and the data that the pipelines share
            # about these episodes. Usually each list has one element for all rows; if RLlib takes
            # one episode at a time, it has one element for each row.
            self._episode_rows: list[EpisodeRows[Any]] = []
            self._shared_data: list[dict[str, Any]] = []
            self._one_by_one = arguments.per_agent and not _VECTORIZED

    def _observation(self, obs: Any, label: str) -> EnvObsType:
        checked = super()._observation(obs, label)
        if self.agent is not None:  # RLlib's multi-agent environments do not cast observations
            return checked
        return as_vectorized(checked, self.observation_space, label)

    def _forget(self) -> None:
        self._episode_rows.clear()
        self._shared_data.clear()

    def _forget_row(self, row: int) -> None:
        if self._one_by_one:
            self._episode_rows[row] = self._new_rows()
            self._shared_data[row].clear()
        else:
            self._episode_rows[0].restart(row)

    def _keep(self, rows: list[int]) -> None:
        # RLlib's connectors find an episode's memory in the episode, or by the episode's id. What
        # the pipelines share is written anew in each step.
        if self._one_by_one:
            self._episode_rows = [self._episode_rows[row] for row in rows]
            self._shared_data = [self._shared_data[row] for row in rows]
        else:
            self._episode_rows[0].keep(rows)

    def _step(
        self, observations: list[EnvObsType], explore: bool, rewards: list[float] | None
    ) -> list[EnvActionType]:
        if not self._one_by_one:
            return self._step_together(0, observations, explore, rewards)
        return [
            self._step_together(row, [obs], explore, None if rewards is None else [rewards[row]])[0]
            for row, obs in enumerate(observations)
        ]

    def _step_together(
        self, index: int, observations: list[EnvObsType], explore: bool, rewards: list[float] | None
    ) -> list[EnvActionType]:
        """Take one step in environments that go through RLlib's pipelines together.

        Args:
            index: the place of their episodes in ``_episode_rows``.
            observations, explore, rewards: as for :meth:`_step`, of these environments.
        """
        if index == len(self._episode_rows):
            self._episode_rows.append(self._new_rows())
            self._shared_data.append({})
        rows, shared_data = self._episode_rows[index], self._shared_data[index]
        episodes = rows.observe(observations, rewards)
        batch = self._pipelines["env_to_module"](
            rl_module=self.module,
            batch={},
            episodes=episodes,
            explore=explore,
            shared_data=shared_data,
        )
        if explore:
            output = self.module.forward_exploration(batch, t=_LATE)
        else:
            output = self.module.forward_inference(batch)
        output = self._pipelines["module_to_env"](
            rl_module=self.module,
            batch=output,
            episodes=episodes,
            explore=explore,
            shared_data=shared_data,
        )
        actions = output.pop(Columns.ACTIONS)
        env_actions = output.pop(Columns.ACTIONS_FOR_ENV, actions)
        return rows.take(actions, env_actions, output)


def _around(snap: Snapshot, arguments: PlayerArguments, connectors: Pieces | None) -> _Around:
    """Return the parts around the module, with the connectors that are given or recorded."""
    observation_space, action_space = arguments.observation_space, arguments.action_space
    agent = None
    if arguments.per_agent:
        agent = pick_agent(snap, arguments.agent)
        observation_space, action_space = (
            gym.spaces.Dict({agent: space}) for space in (observation_space, action_space)
        )
    if connectors is None:
        refuse_omitted_connectors(snap, _EXAMPLE)
        pieces = recorded_pieces(snap, observation_space, action_space, agent, arguments.trust)
    else:
        pieces = own_pieces(connectors)
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


def _rows_factory(
    snap: Snapshot, arguments: PlayerArguments, around: _Around
) -> Callable[[], EpisodeRows[Any]]:
    rows = MultiAgentRows if arguments.per_agent else SingleAgentRows
    return functools.partial(
        rows,
        around.observation_space,
        around.action_space,
        around.agent,
        around.module_id,
        int(snap.spec.connectors.get("lookback", 1)),
    )
