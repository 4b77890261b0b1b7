"""Read the config of an old-stack policy, and refuse settings that the new stack does not have."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.registry import ALGORITHMS as RLLIB_ALGORITHMS

from policystore.format.values import Tagged
from policystore.rllib.convert.kinds import Kind, no_counterpart
from policystore.snapshot import Snapshot

__all__ = ["OldConfig", "default_config", "read_old_config"]

_CLASSES = {
    "custom_model": "the RLModules of RLlib cannot hold a model of your own",
    "custom_action_dist": "the new stack chooses the distribution by the action space",
    "custom_preprocessor": "the new stack has no preprocessors; its connectors are other classes",
}
_SWITCHES = {
    "use_attention": "the new stack has no attention network",
    "lstm_use_prev_action": (
        "the old stack joins previous actions to the output of the layers before the LSTM, the new "
        "one to the observation"
    ),
    "lstm_use_prev_reward": (
        "the old stack joins previous rewards to the output of the layers before the LSTM, the new "
        "one to the observation"
    ),
    "lstm_use_prev_action_reward": "this setting gives previous actions and rewards to the LSTM",
}
_EXPLORATIONS = {"DQN": "EpsilonGreedy"}
_USUAL = "StochasticSampling"


class OldConfig:
    """The config of an old-stack policy, completed with the defaults of the installed Ray.

    Attributes:
        config: the whole config, as RLlib's constructor of the policy reads it.
        model: the settings of the policy's network; of SAC, those of its actor.
    """

    def __init__(self, recorded: dict[Any, Any], kind: Kind) -> None:
        defaults = default_config(kind)
        model = {**defaults["model"], **(recorded.get("model") or {})}
        if kind.algorithm == "SAC":  # algorithms/sac/sac_tf_policy.py:build_sac_model
            model = {**model, **({**defaults, **recorded}["policy_model_config"])}
        self.config: dict[str, Any] = {**defaults, **recorded}
        self.model: dict[str, Any] = model

    @property
    def activation(self) -> Any:
        """The activation of the fully connected layers (models/torch/fcnet.py:43)."""
        key = "fcnet_activation" if self.model["fcnet_hiddens"] else "post_fcnet_activation"
        return self.model[key]

    @property
    def has_lstm(self) -> bool:
        """Whether an LSTM stands after the layers that read the observation."""
        return bool(self.model.get("use_lstm"))


def default_config(kind: Kind) -> dict[str, Any]:
    """Return the config that the installed Ray gives an algorithm on the old stack by default."""
    config = RLLIB_ALGORITHMS[kind.algorithm]()[0].get_default_config()
    # Some defaults, such as the exploration, belong to one of the two stacks.
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    return dict(config.to_dict())


def read_old_config(snap: Snapshot, kind: Kind, omit: frozenset[str]) -> OldConfig:
    """Return the config of an old-stack policy whose settings all have a counterpart.

    Args:
        snap: the policy.
        kind: its kind.
        omit: names of state that the caller gives up.

    Raises:
        InvalidInputError: a setting without a counterpart; the message names the first.
    """
    for place, reason in snap.spec.omitted.items():
        if place.startswith("config.model.custom_"):
            raise no_counterpart(snap, place, reason)
    config = OldConfig(snap.spec.config, kind)
    model = config.model
    for key, why in _CLASSES.items():
        if model.get(key):
            raise no_counterpart(snap, f"config.model.{key} ({_shown(model[key])})", why)
    for key, why in _SWITCHES.items():
        # The value -1 marks settings that RLlib no longer reads.
        if model.get(key) is True and (config.has_lstm or not key.startswith("lstm_")):
            raise no_counterpart(snap, f"config.model.{key}", why)
    if model.get("no_final_linear") and kind.algorithm != "DQN":
        raise no_counterpart(
            snap,
            "config.model.no_final_linear",
            "the heads of the new stack end with a linear layer",
        )
    if kind.algorithm == "DQN":
        _check_dqn(snap, config)
    elif kind.algorithm == "SAC":
        _check_sac(snap, config)
    if "exploration" not in omit:
        _check_exploration(snap, config, kind)
    return config


def _check_dqn(snap: Snapshot, config: OldConfig) -> None:
    """Refuse settings of DQN's heads that the new stack does not have."""
    settings = config.config
    if settings.get("noisy"):
        raise no_counterpart(snap, "config.noisy", "the new stack has no noisy layers")
    if config.has_lstm:
        raise no_counterpart(snap, "config.model.use_lstm", "DQN of the old stack keeps no state")
    if settings["dueling"] and settings["num_atoms"] > 1:
        raise no_counterpart(
            snap,
            "config.num_atoms together with config.dueling",
            "the value stream of the old stack has one output for each atom, and that of the new "
            "stack has a single output",
        )
    if settings["dueling"] and not settings["hiddens"]:
        raise no_counterpart(
            snap,
            "config.hiddens=[] together with config.dueling",
            "the streams of the value and the advantages then have no layers",
        )


