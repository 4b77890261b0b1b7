"""Make the model config of a new-stack module from an old-stack policy's config and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.registry import ALGORITHMS as RLLIB_ALGORITHMS
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.models.torch.misc import same_padding
from ray.rllib.models.utils import get_filter_config

from policystore.format.arrays import Array
from policystore.rllib.compat import included_model_config
from policystore.rllib.convert.kinds import Kind, no_counterpart
from policystore.rllib.convert.layers import Network
from policystore.rllib.convert.networks import is_convolutional
from policystore.rllib.convert.old_config import OldConfig
from policystore.rllib.new_stack.model_config import from_plain
from policystore.snapshot import Snapshot

__all__ = ["NO_CLIP", "lstm_reading_channels_last", "module_config"]

NO_CLIP = float(np.finfo(np.float32).max)
"""The limit of log standard deviations in converted policies, beyond every finite float32.

The new stack clips them at 20 by default (core/models/torch/heads.py:76). The old stack does not
clip them (models/torch/torch_action_dist.py:246).
"""


def module_config(
    snap: Snapshot,
    kind: Kind,
    config: OldConfig,
    network: Network,
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    omit: frozenset[str],
) -> dict[str, Any]:
    """Return the ``model_config`` of the module that computes what an old-stack policy computes.

    The sizes of layers are read from the weights: they are what RLlib made of the config.

    Args:
        snap: the policy.
        kind: its kind.
        config: its config.
        network: its layers.
        observation_space: what the module gets.
        action_space: the module's actions.
        omit: names of state that the caller gives up.

    Raises:
        InvalidInputError: a setting without a counterpart.
    """
    defaults = RLLIB_ALGORITHMS[kind.algorithm]()[0].get_default_config()
    made = {
        **dataclasses.asdict(DefaultModelConfig()),
        **included_model_config(defaults),
        "free_log_std": network.log_std is not None,
        "vf_share_layers": not network.layers.get("critic_encoder"),
        "use_lstm": config.has_lstm,
        "lstm_cell_size": config.model["lstm_cell_size"],
        "max_seq_len": config.model["max_seq_len"],
    }
    if kind.is_actor_critic and isinstance(action_space, gym.spaces.Box):
        made["log_std_clip_param"] = NO_CLIP
    widths = [len(snap.weights[f"{layer}.weight"]) for layer in network.layers["encoder"]]
    if is_convolutional(snap.weights):
        made |= _conv_settings(snap, config, widths, observation_space)
    elif not widths:
        raise no_counterpart(
            snap,
            "config.model.fcnet_hiddens=[]",
            "an encoder of the new stack has at least one layer",
        )
    else:
        made["fcnet_hiddens"] = widths
        made["fcnet_activation"] = _live(config.activation)
    if kind.algorithm == "DQN":
        made |= _dqn_settings(snap, config, network, omit)
    return made


def _conv_settings(
    snap: Snapshot, config: OldConfig, widths: list[int], space: gym.Space[Any]
) -> dict[str, Any]:
    """Return the settings of the convolutions."""
    if config.model.get("post_fcnet_hiddens"):
        raise no_counterpart(
            snap,
            "config.model.post_fcnet_hiddens after convolutions",
            "the old stack puts these layers before the action head alone, and leaves the last "
            "one without an activation; head_fcnet_hiddens are before both heads",
        )
    filters = [
        [width, _plain(kernel), _plain(stride)]
        for width, (_, kernel, stride) in zip(widths, _filters(config, space), strict=True)
    ]
    # Only the last convolution of the old stack has no padding (models/torch/visionnet.py:136).
    filters[-1].append("valid")
    return {"conv_filters": filters, "conv_activation": _live(config.model["conv_activation"])}


def _filters(config: OldConfig, space: gym.Space[Any]) -> list[Any]:
    return list(config.model.get("conv_filters") or get_filter_config(space.shape))


def _plain(size: Any) -> Any:
    return list(size) if isinstance(size, (list, tuple)) else int(size)


def _live(activation: object) -> Any:
    """Return an activation as RLlib takes it: a name, or a class of torch."""
    found = from_plain(activation, "spec.config.model")
    return "linear" if found is None else found


def _dqn_settings(
    snap: Snapshot, config: OldConfig, network: Network, omit: frozenset[str]
) -> dict[str, Any]:
    """Return the settings of DQN's heads, and of its exploration unless that is omitted."""
    settings, heads = config.config, network.layers["af"]
    made = {
        "head_fcnet_hiddens": [len(snap.weights[f"{layer}.weight"]) for layer in heads[:-1]],
        # DQNTorchModel takes the default of dueling_activation (algorithms/dqn/dqn_torch_model.py).
        "head_fcnet_activation": "relu",
        **{key: settings[key] for key in ("dueling", "double_q", "num_atoms", "v_min", "v_max")},
    }
    if "exploration" in omit:
        return made
    exploration = settings.get("exploration_config") or {}
    start, end = exploration.get("initial_epsilon", 1.0), exploration.get("final_epsilon", 0.05)
    warmup = int(exploration.get("warmup_timesteps", 0))
    last = warmup + int(exploration.get("epsilon_timesteps", 100_000))
    points = [[0, start], *([[warmup, start]] if warmup else []), [last, end]]
    return {**made, "epsilon": points}


def lstm_reading_channels_last(
    weights: Mapping[str, Array], config: OldConfig, space: gym.Space[Any]
) -> dict[str, Array]:
    """Return weights whose LSTM reads flattened convolutions with the channels last.

    The old stack flattens the output of convolutions with the channels first
    (models/torch/visionnet.py:145), the new stack with the channels last
    (core/models/torch/primitives.py:TorchCNN). So the columns of the LSTM's input weights change
    their places.

    Args:
        weights: of an old-stack policy with convolutions and an LSTM.
        config: its config.
        space: its observations.
    """
    size = list(space.shape or ())[:2]
    filters = _filters(config, space)
    for _, kernel, stride in filters[:-1]:
        size = list(same_padding(size, kernel, stride)[1])
    kernel, stride = (np.broadcast_to(value, 2) for value in filters[-1][1:3])
    size = [int((size[axis] - kernel[axis]) // stride[axis]) + 1 for axis in (0, 1)]
    name = "lstm.weight_ih_l0"
    rows = len(weights[name])
    moved = weights[name].reshape(rows, -1, *size).transpose(0, 2, 3, 1).reshape(rows, -1)
    return {**weights, name: np.ascontiguousarray(moved)}
