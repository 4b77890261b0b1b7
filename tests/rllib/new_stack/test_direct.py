"""What plays a module past RLlib's pipelines acts exactly as the pipelines do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.connectors.env_to_module import (
    FlattenObservations,
    MeanStdFilter,
    PrevActionsPrevRewards,
)
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

import tests.support.new_stack_modules as parts
from policystore import Snapshot
from policystore.rllib import rebuild_player, snapshot
from policystore.rllib.new_stack.playing.direct import DirectEngine
from policystore.rllib.new_stack.playing.pipelines import PipelineEngine
from policystore.rllib.new_stack.rebuild import rebuild_module
from tests.support.cells import sampled
from tests.support.player_pairs import FORCES, THREE, VECTOR
from tests.support.rl_modules import (
    DefaultBCTorchRLModule,
    DefaultDQNTorchRLModule,
    DefaultPPOTorchRLModule,
    DefaultSACTorchRLModule,
    FrameStacking,
)

WIDE = Box(-np.inf, np.inf, (4,), np.float64)
UNEVEN = Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))
FREE = Box(-np.inf, np.inf, (2,), np.float32)
IMAGE = Box(-1.0, 1.0, (8, 8, 2), np.float32)
# The keys are not in the order of the alphabet, in which RLlib flattens them.
NESTED = Dict(
    [
        ("z", Box(-5.0, 9.0, (3,), np.float32)),
        ("b", Tuple([Discrete(3), Box(0.0, 1.0, (2, 2)), MultiDiscrete([2, 3])])),
        ("a", Dict([("y", MultiBinary(2)), ("x", Box(-1.0, 1.0, (), np.float64))])),
    ]
)
SMALL = {"fcnet_hiddens": [8, 8], "head_fcnet_hiddens": [8]}
LSTM = {**SMALL, "use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
OFF_POLICY = {
    "twin_q": True,
    "epsilon": [(0, 1.0), (100, 0.3)],
    "num_atoms": 1,
    "dueling": True,
    "double_q": True,
}
CONV = {"conv_filters": [[4, 3, 2], [8, 3, 2]], "head_fcnet_hiddens": [8]}


def flat(size: int) -> Box:
    return Box(-np.inf, np.inf, (size,), np.float32)


def filtered(size: int = 4, **arguments: Any) -> MeanStdFilter:
    """A filter with statistics, which it does not change."""
    piece = MeanStdFilter(update_stats=False, **arguments)
    piece.input_action_space = THREE
    piece.input_observation_space = flat(size)
    piece._init_new_filters()
    stats = piece._filters[None].running_stats
    for row in np.random.default_rng(0).normal(0.3, 2.0, (9, size)):
        stats.push(row)
    return piece


class Cell:
    """A module with what stands between it and its environment."""

    def __init__(
        self,
        obs: gym.Space[Any] = VECTOR,
        act: gym.Space[Any] = THREE,
        *,
        made: gym.Space[Any] | None = None,
        model: dict[str, Any] | None = None,
        module: Any = DefaultPPOTorchRLModule,
        pieces: Callable[[], list[Any]] | None = None,
        multi_agent: bool = False,
        **arguments: Any,
    ) -> None:
        self.obs, self.act, self.pieces = obs, act, pieces
        self.made = obs if made is None else made
        self.model = SMALL if model is None else model
        self.module, self.multi_agent, self.arguments = module, multi_agent, arguments

    def snap(self) -> Snapshot:
        torch.manual_seed(3)
        model = self.model
        if "width" not in model:
            model = {**vars(DefaultModelConfig(**model)), **OFF_POLICY}
        spec = RLModuleSpec(
            module_class=self.module,
            observation_space=self.made,
            action_space=self.act,
            model_config=model,
        )
        made = snapshot(spec.build())
        if self.multi_agent:
            recorded = {
                "multi_agent": True,
                "agents": ["a"],
                "defaults": {"env_to_module": True, "module_to_env": True},
            }
            made = made.replace(spec=made.spec.replace(connectors=recorded))
        return made

    def player(self) -> Any:
        return rebuild_player(
            self.snap(),
            env_spaces=(self.obs, self.act),
            connectors=None if self.pieces is None else self.pieces(),
            **{"normalize_actions": True, "trust": ["tests."], **self.arguments},
        )


CELLS: dict[str, Cell] = {
    "ppo": Cell(),
    "ppo-float64": Cell(WIDE, UNEVEN),
    "ppo-box": Cell(VECTOR, UNEVEN),
    "ppo-box-clipped": Cell(VECTOR, UNEVEN, normalize_actions=False, clip_actions=True),
    "ppo-box-raw": Cell(VECTOR, UNEVEN, normalize_actions=False),
    "ppo-box-unbounded": Cell(VECTOR, FREE, clip_actions=True),
    "ppo-scalar-box": Cell(VECTOR, Box(-1.0, 3.0, (), np.float32)),
    "ppo-free-log-std": Cell(
        VECTOR, FORCES, model={**SMALL, "free_log_std": True, "vf_share_layers": False}
    ),
    "ppo-multidiscrete": Cell(VECTOR, MultiDiscrete([3, 4])),
    "ppo-tuple-actions": Cell(VECTOR, Tuple([Discrete(3), UNEVEN])),
    "ppo-dict-actions": Cell(VECTOR, Dict({"y": Discrete(2), "x": UNEVEN})),
    "ppo-discrete-obs": Cell(Discrete(5), made=flat(5), pieces=lambda: [FlattenObservations()]),
    "ppo-multidiscrete-obs": Cell(
        MultiDiscrete([2, 4]), made=flat(6), pieces=lambda: [FlattenObservations()]
    ),
    "ppo-nested": Cell(NESTED, UNEVEN, made=flat(18), pieces=lambda: [FlattenObservations()]),
    "ppo-filter": Cell(pieces=lambda: [filtered()]),
    "ppo-filter-float64": Cell(WIDE, UNEVEN, pieces=lambda: [filtered()]),
    "ppo-filter-plain": Cell(pieces=lambda: [filtered(de_mean_to_zero=False)]),
    "ppo-flattened-filter": Cell(
        NESTED,
        made=flat(18),
        pieces=lambda: [FlattenObservations(), filtered(18, clip_by_value=1.5)],
    ),
    "ppo-conv": Cell(IMAGE, model=CONV),
    "ppo-lstm": Cell(model=LSTM),
    "ppo-lstm-box": Cell(VECTOR, UNEVEN, model=LSTM),
    "ppo-lstm-multidiscrete": Cell(VECTOR, MultiDiscrete([3, 4]), model=LSTM),
    "ppo-lstm-filter": Cell(model=LSTM, pieces=lambda: [filtered()]),
    "ppo-agent": Cell(multi_agent=True),
    "ppo-agent-lstm": Cell(VECTOR, UNEVEN, model=LSTM, multi_agent=True),
    "bc": Cell(VECTOR, UNEVEN, module=DefaultBCTorchRLModule),
    "dqn": Cell(module=DefaultDQNTorchRLModule),
    "sac": Cell(VECTOR, UNEVEN, module=DefaultSACTorchRLModule),
    "sac-discrete": Cell(module=DefaultSACTorchRLModule),
    "own-net": Cell(module=parts.BatchNormHead, model={"width": 8}),
}


def observations(
    space: gym.Space[Any], count: int, random: np.random.Generator, *, extreme: bool = True
) -> list[Any]:
    """Observations of a space: sampled, extreme ones, and ones out of the bounds of Boxes."""
    space.seed(int(random.integers(1 << 30)))
    rows = [space.sample() for _ in range(count)]
    if isinstance(space, Box) and space.dtype.kind == "f":
        values = (np.inf, -np.inf, 1e30, 0.0) if extreme else (1e6, -1e6, 0.0)
        for row, value in zip(rows, values, strict=False):
            if random.random() < 0.3:
                row[..., :1] = value
    return rows


def assert_same(one: Any, other: Any) -> None:
    """Equal values of equal types, bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        one, other = list(one.values()), list(other.values())
    if isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


