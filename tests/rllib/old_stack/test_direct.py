"""What plays an old-stack policy past its connectors acts exactly as the connectors do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_torch_policy import SACTorchPolicy
from ray.rllib.connectors.action.clip import ClipActionsConnector
from ray.rllib.connectors.action.immutable import ImmutableActionsConnector
from ray.rllib.connectors.action.lambdas import ConvertToNumpyConnector
from ray.rllib.connectors.action.normalize import NormalizeActionsConnector
from ray.rllib.connectors.agent.mean_std_filter import MeanStdObservationFilterAgentConnector
from ray.rllib.connectors.agent.obs_preproc import ObsPreprocessorConnector
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector
from ray.rllib.models.preprocessors import get_preprocessor

from policystore.rllib import rebuild_player, snapshot
from policystore.rllib.old_stack.playing.connectors import ConnectorEngine
from policystore.rllib.old_stack.playing.direct import DirectEngine
from tests.rllib.new_stack.test_direct import assert_same, observations
from tests.support.cells import sampled
from tests.support.player_pairs import FORCES, THREE, VECTOR

WIDE = Box(-np.inf, np.inf, (4,), np.float64)
UNEVEN = Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))
IMAGE = Box(0, 255, (42, 42, 2), np.uint8)
NESTED = Dict(
    {
        "what": Dict({"x": Box(-1.0, 1.0, (2,), np.float32)}),
        "who": Tuple([Discrete(2), Discrete(3)]),
        "z": Box(-5.0, 9.0, (3,), np.float32),
    }
)
SMALL = {"fcnet_hiddens": [8, 8]}
LSTM = {**SMALL, "use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
KINDS: dict[str, tuple[Any, Any]] = {
    "ppo": (PPOConfig, PPOTorchPolicy),
    "dqn": (DQNConfig, DQNTorchPolicy),
    "sac": (SACConfig, SACTorchPolicy),
}


def filtered(ctx: Any) -> Any:
    """A filter with statistics."""
    connector = MeanStdObservationFilterAgentConnector(ctx, clip=1.5)
    stats = connector.filter.running_stats
    for row in np.random.default_rng(0).normal(0.3, 2.0, (9, *stats.mean.shape)):
        stats.push(row)
    return connector


FILTER = {
    "agent": [
        ObsPreprocessorConnector,
        filtered,
        StateBufferConnector,
        ViewRequirementAgentConnector,
    ],
    "action": [
        ConvertToNumpyConnector,
        NormalizeActionsConnector,
        ClipActionsConnector,
        ImmutableActionsConnector,
    ],
}


class Cell:
    """A policy with what stands between it and its environment."""

    def __init__(
        self,
        obs: gym.Space[Any] = VECTOR,
        act: gym.Space[Any] = THREE,
        *,
        kind: str = "ppo",
        model: dict[str, Any] | None = None,
        connectors: dict[str, list[Any]] | None = None,
        **config: Any,
    ) -> None:
        self.obs, self.act, self.kind, self.connectors = obs, act, kind, connectors
        self.model, self.config = SMALL if model is None else model, config

    def player(self) -> Any:
        torch.manual_seed(3)
        make_config, make = KINDS[self.kind]
        config = make_config().api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        config.training(model=self.model)
        space = get_preprocessor(self.obs)(self.obs, config.model).observation_space
        policy = make(space, self.act, {**config.to_dict(), **self.config})
        return rebuild_player(
            snapshot(policy), env_spaces=(self.obs, self.act), connectors=self.connectors
        )


CELLS: dict[str, Callable[[], Cell]] = {
    "ppo": Cell,
    "ppo-float64": lambda: Cell(WIDE, UNEVEN),
    "ppo-box": lambda: Cell(VECTOR, UNEVEN),
    "ppo-box-clipped": lambda: Cell(VECTOR, UNEVEN, normalize_actions=False, clip_actions=True),
    "ppo-box-raw": lambda: Cell(VECTOR, UNEVEN, normalize_actions=False),
    "ppo-free-log-std": lambda: Cell(VECTOR, FORCES, model={**SMALL, "free_log_std": True}),
    "ppo-separate": lambda: Cell(VECTOR, FORCES, model={**SMALL, "vf_share_layers": False}),
    "ppo-multidiscrete": lambda: Cell(VECTOR, MultiDiscrete([3, 4])),
    "ppo-discrete-obs": lambda: Cell(Discrete(5, start=2)),
    "ppo-multidiscrete-obs": lambda: Cell(MultiDiscrete([2, 4])),
    "ppo-multibinary-obs": lambda: Cell(MultiBinary(4)),
    "ppo-nested": lambda: Cell(NESTED, UNEVEN),
    "ppo-filter": lambda: Cell(VECTOR, UNEVEN, connectors=FILTER),
    "ppo-filter-float64": lambda: Cell(WIDE, UNEVEN, connectors=FILTER),
    "ppo-filter-nested": lambda: Cell(NESTED, UNEVEN, connectors=FILTER),
    "ppo-conv": lambda: Cell(
        IMAGE, model={"conv_filters": [[4, [8, 8], 4], [8, [4, 4], 2], [16, [6, 6], 1]]}
    ),
    "ppo-lstm": lambda: Cell(model=LSTM),
    "ppo-lstm-box": lambda: Cell(VECTOR, UNEVEN, model=LSTM),
    "ppo-lstm-filter": lambda: Cell(model=LSTM, connectors=FILTER),
    "dqn": lambda: Cell(kind="dqn"),
    "sac": lambda: Cell(VECTOR, UNEVEN, kind="sac"),
    "sac-discrete": lambda: Cell(kind="sac"),
}
SAMPLE = ("ppo", "ppo-nested", "ppo-filter-float64", "ppo-lstm-box", "dqn", "sac", "ppo-conv")


@pytest.mark.parametrize("case", sampled(CELLS, *SAMPLE))
def test_both_ways_take_the_same_actions(case: str) -> None:
    cell = CELLS[case]()
    player = cell.player()
    fast, slow = player._engine, player._connector_engine
    assert type(fast) is DirectEngine
    assert type(slow) is ConnectorEngine
    random = np.random.default_rng(1)
    for count in (1, 7):
        memories: list[Any] = [[None] * count, [None] * count]
        for step in range(8):
            rows = observations(cell.obs, count, random, extreme="filter" in case)
            results = []
            for way, engine in enumerate((fast, slow)):
                torch.manual_seed(step)
                np.random.seed(step)
                actions, memories[way] = engine.step(
                    memories[way], engine.read(rows), step % 4 == 3, None
                )
                results.append(actions)
            assert_same(*results)
            if step == 4:  # the first environment begins anew
                memories = [[None, *each[1:]] for each in memories]


NOT_DIRECT: dict[str, Callable[[], Cell]] = {
    "previous actions": lambda: Cell(VECTOR, UNEVEN, model={**LSTM, "lstm_use_prev_action": True}),
    "attention": lambda: Cell(VECTOR, UNEVEN, model={"use_attention": True, "attention_dim": 8}),
    "nested actions": lambda: Cell(VECTOR, Tuple([Discrete(3), UNEVEN])),
    "keys in another order": lambda: Cell(Dict([("b", VECTOR), ("a", VECTOR)])),
}


@pytest.mark.parametrize("case", sampled(NOT_DIRECT, "previous actions", "keys in another order"))
def test_what_is_not_known_plays_through_the_connectors(case: str) -> None:
    player = NOT_DIRECT[case]().player()
    assert type(player._engine) is ConnectorEngine
    assert player.action_space.contains(player.act(player.observation_space.sample()))


def test_present_weights_of_the_policy_act() -> None:
    cell = CELLS["ppo-box"]()
    player, other = cell.player(), cell.player()
    before = player.act(np.ones(4, np.float32))
    weights = {name: 2 * array for name, array in player.policy.get_weights().items()}
    for each in (player, other):
        each.policy.set_weights(weights)
    other._engine = other._connector_engine
    after = player.act(np.ones(4, np.float32))
    assert not np.array_equal(before, after)
    assert_same(after, other.act(np.ones(4, np.float32)))
