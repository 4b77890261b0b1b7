"""Agents leave a batch, or change their rows, and every other episode goes on as if played alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.connectors.action.lambdas import ConvertToNumpyConnector
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector
from ray.rllib.connectors.connector import AgentConnector
from ray.rllib.connectors.env_to_module import (
    FlattenObservations,
    PrevActionsPrevRewards,
)
from ray.rllib.connectors.env_to_module.observation_preprocessor import (
    SingleAgentObservationPreprocessor,
)
from ray.rllib.policy.sample_batch import SampleBatch

from policystore import InvalidInputError, Snapshot
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support.cells import sampled
from tests.support.player_pairs import FORCES, VECTOR, module, pair, policy
from tests.support.rl_modules import FrameStacking

SPACES = (VECTOR, FORCES)
MANY = gym.spaces.Discrete(50)  # so many that two equal actions are no accident
STACKS = pytest.mark.parametrize("stack", ["old", "new"])
LSTM = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}


class SumNew(SingleAgentObservationPreprocessor):
    """A connector of the new stack that adds up the observations of each episode."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sums: dict[str, Any] = defaultdict(lambda: np.zeros(4, np.float32))

    def recompute_output_observation_space(self, observation_space: Any, action_space: Any) -> Any:
        return gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)

    def preprocess(self, observation: Any, episode: Any) -> Any:
        self.sums[episode.id_] = self.sums[episode.id_] + observation
        return self.sums[episode.id_]


class SumOld(AgentConnector):
    """A connector of the old stack that adds up the observations of each environment."""

    def __init__(self, ctx: Any) -> None:
        super().__init__(ctx)
        self.sums: dict[int, Any] = defaultdict(lambda: np.zeros(4, np.float32))

    def transform(self, ac_data: Any) -> Any:
        self.sums[ac_data.env_id] = self.sums[ac_data.env_id] + ac_data.data[SampleBatch.NEXT_OBS]
        ac_data.data[SampleBatch.NEXT_OBS] = self.sums[ac_data.env_id]
        return ac_data

    def reset(self, env_id: Any) -> None:
        self.sums.pop(env_id, None)


def loud(snap: Snapshot) -> Snapshot:
    """The same policy with larger weights, so that its memory shows in its actions."""
    weights = {name: array * np.float32(3) for name, array in snap.weights.items()}
    return Snapshot(weights=weights, spec=snap.spec, state=snap.state)


def old(snap: Snapshot, **arguments: Any) -> Callable[[], Player]:
    return lambda: rebuild_player(snap, env_spaces=SPACES, **arguments)


def new(
    snap: Snapshot,
    pieces: Callable[[], list[Any]] | None = None,
    spaces: tuple[gym.Space[Any], gym.Space[Any]] = SPACES,
) -> Callable[[], Player]:
    return lambda: rebuild_player(
        snap,
        env_spaces=spaces,
        normalize_actions=False,
        connectors=None if pieces is None else pieces(),
    )


def several_agents(together: bool) -> Callable[[], Player]:
    snap = loud(module(*SPACES, **LSTM))
    recorded = {
        "multi_agent": True,
        "agents": [0],
        "defaults": {"env_to_module": True, "module_to_env": True},
    }
    spec = snap.spec.replace(connectors=recorded)

    def make() -> Player:
        player: Any = new(snap.replace(spec=spec))()
        # Ray 2.40 takes one multi-agent episode at a time, as with this flag.
        if not together:
            player._engine = player._pipeline_engine
            player._engine.one_by_one = True
        return player

    return make


def frames(count: int) -> gym.spaces.Box:
    return gym.spaces.Box(-1.0, 1.0, (8, 8, count), np.float32)


def wide(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)


def attention() -> Snapshot:
    return policy(
        *SPACES,
        use_attention=True,
        attention_dim=8,
        attention_head_dim=4,
        attention_memory_inference=4,
        attention_memory_training=4,
        attention_use_n_prev_actions=2,
        attention_use_n_prev_rewards=2,
    )


def previous() -> list[Any]:
    return [PrevActionsPrevRewards(n_prev_actions=1, n_prev_rewards=1), FlattenObservations()]


SUMS = {
    "agent": [SumOld, StateBufferConnector, ViewRequirementAgentConnector],
    "action": [ConvertToNumpyConnector],
}
MAKERS: dict[str, Callable[[], Callable[[], Player]]] = {
    "old-plain": lambda: old(policy(*SPACES)),
    "old-lstm": lambda: old(loud(policy(*SPACES, **LSTM))),
    "old-lstm-prev": lambda: old(
        loud(policy(*SPACES, **LSTM, lstm_use_prev_action=True, lstm_use_prev_reward=True))
    ),
    "old-attention": lambda: old(attention()),
    "old-own-connector": lambda: old(policy(*SPACES), connectors=SUMS),
    "new-plain": lambda: new(module(*SPACES)),
    "new-lstm": lambda: new(loud(module(*SPACES, **LSTM))),
    "new-prev": lambda: new(loud(module(wide(55), MANY)), previous, (VECTOR, MANY)),
    "new-frames": lambda: new(
        module(frames(3), FORCES, conv_filters=[[4, 3, 2], [8, 3, 2]], head_fcnet_hiddens=[8]),
        lambda: [FrameStacking(num_frames=3)],
        (frames(1), FORCES),
    ),
    "new-own-connector": lambda: new(module(wide(4), FORCES), lambda: [SumNew()]),
    "new-agents": lambda: several_agents(True),
    "new-agents-one-by-one": lambda: several_agents(False),
}
# (rows that go on, rows that begin anew) before each step; the first step has five rows.
PLAN: list[tuple[list[int] | None, list[int]]] = [
    (None, []),
    (None, []),
    ([3, 1, 4], []),  # two leave, and the others change their places
    (None, [1]),
    ([2, 0, 1], [0]),  # nobody leaves
    ([1], []),
    (None, []),
]


