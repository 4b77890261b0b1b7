"""Old API stack: play a policy past its connectors.

Connectors and sample batches take several times as long as a small network. If a policy has only
RLlib's own connectors, and these do nothing but what this module does as well, it computes the same
actions in a few operations. Each function names the code of RLlib whose work it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.connectors.action.clip import ClipActionsConnector
from ray.rllib.connectors.action.immutable import ImmutableActionsConnector
from ray.rllib.connectors.action.lambdas import ConvertToNumpyConnector
from ray.rllib.connectors.action.normalize import NormalizeActionsConnector
from ray.rllib.connectors.agent.clip_reward import ClipRewardAgentConnector
from ray.rllib.connectors.agent.mean_std_filter import MeanStdObservationFilterAgentConnector
from ray.rllib.connectors.agent.obs_preproc import ObsPreprocessorConnector
from ray.rllib.connectors.agent.state_buffer import StateBufferConnector
from ray.rllib.connectors.agent.view_requirement import ViewRequirementAgentConnector
from ray.rllib.models import preprocessors
from ray.rllib.models.torch.torch_action_dist import TorchCategorical, TorchDiagGaussian
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.policy.torch_policy import TorchPolicy
from ray.rllib.policy.torch_policy_v2 import TorchPolicyV2
from ray.rllib.utils.annotations import is_overridden
from ray.rllib.utils.exploration.stochastic_sampling import StochasticSampling
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.typing import EnvActionType

from policystore.rllib.compat import preprocessor_of, space_of
from policystore.rllib.old_stack.playing.connectors import ConnectorEngine
from policystore.rllib.playing.actions import ActionWriter
from policystore.rllib.playing.engine import Engine
from policystore.rllib.playing.filters import filter_change
from policystore.rllib.playing.flatten import flatten
from policystore.rllib.playing.nets import (
    States,
    check_actions,
    check_distribution,
    is_ready_made,
    operations,
    states_of,
    to_numpy,
    to_tensor,
)
from policystore.rllib.playing.one_thread import (
    MOST_OPERATIONS,
    limit_threads,
    restore_threads,
)
from policystore.rllib.playing.reader import Change, ObservationReader, leaves_of

__all__ = ["DirectEngine", "direct_engine"]

_BASES = (TorchPolicy, TorchPolicyV2)
_PREPROCESSORS = (
    preprocessors.NoPreprocessor,
    preprocessors.OneHotPreprocessor,
    preprocessors.MultiBinaryPreprocessor,
    preprocessors.DictFlatteningPreprocessor,
    preprocessors.TupleFlatteningPreprocessor,
)
_ACTIONS = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete)


def direct_engine(
    connectors: ConnectorEngine, model: Any, views: Sequence[tuple[str, str, Sequence[int]]]
) -> Engine | None:
    """Return an engine that acts as another one does, past the connectors; None if there is none.

    Args:
        connectors: the engine that plays the policy through its connectors.
        model: the policy's network.
        views: what the model reads to act: a name, the column that it comes from, and the steps
            that it looks back.
    """
    policy = connectors.policy
    base = next((base for base in _BASES if isinstance(policy, base)), None)
    if (
        base is None
        or not type(policy).__module__.startswith("ray.rllib.")
        or any(
            getattr(type(policy), name) is not getattr(base, name)
            for name in ("compute_actions_from_input_dict", "_compute_action_helper")
        )
        or not isinstance(model, torch.nn.Module)
        or not is_ready_made(model)
        or type(connectors.action_space) not in _ACTIONS
        or not all(_is_simple(*view) for view in views)
    ):
        return None
    if policy.action_sampler_fn is not None and (
        base is TorchPolicy or is_overridden(policy.action_sampler_fn)
    ):
        return None
    changes = _changes(policy, connectors.observation_space)
    writer = _writer(policy, connectors.action_space)
    leaves = leaves_of(connectors.observation_space)
    if changes is None or writer is None or leaves is None:
        return None
    reader = ObservationReader(
        connectors.observation_space,
        leaves,
        connectors.read_one,
        cast=False,
        allow_nan=connectors.allow_nan,
    )
    return DirectEngine(connectors, model, reader, changes, writer)


def _is_simple(name: str, column: str, steps: Sequence[int]) -> bool:
    """Return whether a model reads a column as this module gives it."""
    if column == SampleBatch.OBS:
        return name == column and list(steps) == [0]
    own = name.startswith("state_in_") and column == name.replace("in", "out")
    return own and list(steps) == [-1]  # attention looks back further


def _changes(policy: Policy, space: gym.Space[Any]) -> list[Change] | None:
    """Return what the agent connectors do to arrays of observations; None if one is not known."""
    changes: list[Change] = []
    pieces = [
        piece
        for piece in policy.agent_connectors.connectors
        if type(piece) is not ClipRewardAgentConnector  # rewards are not looked at
    ]
    if [type(piece) for piece in pieces[-2:]] != [
        StateBufferConnector,
        ViewRequirementAgentConnector,
    ]:
        return None
    flat = False
    for piece in pieces[:-2]:
        change = None
        if type(piece) is ObsPreprocessorConnector and not changes:
            preprocessor = preprocessor_of(piece)
            if not _is_known(preprocessor):
                return None
            if type(preprocessor) is preprocessors.NoPreprocessor:
                continue
            change, flat = _preprocessing(preprocessor, space), True
        elif type(piece) is MeanStdObservationFilterAgentConnector and (
            flat or isinstance(space, gym.spaces.Box)
        ):
            change = filter_change(piece.filter)
        if change is None:
            return None
        changes.append(change)
    if not changes and type(space) not in (gym.spaces.Box, gym.spaces.MultiBinary):
        return None  # RLlib's models of the old stack flatten these by themselves
    return changes


def _is_known(preprocessor: Any) -> bool:
    """Return whether :func:`_preprocessing` does what a preprocessor of RLlib does."""
    space = space_of(preprocessor)
    if isinstance(space, gym.spaces.Dict) and list(space.spaces) != sorted(space.spaces):
        return False  # RLlib sorts the observation's keys, and not the space's
    if isinstance(space, gym.spaces.MultiDiscrete) and np.any(getattr(space, "start", 0)):
        return False
    return type(preprocessor) in _PREPROCESSORS and all(
        inner is not None and _is_known(inner)
        for inner in getattr(preprocessor, "preprocessors", [])
    )


def _preprocessing(preprocessor: Any, space: gym.Space[Any]) -> Change | None:
    """Return what a preprocessor of RLlib does (models/preprocessors.py)."""
    if type(preprocessor) is preprocessors.MultiBinaryPreprocessor:
        return lambda arrays: [arrays[0].astype(np.float32)]
    leaves = leaves_of(space)
    if leaves is None:
        return None
    parts = [leaf for _, leaf in leaves]
    return lambda arrays: [flatten(list(zip(arrays, parts, strict=True)))]


def _writer(policy: Policy, space: gym.Space[Any]) -> ActionWriter | None:
    """Return what the action connectors do; None if one is not known."""
    kinds = [type(piece) for piece in policy.action_connectors.connectors]
    normalize, clip = NormalizeActionsConnector in kinds, ClipActionsConnector in kinds
    expected = [
        ConvertToNumpyConnector,
        *[NormalizeActionsConnector] * normalize,
        *[ClipActionsConnector] * clip,
        ImmutableActionsConnector,
    ]
    return ActionWriter(space, normalize=normalize, clip=clip) if kinds == expected else None


class DirectEngine(Engine):
    """Plays a policy with a few operations of numpy and torch.

    Args:
        connectors: the engine that plays the same policy through its connectors.
        model: the policy's network.
        reader: reads observations.
        changes: what agent connectors do to arrays of observations, in order.
        writer: turns the policy's actions into those of the environment.
    """

    reads_rewards = False
    concurrent = False  # models of the old stack keep data of the call that they are in

    def __init__(
        self,
        connectors: ConnectorEngine,
        model: torch.nn.Module,
        reader: ObservationReader,
        changes: Sequence[Change],
        writer: ActionWriter,
    ) -> None:
        policy = connectors.policy
        self.remembers = policy.is_recurrent()
        self.memory_layout = connectors.memory_layout
        self._policy = policy
        self._model = model
        self._reader = reader
        self._changes = changes
        self._writer = writer
        self._checks = not connectors.allow_nan
        self._timestep = policy.global_timestep
        self._most_rows = MOST_OPERATIONS // max(1, operations(model, policy.observation_space))
        self._initial = [
            to_tensor(np.asarray(convert_to_numpy(state))[None])
            for state in policy.get_initial_state()
        ]

    def read(self, rows: Sequence[Any]) -> list[Any]:
        """Return an array for each leaf of the observations."""
        return self._reader.read(rows)

    def read_arrays(self, batch: Any) -> tuple[int, list[Any]] | None:
        """Return the number of rows of a batch of arrays, and an array for each leaf."""
        return self._reader.read_arrays(batch)

    def _step(
        self,
        memories: Sequence[Any],
        observations: list[Any],
        explore: bool,
        rewards: Sequence[float] | None,
    ) -> tuple[list[EnvActionType], Sequence[Any]]:
        """Take one step in each of several environments."""
        for change in self._changes:
            observations = change(observations)
        threads = limit_threads() if len(memories) <= self._most_rows else (1, 0)
        try:
            with torch.no_grad():
                states: Sequence[torch.Tensor] = []
                if self.remembers:
                    states = states_of(memories, lambda: self._initial)
                actions, states = self._forward(to_tensor(observations[0]), states, explore)
                if self.remembers:
                    memories = States(states, len(memories)).rows()
                actions = to_numpy(actions)
                if self._checks:
                    check_actions(actions)
        finally:
            restore_threads(threads)
        return self._writer.write(actions), memories

    def _forward(
        self, obs: torch.Tensor, states: Sequence[torch.Tensor], explore: bool
    ) -> tuple[Any, Sequence[torch.Tensor]]:
        """Compute actions and next states (``_compute_action_helper``, policy/torch_policy*.py)."""
        policy, model, timestep = self._policy, self._model, self._timestep
        if model.training:
            model.eval()
        batch: dict[str, Any] = {SampleBatch.OBS: obs}
        lengths = torch.ones(len(obs), dtype=torch.long) if states else None
        policy.exploration.before_compute_actions(explore=explore, timestep=timestep)
        own = policy.action_distribution_fn
        if own is not None and (isinstance(policy, TorchPolicy) or is_overridden(own)):
            more = {
                "state_batches": states,
                "seq_lens": lengths,
                "explore": explore,
                "timestep": timestep,
                "is_training": False,
            }
            if isinstance(policy, TorchPolicy):  # an attribute, not a method
                inputs, kind, states = own(policy, model, input_dict=batch, **more)
            else:
                inputs, kind, states = own(model, obs_batch=batch, **more)
        else:
            kind = policy.dist_class
            inputs, states = model(batch, states, lengths)
        if self._checks:
            check_distribution(inputs)
        if not explore and type(policy.exploration) is StochasticSampling:
            # The same as below for these classes, without the objects of torch in between.
            if kind is TorchCategorical:
                logits = inputs - inputs.logsumexp(dim=-1, keepdim=True)
                return torch.softmax(logits, dim=-1).argmax(dim=1), states
            if kind is TorchDiagGaussian or getattr(kind, "func", None) is TorchDiagGaussian:
                return torch.chunk(inputs, 2, dim=1)[0], states
        actions, _ = policy.exploration.get_exploration_action(
            action_distribution=kind(inputs, model), timestep=timestep, explore=explore
        )
        return actions, states
