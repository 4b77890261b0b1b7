"""New API stack: play a module through RLlib's pipelines, as its env runners do.

A step has the same parts as in ``env/single_agent_env_runner.py:_sample``, around episodes that
hold only as much of the past as connectors may look back to.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.typing import EnvActionType, EnvObsType

from policystore.rllib.compat import inference_of, q_values
from policystore.rllib.new_stack.playing.episodes import Episodes, as_vectorized
from policystore.rllib.playing.actions import env_action
from policystore.rllib.playing.engine import Engine
from policystore.rllib.playing.nets import check_actions, check_distribution
from policystore.rllib.playing.observations import as_observation

__all__ = ["LATE", "PipelineEngine", "checked_q_values"]

LATE = 10**12
"""The timestep at which players explore.

Exploration schedules (DQN's epsilon) depend on the number of steps sampled so far. A snapshot does
not hold this number, so a player explores as at the end of the schedule.
"""

# RLlib's pieces take several multi-agent episodes at once in the versions that have vectorized
# multi-agent environments. In earlier versions (Ray 2.40) they assert that there is one episode.
_VECTORIZED = importlib.util.find_spec("ray.rllib.env.vector") is not None


class PipelineEngine(Engine):
    """Plays a module through RLlib's own pipelines.

    Attributes:
        pipelines, module, observation_space, action_space, allow_nan: as given.
        agent, module_id: of the episodes.
        one_by_one: whether RLlib takes one episode at a time.

    Args:
        module: the module; a MultiRLModule if the pipelines are multi-agent ones.
        pipelines: RLlib's pipelines, by name.
        episodes: keeps the episodes.
        spaces: observation and action space of the environment (of one agent).
        remembers, reads_rewards: see :class:`policystore.rllib.playing.engine.Engine`.
        memory_layout: see :class:`policystore.rllib.playing.engine.Engine`.
        allow_nan: whether observations may be NaN.
    """

    concurrent = False  # RLlib's connectors keep data of the call that they are in

    def __init__(
        self,
        module: RLModule,
        pipelines: Mapping[str, ConnectorPipelineV2],
        episodes: Episodes[Any],
        spaces: tuple[gym.Space[Any], gym.Space[Any]],
        *,
        remembers: bool,
        reads_rewards: bool,
        memory_layout: object,
        allow_nan: bool,
    ) -> None:
        self.module = module
        self.remembers = remembers
        self.reads_rewards = reads_rewards
        self.memory_layout = memory_layout
        self.pipelines = pipelines
        self.observation_space, self.action_space = spaces
        self.agent = episodes.agent
        self.module_id = episodes.module_id
        self.allow_nan = allow_nan
        self.one_by_one = self.agent is not None and not _VECTORIZED
        self._episodes = episodes

    def read(self, rows: Sequence[Any]) -> list[EnvObsType]:
        """Return observations as RLlib's environments hand them to the pipelines."""
        return [self.read_one(row, f"observation {index}") for index, row in enumerate(rows)]

    def read_one(self, row: Any, label: str) -> EnvObsType:
        """Check one observation, and cast it as RLlib's single-agent environments do.

        RLlib's multi-agent environments do not cast observations.

        Raises:
            InvalidInputError: the observation is not of the environment's space.
        """
        checked = as_observation(row, self.observation_space, label, self.allow_nan)
        if self.agent is not None:
            return checked
        return as_vectorized(checked, self.observation_space, label)

    def _step(
        self,
        memories: Sequence[Any],
        observations: Sequence[EnvObsType],
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> tuple[list[EnvActionType], list[Any]]:
        """Take one step in each of several environments."""
        rewards = [0.0] * len(memories) if rewards is None else rewards
        current = [
            self._episodes.observe(memory, observation, reward)
            for memory, observation, reward in zip(memories, observations, rewards, strict=True)
        ]
        groups = [[memory] for memory in current] if self.one_by_one else [current]
        actions = [action for group in groups for action in self._step_together(group, explore)]
        return [env_action(action, self.action_space) for action in actions], current

    def _step_together(self, memories: list[Any], explore: bool) -> list[EnvActionType]:
        """Send episodes through RLlib's pipelines together; return their actions."""
        episodes = [memory.episode for memory in memories]
        shared_data: dict[str, Any] = {}
        batch = self.pipelines["env_to_module"](
            rl_module=self.module,
            batch={},
            episodes=episodes,
            explore=explore,
            shared_data=shared_data,
        )
        if not self.allow_nan:
            module = self.module if self.agent is None else self.module[self.module_id]
            checked_q_values(module, self._own(batch))
        if explore:
            output = self.module.forward_exploration(batch, t=LATE)
        else:
            output = self.module.forward_inference(batch)
        if not self.allow_nan:
            check_distribution(self._own(output).get(Columns.ACTION_DIST_INPUTS))
        output = self.pipelines["module_to_env"](
            rl_module=self.module,
            batch=output,
            episodes=episodes,
            explore=explore,
            shared_data=shared_data,
        )
        actions = output.pop(Columns.ACTIONS)
        if not self.allow_nan and self.agent is None:
            check_actions(actions)
        elif not self.allow_nan:
            for row, taken in enumerate(actions):
                check_actions(taken, row)
        env_actions = output.pop(Columns.ACTIONS_FOR_ENV, actions)
        return self._episodes.take(memories, actions, env_actions, output)

    def _own(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of a batch, or of an output, that is of the module that acts."""
        if self.agent is None:
            return batch
        own: Mapping[str, Any] = batch[self.module_id]
        return own


def checked_q_values(module: RLModule, batch: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a Q network computes for acting, without NaN; None for other modules.

    Modules of DQN return actions alone, and take the first action if the values are NaN
    (``algorithms/dqn/torch/default_dqn_torch_rl_module.py:_forward_inference``).

    Raises:
        InvalidInputError: NaN.
    """
    forward = inference_of(type(module))
    if not getattr(forward, "__module__", "").startswith("ray.rllib.algorithms.dqn."):
        return None
    values = q_values(module, batch)
    check_distribution(values["qf_preds"])
    return {**values, Columns.ACTION_DIST_INPUTS: values["qf_preds"]}
