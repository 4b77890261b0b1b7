"""The list of config keys that are not recorded, held against the RLlib that is installed."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.cql import CQLConfig
from ray.rllib.algorithms.cql.cql_torch_policy import CQLTorchPolicy
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.algorithms.marwil.marwil_torch_policy import MARWILTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_torch_policy import SACTorchPolicy

from policystore.rllib.old_stack.config import recorded_config
from policystore.rllib.old_stack.config_restore import full_config
from policystore.rllib_schema.config_keys import DROPPED, is_dropped
from tests.support.old_stack_configs import SMALL, dqn, old_stack, sac_like
from tests.support.old_stack_zoo import SPACES

# Read by policies, models and explorations, though set by a method about something else.
KEPT = {
    "explore",
    "exploration_config",
    "observation_filter",
    "preprocessor_pref",
    "_disable_preprocessor_api",
    "_disable_action_flattening",
    "_disable_initialize_loss_from_dummy_batch",
}
GROUPS = [
    "python_environment",
    "resources",
    "framework",
    "api_stack",
    "environment",
    "env_runners",
    "learners",
    "evaluation",
    "offline_data",
    "multi_agent",
    "reporting",
    "checkpointing",
    "debugging",
    "fault_tolerance",
    "rl_module",
    "experimental",
    "callbacks",
]


@pytest.mark.parametrize("group", GROUPS)
def test_every_key_about_other_things_is_reviewed(group: str) -> None:
    """A key that a new Ray adds here must be put into one of the two lists."""
    known = AlgorithmConfig().to_dict()
    keys = set(inspect.signature(getattr(AlgorithmConfig, group)).parameters) & set(known)
    assert {key for key in keys if not is_dropped(key)} <= KEPT
    assert not KEPT & DROPPED


class Watched(dict[str, Any]):
    """A config that writes down what is read of it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize(
    ("cls", "config", "act"),
    [
        (DQNTorchPolicy, dqn, "discrete"),
        (SACTorchPolicy, lambda: sac_like(SACConfig(), "forces"), "forces"),
        (CQLTorchPolicy, lambda: sac_like(CQLConfig(), "forces"), "forces"),
        (MARWILTorchPolicy, lambda: old_stack(MARWILConfig()).training(model=SMALL), "forces"),
    ],
)
def test_what_constructors_read_is_recorded_or_decided_by_us(
    cls: Any, config: Any, act: str
) -> None:
    watched = Watched(config().to_dict())
    cls(SPACES["vector"], SPACES[act], watched)
    decided = {
        "__policy_id", "_fake_gpus", "framework", "in_evaluation", "num_env_runners", "num_gpus",
        "num_gpus_per_env_runner", "worker_index", "normalize_actions", "clip_actions",
    }  # fmt: skip
    # Callbacks are of training; the others have one value where nothing is sampled or learned.
    indifferent = {"callbacks", "output", "num_multi_gpu_tower_stacks", "torch_compile_learner"}
    assert {key for key in watched.read if is_dropped(key)} <= decided | indifferent


def test_a_restored_config_has_every_key_of_the_original() -> None:
    config = dqn().to_dict()
    kept, omitted = recorded_config(config, "here")
    restored = full_config(
        kept, algorithm="DQN", normalize_actions=True, clip_actions=False, trust=()
    )
    assert not omitted
    assert set(config) <= set(restored)
    for key in kept:
        if key != "replay_buffer_config":
            assert restored[key] == config[key]


def test_an_unknown_algorithm_gets_the_defaults_that_all_share() -> None:
    restored = full_config(
        {"train_batch_size": 7},
        algorithm="Mine",
        normalize_actions=None,
        clip_actions=None,
        trust=(),
    )
    assert restored["train_batch_size"] == restored["rollout_fragment_length"] == 7
    assert restored["num_gpus"] == 0


def test_numbers_of_numpy_are_kept_as_those_of_python_or_listed() -> None:
    numbers = {"rate": np.float64(0.5), "count": np.int8(3), "root": np.complex64(1j)}
    kept, omitted = recorded_config({**numbers, "list": [np.datetime64("2026-01-01")]}, "here")
    assert {key: (type(value), value) for key, value in kept.items()} == {
        "rate": (float, 0.5),
        "count": (int, 3),
    }
    assert omitted == {
        "config.root": "a numpy.complex64 is not a plain value",
        "config.list": "a numpy.datetime64 is not a plain value",
    }
