"""Cells of the conversion between the API stacks: network x space x algorithm, and what they compute.

A cell makes one policy of one stack, with random weights, biases included. What it computes is read
from its networks directly, and not through a player.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.connectors.util import create_connectors_for_policy
from ray.rllib.core.columns import Columns
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.policy.sample_batch import SampleBatch

from policystore import Snapshot
from policystore.rllib import rebuild_module, rebuild_policy, snapshot
from policystore.rllib.common.trust import resolve
from policystore.rllib.compat import q_values
from policystore.rllib.convert.kinds import kind_named
from policystore.rllib.new_stack.model_config import resolve_class

VECTOR = Box(-1.0, 1.0, (4,), np.float32)
WIDE = Box(-np.inf, np.inf, (4,), np.float32)
DOUBLE = Box(-3.0, 3.0, (3,), np.float64)
BYTES = Box(0, 255, (5,), np.uint8)
IMAGE = Box(0, 255, (42, 42, 3), np.uint8)
FLOATS = Box(-1.0, 1.0, (10, 10, 2), np.float32)
LONG_IMAGE = Box(0, 255, (20, 12, 3), np.uint8)
NESTED = Dict(
    {"b": Box(-5.0, 9.0, (3,), np.float32), "a": Tuple([Discrete(3), MultiDiscrete([2, 3])])}
)
FLAT_DICT = Dict({"b": Box(-5.0, 9.0, (3,), np.float32), "a": Discrete(3)})
FORCES = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
# Of one dimension: in 2.60 the new stack cannot act deterministically in batches with larger Boxes
# inside of a Dict or Tuple (core/distribution/torch/torch_distribution.py:TorchDeterministic.logp).
FORCE = Box(-2.0, 5.0, (1,), np.float32)
BOTH = Dict({"x": Discrete(2), "y": FORCE})
SMALL = {"fcnet_hiddens": [16, 8]}
LSTM = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5}
TALL = [[4, [3, 3], 2], [6, [10, 6], 1]]


@dataclass(frozen=True)
class Cell:
    """One policy: its algorithm, its environment's spaces, and the settings of its network."""

    algorithm: str = "PPO"
    obs: gym.Space[Any] = field(default_factory=lambda: VECTOR)
    act: gym.Space[Any] = field(default_factory=lambda: Discrete(3))
    model: dict[str, Any] = field(default_factory=lambda: dict(SMALL))
    training: dict[str, Any] = field(default_factory=dict)

    def policy(
        self,
        *,
        observation_filter: str = "NoFilter",
        exploration: dict[str, Any] | None = None,
        **environment: Any,
    ) -> Any:
        """Make an old-stack policy with its connectors, as a rollout worker makes it."""
        config = ALGORITHMS[self.algorithm]()[0].get_default_config()
        config.api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        config.training(model=dict(self.model), **self.training).environment(**environment)
        config.env_runners(observation_filter=observation_filter)
        if exploration is not None:
            config.env_runners(exploration_config=exploration)
        made = get_preprocessor(self.obs)(self.obs).observation_space
        policy = resolve(kind_named(self.algorithm).policy)(made, self.act, config.to_dict())
        perturb(policy.model)
        create_connectors_for_policy(policy, config)
        return policy

    def module(self) -> Any:
        """Make a new-stack module as a learner holds it."""
        kind = kind_named(self.algorithm)
        defaults = ALGORITHMS[self.algorithm]()[0].get_default_config()
        module = RLModuleSpec(
            module_class=resolve_class(kind.module, RLModule, self.algorithm),
            observation_space=self.obs,
            action_space=self.act,
            inference_only=False,
            model_config={**defaults._model_config_auto_includes, **self.model, **self.training},
            catalog_class=resolve_class(kind.catalog, Catalog, self.algorithm),
        ).build()
        perturb(module)
        if hasattr(module, "make_target_networks"):
            module.make_target_networks()
        return module


