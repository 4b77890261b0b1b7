"""Compare a player's act and act_batch with the network alone, and with RLlib's pipelines.

    ./.venv/bin/python scripts/benchmarks/bench_act.py [--rounds 400] [--quiet-only]

The script prints a Markdown table for each API stack: medians in microseconds, the ratio of a
player to the network alone, and the ratio of the slowest hundredth of the calls to their median.
Three ways are measured in one run, on the same policy:

- network: the module's ``_forward_inference``, or the model of an old-stack policy, under
  ``torch.inference_mode()`` on a tensor that is ready. With torch's own number of threads, and with
  one thread, because a player computes small networks on one thread.
- player: ``player.act(obs)`` and ``player.act_batch`` of 64 rows, as arrays.
- pipelines: the same calls through RLlib's connectors, on one thread.

The network on one thread and the player are called in turn. Then all of it once more while two
other processes compute, on a machine that is busy.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import statistics
import time
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

ROWS = 64
VECTOR = Box(-1.0, 1.0, (4,), np.float32)
FORCES = Box(-2.0, 2.0, (2,), np.float32)
NESTED = Dict({"far": Box(-1.0, 1.0, (6,), np.float32), "kind": Discrete(4)})
NET = {"fcnet_hiddens": [256, 256]}


class Cell(NamedTuple):
    """One policy of the table."""

    name: str
    observations: gym.Space[Any]
    actions: gym.Space[Any]
    model: dict[str, Any]
    pieces: Callable[[], list[Any]] | None = None
    flat: int = 0  # how many numbers the connectors make of an observation


def filtered() -> list[Any]:
    """A filter with statistics, which it does not change."""
    piece = MeanStdFilter(update_stats=False)
    piece.input_action_space, piece.input_observation_space = FORCES, VECTOR
    piece._init_new_filters()
    for row in np.random.default_rng(0).normal(size=(9, 4)):
        piece._filters[None].running_stats.push(row)
    return [piece]


NEW = [
    Cell("fc 64x64, Discrete", VECTOR, Discrete(2), {"fcnet_hiddens": [64, 64]}),
    Cell("fc 256x256, Discrete", VECTOR, Discrete(2), NET),
    Cell("fc 256x256, Box and filter", VECTOR, FORCES, NET, filtered),
    Cell("fc 256x256, Dict", NESTED, Discrete(3), NET, lambda: [FlattenObservations()], 10),
    Cell(
        "conv 42x42, float32",
        Box(0.0, 1.0, (42, 42, 2), np.float32),
        Discrete(4),
        {"conv_filters": [[8, 8, 4], [16, 4, 2]], "head_fcnet_hiddens": [64]},
    ),
    Cell(
        "LSTM 64, Discrete",
        VECTOR,
        Discrete(2),
        {"fcnet_hiddens": [64], "use_lstm": True, "lstm_cell_size": 64, "max_seq_len": 8},
    ),
]
OLD = [
    *NEW[:2],
    Cell("fc 256x256, Box", VECTOR, FORCES, NET),
    Cell("fc 256x256, Dict", NESTED, Discrete(3), NET),
    Cell(
        "conv 42x42, uint8",
        Box(0, 255, (42, 42, 2), np.uint8),
        Discrete(4),
        {"conv_filters": [[8, [8, 8], 4], [16, [4, 4], 2], [64, [6, 6], 1]]},
    ),
    NEW[-1],
]


def new_player(cell: Cell) -> tuple[Any, Callable[[Any], Any], Any]:
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

    def forward(rows: int) -> Callable[[], Any]:
        batch = {"obs": torch.zeros(rows, *space.shape, dtype=torch.float32)}
        if module.is_stateful():
            state = {
                name: value.unsqueeze(0).expand(rows, *value.shape).contiguous()
                for name, value in module.get_initial_state().items()
            }
            batch = {"obs": batch["obs"].unsqueeze(1), "state_in": state}
        return lambda: module._forward_inference(batch)

    return player, forward, player._pipeline_engine


def old_player(cell: Cell) -> tuple[Any, Callable[[Any], Any], Any]:
    """Return a player, its network, and the engine that goes through the connectors."""
    config = PPOConfig().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    config.training(model=cell.model)
    space = get_preprocessor(cell.observations)(cell.observations, config.model).observation_space
    policy = PPOTorchPolicy(space, cell.actions, config.to_dict())
    player: Any = rebuild_player(snapshot(policy), env_spaces=(cell.observations, cell.actions))
    model = player.policy.model

    def forward(rows: int) -> Callable[[], Any]:
        dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
        batch = {"obs": torch.zeros(rows, *space.shape, dtype=dtype)}
        states = [
            torch.zeros(rows, *np.shape(state)) for state in player.policy.get_initial_state()
        ]
        lengths = torch.ones(rows, dtype=torch.long)
        return lambda: model(dict(batch), states, lengths)

    return player, forward, player._connector_engine


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call, which are made in turn, for half a second or so."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + 0.6
    for index in range(rounds + rounds // 10):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            stop = time.perf_counter()
            if index >= rounds // 10 or stop > end - 0.3 or index < 2:
                seconds[name].append(stop - start)
        if stop > end and index:
            break
    return seconds


def with_threads(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(threads)
        return call()

    return run


def alone(call: Callable[[], Any], threads: int) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return call()

    return run


def measure(cell: Cell, make: Callable[[Cell], Any], rounds: int, threads: int) -> None:
    """Print the lines of one policy."""
    player, forward, slow = make(cell)
    fast = player._engine
    single = cell.observations.sample()
    rows = [cell.observations.sample() for _ in range(ROWS)]
    tools = gym.vector.utils
    batch = tools.concatenate(
        cell.observations, rows, tools.create_empty_array(cell.observations, n=ROWS)
    )

    for label, count, call in (
        ("act", 1, lambda: player.act(single)),
        (f"act_batch of {ROWS}", ROWS, lambda: player.act_batch(batch)),
    ):
        bare = forward(count)
        player._engine = fast
        player.reset()
        # Threads of torch go on spinning for a while after an operation, so that each group of
        # calls has one number of threads.
        seconds = in_turn(
            {"network, one thread": alone(bare, 1), "player": with_threads(call, threads)}, rounds
        )
        seconds["late"] = in_turn({"late": with_threads(call, threads)}, 3 * rounds)["late"]
        player._engine = slow
        player.reset()
        seconds |= in_turn({"pipelines": with_threads(call, 1)}, rounds)
        player._engine = fast
        player.reset()
        seconds |= in_turn({"network": alone(bare, threads)}, rounds)
        middle = {name: statistics.median(each) * 1e6 for name, each in seconds.items()}
        late = {
            name: statistics.quantiles(seconds[name], n=100)[-1] * 1e6
            for name in ("network, one thread", "late")
        }
        best = min(middle["network"], middle["network, one thread"])
        print(
            f"| {cell.name} | {label} | {middle['network']:.0f} | "
            f"{middle['network, one thread']:.0f} | {middle['player']:.0f} | "
            f"{middle['pipelines']:.0f} | {middle['player'] / best:.1f} | "
            f"{late['network, one thread'] / middle['network, one thread']:.1f} | "
            f"{late['late'] / middle['late']:.1f} |",
            flush=True,
        )


def spin() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--quiet-only", action="store_true", help="no busy machine")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    for load in (0,) if options.quiet_only else (0, 2):
        spinning = [multiprocessing.Process(target=spin, daemon=True) for _ in range(load)]
        for each in spinning:
            each.start()
        for stack, cells, make in (("new", NEW, new_player), ("old", OLD, old_player)):
            print(
                f"\n{stack} API stack, {load} other processes of this script compute, "
                f"{os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}, "
                f"torch has {threads} threads\n\n"
                "| policy | call | network, µs | network on one thread, µs | player, µs | "
                "pipelines on one thread, µs | player / network | p99 / median of the network | "
                "p99 / median of the player |\n|---|---|---|---|---|---|---|---|---|"
            )
            for cell in cells:
                measure(cell, make, options.rounds, threads)
        for each in spinning:
            each.terminate()


if __name__ == "__main__":
    main()
