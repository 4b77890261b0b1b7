"""Old API stack: play a policy through its connectors, as rollout workers do.

A step has the same parts as in RLlib's own sampling (evaluation/env_runner_v2.py:1057-1161): the
policy's agent connectors, ``compute_actions_from_input_dict``, and the policy's action connectors.
So preprocessing, filters, recurrent state, attention memory, and previous actions and rewards are
RLlib's own code, with the connectors that the snapshot recorded.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tree as dm_tree
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch, concat_samples
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.spaces.space_utils import unbatch
from ray.rllib.utils.typing import (
    ActionConnectorDataType,
    AgentConnectorDataType,
    EnvActionType,
    EnvObsType,
)

from policystore.errors import InvalidInputError
from policystore.rllib.playing.actions import env_action
from policystore.rllib.playing.engine import Engine
from policystore.rllib.playing.nets import check_actions, check_distribution
from policystore.rllib.playing.observations import as_observation

__all__ = ["ConnectorEngine"]

_AGENT = 0


class _Ids:
    """Numbers of environments. RLlib's connectors keep the memory of an episode by this number."""

    def __init__(self) -> None:
        self._next = 0
        self._free: list[int] = []
        # Numbers of memories that were dropped, in any thread. Their connectors still remember.
        self.dropped: deque[int] = deque()

    def take(self) -> int:
        """Return a number that no environment has, the lowest one."""
        if self._free:
            return heapq.heappop(self._free)
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        """Note that no environment has a number any more."""
        heapq.heappush(self._free, number)


class _Environment:
    """The memory of one environment: its number, under which the connectors remember the rest.

    Attributes:
        number: RLlib's ``env_id``.
        steps: how many steps the episode has.
    """

    __slots__ = ("_dropped", "number", "steps")

    def __init__(self, ids: _Ids) -> None:
        self._dropped = ids.dropped
        self.number = ids.take()
        self.steps = 0

    def __del__(self) -> None:
        self._dropped.append(self.number)  # in whichever thread; takes no lock


class ConnectorEngine(Engine):
    """Plays a policy through its connectors.

    Attributes:
        policy, observation_space, action_space, allow_nan: as given.

    Args:
        policy: the policy, with its connectors.
        spaces: observation and action space of the environment.
        remembers, reads_rewards, memory_layout: see
            :class:`policystore.rllib.playing.engine.Engine`.
        allow_nan: whether observations may be NaN.
    """

    concurrent = False  # connectors and models of the old stack keep data of the call

    def __init__(
        self,
        policy: Policy,
        spaces: tuple[gym.Space[Any], gym.Space[Any]],
        *,
        remembers: bool,
        reads_rewards: bool,
        memory_layout: object,
        allow_nan: bool,
    ) -> None:
        self.remembers = remembers
        self.reads_rewards = reads_rewards
        self.memory_layout = memory_layout
        self.policy = policy
        self.observation_space, self.action_space = spaces
        self.allow_nan = allow_nan
        self._timestep = policy.global_timestep  # exploration stays at this timestep
        self._ids = _Ids()

    def read(self, rows: Sequence[Any]) -> list[EnvObsType]:
        """Return observations with arrays in them, in their own dtypes."""
        return [self.read_one(row, f"observation {index}") for index, row in enumerate(rows)]

    def read_one(self, row: Any, label: str) -> EnvObsType:
        """Check one observation, and return it with arrays in it, in their own dtypes.

        Raises:
            InvalidInputError: the observation is not of the environment's space.
        """
        return as_observation(row, self.observation_space, label, self.allow_nan)

    def tidy(self) -> None:
        """Let the connectors forget the environments whose memories were dropped."""
        while self._ids.dropped:
            number = self._ids.dropped.popleft()
            self.policy.agent_connectors.reset(number)
            self._ids.give_back(number)

    def hand_over(self, other: Engine) -> bool:
        """Let another engine go on with the memories, which its connectors then hold."""
        if not super().hand_over(other) or not isinstance(other, ConnectorEngine):
            return False
        self.tidy()
        pairs = zip(
            self.policy.agent_connectors.connectors,
            other.policy.agent_connectors.connectors,
            strict=True,
        )
        for own, others in pairs:
            if isinstance(own, StateBufferConnector):
                others._states.update(own._states)
            elif isinstance(own, ViewRequirementAgentConnector):
                others.agent_collectors.update(own.agent_collectors)
        other._ids = self._ids
        return True

    def _step(
        self,
        memories: Sequence[Any],
        observations: Sequence[EnvObsType],
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> tuple[list[EnvActionType], list[Any]]:
        """Take one step in each of several environments."""
        self.tidy()
        policy = self.policy
        environments = [memory or _Environment(self._ids) for memory in memories]
        data = [
            AgentConnectorDataType(
                environment.number,
                _AGENT,
                _connector_input(environment, obs, None if rewards is None else rewards[row]),
            )
            for row, (environment, obs) in enumerate(zip(environments, observations, strict=True))
        ]
        processed = policy.agent_connectors(data)
        if len(processed) != len(data):
            raise InvalidInputError(
                f"the policy's connectors returned {len(processed)} inputs for {len(data)} "
                "observations; a player needs one input for each observation"
            )
        batch = concat_samples([item.data.sample_batch for item in processed])
        if "state_in_0" in batch:
            batch[SampleBatch.SEQ_LENS] = np.ones(len(processed), dtype=np.int32)
        actions, states, fetches = policy.compute_actions_from_input_dict(
            batch, explore=explore, timestep=self._timestep
        )
        policy.global_timestep = self._timestep
        actions = convert_to_numpy(actions)
        if isinstance(actions, list):
            actions = np.array(actions)
        if not self.allow_nan:
            check_distribution(fetches.get(SampleBatch.ACTION_DIST_INPUTS))
            check_actions(actions)
        taken = [
            self._through_action_connectors(item, action, _row(states, row), _row(fetches, row))
            for row, (item, action) in enumerate(zip(processed, unbatch(actions), strict=True))
        ]
        return [env_action(action, self.action_space) for action in taken], environments

    def _through_action_connectors(
        self, item: AgentConnectorDataType, action: Any, states: Any, fetches: Any
    ) -> EnvActionType:
        """Return the environment's action for a policy's action, and buffer the policy's action."""
        output = ActionConnectorDataType(
            item.env_id, item.agent_id, item.data.raw_dict, (action, states, fetches)
        )
        taken, states, fetches = self.policy.action_connectors(output).output
        # Connectors buffer the policy's own action, not the environment's
        # (evaluation/env_runner_v2.py:1142).
        self.policy.agent_connectors.on_policy_output(
            ActionConnectorDataType(
                item.env_id, item.agent_id, item.data.raw_dict, (action, states, fetches)
            )
        )
        return taken


def _connector_input(
    environment: _Environment, obs: EnvObsType, reward: float | None
) -> dict[str, Any]:
    """Return the input for the agent connectors, as in RLlib's sampling; count the step."""
    step = environment.steps
    environment.steps += 1
    values = {
        SampleBatch.NEXT_OBS: obs,
        SampleBatch.INFOS: {},
        SampleBatch.T: step,
        SampleBatch.AGENT_INDEX: 0,
    }
    if step:
        values[SampleBatch.ENV_ID] = environment.number
        values[SampleBatch.REWARDS] = 0.0 if reward is None else reward
        values[SampleBatch.TERMINATEDS] = values[SampleBatch.TRUNCATEDS] = False
    return values


def _row(batches: Any, row: int) -> Any:
    return dm_tree.map_structure(lambda batch: batch[row], batches)