OLD: dict[str, Cell] = {
    "ppo-separate": Cell(),
    "ppo-shared": Cell(model={**SMALL, "vf_share_layers": True, "fcnet_activation": "relu"}),
    "ppo-box": Cell(act=FORCES),
    "ppo-free-log-std": Cell(act=FORCES, model={**SMALL, "free_log_std": True}),
    "ppo-lstm": Cell(model={**SMALL, **LSTM}),
    "ppo-conv": Cell(obs=LONG_IMAGE, model={"conv_filters": TALL}),
    "ppo-nested": Cell(obs=NESTED, act=BOTH),
    "dqn": Cell("DQN"),
    "sac": Cell("SAC", act=FORCES, training={"policy_model_config": dict(SMALL)}),
    "ppo-linear": Cell(model={**SMALL, "fcnet_activation": "linear"}),
    "ppo-swish-one-layer": Cell(model={"fcnet_hiddens": [5], "fcnet_activation": "swish"}),
    "ppo-post-layers": Cell(model={"fcnet_hiddens": [9], "post_fcnet_hiddens": [7]}),
    "ppo-only-post-layers": Cell(model={"fcnet_hiddens": [], "post_fcnet_hiddens": [7, 6]}),
    "ppo-twelve-layers": Cell(model={"fcnet_hiddens": [6] * 12}),
    "ppo-shared-box-free": Cell(
        act=FORCES, model={**SMALL, "vf_share_layers": True, "free_log_std": True}
    ),
    "ppo-multi-discrete": Cell(act=MultiDiscrete([3, 4])),
    "ppo-tuple-action": Cell(act=Tuple([Discrete(3), FORCE])),
    "ppo-unbounded": Cell(obs=WIDE),
    "ppo-float64": Cell(obs=DOUBLE),
    "ppo-float16": Cell(obs=Box(-3.0, 3.0, (3,), np.float16)),
    "ppo-bytes": Cell(obs=BYTES),
    "ppo-discrete": Cell(obs=Discrete(5)),
    "ppo-discrete-start": Cell(act=Discrete(3, start=2)),
    "ppo-multi-discrete-obs": Cell(obs=MultiDiscrete([2, 4])),
    "ppo-tuple": Cell(obs=Tuple([Discrete(2), Box(-1.0, 1.0, (3,), np.float32)])),
    "ppo-lstm-shared-box": Cell(act=FORCES, model={**SMALL, **LSTM, "vf_share_layers": True}),
    "ppo-lstm-nested": Cell(obs=NESTED, model={**SMALL, **LSTM}),
    "ppo-lstm-conv": Cell(
        obs=Box(0.0, 1.0, (20, 12, 3), np.float32),
        model={**LSTM, "conv_filters": [[4, [4, 4], 4], [6, 3, 2]]},
    ),
    "ppo-conv-42": Cell(obs=IMAGE, model={}),
    "ppo-conv-shared": Cell(
        obs=Box(0.0, 1.0, (20, 12, 3), np.float32),
        act=FORCES,
        model={"conv_filters": TALL, "vf_share_layers": True},
    ),
    "ppo-conv-floats": Cell(
        obs=FLOATS, model={"conv_filters": [[4, 5, 2], [8, [5, 5], 2]], "conv_activation": "elu"}
    ),
    "appo": Cell("APPO"),
    "appo-lstm": Cell("APPO", model={**SMALL, **LSTM}),
    "impala": Cell("IMPALA", act=FORCES),
    "marwil": Cell("MARWIL"),
    "dqn-plain": Cell("DQN", training={"dueling": False, "double_q": False}),
    "dqn-no-hiddens": Cell("DQN", training={"dueling": False, "hiddens": []}),
    "dqn-two-hiddens": Cell("DQN", training={"hiddens": [12, 7]}),
    "dqn-atoms": Cell("DQN", training={"dueling": False, "num_atoms": 5, "v_min": -3.0}),
    "dqn-nested": Cell("DQN", obs=NESTED),
    "dqn-conv": Cell("DQN", obs=LONG_IMAGE, model={"conv_filters": TALL, "fcnet_hiddens": [6]}),
    "sac-discrete": Cell("SAC", training={"policy_model_config": dict(SMALL)}),
    "sac-dict": Cell("SAC", obs=FLAT_DICT, training={"policy_model_config": dict(SMALL)}),
}
"""Policies of the old stack."""

