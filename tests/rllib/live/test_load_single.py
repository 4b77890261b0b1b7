"""load_into on the new API stack: one agent, other kinds of modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.vpg_using_shared_encoder_rlm import SHARED_ENCODER_ID

import tests.support.envs as envs
import tests.support.new_stack_algorithms as parts
from policystore.rllib import check_sync, load_into, snapshot_all
from tests.support.cells import sampled
from tests.support.shared_encoder import sharing

# torch.compile looks at .grad of what is no leaf, and hides the warning of it only by default.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

ONE = "default_policy"
BOX = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
LSTM = DefaultModelConfig(fcnet_hiddens=[8], use_lstm=True, lstm_cell_size=4, max_seq_len=5)


def single(kind: Any = PPOConfig, **cell: Any) -> Any:
    return parts.configured(kind, multi=False, **cell)


def own(module: Any, **cell: Any) -> Any:
    return single(**cell).rl_module(rl_module_spec=RLModuleSpec(module_class=module))


def without_local(**cell: Any) -> Any:
    return single(**cell).env_runners(create_local_env_runner=False)


def compiled_by_rllib() -> Any:
    return single(runners=1, evals=0).framework(
        "torch",
        torch_compile_learner=True,
        torch_compile_learner_dynamo_backend="eager",
        torch_compile_worker=True,
        torch_compile_worker_dynamo_backend="eager",
    )


CELLS: dict[str, Callable[[], Any]] = {
    "PPO": lambda: single(),
    "PPO, LSTM": lambda: single(runners=2, evals=1, model=LSTM),
    "PPO, two learners": lambda: single(runners=1, evals=0, learners=2),
    "PPO, no local runner": lambda: without_local(runners=2),
    "PPO, a compiled part": lambda: own(envs.Compiled, runners=1, evals=0),
    "PPO, compiled by RLlib": compiled_by_rllib,
    "IMPALA, LSTM": lambda: single(IMPALAConfig, runners=1, model=LSTM, lr=1e-5),
    "DQN": lambda: single(DQNConfig, evals=0),
    "SAC": lambda: single(SACConfig, runners=1, evals=1, action_space=BOX),
    "SAC, remote learner": lambda: single(SACConfig, runners=1, learners=1),
    "DQN, one frozen": lambda: parts.configured(DQNConfig, runners=2),
}
TARGETS = ["DQN", "SAC", "SAC, remote learner", "DQN, one frozen"]


@pytest.fixture(
    scope="module",
    params=sampled(CELLS, "PPO"),
)
def cell(request: Any, ray_session: None) -> Iterator[Any]:
    with parts.built(CELLS[request.param]()) as algo:
        yield algo


def load_and_sample(algo: Any, level: float) -> None:
    groups = ["train"] if algo.eval_env_runner_group is None else ["eval", "train"]
    snaps = {
        pid: parts.other(snap, level + 20 * (pid == "foe"))
        for pid, snap in snapshot_all(algo).items()
    }
    report = load_into(algo, snaps)
    parts.assert_proven(report, algo, snaps)
    parts.assert_held(algo, snaps)
    assert snapshot_all(algo) == snaps
    for group in groups:
        parts.ask(algo, parts.forget)
        if group == "eval":
            algo.evaluate()
        else:
            parts.until(lambda: algo.train() and all_sampled(algo), "a sample of each runner")
        parts.assert_first_sample(algo, snaps, group)
    for name, found in parts.ask(algo, parts.read).items():
        for pid in snaps:
            now = {n: a for n, a in found["arrays"][pid].items() if n in parts.acting(snaps[pid])}
            assert abs(parts.level_of(now) - level - 20 * (pid == "foe")) < 0.5, name
    if "foe" in snaps:
        parts.assert_frozen(algo, snaps["foe"], "foe")


def all_sampled(algo: Any) -> bool:
    found = parts.ask(algo, parts.read)
    remote = [n for n in found if n.startswith("train") and not n.endswith("local")]
    return all(found[name]["drawn"] for name in remote or ["train local"])


def test_before_the_first_train(cell: Any) -> None:
    assert cell.iteration == 0
    load_and_sample(cell, 2.0)


def test_after_many_updates(cell: Any) -> None:
    parts.train_until_seq(cell, 10)
    load_and_sample(cell, 7.0)
    load_and_sample(cell, -4.0)


@pytest.mark.parametrize("cell", sampled(TARGETS, "DQN"), indirect=True)
def test_target_networks(cell: Any) -> None:
    """They go along; those that a snapshot lacks become copies, and are no old ones."""
    algo = cell
    for pid, now in snapshot_all(algo).items():
        full = parts.other(now, 5.0)
        assert any("target" in each for each in full.weights)
        load_into(algo, {pid: full})
        parts.assert_held(algo, {pid: full})
        part = parts.other(now, -6.0, without=["target"])
        report = load_into(algo, {pid: part})
        parts.assert_proven(report, algo, {pid: part})
        parts.assert_held(algo, {pid: part})
        for who, found in parts.ask(algo, parts.read).items():
            if not who.startswith("learner"):
                continue
            held = found["arrays"][pid]
            targets = [each for each in held if "target" in each]
            assert len(targets) == len(full.weights) - len(part.weights)
            for each in targets:
                source = each.replace("_target_", "").replace("target_", "")
                assert held[each].tobytes() == held[source].tobytes(), (who, each)


@pytest.mark.long
def test_frozen_stays_frozen(ray_session: None) -> None:
    """Also where target networks of frozen modules move with every update (DQN)."""
    with parts.built(parts.configured(DQNConfig, runners=1, evals=0, learners=1)) as algo:
        frozen = parts.other(snapshot_all(algo)["foe"], 9.0)
        load_into(algo, {"foe": frozen})
        for _ in range(6):
            algo.train()
        algo.evaluate()
        parts.assert_frozen(algo, frozen, "foe")
        assert {row.digest for row in check_sync(algo, ["foe"])} == {frozen.acting_digest}


# Modules that share parts ------------------------------------------------------------------------


@pytest.mark.long
def test_modules_that_share_an_encoder(ray_session: None) -> None:
    with parts.built(sharing()) as algo:
        parts.train_until_seq(algo, 10)
        ((together, now),) = snapshot_all(algo).items()
        assert together == "__all_modules__"
        snap = parts.other(now, 5.0)
        report = load_into(algo, {together: snap})
        assert report.ok
        assert {row.policy for row in report} == {"p0", "p1", SHARED_ENCODER_ID}
        for found in parts.ask(algo, parts.read).values():
            held = {
                f"{mid}/{name}": array
                for mid, arrays in found["arrays"].items()
                for name, array in arrays.items()
            }
            assert parts.print_of(held) == parts.print_of(snap.weights)
        assert snapshot_all(algo) == {together: snap}
        parts.ask(algo, parts.forget)
        algo.train()
        expected = {
            mid: parts.print_of(
                {n.partition("/")[2]: a for n, a in snap.weights.items() if n.startswith(f"{mid}/")}
            )
            for mid in ("p0", "p1", SHARED_ENCODER_ID)
        }
        drawn = [
            found["drawn"][0]
            for name, found in parts.ask(algo, parts.read).items()
            if name in ("train 1", "train 2")
        ]
        assert len(drawn) == 2
        assert all(seen["prints"] == expected for first in drawn for seen in first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [PPOConfig, IMPALAConfig])
def test_learners_on_a_gpu(ray_session: None, kind: Any) -> None:
    config = parts.configured(kind, runners=1, evals=0, lr=1e-5)
    with parts.built(config.learners(num_learners=0, num_gpus_per_learner=1)) as algo:
        module = algo.learner_group._learner.module["main"].unwrapped()
        for level in (2.0, 7.0):
            load_and_sample(algo, level)
            assert {each.device.type for each in module.parameters()} == {"cuda"}
            parts.train_until_seq(algo, 10)
