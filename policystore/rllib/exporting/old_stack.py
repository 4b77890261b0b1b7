"""Old API stack: what goes into an exported graph, read from a rebuilt player or policy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ray.rllib.connectors.action.clip import ClipActionsConnector
from ray.rllib.connectors.action.immutable import ImmutableActionsConnector
from ray.rllib.connectors.action.lambdas import ConvertToNumpyConnector
from ray.rllib.connectors.action.normalize import NormalizeActionsConnector
from ray.rllib.connectors.agent.clip_reward import ClipRewardAgentConnector
from ray.rllib.connectors.agent.env_sampling import EnvSamplingAgentConnector
from ray.rllib.connectors.agent.mean_std_filter import (
    ConcurrentMeanStdObservationFilterAgentConnector,
    MeanStdObservationFilterAgentConnector,
)
from ray.rllib.connectors.agent.obs_preproc import ObsPreprocessorConnector
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector
from ray.rllib.connectors.connector import Connector
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.torch_policy import TorchPolicy
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import is_overridden
from ray.rllib.utils.filter import RunningStat

from policystore.rllib.exporting.actions import Clip, Unsquash
from policystore.rllib.exporting.heads import old_stack_head
from policystore.rllib.exporting.networks import DIST_INPUTS, VALUE, Network, state_parts
from policystore.rllib.exporting.observations import AsModuleInput, Filter, Preprocess, Stages
from policystore.rllib.exporting.refusal import NETWORK_INSTEAD, not_exportable, path_of_type
from policystore.rllib.old_stack.observations import unbounded
from policystore.rllib.old_stack.player import PolicyPlayer

__all__ = ["PolicyNetwork", "check_acts_by_distribution", "finish", "preparation"]

_FILTERS = (
    MeanStdObservationFilterAgentConnector,
    ConcurrentMeanStdObservationFilterAgentConnector,
)
# Connectors that change neither an observation nor an action.
_ARRANGING = (
    ClipRewardAgentConnector,
    ConvertToNumpyConnector,
    EnvSamplingAgentConnector,
    ImmutableActionsConnector,
    StateBufferConnector,
    ViewRequirementAgentConnector,
)
# RLlib's explorations without an action of their own when they do not explore.
_EXPLORATIONS = {
    "Curiosity", "EpsilonGreedy", "GaussianNoise", "OrnsteinUhlenbeckNoise", "ParameterNoise",
    "PerWorkerEpsilonGreedy", "PerWorkerGaussianNoise", "PerWorkerOrnsteinUhlenbeckNoise",
    "RE3", "RandomEncoder", "SoftQ", "StochasticSampling",
}  # fmt: skip


def _unknown(connector: Connector) -> Exception:
    return not_exportable(
        f"the connector {path_of_type(connector)}", "is not known to the export", NETWORK_INSTEAD
    )


def preparation(player: PolicyPlayer) -> Stages:
    """Return the stages from the environment's observation to what the policy sees.

    Raises:
        InvalidInputError: a connector, or a view of the past, that a graph cannot hold.
    """
    stages: list[torch.nn.Module] = []
    for connector in player.policy.agent_connectors.connectors:
        if type(connector) is ObsPreprocessorConnector:
            # The player's connector was made for this space as well.
            space = unbounded(player.observation_space)
            made = get_preprocessor(space)(space, player.policy.config.get("model", {}))
            stages.append(Preprocess(made, space))
        elif type(connector) in _FILTERS:
            stages.append(_filter(connector))
        elif type(connector) not in _ARRANGING:
            raise _unknown(connector)
    return Stages([*stages, AsModuleInput()])


def _filter(connector: Any) -> torch.nn.Module:
    observation_filter = connector.filter
    stat = observation_filter.running_stats
    if observation_filter.shape is None:  # RLlib does not filter Discrete observations
        return torch.nn.Identity()
    if not isinstance(stat, RunningStat):
        raise not_exportable(
            "a MeanStdFilter of an observation with several parts",
            "has no counterpart in a graph; RLlib flattens such observations before it filters",
            NETWORK_INSTEAD,
        )
    return Filter(
        stat, observation_filter.demean, observation_filter.destd, observation_filter.clip
    )


def finish(player: PolicyPlayer) -> list[torch.nn.Module]:
    """Return the stages from the policy's action to the environment's.

    Raises:
        InvalidInputError: a connector that a graph cannot hold.
    """
    stages: list[torch.nn.Module] = []
    for connector in player.policy.action_connectors.connectors:
        if type(connector) is NormalizeActionsConnector:
            stages.append(Unsquash(player.action_space))
        elif type(connector) is ClipActionsConnector:
            stages.append(Clip(player.action_space))
        elif type(connector) not in _ARRANGING:
            raise _unknown(connector)
    return stages


class PolicyNetwork(Network):
    """Computes the model of an old-stack policy as the policy does to act.

    See ``_compute_action_helper`` (policy/torch_policy_v2.py:1032, policy/torch_policy.py:919).

    Args:
        policy: a policy of torch.
        with_value: whether the value is computed as well, if the model has a value function.

    Raises:
        InvalidInputError: a policy that acts in Python, or a model that looks at the past.
    """

    def __init__(self, policy: Policy, *, with_value: bool) -> None:
        super().__init__()
        _check_policy(policy)
        _check_views(policy)
        self._policy = policy
        self.model = policy.model.eval()
        self.state_parts = state_parts(list(policy.get_initial_state()))
        # Where a policy computes the distribution itself, as DQN and SAC do, its model is a part of
        # the network, and the value function of the model's class has no meaning.
        alone = _own_distribution(policy) is None
        self.with_value = with_value and alone and _has_value(self.model)
        self._found_class: Any = None

    def forward(
        self, obs: Any, state: Sequence[torch.Tensor]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Compute one step; see :class:`Network`."""
        inputs = {"obs": obs, "is_training": False}
        lengths = None
        if state:
            lengths = torch.ones(state[0].shape[0], dtype=torch.int64)
        found, self._found_class, next_state = self._distribution(inputs, list(state), lengths)
        outputs = {DIST_INPUTS: found}
        if self.with_value:
            outputs[VALUE] = self.model.value_function()
        return outputs, list(next_state)

    def _distribution(self, inputs: dict[str, Any], state: list[Any], lengths: Any) -> Any:
        policy: Any = self._policy
        settings = {"explore": False, "timestep": policy.global_timestep, "is_training": False}
        compute = _own_distribution(policy)
        if compute is not None and isinstance(policy, TorchPolicyV2):
            return compute(
                self.model, obs_batch=inputs, state_batches=state, seq_lens=lengths, **settings
            )
        if compute is not None:
            return compute(
                policy, self.model, input_dict=inputs, state_batches=state, seq_lens=lengths,
                **settings,
            )  # fmt: skip
        found, next_state = self.model(inputs, state, lengths)
        return found, policy.dist_class, next_state

    def action(self, outputs: dict[str, Any]) -> Any:
        """Return the deterministic action; see :class:`Network`."""
        return old_stack_head(self._found_class)(outputs[DIST_INPUTS])


