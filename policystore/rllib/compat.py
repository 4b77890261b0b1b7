"""Private parts of RLlib's modules, policies and connectors, which players and exports use.

There is one function for each private part. A new version of Ray needs changes only here, in
``workers/compat.py`` (for a running Algorithm) and in ``worker_code/compat.py`` (inside actors).
``docs/architecture.md`` lists all private parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

try:
    from ray.rllib.core.distribution.distribution import Distribution
    from ray.rllib.core.distribution.torch.torch_distribution import (
        TorchCategorical,
        TorchDeterministic,
        TorchDiagGaussian,
        TorchDistribution,
        TorchMultiCategorical,
        TorchSquashedGaussian,
    )
except ModuleNotFoundError:  # before Ray 2.49
    from ray.rllib.models.distributions import Distribution
    from ray.rllib.models.torch.torch_distributions import (
        TorchCategorical,
        TorchDeterministic,
        TorchDiagGaussian,
        TorchDistribution,
        TorchMultiCategorical,
        TorchSquashedGaussian,
    )

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import gymnasium as gym
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.connectors.agent.obs_preproc import ObsPreprocessorConnector
    from ray.rllib.connectors.env_to_module.flatten_observations import FlattenObservations
    from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
    from ray.rllib.core.models.torch.heads import TorchFreeLogStdMLPHead
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
    from ray.rllib.models.preprocessors import Preprocessor
    from ray.rllib.models.torch.complex_input_net import ComplexInputNetwork

__all__ = [
    "Distribution",
    "TorchCategorical",
    "TorchDeterministic",
    "TorchDiagGaussian",
    "TorchDistribution",
    "TorchSquashedGaussian",
    "explore_forward",
    "filters_of",
    "flattens_for",
    "included_model_config",
    "infer_forward",
    "inference_of",
    "keep_value",
    "likeliest_actions",
    "preprocessor_of",
    "q_values",
    "replace_forward",
    "rewards_before_observations",
    "space_of",
    "updates_filter",
]


def infer_forward(module: RLModule, batch: dict[str, Any]) -> dict[str, Any]:
    """Compute a module's outputs for inference, without a walk over all its parts.

    ``RLModule.forward_inference`` also puts every part into evaluation mode, and back.
    """
    return dict(module._forward_inference(batch))


def explore_forward(module: RLModule, batch: dict[str, Any], timestep: int) -> dict[str, Any]:
    """Compute a module's outputs for exploration, as :func:`infer_forward` does for inference."""
    return dict(module._forward_exploration(batch, t=timestep))


def inference_of(kind: type) -> Any:
    """Return the function by which modules of a class infer; None if they have no such function."""
    return getattr(kind, "_forward_inference", None)


def q_values(module: RLModule, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Compute the values by which a module of DQN chooses actions, such as ``qf_preds``."""
    compute = getattr(module, "compute_q_values", None) or module._qf  # the name in Ray 2.40
    return dict(compute(batch))


def likeliest_actions(distribution: type[Distribution], inputs: torch.Tensor) -> Any:
    """Return the actions of a distribution of the new stack without exploration."""
    made = distribution.from_logits(inputs)
    actions = made.to_deterministic().sample()
    if isinstance(made, TorchMultiCategorical) and isinstance(actions, list):
        actions = torch.stack(actions, dim=-1)  # Ray 2.40 gives each number of an action alone
    return actions


def filters_of(piece: MeanStdFilter) -> dict[Any, Any]:
    """Return a connector's filters by agent; none before the first observation."""
    return piece._filters or {}


def updates_filter(piece: MeanStdFilter) -> bool:
    """Return whether a connector's statistics change with each observation."""
    return bool(getattr(piece, "_update_stats", True))


def flattens_for(piece: FlattenObservations, agent: Any) -> bool:
    """Return whether a connector flattens all of the observations of an agent, and no others.

    Args:
        piece: the connector.
        agent: the agent; None if the environment has a single one.
    """
    agents = piece._agent_ids
    return not (
        getattr(piece, "_as_learner_connector", False)  # neither of the two is in Ray 2.40
        or getattr(piece, "_keys_to_remove", None)
        or piece._multi_agent != (agent is not None)
        or (agents is not None and agent not in agents)
    )


def preprocessor_of(piece: ObsPreprocessorConnector) -> Preprocessor:
    """Return the preprocessor of a connector of the old API stack."""
    return piece._preprocessor


def space_of(preprocessor: Preprocessor) -> gym.Space[Any]:
    """Return the space of the observations that a preprocessor takes."""
    space: gym.Space[Any] = preprocessor._obs_space
    return space


def included_model_config(config: AlgorithmConfig) -> dict[str, Any]:
    """Return the settings of modules that RLlib takes from the config of an algorithm."""
    return dict(config._model_config_auto_includes)


def replace_forward(head: TorchFreeLogStdMLPHead, forward: Callable[..., torch.Tensor]) -> None:
    """Let a head compute by another function, of the same arguments."""
    head._forward = forward


def keep_value(net: ComplexInputNetwork, value: torch.Tensor) -> None:
    """Give a model of the old API stack the value that its ``value_function`` returns."""
    net._value_out = value


def rewards_before_observations(episode: MultiAgentEpisode) -> dict[Any, float]:
    """Return agent -> rewards that wait for its first observation in this chunk of an episode."""
    rewards: dict[Any, float] = episode._hanging_rewards_begin
    return rewards
