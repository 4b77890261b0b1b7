"""New API stack: what goes into an exported graph, read from a rebuilt player or module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import torch
import tree as dm_tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore.errors import InvalidInputError
from policystore.rllib.common.running_stats import running_stat
from policystore.rllib.compat import infer_forward, inference_of, q_values
from policystore.rllib.convert.kinds import kind_named
from policystore.rllib.exporting.actions import Clip, Unsquash
from policystore.rllib.exporting.heads import new_stack_head
from policystore.rllib.exporting.networks import DIST_INPUTS, VALUE, Network, state_parts
from policystore.rllib.exporting.observations import AsFloat, AsModuleInput, Filter, Flatten, Stages
from policystore.rllib.exporting.refusal import NETWORK_INSTEAD, not_exportable, path_of_type
from policystore.rllib.new_stack.cast import CastObservations
from policystore.rllib.new_stack.connector_state import take_state
from policystore.rllib.new_stack.connectors import walk
from policystore.rllib.new_stack.model_config import resolve_class
from policystore.rllib.new_stack.player import ModulePlayer

__all__ = ["ModuleNetwork", "finish", "module_of", "preparation"]

# The class had another name until Ray 2.40.
_DQNModule: Any = resolve_class(kind_named("DQN").module, RLModule, "the module of DQN")

# RLlib's pieces that arrange data in batches, and change no value of an observation or action.
_ARRANGING = {
    "AddObservationsFromEpisodesToBatch",
    "AddStatesFromEpisodesToBatch",
    "AddTimeDimToBatchAndZeroPad",
    "AgentToModuleMapping",
    "BatchIndividualItems",
    "GetActions",
    "ListifyDataForVectorEnv",
    "ModuleToAgentUnmapping",
    "NumpyToTensor",
    "RemoveSingleTsTimeRankFromBatch",
    "TensorToNumpy",
    "UnBatchToIndividualItems",
}


def _name(piece: ConnectorV2) -> str:
    """Return a piece's class if it is one of RLlib's, else its path."""
    cls = type(piece)
    return cls.__name__ if cls.__module__.startswith("ray.rllib.") else path_of_type(cls)


def _unknown(piece: ConnectorV2) -> InvalidInputError:
    reasons = {
        "FrameStacking": "keeps earlier observations of an episode",
        "PrevActionsPrevRewards": "keeps earlier actions and rewards of an episode",
    }
    name = _name(piece)
    reason = reasons.get(name, "is not known to the export")
    return not_exportable(f"the connector {name}", reason, NETWORK_INSTEAD)


def preparation(player: ModulePlayer) -> Stages:
    """Return the stages from the environment's observation to what the module sees.

    Raises:
        InvalidInputError: a connector that a graph cannot hold.
    """
    stages: list[torch.nn.Module] = []
    for name, piece in walk(player._pipelines["env_to_module"].connectors):
        if _name(piece) in _ARRANGING:
            continue
        space = piece.input_observation_space
        if player.agent is not None:
            space = space[player.agent]
        if _name(piece) == "FlattenObservations":
            stages.append(_flatten(piece, space, player.agent))
        elif type(piece) is CastObservations:
            stages.append(AsFloat())
        elif type(piece) is MeanStdFilter:
            stages.extend(_filter(piece, name, player.agent))
        else:
            raise _unknown(piece)
    return Stages([*stages, AsModuleInput()])


def _flatten(piece: ConnectorV2, space: gym.Space[Any], agent: Any) -> torch.nn.Module:
    _, settings = piece.get_ctor_args_and_kwargs()
    only = settings.get("agent_ids")
    if agent is not None and only and agent not in only:
        return torch.nn.Identity()
    return Flatten(space, settings.get("keys_to_remove") or ())


def _filter(piece: ConnectorV2, name: str, agent: Any) -> list[torch.nn.Module]:
    """Return the filter of one agent; none for an observation that RLlib does not filter."""
    state = take_state(piece, name, [agent])[agent]
    stats = state["running_stats"]
    if not stats:
        return []
    if len(stats) > 1:
        raise not_exportable(
            "a MeanStdFilter of an observation with several parts",
            "has no counterpart in a graph; RLlib flattens such observations before it filters",
            NETWORK_INSTEAD,
        )
    stat = running_stat(stats[0]["num_pushes"], stats[0]["mean"], stats[0]["sum_sq_diff"])
    flags = state["de_mean_to_zero"], state["de_std_to_one"], state["clip_by_value"]
    return [Filter(stat, *flags)]


def finish(player: ModulePlayer) -> list[torch.nn.Module]:
    """Return the stages from the policy's action to the environment's.

    Raises:
        InvalidInputError: a connector that a graph cannot hold.
    """
    stages: list[torch.nn.Module] = []
    for _, piece in walk(player._pipelines["module_to_env"].connectors):
        name = _name(piece)
        if name in _ARRANGING:
            continue
        if name != "NormalizeAndClipActions":
            raise _unknown(piece)
        if piece.normalize_actions:
            stages.append(Unsquash(player.action_space))
        elif piece.clip_actions:
            stages.append(Clip(player.action_space))
    return stages


def module_of(module: RLModule, module_id: str | None) -> RLModule:
    """Return the module that acts, of a module or a MultiRLModule.

    Args:
        module: the module of a player, or a rebuilt one.
        module_id: which module acts; not needed if there is one.

    Raises:
        InvalidInputError: modules that can only act together, or a module without torch.
    """
    if isinstance(module, MultiRLModule):
        if type(module) is not MultiRLModule:
            raise not_exportable(
                f"the module {path_of_type(module)}", "makes several modules compute together"
            )
        ids = list(module.keys())
        module = module[ids[0] if len(ids) == 1 else module_id]
    if not isinstance(module, torch.nn.Module):
        raise not_exportable(
            f"the module {path_of_type(module)}",
            "is no torch module: it computes in Python, which has no graph",
        )
    return module


class ModuleNetwork(Network):
    """Computes an RLModule's forward pass for inference.

    Args:
        module: a torch RLModule.
        with_value: whether the value is computed as well, if the module has a value function.
    """

    def __init__(self, module: Any, *, with_value: bool) -> None:
        super().__init__()
        self.module = module.eval()
        self._stateful = bool(module.is_stateful())
        initial = module.get_initial_state() if self._stateful else {}
        self.state_parts = state_parts(initial)
        self._state_struct = initial
        self.with_value = (
            with_value and isinstance(module, ValueFunctionAPI) and not module.inference_only
        )
        # DQN's own forward pass returns the action alone.
        self._is_dqn = inference_of(type(module)) is inference_of(_DQNModule)

    def forward(
        self, obs: Any, state: Sequence[torch.Tensor]
    ) -> tuple[dict[str, Any], list[torch.Tensor]]:
        """Compute one step; see :class:`Network`."""
        batch = {Columns.OBS: obs}
        if self._stateful:
            batch[Columns.OBS] = dm_tree.map_structure(lambda part: part.unsqueeze(1), obs)
            batch[Columns.STATE_IN] = dm_tree.unflatten_as(self._state_struct, list(state))
        if self._is_dqn:
            found = q_values(self.module, batch)
            outputs: dict[str, Any] = {DIST_INPUTS: found["qf_preds"]}
            if Columns.STATE_OUT in found:
                outputs[Columns.STATE_OUT] = found[Columns.STATE_OUT]
        else:
            outputs = infer_forward(self.module, dict(batch))
        next_state = dm_tree.flatten(outputs.pop(Columns.STATE_OUT, {}))
        if self.with_value:
            outputs[VALUE] = self.module.compute_values(dict(batch))
        if self._stateful:
            outputs = dm_tree.map_structure(lambda part: part[:, 0], outputs)
        return outputs, next_state

    def action(self, outputs: dict[str, Any]) -> Any:
        """Return the deterministic action; see :class:`Network`."""
        if Columns.ACTIONS in outputs:
            return outputs[Columns.ACTIONS]
        return self.head(outputs[DIST_INPUTS])

    def take_head(self) -> None:
        """Find the distribution that turns outputs into an action.

        Raises:
            InvalidInputError: a distribution that is not RLlib's.
        """
        module = self.module
        choose = (
            module.get_exploration_action_dist_cls
            if self._is_dqn
            else module.get_inference_action_dist_cls
        )
        self.head = new_stack_head(choose(), module)