SAMPLE = (
    "ppo", "ppo-box", "ppo-nested", "ppo-flattened-filter", "ppo-lstm-box", "ppo-agent-lstm", "dqn",
    "ppo-conv", "ppo-dict-actions",
)  # fmt: skip


@pytest.mark.parametrize("case", sampled(CELLS, *SAMPLE))
def test_both_ways_take_the_same_actions(case: str) -> None:
    cell = CELLS[case]
    player = cell.player()
    fast, slow = player._engine, player._pipeline_engine
    assert type(fast) is DirectEngine
    assert type(slow) is PipelineEngine
    random = np.random.default_rng(1)
    # RLlib adds up nested actions of several rows in the wrong way (torch_distribution.py:650).
    for count in (1,) if isinstance(cell.act, (Dict, Tuple)) else (1, 7):
        memories: list[Any] = [[None] * count, [None] * count]
        for step in range(12):
            # These networks make NaN of infinite numbers, and NaN is refused.
            extreme = case not in ("ppo-conv", "own-net")
            rows = observations(cell.obs, count, random, extreme=extreme)
            explore = step % 4 == 3
            results = []
            for way, engine in enumerate((fast, slow)):
                torch.manual_seed(step)
                actions, memories[way] = engine.step(
                    memories[way], engine.read(rows), explore, None
                )
                results.append(actions)
            assert_same(*results)
            if step == 6:  # the first environment begins anew
                memories = [[None, *each[1:]] for each in memories]