def close(one: Any, other: Any) -> bool:
    """A product of matrices rounds differently for another number of rows."""
    return bool(np.allclose(one, other, rtol=1e-4, atol=1e-5))


SAMPLE = ("old-lstm-prev", "new-agents")


@pytest.mark.parametrize("case", sampled(MAKERS, *SAMPLE))
def test_the_episodes_that_stay_go_on_as_if_each_was_played_alone(case: str) -> None:
    torch.manual_seed(0)
    make = MAKERS[case]()
    random = np.random.default_rng(0)
    together, alone = make(), [make() for _ in range(5)]
    for step, (kept, anew) in enumerate(PLAN):
        if kept is not None:
            together.keep_rows(kept)
            alone = [alone[row] for row in kept]
        for row in anew:
            together.reset(row)
            alone[row].reset()
        shape = (len(alone), *together.observation_space.shape)
        observations = random.uniform(-1, 1, shape).astype(np.float32)
        rewards = random.uniform(-1, 1, len(alone)).tolist()
        actions = together.act_batch(observations, rewards=rewards)
        expected = [
            player.act(obs, reward=reward)
            for player, obs, reward in zip(alone, observations, rewards, strict=True)
        ]
        for row, (action, other) in enumerate(zip(actions, expected, strict=True)):
            assert close(action, other), f"step {step}, row {row}"
        if step == 2 and not case.endswith("plain"):  # the memory shows in the actions
            assert not all(map(close, [make().act(obs) for obs in observations], expected))


@STACKS
def test_a_policy_with_memory_asks_for_the_rows_that_stay(stack: str) -> None:
    player = pair("recurrent").player(stack)
    rows = [np.full(4, value, np.float32) for value in (0.1, 0.2, 0.3)]
    player.act_batch(rows)
    with pytest.raises(InvalidInputError, match=r"2 observations for 3 .*keep_rows\(\[…\]\)"):
        player.act_batch(rows[:2])
    player.keep_rows(row for row in (2, 0))
    assert len(player.act_batch(rows[:2])) == 2
    with pytest.raises(InvalidInputError, match=r"3 observations for 2 .*play them with sessions"):
        player.act_batch(rows)
    player.keep_rows(np.flatnonzero([False, True]))
    player.act(rows[0])


def test_what_belongs_to_rows_that_left_is_freed() -> None:
    player: Any = old(policy(*SPACES), connectors=SUMS)()
    player.act_batch(np.zeros((3, 4), np.float32))
    player.keep_rows([2])
    (summing,) = player.policy.agent_connectors["SumOld"]
    assert len(summing.sums) == 1
    player.reset()
    assert len(summing.sums) == 0


@STACKS
def test_keeping_no_rows_forgets_all_episodes(stack: str) -> None:
    player = pair("recurrent").player(stack)
    rows = [np.full(4, value, np.float32) for value in (0.1, 0.2, 0.3)]
    first = player.act_batch(rows)
    player.act_batch(rows)
    player.keep_rows([])
    assert player.act_batch(rows) == first
    player.reset()
    player.keep_rows([])
    assert player.act_batch(rows) == first


@STACKS
def test_flags_of_running_episodes_follow_their_rows(stack: str) -> None:
    player = pair("rewarded").player(stack)
    obs = np.zeros(4, np.float32)
    player.act_batch([obs] * 3)
    player.reset(1)
    player.keep_rows([1])  # no row has a previous reward
    player.act(obs)
    player.keep_rows([0])
    with pytest.raises(InvalidInputError, match="reward="):
        player.act(obs)


BAD_ROWS: dict[str, Any] = {
    "a number": 1,
    "text": "01",
    "a dict": {0: 1},
    "an array without axes": np.array(0),
    "a row too many": [0, 3],
    "a row below zero": [-1],
    "twice": [0, 1, 0],
    "a mask": [True, False, True],
    "floats": [0.0],
    "nothing": None,
}


@STACKS
@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_refused_and_change_nothing(stack: str, case: str) -> None:
    player, control = (pair("recurrent").player(stack) for _ in range(2))
    rows = [np.full(4, value, np.float32) for value in (0.1, 0.2, 0.3)]
    for each in (player, control):
        each.act_batch(rows)
    with pytest.raises(InvalidInputError, match="keep_rows"):
        player.keep_rows(BAD_ROWS[case])
    assert player.act_batch(rows) == control.act_batch(rows)


@STACKS
def test_after_a_call_that_failed_halfway_only_a_reset_helps(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = pair("recurrent").player(stack)
    obs = np.zeros(4, np.float32)
    player.act_batch([obs] * 2)
    with monkeypatch.context() as patch:
        patch.setattr(player._engine, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            player.act_batch([obs] * 2)
    with pytest.raises(InvalidInputError, match=r"failed halfway.*reset\(\)"):
        player.keep_rows([0])
    player.reset()
    player.act(obs)
