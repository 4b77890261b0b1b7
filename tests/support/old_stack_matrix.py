"""The matrix: every algorithm, model and space that RLlib can train on torch, old API stack."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.appo.appo_torch_policy import APPOTorchPolicy
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.cql import CQLConfig
from ray.rllib.algorithms.cql.cql_torch_policy import CQLTorchPolicy
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.impala.impala_torch_policy import ImpalaTorchPolicy
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.algorithms.marwil.marwil_torch_policy import MARWILTorchPolicy
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_torch_policy import SACTorchPolicy
from ray.rllib.examples._old_api_stack.policy.random_policy import RandomPolicy
from ray.rllib.models.catalog import ModelCatalog
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.policy.policy import Policy

from tests.support.old_stack_configs import (
    SMALL,
    build,
    dqn,
    offline,
    old_stack,
    pair,
    ppo,
    sac_like,
)
from tests.support.old_stack_zoo import (
    SPACES,
    HalfPolicy,
    LastExploration,
    LastThree,
    LoudCategorical,
    ModelOutside,
    SmallModel,
    StatelessHeuristic,
    StructModel,
    TableHeuristic,
)

ZOO = ["tests.support.old_stack_zoo."]


@dataclass
class Made:
    """The policy of a cell, with its config, Algorithm and spaces."""

    policy: Policy
    config: AlgorithmConfig
    algorithm: Any = None
    policy_id: str = "default_policy"
    env_spaces: Any = None
    trust: list[str] = field(default_factory=list)
    memory: bool = False


TRAINED: dict[str, Callable[[Path], AlgorithmConfig]] = {
    "ppo": lambda folder: ppo(),
    "ppo-box-actions": lambda folder: ppo(act="forces"),
    "ppo-clipped": lambda folder: ppo(act="forces").environment(
        normalize_actions=False, clip_actions=True
    ),
    "ppo-meanstd": lambda folder: ppo().env_runners(observation_filter="MeanStdFilter"),
    "ppo-concurrent-meanstd": lambda folder: ppo(obs="dict").env_runners(
        observation_filter="ConcurrentMeanStdFilter"
    ),
    "appo": lambda folder: old_stack(APPOConfig()).training(train_batch_size=32, model=SMALL),
    "impala": lambda folder: old_stack(IMPALAConfig()).training(train_batch_size=32, model=SMALL),
    "dqn": lambda folder: dqn(),
    "sac": lambda folder: sac_like(SACConfig(), "forces"),
    "sac-discrete": lambda folder: sac_like(SACConfig(), "discrete"),
    "cql": lambda folder: offline(
        CQLConfig(), folder, q_model_config=SMALL, policy_model_config=SMALL
    ),
    "marwil": lambda folder: offline(MARWILConfig(), folder, model=SMALL),
    "bc": lambda folder: offline(BCConfig(), folder, model=SMALL),
    "pair:main": lambda folder: pair(),
    "pair:other": lambda folder: pair(),
}
"""Cells that train a real Algorithm until its weights have moved."""

_MODELS: dict[str, dict[str, Any]] = {
    "vf-shared": {"vf_share_layers": True},
    "vf-separate": {"vf_share_layers": False},
    "relu-three-layers": {"fcnet_hiddens": [8, 8, 8], "fcnet_activation": "relu"},
    "lstm": {"use_lstm": True, "lstm_cell_size": 8},
    "lstm-prev": {
        "use_lstm": True,
        "lstm_cell_size": 8,
        "lstm_use_prev_action": True,
        "lstm_use_prev_reward": True,
    },
    "attention": {"use_attention": True, "attention_dim": 8, "attention_head_dim": 4},
    "attention-prev": {
        "use_attention": True,
        "attention_dim": 8,
        "attention_head_dim": 4,
        "attention_use_n_prev_actions": 2,
        "attention_use_n_prev_rewards": 3,
    },
    "custom-by-name": {"custom_model": "zoo_model", "custom_model_config": {"width": 6}},
    "custom-by-class": {"custom_model": ModelOutside},
    "view-of-three": {"custom_model": LastThree},
    "custom-dist": {"custom_action_dist": "zoo_dist"},
    "batch-norm": {"custom_model": SmallModel, "custom_model_config": {"norm": True}},
    "bf16": {"custom_model": SmallModel, "custom_model_config": {"dtype": "bfloat16"}},
    "float64": {"custom_model": SmallModel, "custom_model_config": {"dtype": "float64"}},
    "tied": {"custom_model": SmallModel, "custom_model_config": {"tied": True}},
    "left-out-argument": {
        "custom_model": SmallModel,
        "custom_model_config": {"unused": object()},
    },
}
_REMEMBERS = ("lstm", "lstm-prev", "attention", "attention-prev", "view-of-three")


def _model(name: str) -> Made:
    # Ray 2.60 passes Discrete.n, a numpy integer, to torch.nn.LSTM, which refuses such a type.
    act = "forces" if name == "lstm-prev" else "discrete"
    made = _bare(PPOTorchPolicy, ppo().training(model={**SMALL, **_MODELS[name]}), act=act)
    made.memory = name in _REMEMBERS
    return made


def _spaces(obs: str, act: str) -> Made:
    config = ppo()
    if obs == "image":
        config.training(model={"fcnet_hiddens": [8], "post_fcnet_hiddens": [8]})
    return _bare(PPOTorchPolicy, config, obs, act)


def _bare(cls: Any, config: AlgorithmConfig, obs: str = "vector", act: str = "discrete") -> Made:
    """Make a policy by hand, in the same way as RolloutWorker (rollout_worker.py:1758)."""
    space = SPACES[obs]
    preprocessor = get_preprocessor(space)(space, config.model)
    policy = cls(preprocessor.observation_space, SPACES[act], config.to_dict())
    perturb(policy)
    return Made(policy, config, env_spaces=(space, SPACES[act]), trust=ZOO)


def perturb(policy: Policy) -> None:
    """Give a policy weights that no new policy has: torch has the same seed in each process."""
    model = getattr(policy, "model", None)
    if not isinstance(model, torch.nn.Module):
        return
    random = np.random.default_rng(11)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                noise = torch.as_tensor(random.uniform(0.01, 0.2, tuple(value.shape)))
                value.add_(noise.to(value.dtype))
            else:
                value.add_(3)


def _struct() -> Made:
    config = ppo().training(model={"custom_model": StructModel})
    config.experimental(_disable_preprocessor_api=True)
    space = SPACES["dict"]
    policy = PPOTorchPolicy(space, SPACES["discrete"], config.to_dict())
    perturb(policy)
    return Made(policy, config, env_spaces=(space, SPACES["discrete"]), trust=ZOO)


def _prev_dict_action() -> Made:
    model = {**SMALL, **_MODELS["lstm-prev"], "_disable_action_flattening": True}
    config = ppo().training(model=model)
    config.experimental(_disable_action_flattening=True)
    made = _bare(PPOTorchPolicy, config, "vector", "boxes")
    made.memory = True
    return made


def _exploring() -> Made:
    config = ppo().env_runners(exploration_config={"type": LastExploration, "bias": 0.5})
    made = _bare(PPOTorchPolicy, config)
    made.policy.exploration.calls = 7
    return made


def _table() -> Made:
    made = _bare(TableHeuristic, ppo())
    made.policy.table = np.random.default_rng(3).normal(size=made.policy.table.shape)
    return made


def _heuristic() -> Made:
    return _bare(StatelessHeuristic, ppo().update_from_dict({"heuristic_step": 3}))


def _multi_dqn(**training: Any) -> Made:
    return _bare(DQNTorchPolicy, dqn(**training))


def _offline_like(cls: Any, config: AlgorithmConfig, **training: Any) -> Made:
    return _bare(cls, sac_like(config, "forces", **training), act="forces")


BARE: dict[str, Callable[[], Made]] = {
    **{f"model:{name}": (lambda name=name: _model(name)) for name in _MODELS},
    **{
        f"obs:{name}": (lambda name=name: _spaces(name, "discrete"))
        for name in (
            "discrete",
            "multi_discrete",
            "multi_binary",
            "dict",
            "tuple",
            "nested",
            "image",
        )
    },
    **{
        f"act:{name}": (lambda name=name: _spaces("vector", name))
        for name in ("multi_discrete", "dict", "tuple", "nested", "forces", "whole_box")
    },
    "free-log-std": lambda: _bare(
        PPOTorchPolicy, ppo().training(model={**SMALL, "free_log_std": True}), act="forces"
    ),
    "no-preprocessor": _struct,
    "lstm-prev-dict-action": _prev_dict_action,
    "dqn:plain": lambda: _multi_dqn(dueling=False, double_q=False),
    "dqn:dueling-double": lambda: _multi_dqn(dueling=True, double_q=True, hiddens=[8]),
    "dqn:noisy": lambda: _multi_dqn(noisy=True),
    "dqn:distributional": lambda: _multi_dqn(num_atoms=7, v_min=-3.0, v_max=3.0),
    "sac:no-twin": lambda: _offline_like(SACTorchPolicy, SACConfig(), twin_q=False),
    "cql:lagrangian": lambda: _offline_like(
        # The loss of Ray 2.60 fails on a batch of exactly train_batch_size. With 64 the dummy batch
        # of RLlib has another size.
        CQLTorchPolicy,
        CQLConfig(),
        lagrangian=True,
        lagrangian_thresh=5.0,
        train_batch_size=64,
    ),
    "appo:lstm": lambda: _with_memory(
        APPOTorchPolicy, old_stack(APPOConfig()).training(train_batch_size=32)
    ),
    "impala:lstm": lambda: _with_memory(
        ImpalaTorchPolicy, old_stack(IMPALAConfig()).training(train_batch_size=32)
    ),
    "marwil:forces": lambda: _bare(
        MARWILTorchPolicy, old_stack(MARWILConfig()).training(model=SMALL), act="forces"
    ),
    "custom-exploration": _exploring,
    "heuristic:stateless": _heuristic,
    "heuristic:table": _table,
    "heuristic:torch-inside": lambda: _bare(HalfPolicy, ppo()),
    "heuristic:random": lambda: _bare(RandomPolicy, ppo()),
}
"""Cells of policies made by hand, with noise on their weights."""


def _with_memory(cls: Any, config: AlgorithmConfig) -> Made:
    made = _bare(cls, config.training(model={**SMALL, **_MODELS["lstm"]}))
    made.memory = True
    return made


@contextmanager
def made(name: str, folder: Path) -> Iterator[Made]:
    """Make the policy of a cell; its Algorithm is stopped at the end."""
    ModelCatalog.register_custom_model("zoo_model", SmallModel)
    ModelCatalog.register_custom_action_dist("zoo_dist", LoudCategorical)
    if name in BARE:
        yield BARE[name]()
        return
    config = TRAINED[name](folder)
    policy_id = name.partition(":")[2] or "default_policy"
    algorithm = build(config)
    try:
        policy = algorithm.get_policy(policy_id)
        before = {key: np.array(value) for key, value in policy.get_weights().items()}
        for _ in range(20):
            algorithm.train()
            now = algorithm.get_policy(policy_id).get_weights()
            if any((before[key] != now[key]).any() for key in before):
                break
        else:
            raise AssertionError(f"{name}: 20 iterations moved no weight")
        yield Made(policy, config, algorithm=algorithm, policy_id=policy_id)
    finally:
        algorithm.stop()
        # RLlib's JSON reader does not close its files. The garbage collector would warn about them
        # in another test.
        del algorithm
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