OLD_ALWAYS = tuple(OLD)[:9]
"""The cells that the quick run takes."""

_VALID = [[4, 3, 2], [6, [10, 6], 1, "valid"]]
_SEPARATE = {**SMALL, "vf_share_layers": False}
NEW: dict[str, Cell] = {
    "ppo-separate": Cell(model=_SEPARATE),
    "ppo-shared": Cell(model={**SMALL, "vf_share_layers": True, "fcnet_activation": "relu"}),
    "ppo-free-log-std": Cell(act=FORCES, model={**_SEPARATE, "free_log_std": True}),
    "ppo-lstm": Cell(model={**SMALL, **LSTM, "vf_share_layers": True}),
    "appo": Cell("APPO", model=_SEPARATE),
    "dqn": Cell("DQN", model={**SMALL, "head_fcnet_hiddens": [12]}),
    "ppo-box": Cell(act=FORCES, model=_SEPARATE),
    "ppo-heads": Cell(
        model={**_SEPARATE, "head_fcnet_hiddens": [7], "head_fcnet_activation": "tanh"}
    ),
    "ppo-multi-discrete": Cell(act=MultiDiscrete([3, 4]), model=_SEPARATE),
    "ppo-dict-action": Cell(act=BOTH, model=_SEPARATE),
    "ppo-float64": Cell(obs=DOUBLE, model=_SEPARATE),
    "ppo-conv": Cell(
        obs=Box(0.0, 1.0, (20, 12, 3), np.float32),
        model={"conv_filters": _VALID, "vf_share_layers": False},
    ),
    "ppo-conv-shared": Cell(
        obs=FLOATS, model={"conv_filters": [[4, 5, 2], [8, 5, 2, "valid"]], "vf_share_layers": True}
    ),
    "ppo-lstm-conv": Cell(
        obs=FLOATS,
        model={
            **LSTM,
            "vf_share_layers": True,
            "conv_filters": [[4, 3, 2], [6, 3, 1, "valid"]],
        },
    ),
    "impala": Cell("IMPALA", act=FORCES, model={**SMALL, "vf_share_layers": True}),
    "marwil": Cell("MARWIL", model={**SMALL, "vf_share_layers": True}),
    "dqn-plain": Cell(
        "DQN", model={**SMALL, "head_fcnet_hiddens": []}, training={"dueling": False}
    ),
    "dqn-atoms": Cell(
        "DQN",
        model={**SMALL, "head_fcnet_hiddens": [9]},
        training={"dueling": False, "num_atoms": 4, "v_min": -2.0, "v_max": 2.0},
    ),
}
"""Modules of the new stack that the old stack can build."""

NEW_ALWAYS = tuple(NEW)[:6]


def perturb(model: torch.nn.Module) -> None:
    """Give a network weights and biases that no constructor makes, the same at each call."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            size = 0.5 / np.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)


def observations(space: gym.Space[Any], count: int = 1000) -> list[Any]:
    """Return observations of a space, its bounds, zeros and large values among them."""
    space.seed(3)
    found = [space.sample() for _ in range(count)]
    for index, end in enumerate(("low", "high", "zero", "large")):
        found[index] = _extreme(space, end)
    return found


def _extreme(space: gym.Space[Any], end: str) -> Any:
    if isinstance(space, Dict):
        return {key: _extreme(inner, end) for key, inner in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_extreme(inner, end) for inner in space.spaces)
    if isinstance(space, Discrete):
        return int(space.start) if end in ("low", "zero") else int(space.start + space.n - 1)
    if isinstance(space, MultiDiscrete):
        return np.zeros_like(space.nvec) if end in ("low", "zero") else space.nvec - 1
    bound = 1e6 if end == "large" else 0.0
    value = {"low": space.low, "high": space.high}.get(end, np.full(space.shape, bound))
    if space.dtype == np.float16:
        value = value.astype(np.float64)  # the limits below are beyond those of float16
    return np.clip(np.nan_to_num(value, posinf=3e38, neginf=-3e38), space.low, space.high).astype(
        space.dtype
    )


def network_inputs(space: gym.Space[Any], found: list[Any]) -> np.ndarray[Any, Any]:
    """Return observations as the old stack's preprocessor hands them to the network."""
    preprocessor = get_preprocessor(space)(space)
    return np.stack([np.asarray(preprocessor.transform(one)) for one in found])


