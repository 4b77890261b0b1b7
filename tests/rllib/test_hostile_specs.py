"""Snapshots of strangers, on both stacks: nothing of theirs runs, and little is spent on them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from ray.rllib.algorithms.ppo.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from policystore import (
    InvalidInputError,
    MismatchError,
    NotFoundError,
    PolicyStoreError,
    Snapshot,
    UntrustedError,
)
from policystore.format.values import Tagged
from policystore.rllib import rebuild_module, rebuild_player, rebuild_policy, snapshot
from policystore.rllib.common.trust import resolve
from tests.support.rl_modules import DefaultPPOTorchRLModule

OBS, ACT = gym.spaces.Box(-1.0, 1.0, (4,), np.float32), gym.spaces.Discrete(2)
BY_REEXPORT = (
    "ray.rllib.examples.rl_modules.migrate_modelv2_to_new_api_stack_by_policy_checkpoint"
    ":ModelV2ToRLModule"
)


def new() -> Snapshot:
    spec = RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=OBS,
        action_space=ACT,
        model_config=DefaultModelConfig(fcnet_hiddens=[8]),
    )
    try:
        return snapshot(spec.build())
    except TypeError:  # Ray 2.40 takes the catalog from the caller
        from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog

        spec.catalog_class = PPOCatalog
        return snapshot(spec.build())


def old(**model: Any) -> Snapshot:
    config = PPOConfig().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    config.training(model={"fcnet_hiddens": [8], **model})
    return snapshot(PPOTorchPolicy(OBS, ACT, config.to_dict()))


def with_config(snap: Snapshot, **model: Any) -> Snapshot:
    config = snap.spec.config
    config["model_config" if snap.spec.stack == "new" else "model"].update(model)
    return snap.replace(spec=snap.spec.replace(config=config))


def rebuild(snap: Snapshot) -> Any:
    return rebuild_module(snap) if snap.spec.stack == "new" else rebuild_policy(snap)


STACKS = pytest.mark.parametrize("make", [old, new], ids=["old", "new"])


@pytest.mark.parametrize(
    "path",
    [
        BY_REEXPORT,
        "ray.rllib.examples.rl_modules.classes.modelv2_to_rlm:ModelV2ToRLModule",
        "ray.rllib.examples.rl_modules.classes.mobilenet_rlm:MobileNetV2RLModule",
        "ray.rllib.tests.test_local:LocalModeTest",
        "ray.rllib.utils.tests.test_utils:TestUtils",
    ],
)
def test_programs_among_rllibs_examples_and_tests_are_not_even_imported(path: str) -> None:
    module = path.partition(":")[0]
    before = module in sys.modules
    with pytest.raises(UntrustedError, match="examples and tests"):
        resolve(path)
    assert (module in sys.modules) == before
    for base in (old(), new()):
        with pytest.raises(PolicyStoreError):
            rebuild(base.replace(spec=base.spec.replace(cls=path)))
        for call in (rebuild, rebuild_player):
            with pytest.raises(PolicyStoreError):
                call(with_config(base, custom_model=Tagged("import", path)))
    assert (module in sys.modules) == before


def test_a_class_of_an_example_that_a_module_of_rllib_hands_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray.rllib.utils.typing as module

    hidden = type("Hidden", (), {"__module__": BY_REEXPORT.partition(":")[0]})
    derived = type("Derived", (hidden,), {"__module__": module.__name__})
    monkeypatch.setattr(module, "Hidden", hidden, raising=False)
    monkeypatch.setattr(module, "Derived", derived, raising=False)
    for name in ("Hidden", "Derived"):
        with pytest.raises(UntrustedError, match="examples and tests"):
            resolve(f"{module.__name__}:{name}")


def test_a_module_that_fails_in_its_own_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_by_itself.py").write_text("raise ValueError('mine')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NotFoundError, match="mine"):
        resolve("failing_by_itself:X", ["failing_by_itself"])


@pytest.mark.parametrize(
    "hiddens",
    [pytest.param([40_000] * 4, marks=pytest.mark.long), [4] * 100_000],
    ids=["wide", "deep"],
)
@pytest.mark.parametrize(
    "make", [pytest.param(old, marks=pytest.mark.long), new], ids=["old", "new"]
)
def test_a_config_of_terabytes_is_stopped_by_its_weights(
    make: Callable[[], Snapshot], hiddens: list[int]
) -> None:
    with pytest.raises(MismatchError, match="do not belong together"):
        rebuild(with_config(make(), fcnet_hiddens=hiddens))


@STACKS
def test_other_threads_may_build_what_they_like_meanwhile(make: Callable[[], Snapshot]) -> None:
    import threading

    from policystore.rllib.common.build_guard import building

    sizes: list[int] = []

    def build() -> None:
        sizes.append(torch.nn.Linear(6000, 6000).weight.numel())

    snap = make()
    with building(snap):
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
        assert sizes == [36_000_000]
        with pytest.raises(MismatchError):
            build()
    build()


@STACKS
def test_rebuilding_leaves_torchs_random_numbers_as_they_were(make: Callable[[], Snapshot]) -> None:
    snap = make()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    rebuild(snap)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("length", [0, -1, "20", [20], 2**40, True])
def test_a_sequence_length_that_would_be_counted_down_for_ever(length: Any) -> None:
    with pytest.raises(PolicyStoreError, match="max_seq_len"):
        rebuild(with_config(old(use_lstm=True), max_seq_len=length))


@STACKS
def test_a_player_of_another_environments_actions_is_refused(make: Callable[[], Snapshot]) -> None:
    snap = make()
    for other in (gym.spaces.Discrete(50, start=7), gym.spaces.Box(-1.0, 1.0, (3,), np.float32)):
        with pytest.raises(InvalidInputError, match="for this environment|actions"):
            rebuild_player(snap, env_spaces=(OBS, other))


@STACKS
def test_explore_is_true_or_false(make: Callable[[], Snapshot]) -> None:
    player = rebuild_player(make(), env_spaces=(OBS, ACT))
    for explore in (None, "x", [], 1):
        with pytest.raises(InvalidInputError, match="explore"):
            player.act(np.zeros(4, np.float32), explore=explore)  # type: ignore[arg-type]


MALFORMED: list[dict[str, Any]] = [
    {"config": {}},
    {"config": {"model": 7, "model_config": 7}},
    {"config": {"model": {}, "model_config": {"fcnet_hiddens": "x"}}},
    {"observation_space": {"type": "Nothing"}},
    {"observation_space": None},
    {"action_space": None},
    {"connectors": {"env_to_module": 5}},
    {"connectors": {"env_to_module": [5], "agent": [5], "action": []}},
    {"connectors": {"lookback": "x", "defaults": 7}},
    {"connectors": {"agent": [{}], "action": [{}]}},
    {"cls": "ray.rllib.policy.policy:Policy"},
    {"cls": "ray.rllib.utils.memory:x"},
    {"cls": None},
]


@STACKS
@pytest.mark.parametrize("change", MALFORMED, ids=str)
def test_malformed_specs_are_typed_errors(
    make: Callable[[], Snapshot], change: dict[str, Any]
) -> None:
    snap = make()
    bad = snap.replace(spec=snap.spec.replace(**change))
    if "connectors" not in change:
        with pytest.raises(PolicyStoreError):
            rebuild(bad)
    with pytest.raises(PolicyStoreError):
        rebuild_player(bad, env_spaces=(OBS, ACT)).act(np.zeros(4, np.float32))


def test_what_is_rebuilt_without_part_of_its_config_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    snap = new()
    lacking = snap.replace(spec=snap.spec.replace(omitted={"config.head": "a lambda"}))
    with caplog.at_level(logging.WARNING, logger="policystore"):
        rebuild_module(lacking)
    assert "config.head" in caplog.text


def test_no_test_here_started_ray_by_itself() -> None:
    before = ray.is_initialized()
    for make in (old, new):
        rebuild_player(make(), env_spaces=(OBS, ACT)).act(np.zeros(4, np.float32))
    assert ray.is_initialized() == before
