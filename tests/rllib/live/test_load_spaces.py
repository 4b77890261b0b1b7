"""load_into where spaces differ only in their bounds, both API stacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.new_stack_algorithms as parts
from policystore import PolicyStore, Snapshot
from policystore.errors import MismatchError
from policystore.rllib import load_into, snapshot, warm_start
from policystore.spaces import space_to_json
from tests.support.added_policies import old
from tests.support.cells import sampled
from tests.support.envs import Solo

ONE = "default_policy"


def configured(stack: str) -> Any:
    if stack == "new":
        return parts.configured(PPOConfig, multi=False)
    config = old(PPOConfig()).environment(Solo).env_runners(num_env_runners=0)
    return config.training(
        train_batch_size=40, minibatch_size=20, num_epochs=1, model={"fcnet_hiddens": [8]}
    ).debugging(log_level="ERROR")


@pytest.fixture(scope="module", params=sampled(["new", "old"], "new"))
def algo(request: Any, ray_session: None) -> Iterator[Any]:
    with parts.built(configured(request.param)) as made:
        yield made


def with_bounds(snap: Snapshot, high: float) -> Snapshot:
    wider = gym.spaces.Box(-high, high, (4,), np.float32)
    return snap.replace(spec=snap.spec.replace(observation_space=space_to_json(wider)))


def test_other_bounds_are_refused_unless_told(algo: Any) -> None:
    snap = with_bounds(parts.other(snapshot(algo), 3.0), 20.0)

    with pytest.raises(MismatchError, match='Only bounds differ.*spaces="shape"'):
        load_into(algo, {ONE: snap})
    report = load_into(algo, {ONE: snap}, spaces="shape")

    assert report.ok
    assert any("its observation space is Box(-20.0" in note for note in report.notes)
    held = snapshot(algo).weights
    assert all(held[name].tobytes() == array.tobytes() for name, array in snap.weights.items())


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-1.0, 1.0, (5,), np.float32),
        gym.spaces.Box(-1, 1, (4,), np.float64),
        gym.spaces.Discrete(4),
    ],
    ids=["shape", "dtype", "kind"],
)
def test_other_spaces_are_refused_always(algo: Any, space: Any) -> None:
    snap = snapshot(algo)
    other = snap.replace(spec=snap.spec.replace(observation_space=space_to_json(space)))
    with pytest.raises(
        MismatchError, match=r"add_policy\(\) adds a policy of other spaces.*adapt\(snap"
    ):
        load_into(algo, {ONE: other}, spaces="shape")


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new", "old"])
def test_a_warm_start_from_other_bounds(stack: str, ray_session: None, tmp_path: Any) -> None:
    store = PolicyStore(tmp_path / "store")
    with parts.built(configured(stack)) as made:
        snap = with_bounds(parts.other(snapshot(made), 3.0), 20.0)
        store.push(snap, "first")

    with pytest.raises(MismatchError, match='spaces="shape"'):
        configured(stack).callbacks(warm_start(store, {ONE: "first"})).build_algo()
    told = configured(stack).callbacks(warm_start(store, {ONE: "first"}, spaces="shape"))
    with parts.built(told) as algo:
        held = snapshot(algo).weights
        assert all(held[name].tobytes() == array.tobytes() for name, array in snap.weights.items())