def computed(snap: Snapshot, inputs: np.ndarray[Any, Any], steps: int = 2) -> list[dict[str, Any]]:
    """Return what the networks of a snapshot compute: ``dist``, ``value`` and ``state``.

    Args:
        snap: of either stack.
        inputs: flat observations or images, one for each row.
        steps: number of steps, each of which gets the state of the step before.
    """
    one_step = _OldStep(snap) if snap.spec.stack == "old" else _NewStep(snap)
    with torch.no_grad():
        return [one_step(np.roll(inputs, step, axis=0)) for step in range(steps)]


class _OldStep:
    """Steps of an old-stack policy's model, one after the other."""

    def __init__(self, snap: Snapshot) -> None:
        self.policy = rebuild_policy(snap)
        self.state: list[torch.Tensor] | None = None

    def __call__(self, inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
        policy, model = self.policy, self.policy.model
        model.eval()
        tensor = torch.from_numpy(inputs).float()
        batch = SampleBatch({"obs": tensor, "obs_flat": tensor.reshape(len(tensor), -1)})
        if type(policy).__name__ == "DQNTorchPolicy":
            from ray.rllib.algorithms.dqn.dqn_torch_policy import compute_q_values

            return {"dist": compute_q_values(policy, model, batch, explore=False)[0].numpy()}
        if type(policy).__name__ == "SACTorchPolicy":
            return {"dist": model.get_action_model_outputs(tensor)[0].numpy()}
        if self.state is None:
            self.state = [
                torch.as_tensor(part).repeat(len(tensor), 1) for part in model.get_initial_state()
            ]
        lengths = torch.ones(len(tensor), dtype=torch.int32)
        dist, self.state = model(batch, self.state, lengths)
        return {
            "dist": dist.numpy(),
            "value": model.value_function().numpy(),
            **{f"state {i}": part.numpy() for i, part in enumerate(self.state)},
        }


class _NewStep:
    """Steps of a new-stack module, one after the other."""

    def __init__(self, snap: Snapshot) -> None:
        self.module = rebuild_module(snap).eval()
        self.is_dqn = "DQN" in type(self.module).__name__
        self.state: Any = None

    def __call__(self, inputs: np.ndarray[Any, Any]) -> dict[str, Any]:
        module = self.module
        tensor = torch.from_numpy(inputs).float()
        if self.is_dqn:
            return {"dist": q_values(module, {Columns.OBS: tensor})["qf_preds"].numpy()}
        if not module.is_stateful():
            batch = {Columns.OBS: tensor}
            found = {"dist": module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS].numpy()}
            if not module.inference_only:
                found["value"] = module.compute_values(batch).numpy()
            return found
        if self.state is None:
            self.state = {
                key: torch.as_tensor(part).repeat(len(tensor), 1, 1)
                for key, part in module.get_initial_state().items()
            }
        batch = {Columns.OBS: tensor[:, None], Columns.STATE_IN: self.state}
        out = module.forward_train(batch)
        self.state = out[Columns.STATE_OUT]
        value = module.compute_values(batch, out.get(Columns.EMBEDDINGS))
        return {
            "dist": out[Columns.ACTION_DIST_INPUTS][:, 0].numpy(),
            "value": value.reshape(-1).numpy(),
            **{f"state {i}": self.state[key][:, 0].numpy() for i, key in enumerate(("h", "c"))},
        }


def old_snapshot(name: str) -> Snapshot:
    """Take a snapshot of the old-stack policy of a cell."""
    return snapshot(OLD[name].policy())


def new_snapshot(name: str) -> Snapshot:
    """Take a snapshot of the new-stack module of a cell."""
    snap = snapshot(NEW[name].module())
    return snap.replace(spec=snap.spec.replace(algorithm=NEW[name].algorithm))