@pytest.mark.parametrize("case", ["ppo-tuple-actions", "ppo-dict-actions"])
def test_nested_actions_of_a_batch_are_those_of_single_rows(case: str) -> None:
    player = CELLS[case].player()
    rows = observations(VECTOR, 7, np.random.default_rng(4))
    for action, row in zip(player.act_batch(rows), rows, strict=True):
        alone = player.act(row)
        keys = list(alone) if isinstance(alone, dict) else range(len(alone))
        for key in keys:
            np.testing.assert_allclose(action[key], alone[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    sampled(["ppo", "ppo-nested", "ppo-filter-float64", "ppo-lstm"], "ppo-nested", "ppo-lstm"),
)
def test_forms_of_a_batch_make_no_difference(case: str) -> None:
    cell = CELLS[case]
    rows = observations(cell.obs, 5, np.random.default_rng(2))
    vector = gym.vector.utils
    batch = vector.concatenate(cell.obs, rows, vector.create_empty_array(cell.obs, n=5))
    forms = [rows, tuple(rows), batch]
    if isinstance(cell.obs, Box):
        forms += [batch[:, ::-1].copy()[:, ::-1], batch.astype(np.float64), batch.tolist()]
        frozen = batch.copy()
        frozen.flags.writeable = False
        forms.append(frozen)
    player = cell.player()
    expected = player.act_batch(rows)
    for form in forms:
        player.reset()
        assert_same(player.act_batch(form), expected)


NOT_DIRECT: dict[str, Cell] = {
    "frames": Cell(
        Box(-1.0, 1.0, (8, 8, 1), np.float32),
        made=Box(-1.0, 1.0, (8, 8, 3), np.float32),
        model=CONV,
        pieces=lambda: [FrameStacking(num_frames=3)],
    ),
    "previous": Cell(
        made=flat(8),
        pieces=lambda: [
            PrevActionsPrevRewards(n_prev_actions=1, n_prev_rewards=1),
            FlattenObservations(),
        ],
    ),
    "own piece": Cell(pieces=lambda: [parts.Shifted()]),
    "a filter that learns": Cell(pieces=lambda: [MeanStdFilter()]),
}


@pytest.mark.parametrize("case", NOT_DIRECT)
def test_what_is_not_known_plays_through_the_pipelines(case: str) -> None:
    player = NOT_DIRECT[case].player()
    assert type(player._engine) is PipelineEngine
    assert player.act(player.observation_space.sample()) in player.action_space


def test_present_weights_of_the_module_act() -> None:
    cell = CELLS["ppo-box"]
    player, other = cell.player(), cell.player()
    before = player.act(np.ones(4, np.float32))
    state = {name: 2 * tensor for name, tensor in player.module.state_dict().items()}
    for each in (player, other):
        each.module.load_state_dict(state)
    other._engine = other._pipeline_engine
    after = player.act(np.ones(4, np.float32))
    assert not np.array_equal(before, after)
    assert_same(after, other.act(np.ones(4, np.float32)))


def test_a_module_in_training_mode_acts_as_in_evaluation() -> None:
    player = CELLS["own-net"].player()
    rows = np.ones((3, 4), np.float32)
    expected = player.act_batch(rows)
    player.module.train()
    assert player.act_batch(rows) == expected
    assert not player.module.training


def test_only_networks_without_own_parts_are_called_by_several_threads_at_once() -> None:
    concurrent = {case: CELLS[case].player()._engine.concurrent for case in ("ppo", "dqn")}
    assert all(concurrent.values())
    assert not CELLS["own-net"].player()._engine.concurrent
    assert not CELLS["ppo-lstm"].player()._engine.concurrent


def test_a_module_still_trains_after_it_has_acted() -> None:
    player = CELLS["ppo"].player()
    player.act(np.ones(4, np.float32))
    outputs = player.module.forward_train({"obs": torch.ones(2, 4)})
    outputs["action_dist_inputs"].sum().backward()
    assert rebuild_module(CELLS["ppo"].snap()) is not player.module