def _check_policy(policy: Policy) -> None:
    """Refuse a policy without a network of torch."""
    if not isinstance(policy, (TorchPolicy, TorchPolicyV2)):
        raise not_exportable(
            f"the policy class {path_of_type(policy)}",
            "computes its actions in Python, which has no graph",
        )


def _own_distribution(policy: Any) -> Any:
    """Return a policy's own function for distributions; None where the model alone computes."""
    compute = policy.action_distribution_fn
    if isinstance(policy, TorchPolicyV2):
        return compute if is_overridden(compute) else None
    return compute


def check_acts_by_distribution(policy: Any) -> None:
    """Refuse a policy whose actions are not those of its network and distribution.

    Raises:
        InvalidInputError: names the class.
    """
    name = f"the policy class {path_of_type(policy)}"
    for method in ("compute_actions_from_input_dict", "_compute_action_helper"):
        owner = next(base for base in type(policy).__mro__ if method in vars(base))
        if not owner.__module__.startswith("ray.rllib.policy."):
            raise not_exportable(name, f"has a {method}() of its own", NETWORK_INSTEAD)
    sampler = policy.action_sampler_fn
    if is_overridden(sampler) if isinstance(policy, TorchPolicyV2) else sampler:
        raise not_exportable(name, "samples actions without a distribution", NETWORK_INSTEAD)
    exploration = type(policy.exploration)
    known = exploration.__module__.startswith("ray.rllib.utils.exploration.")
    if not known or exploration.__name__ not in _EXPLORATIONS:
        raise not_exportable(
            f"the exploration {path_of_type(exploration)}",
            "may choose another action than the distribution's",
            NETWORK_INSTEAD,
        )


def _check_views(policy: Policy) -> None:
    """Refuse a model that reads more than the present observation and its own last state."""
    for name, view in policy.model.view_requirements.items():
        if not view.used_for_compute_actions:
            continue
        column = view.data_col or name
        if column in ("obs", "seq_lens") and not _looks_back(view, 0):
            continue
        if name.startswith("state_in_") and not _looks_back(view, -1):
            continue
        kind = "the attention memory" if name.startswith("state_in_") else f"the column {column!r}"
        raise not_exportable(
            f"the model {path_of_type(policy.model)}",
            f"reads {kind} of earlier steps ({name!r}), which a graph does not keep",
        )


def _looks_back(view: Any, usual: int) -> bool:
    """Return whether a view is of other steps than the usual one."""
    return [int(step) for step in view.shift_arr] != [usual]


def _has_value(model: Any) -> bool:
    """Return whether a model defines a value function of its own class or one of RLlib's nets."""
    owner = next(base for base in type(model).__mro__ if "value_function" in vars(base))
    return owner.__qualname__ not in ("ModelV2", "TorchModelV2")
