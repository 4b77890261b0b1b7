"""Make the config of an old-stack policy from a new-stack module's model config and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.models.torch.misc import same_padding
from ray.rllib.models.utils import get_filter_config

from policystore.format.arrays import Array
from policystore.format.values import Tagged
from policystore.rllib.convert.kinds import Kind, no_counterpart
from policystore.rllib.convert.layers import Network
from policystore.rllib.new_stack.model_config import model_config_from_plain
from policystore.rllib_schema.class_paths import todays_path
from policystore.snapshot import Snapshot

__all__ = ["lstm_reading_channels_first", "policy_config", "read_model_config"]

_LAYERNORMS = ("fcnet_use_layernorm", "head_fcnet_use_layernorm")


def read_model_config(snap: Snapshot, kind: Kind) -> dict[str, Any]:
    """Return a module's model config, completed with RLlib's defaults.

    Raises:
        InvalidInputError: a catalog or setting without a counterpart.
    """
    recorded = snap.spec.config
    catalog = recorded.get("catalog_class")
    path = catalog.value if isinstance(catalog, Tagged) else kind.catalog
    if todays_path(path) != kind.catalog:
        raise no_counterpart(
            snap,
            f"config.catalog_class ({path})",
            "this catalog builds other networks than RLlib's",
        )
    given = model_config_from_plain(recorded.get("model_config"))
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        given = dataclasses.asdict(given)
    settings = {**dataclasses.asdict(DefaultModelConfig()), **(given or {})}
    for key in _LAYERNORMS:
        if settings.get(key):
            raise no_counterpart(
                snap,
                f"config.model_config.{key}",
                "the networks of the old stack have no layer norms",
            )
    return settings


def policy_config(
    snap: Snapshot,
    kind: Kind,
    settings: Mapping[str, Any],
    network: Network,
    observation_space: gym.Space[Any],
) -> dict[str, Any]:
    """Return what differs from an old-stack algorithm's default config.

    Args:
        snap: the module.
        kind: its kind.
        settings: its model config.
        network: its layers.
        observation_space: what the module gets.

    Raises:
        InvalidInputError: a setting without a counterpart.
    """
    has_lstm, is_image = "lstm" in network.layers, len(observation_space.shape or ()) == 3
    if settings["use_lstm"] and not has_lstm:
        raise no_counterpart(
            snap,
            "config.model_config.vf_share_layers=False together with use_lstm",
            "the value branch of the old stack reads the policy's LSTM",
        )
    encoder = [len(snap.weights[f"{layer}.weight"]) for layer in network.layers["encoder"]]
    model: dict[str, Any] = {
        "vf_share_layers": not network.layers.get("critic_encoder"),
        "free_log_std": network.log_std is not None,
        "use_lstm": has_lstm,
        "lstm_cell_size": settings["lstm_cell_size"],
        "max_seq_len": settings["max_seq_len"],
    }
    if is_image:
        model |= {
            "conv_filters": _filters(snap, settings, observation_space, flattened=has_lstm),
            "conv_activation": settings["conv_activation"],
            # DQN's last convolution has as many channels (algorithms/dqn/dqn_torch_policy.py:95).
            "fcnet_hiddens": encoder[-1:],
        }
    else:
        model |= {"fcnet_hiddens": encoder, "fcnet_activation": settings["fcnet_activation"]}
    if kind.algorithm == "DQN":
        return {"model": model, **_dqn_settings(snap, settings, network)}
    _check_heads(snap, settings, network, is_plain=not is_image and not has_lstm)
    if network.log_std is not None:
        _check_log_std(snap, settings, snap.weights[network.log_std], network.log_std)
    return {"model": model}


def _check_heads(
    snap: Snapshot, settings: Mapping[str, Any], network: Network, *, is_plain: bool
) -> None:
    """Refuse hidden layers of heads that are no layers of the old stack's networks.

    Args:
        snap: the module.
        settings: its model config.
        network: its layers.
        is_plain: whether the module has neither convolutions nor an LSTM.
    """
    if not settings["head_fcnet_hiddens"]:
        return
    same = settings["head_fcnet_activation"] == settings["fcnet_activation"]
    if not (is_plain and same and network.layers.get("critic_encoder")):
        raise no_counterpart(
            snap,
            f"config.model_config.head_fcnet_hiddens ({settings['head_fcnet_hiddens']})",
            "heads of the old stack are single layers; hidden layers can go into the encoders only "
            "if vf_share_layers is False and all activations are the same",
        )


def _check_log_std(snap: Snapshot, settings: Mapping[str, Any], log_std: Array, name: str) -> None:
    """Refuse free standard deviations that the module clips."""
    limit = snap.weights.get("pi.log_std_clip_param_const", settings["log_std_clip_param"])
    if np.abs(log_std).max() > np.max(limit):
        raise no_counterpart(
            snap,
            f"the tensor {name}",
            f"the value is beyond the limit {float(np.max(limit)):g} of the module, and "
            "the old stack does not clip",
        )


def _filters(
    snap: Snapshot, settings: Mapping[str, Any], space: gym.Space[Any], *, flattened: bool
) -> list[Any]:
    """Return the convolutions as the old stack names them.

    Raises:
        InvalidInputError: paddings, or a size of the output, that the old stack does not have.
    """
    given = settings["conv_filters"] or get_filter_config(space.shape)
    size = list(space.shape or ())[:2]
    filters = []
    for index, (width, kernel, stride, *rest) in enumerate(given):
        padding, same_size = same_padding(size, kernel, stride)
        is_last, pads = index == len(given) - 1, (rest or ["same"])[0] == "same"
        # Only the last convolution of the old stack has no padding (models/torch/visionnet.py:136).
        if pads == is_last and any(padding):
            raise no_counterpart(
                snap,
                f"config.model_config.conv_filters ({given})",
                "the old stack pads all convolutions as 'same' but the last one, which is 'valid'",
            )
        steps, window = np.broadcast_to(stride, 2), np.broadcast_to(kernel, 2)
        valid_size = [int((size[i] - window[i]) // steps[i]) + 1 for i in (0, 1)]
        size = list(same_size) if pads else valid_size
        # The last kernel of the old stack is a list (models/torch/visionnet.py:128).
        plain = int(steps[0]) if steps[0] == steps[1] else steps.tolist()
        filters.append([int(width), window.tolist(), plain])
    if size != [1, 1] and not flattened:
        raise no_counterpart(
            snap,
            f"config.model_config.conv_filters ({given})",
            f"they end with {size[0]}x{size[1]} positions, and the old stack needs a single one",
        )
    return filters


def lstm_reading_channels_first(
    weights: Mapping[str, Array], channels: int, name: str
) -> dict[str, Array]:
    """Return weights whose LSTM reads flattened convolutions with the channels first.

    Args:
        weights: of a new-stack module with convolutions and an LSTM.
        channels: the channels of the last convolution.
        name: the name of the LSTM's input weights.

    Returns:
        The weights; see :func:`policystore.rllib.convert.new_config.lstm_reading_channels_last`.
    """
    rows = len(weights[name])
    moved = weights[name].reshape(rows, -1, channels).transpose(0, 2, 1).reshape(rows, -1)
    return {**weights, name: np.ascontiguousarray(moved)}


def _dqn_settings(snap: Snapshot, settings: Mapping[str, Any], network: Network) -> dict[str, Any]:
    """Return the settings of DQN's heads and of its exploration.

    Raises:
        InvalidInputError: a setting without a counterpart.
    """
    hiddens = [len(snap.weights[f"{layer}.weight"]) for layer in network.layers["af"][:-1]]
    atoms, dueling = settings.get("num_atoms", 1), bool(settings.get("dueling"))
    if settings["use_lstm"]:
        raise no_counterpart(
            snap, "config.model_config.use_lstm", "DQN of the old stack keeps no state"
        )
    if atoms > 1 and (dueling or not hiddens):
        raise no_counterpart(
            snap,
            "config.model_config.num_atoms",
            "the old stack's value stream has one output for each atom, and its Q-values need "
            "hidden layers in the head",
        )
    if dueling and not hiddens:
        raise no_counterpart(
            snap,
            "config.model_config.head_fcnet_hiddens=[] together with dueling",
            "the streams of the old stack then have no layers",
        )
    if hiddens and settings["head_fcnet_activation"] != "relu":
        raise no_counterpart(
            snap,
            f"config.model_config.head_fcnet_activation ({settings['head_fcnet_activation']})",
            "the heads of DQN on the old stack have relu",
        )
    same = ("double_q", "v_min", "v_max")
    return {
        "hiddens": hiddens,
        "dueling": dueling,
        "num_atoms": atoms,
        "exploration_config": _exploration(settings.get("epsilon", [[0, 1.0], [10_000, 0.05]])),
        **{key: settings[key] for key in same if key in settings},
    }


def _exploration(epsilon: Any) -> dict[str, Any]:
    """Return the exploration with the schedule of a module, by RLlib's name of its class.

    Args:
        epsilon: a number, or a list of timesteps with their values
            (utils/schedules/scheduler.py:48).
    """
    points = [[0, epsilon]] if isinstance(epsilon, (int, float)) else [list(p) for p in epsilon]
    first, last = points[0], points[-1]
    config = {
        "type": "EpsilonGreedy",
        "initial_epsilon": first[1],
        "final_epsilon": last[1],
        "warmup_timesteps": 0,
        "epsilon_timesteps": max(int(last[0]), 1),
    }
    if len(points) == 3 and points[1][1] == first[1]:
        warmup = int(points[1][0])
        return {**config, "warmup_timesteps": warmup, "epsilon_timesteps": int(last[0]) - warmup}
    return config
