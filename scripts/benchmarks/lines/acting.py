"""Players against the network alone: one observation, and 64 at once.

The network is the module's ``_forward_inference``, or the model of an old-stack policy, under
``torch.inference_mode()`` on a tensor that is ready. Players compute small networks on one thread,
so the network has one thread, too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.models.preprocessors import get_preprocessor

from policystore.rllib import rebuild_player, snapshot
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import in_turn

__all__ = ["NEW", "OLD", "ROWS", "Cell", "alone", "batch_of", "measure", "new_player", "old_player"]

ROWS = 64
_LIMITS = {1: 3.0, ROWS: 2.0}
_VECTOR = Box(-1.0, 1.0, (4,), np.float32)
_FORCES = Box(-2.0, 2.0, (2,), np.float32)
_NESTED = Dict({"far": Box(-1.0, 1.0, (6,), np.float32), "kind": Discrete(4)})
_NET = {"fcnet_hiddens": [256, 256]}


class Cell(NamedTuple):
    """One policy of the table."""

    name: str
    observations: gym.Space[Any]
    actions: gym.Space[Any]
    model: dict[str, Any]
    pieces: Callable[[], list[Any]] | None = None
    flat: int = 0  # how many numbers the connectors make of an observation


def _filtered() -> list[Any]:
    """Return a filter with statistics, which it does not change."""
    piece = MeanStdFilter(update_stats=False)
    piece.input_action_space, piece.input_observation_space = _FORCES, _VECTOR
    piece._init_new_filters()
    for row in np.random.default_rng(0).normal(size=(9, 4)):
        piece._filters[None].running_stats.push(row)
    return [piece]


NEW = [
    Cell("fc 64x64, Discrete", _VECTOR, Discrete(2), {"fcnet_hiddens": [64, 64]}),
    Cell("fc 256x256, Discrete", _VECTOR, Discrete(2), _NET),
    Cell("fc 256x256, Box and filter", _VECTOR, _FORCES, _NET, _filtered),
    Cell("fc 256x256, Dict", _NESTED, Discrete(3), _NET, lambda: [FlattenObservations()], 10),
    Cell(
        "conv 42x42, float32",
        Box(0.0, 1.0, (42, 42, 2), np.float32),
        Discrete(4),
        {"conv_filters": [[8, 8, 4], [16, 4, 2]], "head_fcnet_hiddens": [64]},
    ),
    Cell(
        "LSTM 64, Discrete",
        _VECTOR,
        Discrete(2),
        {"fcnet_hiddens": [64], "use_lstm": True, "lstm_cell_size": 64, "max_seq_len": 8},
    ),
]
OLD = [
    *NEW[:2],
    Cell("fc 256x256, Box", _VECTOR, _FORCES, _NET),
    Cell("fc 256x256, Dict", _NESTED, Discrete(3), _NET),
    Cell(
        "conv 42x42, uint8",
        Box(0, 255, (42, 42, 2), np.uint8),
        Discrete(4),
        {"conv_filters": [[8, [8, 8], 4], [16, [4, 4], 2], [64, [6, 6], 1]]},
    ),
    NEW[-1],
]


def new_player(cell: Cell) -> tuple[Any, Callable[..., Any], Any]:
    """Return a player, its network, and the engine that goes through the pipelines."""
    space = Box(-np.inf, np.inf, (cell.flat,), np.float32) if cell.flat else cell.observations
    spec = RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=space,
        action_space=cell.actions,
        model_config=DefaultModelConfig(**cell.model),
    )
    player: Any = rebuild_player(
        snapshot(spec.build()),
        env_spaces=(cell.observations, cell.actions),
        normalize_actions=True,
        connectors=None if cell.pieces is None else cell.pieces(),
    )
    module = player.module

    def forward(rows: int, given: Any = None) -> Callable[[], Any]:
        zeros = torch.zeros(rows, *space.shape, dtype=torch.float32)
        batch = {"obs": zeros if given is None else torch.from_numpy(given)}
        if module.is_stateful():
            state = {
                name: value.unsqueeze(0).expand(rows, *value.shape).contiguous()
                for name, value in module.get_initial_state().items()
            }
            batch = {"obs": batch["obs"].unsqueeze(1), "state_in": state}  # one step
        return lambda: module._forward_inference(batch)["action_dist_inputs"]

    return player, forward, player._pipeline_engine


def old_player(cell: Cell) -> tuple[Any, Callable[..., Any], Any]:
    """Return a player, its network, and the engine that goes through the connectors."""
    config = PPOConfig().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    config.training(model=cell.model)
    space = get_preprocessor(cell.observations)(cell.observations, config.model).observation_space
    policy = PPOTorchPolicy(space, cell.actions, config.to_dict())
    player: Any = rebuild_player(snapshot(policy), env_spaces=(cell.observations, cell.actions))
    model = player.policy.model

    def forward(rows: int, given: Any = None) -> Callable[[], Any]:
        dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
        zeros = torch.zeros(rows, *space.shape, dtype=dtype)
        batch = {"obs": zeros if given is None else torch.from_numpy(given)}
        states = [
            torch.zeros(rows, *np.shape(state)) for state in player.policy.get_initial_state()
        ]
        lengths = torch.ones(rows, dtype=torch.long)
        return lambda: model(dict(batch), states, lengths)[0]

    return player, forward, player._connector_engine


def alone(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    """Return a function that calls under ``torch.inference_mode()``, with a number of threads."""

    def run() -> Any:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return call()

    return run


def batch_of(cell: Cell, rows: list[Any]) -> Any:
    """Return observations of a cell as one batch."""
    tools = gym.vector.utils
    empty = tools.create_empty_array(cell.observations, n=len(rows))
    return tools.concatenate(cell.observations, rows, empty)


def measure(settings: Settings, report: Report) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for stack, cells, make in (("new", NEW, new_player), ("old", OLD, old_player)):
        for cell in cells[:1] if settings.quick else cells:
            _one_cell(settings, report, f"{cell.name}, {stack} stack", cell, make(cell))


def _one_cell(settings: Settings, report: Report, name: str, cell: Cell, made: Any) -> None:
    player, forward, _ = made
    rows = [cell.observations.sample() for _ in range(ROWS)]
    batch = batch_of(cell, rows)
    if cell.observations == _VECTOR and isinstance(cell.actions, Discrete):
        acted = player.act_batch(batch)
        with torch.inference_mode():
            logits = forward(ROWS, batch)().reshape(ROWS, -1)
        same = np.array_equal(acted, logits.argmax(-1).numpy())
        report.check(same, f"{name}: the player acts otherwise than the network")
    calls = {1: ("act", lambda: player.act(rows[0])),
             ROWS: (f"act_batch({ROWS})", lambda: player.act_batch(batch))}  # fmt: skip
    for count, (call, ours) in calls.items():
        player.reset()
        times = in_turn(
            {"player": ours, "network": alone(forward(count), 1)},
            settings.rounds(400 if count == 1 else 200), warm_up=2 if settings.quick else 40,
        )  # fmt: skip
        report.compare(f"{call}: {name}", "_forward_inference, input ready", times["player"],
                       times["network"], limit=_LIMITS[count])  # fmt: skip
