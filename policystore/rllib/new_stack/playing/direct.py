"""New API stack: play a module past RLlib's pipelines.

The pipelines take several times as long as a small network. If a player has only RLlib's own pieces
in them, and these do nothing but what this module does as well, it computes the same actions in a
few operations. Each function names the piece whose work it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree as dm_tree
from ray.rllib.connectors import env_to_module, module_to_env
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.spaces.space_utils import get_base_struct_from_space
from ray.rllib.utils.typing import AgentID, EnvActionType

from policystore.rllib.compat import (
    TorchCategorical,
    TorchDiagGaussian,
    TorchSquashedGaussian,
    explore_forward,
    filters_of,
    flattens_for,
    infer_forward,
    likeliest_actions,
    updates_filter,
)
from policystore.rllib.new_stack.playing.pipelines import LATE, PipelineEngine, checked_q_values
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

__all__ = ["direct_engine"]

# RLlib's own pieces in their order, behind and before the user's (connectors/env_to_module/ and
# connectors/module_to_env/). A release of RLlib with other pieces plays through the pipelines.
_ENV_TO_MODULE = tuple(
    getattr(env_to_module, name)
    for name in (
        "AddObservationsFromEpisodesToBatch",
        "AddTimeDimToBatchAndZeroPad",
        "AddStatesFromEpisodesToBatch",
        "AgentToModuleMapping",
        "BatchIndividualItems",
        "NumpyToTensor",
    )
    # In Ray 2.40 AddStatesFromEpisodesToBatch also does the work of AddTimeDimToBatchAndZeroPad.
    if hasattr(env_to_module, name)
)
_MODULE_TO_ENV = (
    module_to_env.GetActions,
    module_to_env.TensorToNumpy,
    module_to_env.UnBatchToIndividualItems,
    module_to_env.ModuleToAgentUnmapping,
    module_to_env.RemoveSingleTsTimeRankFromBatch,
    module_to_env.NormalizeAndClipActions,
    module_to_env.ListifyDataForVectorEnv,
)
_MULTI_AGENT = (env_to_module.AgentToModuleMapping, module_to_env.ModuleToAgentUnmapping)
_FLATTEN = getattr(FlattenObservations, "func", FlattenObservations)


def direct_engine(
    pipelines: PipelineEngine,
    pieces: Mapping[str, Sequence[ConnectorV2]],
    *,
    normalize_actions: bool,
    clip_actions: bool,
) -> Engine | None:
    """Return an engine that acts as another one does, past the pipelines; None if there is none.

    Args:
        pipelines: the engine that plays through the pipelines.
        pieces: the connector pieces beside RLlib's default ones, by pipeline.
        normalize_actions, clip_actions: see RLlib's ``NormalizeAndClipActions``.
    """
    module, agent = pipelines.module, pipelines.agent
    if agent is not None:
        if type(module) is not MultiRLModule:
            return None  # modules that go together may share layers
        module = module[pipelines.module_id]
    if not isinstance(module, TorchRLModule) or any(
        getattr(type(module), name) is not getattr(TorchRLModule, name)
        for name in ("forward_inference", "forward_exploration")
    ):
        return None
    if not _has_only(pipelines.pipelines, pieces, agent):
        return None
    changes = _changes(pieces["env_to_module"], pipelines.observation_space, agent)
    leaves = leaves_of(pipelines.observation_space)
    if changes is None or leaves is None:
        return None
    reader = ObservationReader(
        pipelines.observation_space,
        leaves,
        pipelines.read_one,
        cast=agent is None,
        allow_nan=pipelines.allow_nan,
    )
    writer = ActionWriter(
        pipelines.action_space,
        normalize=normalize_actions,
        clip=clip_actions and not normalize_actions,
    )
    return DirectEngine(module, reader, changes, writer, pipelines)


def _has_only(
    pipelines: Mapping[str, ConnectorPipelineV2],
    pieces: Mapping[str, Sequence[ConnectorV2]],
    agent: AgentID | None,
) -> bool:
    """Return whether pipelines have RLlib's default pieces, and the user's in their place alone."""
    default = {
        name: [piece for piece in known if agent is not None or piece not in _MULTI_AGENT]
        for name, known in (("env_to_module", _ENV_TO_MODULE), ("module_to_env", _MODULE_TO_ENV))
    }
    own = [type(piece) for piece in pieces["env_to_module"]]
    expected = {
        "env_to_module": [*own, *default["env_to_module"]],
        "module_to_env": default["module_to_env"],
    }
    return all(
        [type(piece) for piece in pipelines[name].connectors] == expected[name] for name in expected
    )


def _changes(
    pieces: Sequence[ConnectorV2], space: gym.Space[Any], agent: AgentID | None
) -> list[Change] | None:
    """Return what the user's pieces do to arrays of observations; None if one is not known.

    Args:
        pieces: the pieces before RLlib's default ones, in order.
        space: the environment's observation space (of one agent).
        agent: the agent that is played; None if single-agent.
    """
    changes = []
    for piece in pieces:
        change = None
        if type(piece) is MeanStdFilter:
            change = _filter_change(piece, space, agent)
        elif type(piece) is _FLATTEN:
            change = _flatten_change(piece, space, agent)
        if change is None:
            return None
        changes.append(change)
        made = piece.observation_space
        space = made if agent is None else made[agent]
    return changes


def _filter_change(
    piece: MeanStdFilter, space: gym.Space[Any], agent: AgentID | None
) -> Change | None:
    """Return what a filter does (``MeanStdFilter.__call__``, utils/filter.py)."""
    filters = filters_of(piece)
    if updates_filter(piece) or not isinstance(space, gym.spaces.Box) or agent not in filters:
        return None
    return filter_change(filters[agent])


def _flatten_change(
    piece: ConnectorV2, space: gym.Space[Any], agent: AgentID | None
) -> Change | None:
    """Return what flattening does (``flatten_inputs_to_1d_tensor``, utils/numpy.py)."""
    if not flattens_for(piece, agent):
        return None
    leaves = leaves_of(space)
    if leaves is None or not all(_flattens(leaf) for _, leaf in leaves):
        return None
    places = {path: place for place, (path, _) in enumerate(leaves)}
    # RLlib sorts the keys of dicts.
    order = [
        (places[path], leaf)
        for path, leaf in dm_tree.flatten_with_path(get_base_struct_from_space(space))
    ]
    return lambda arrays: [flatten([(arrays[place], leaf) for place, leaf in order])]


def _flattens(leaf: gym.Space[Any]) -> bool:
    """Return whether RLlib flattens a space; it makes no one-hot vector of shifted numbers."""
    if isinstance(leaf, gym.spaces.Discrete):
        return bool(leaf.start == 0)
    if isinstance(leaf, gym.spaces.MultiDiscrete):
        return leaf.nvec.ndim == 1 and not np.any(getattr(leaf, "start", 0))
    return True


class DirectEngine(Engine):
    """Plays a module with a few operations of numpy and torch.

    Args:
        module: the module.
        reader: reads observations.
        changes: what connector pieces do to arrays of observations, in order.
        writer: turns the module's actions into those of the environment.
        pipelines: the engine that plays the same module through the pipelines.
    """

    reads_rewards = False

    def __init__(
        self,
        module: TorchRLModule,
        reader: ObservationReader,
        changes: Sequence[Change],
        writer: ActionWriter,
        pipelines: PipelineEngine,
    ) -> None:
        ready_made = is_ready_made(module)
        self.remembers = module.is_stateful()
        # A network of the user's may keep data of the call that it is in.
        self.concurrent = ready_made and not self.remembers
        self.memory_layout = pipelines.memory_layout
        self._reader = reader
        self._module = module
        self._changes = changes
        self._writer = writer
        self._checks = not pipelines.allow_nan
        # Nested observations that no piece has flattened go to the module in their structure.
        nested = isinstance(pipelines.observation_space, (gym.spaces.Dict, gym.spaces.Tuple))
        self._build = None if changes or not nested else reader.nested
        # A network of the user's may keep tensors, and torch refuses gradients of those that were
        # made in inference mode.
        self._grad_mode = torch.inference_mode if ready_made else torch.no_grad
        self._most_rows = MOST_OPERATIONS // max(1, operations(module, module.observation_space))
        self._structure = module.get_initial_state() if self.remembers else None
        module.eval()

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
        few = len(memories) <= self._most_rows
        threads = limit_threads() if few else (1, 0)
        try:
            with self._grad_mode():
                actions, memories = self._forward(observations, memories, explore)
        finally:
            restore_threads(threads)
        return self._writer.write(actions), memories

    def _forward(
        self, arrays: list[Any], memories: Sequence[Any], explore: bool
    ) -> tuple[Any, Sequence[Any]]:
        """Compute actions as numpy arrays, and the next recurrent states."""
        module = self._module
        if module.training:
            module.eval()
        # NumpyToTensor, BatchIndividualItems
        leaves = [to_tensor(array) for array in arrays]
        if self.remembers:  # AddTimeDimToBatchAndZeroPad, AddStatesFromEpisodesToBatch
            leaves = [leaf.unsqueeze(1) for leaf in leaves]
        batch = {Columns.OBS: leaves[0] if self._build is None else self._build(leaves)}
        if self.remembers:
            states = states_of(memories, self._initial)
            batch[Columns.STATE_IN] = dm_tree.unflatten_as(self._structure, states)
        values = checked_q_values(module, batch) if self._checks else None
        if explore:
            output = explore_forward(module, batch, LATE)
        elif values is not None:
            output = values
        else:
            output = infer_forward(module, batch)
        if self._checks:
            check_distribution(output.get(Columns.ACTION_DIST_INPUTS))
        actions = to_numpy(_actions(module, output, explore))
        if self._checks:
            check_actions(actions)
        if self.remembers:  # RemoveSingleTsTimeRankFromBatch
            actions = dm_tree.map_structure(lambda part: np.squeeze(part, axis=1), actions)
            parts = dm_tree.flatten(output[Columns.STATE_OUT])
            memories = States(parts, len(memories)).rows()
        return actions, memories

    def _initial(self) -> list[torch.Tensor]:
        """Return the recurrent state of an episode that begins, as a batch with one row."""
        initial = convert_to_numpy(self._module.get_initial_state())
        return [to_tensor(np.asarray(part)[None]) for part in dm_tree.flatten(initial)]


def _actions(module: RLModule, output: Mapping[str, Any], explore: bool) -> Any:
    """Return a module's actions (``GetActions``, connectors/module_to_env/get_actions.py)."""
    if Columns.ACTIONS in output:
        return output[Columns.ACTIONS]
    inputs = output[Columns.ACTION_DIST_INPUTS]
    if explore:
        return module.get_exploration_action_dist_cls().from_logits(inputs).sample()
    distribution = module.get_inference_action_dist_cls()
    # The same as below for these classes, without the objects of torch in between.
    if distribution is TorchCategorical:
        return torch.argmax(inputs, dim=-1)
    if distribution in (TorchDiagGaussian, TorchSquashedGaussian):
        return inputs.chunk(2, dim=-1)[0]
    return likeliest_actions(distribution, inputs)