def _check_sac(snap: Snapshot, config: OldConfig) -> None:
    """Refuse settings of SAC's action distribution that the new stack does not have."""
    if config.has_lstm:
        raise no_counterpart(snap, "config.model.use_lstm", "SAC of the old stack keeps no state")
    kind = (snap.spec.action_space or {}).get("space")
    if kind == "Box" and not snap.spec.normalize_actions:
        why = "the old stack then takes a Gaussian without tanh, and the new stack always tanh"
        if snap.spec.normalize_actions is None:
            why = (
                "the snapshot does not record normalize_actions. If the Algorithm had "
                "normalize_actions=True, RLlib's default, record this: snap.replace(spec=snap.spec."
                f"replace(normalize_actions=True)). If it had False: {why}"
            )
        raise no_counterpart(snap, f"normalize_actions={snap.spec.normalize_actions}", why)
    if config.config.get("_use_beta_distribution"):
        raise no_counterpart(
            snap, "config._use_beta_distribution", "the new stack has no beta distribution"
        )


def _check_exploration(snap: Snapshot, config: OldConfig, kind: Kind) -> None:
    """Refuse an exploration that the new stack does not have, and one that is still under way."""
    exploration = config.config.get("exploration_config") or {}
    usual = _EXPLORATIONS.get(kind.algorithm, _USUAL)
    name = _class_name(exploration.get("type", usual))
    remedy = 'with omit=["exploration"] the policy explores as the new stack does by default'
    if name != usual or exploration.get("epsilon_schedule"):
        raise no_counterpart(
            snap,
            f"config.exploration_config ({name})",
            f"{kind.algorithm} of the new stack explores as {usual} does; {remedy}",
        )
    state = snap.state.get("exploration", {})
    if set(state) - {"timestep"}:
        raise no_counterpart(snap, "state.exploration", remedy)
    timestep = state.get("timestep")
    if timestep is not None and timestep < _last_timestep(exploration):
        raise no_counterpart(
            snap,
            f"state.exploration.timestep ({timestep})",
            "the exploration is not at the end of its schedule, and a module does not record how "
            f"far the exploration has come; {remedy}, from the beginning of the schedule",
        )


def _last_timestep(exploration: dict[str, Any]) -> int:
    """Return the timestep from which on an exploration of the usual type no longer changes."""
    if _class_name(exploration.get("type", _USUAL)) == "EpsilonGreedy":
        # utils/exploration/epsilon_greedy.py:36-61
        warmup = exploration.get("warmup_timesteps", 0)
        return int(warmup + exploration.get("epsilon_timesteps", 100_000))
    return int(exploration.get("random_timesteps", 0))


def _class_name(value: object) -> str:
    path = str(value.value) if isinstance(value, Tagged) else str(value)
    return path.rpartition(":")[2].rpartition(".")[2]


def _shown(value: object) -> str:
    return str(value.value) if isinstance(value, Tagged) else str(value)
