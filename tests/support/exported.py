"""Policies for the tests of exports: a cell for each network, space and algorithm, without Ray.

A cell makes a snapshot, and the arguments with which it is exported and played. The cells of
``new_stack_matrix.MODULES`` and ``old_stack_matrix.BARE`` are among them. The others have what
those lack: connectors with filters, images in the form that a network takes, SAC, DQN.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter
from ray.rllib.connectors.util import (
    get_action_connectors_from_config,
    get_agent_connectors_from_config,
)
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.models.torch.torch_modelv2 import TorchModelV2

from policystore.rllib import snapshot
from policystore.rllib.exporting.samples import random_observation
from policystore.rllib.new_stack.connector_state import put_state, take_state
from policystore.rllib.new_stack.connectors import piece_to_plain
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot
from policystore.spaces import space_to_json
from tests.support import new_stack_matrix, old_stack_matrix
from tests.support.old_stack_configs import SMALL as OLD_SMALL
from tests.support.old_stack_configs import ppo as old_ppo
from tests.support.rl_modules import DefaultDQNTorchRLModule, DefaultSACTorchRLModule, DQNCatalog

TRUST = ["tests."]
VECTOR, UNEVEN, SMALL = new_stack_matrix.VECTOR, new_stack_matrix.UNEVEN, new_stack_matrix.SMALL
FRAME = Box(0.0, 1.0, (84, 84, 4), np.float32)
FAR = Box(-3.0, 40.0, (4,), np.float32)
MIXED = Dict(
    {
        "pose": Box(-np.inf, np.inf, (2, 2), np.float64),
        "kind": Discrete(4),
        "parts": Tuple([MultiDiscrete([2, 3]), MultiBinary(3), Box(0, 255, (2,), np.uint8)]),
        "angle": Box(-1.0, 1.0, (), np.float32),
    }
)
# The old stack has no preprocessor for a MultiBinary inside of a Dict.
OLD_MIXED = Dict(
    {
        "pose": Box(-np.inf, np.inf, (2,), np.float64),
        "kind": Discrete(4, start=1),
        "parts": Tuple([MultiDiscrete([2, 3]), Box(0, 255, (2,), np.uint8)]),
        "angle": Box(-1.0, 1.0, (), np.float32),
    }
)
ACTS = Dict(
    {
        "push": UNEVEN,
        "buttons": MultiDiscrete([2, 3]),
        "more": Tuple([Discrete(3), Box(-1.0, 1.0, (1,), np.float32)]),
    }
)


class Cell:
    """A policy to export.

    Attributes:
        snap: the snapshot.
        arguments: those of ``rebuild_player`` and of ``export``, beside ``trust``.
    """

    def __init__(self, snap: Snapshot, **arguments: Any) -> None:
        self.snap = snap
        self.arguments = arguments


def _module(spec: RLModuleSpec, scale: float = 1.0) -> Any:
    """Build a module with random weights; a deep one needs a small scale to be well-conditioned."""
    module = spec.build()
    new_stack_matrix.perturb(module)
    with torch.no_grad():
        for weight in module.parameters() if scale != 1.0 else ():
            weight.mul_(scale)
    return module


def _bare_module(spec: RLModuleSpec, scale: float = 1.0, **arguments: Any) -> Cell:
    module = _module(spec, scale)
    spaces = arguments.pop("env_spaces", (module.observation_space, module.action_space))
    return Cell(snapshot(module), env_spaces=spaces, **{"normalize_actions": True, **arguments})


def _behind(
    observations: gym.Space[Any], actions: gym.Space[Any], *makers: Callable[..., Any]
) -> Cell:
    """Return a PPO policy behind connectors, as a snapshot of an Algorithm has it."""
    pieces, state, seen = [], {}, observations
    random = np.random.default_rng(4)
    for make in makers:
        piece = make(seen, actions)
        piece.input_action_space = actions
        piece.input_observation_space = seen
        if isinstance(piece, MeanStdFilter):
            statistics = _statistics(seen, random)
            name = "MeanStdFilter"
            full = take_state(piece, name, [None])
            state[name] = {None: {**full[None], "running_stats": statistics}}
            put_state(piece, name, state[name])
        pieces.append(piece_to_plain(piece))
        seen = piece.observation_space
    module = _module(new_stack_matrix._ppo_module(actions, observation_space=seen))
    snap = snapshot(module)
    spec = snap.spec.replace(
        env_observation_space=space_to_json(observations),
        env_action_space=space_to_json(actions),
        normalize_actions=True,
        clip_actions=False,
        connectors={
            "env_to_module": pieces,
            "module_to_env": [],
            "defaults": dict.fromkeys(PIPELINES, True),
            "multi_agent": False,
            "agents": None,
            "lookback": 1,
        },
        omitted={},
    )
    return Cell(snap.replace(spec=spec, state=state))


def _filter(*_: Any) -> MeanStdFilter:
    return MeanStdFilter()


def _statistics(space: Any, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return filter statistics of 50 observations far from zero."""
    mean = random.normal(2.0, 3.0, space.shape)
    return [{"num_pushes": 50, "mean": mean, "sum_sq_diff": random.uniform(1, 400, space.shape)}]


def _algorithm_module(cls: Any, catalog: Any, config: Any, obs: Any, act: Any, **more: Any) -> Cell:
    settings = {**config._model_config_auto_includes, **SMALL, **more}
    return _bare_module(
        RLModuleSpec(
            module_class=cls,
            observation_space=obs,
            action_space=act,
            inference_only=True,
            model_config=settings,
            catalog_class=catalog,
        )
    )


def _sac(act: gym.Space[Any]) -> Cell:
    return _algorithm_module(DefaultSACTorchRLModule, SACCatalog, SACConfig(), VECTOR, act)


def _dqn(**training: Any) -> Cell:
    config = DQNConfig().training(**training)
    obs = training.pop("obs", VECTOR)
    return _algorithm_module(DefaultDQNTorchRLModule, DQNCatalog, config, obs, Discrete(5))


def _ppo(obs: gym.Space[Any], act: gym.Space[Any], scale: float = 1.0, **config: Any) -> Cell:
    return _bare_module(new_stack_matrix._ppo_module(act, observation_space=obs, **config), scale)


def _own(cls: type, **config: Any) -> Cell:
    return _bare_module(new_stack_matrix._own(cls, **config))


class Memory(TorchRLModule, ValueFunctionAPI):
    """A recurrent module of the user's own: a GRU, and a count of the steps."""

    def setup(self) -> None:
        width = self.model_config["width"]
        self.gru = torch.nn.GRU(int(np.prod(self.observation_space.shape)), width, batch_first=True)
        self.out = torch.nn.Linear(width + 1, int(self.action_space.n))
        self.values = torch.nn.Linear(width, 1)

    def get_initial_state(self) -> Any:
        width = self.model_config["width"]
        return {"deep": {"h": np.zeros(width, np.float32)}, "steps": np.zeros(1, np.float32)}

    def _step(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        state = batch[Columns.STATE_IN]
        hidden, last = self.gru(batch[Columns.OBS], state["deep"]["h"].unsqueeze(0))
        return hidden, {"deep": {"h": last[0]}, "steps": state["steps"] + 1}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        hidden, state = self._step(batch)
        steps = state["steps"].unsqueeze(1).expand(-1, hidden.shape[1], -1)
        logits = self.out(torch.cat([hidden, torch.sin(steps)], dim=-1))
        return {Columns.ACTION_DIST_INPUTS: logits, Columns.STATE_OUT: state}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Any:
        return self.values(self._step(batch)[0]).squeeze(-1)


class StructHead(TorchRLModule):
    """A module that takes a Dict observation as it is."""

    def setup(self) -> None:
        self.out = torch.nn.Linear(4 + 2, int(self.action_space.n))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        obs = batch[Columns.OBS]
        kind = obs["kind"].float().reshape(-1, 1)
        angle = obs["angle"].reshape(-1, 1)
        seen = torch.cat([obs["pose"].flatten(1), kind, angle], dim=1)
        return {Columns.ACTION_DIST_INPUTS: self.out(seen)}


class Actor(TorchRLModule):
    """A module that decides on the action itself."""

    def setup(self) -> None:
        self.out = torch.nn.Linear(4, int(self.action_space.n))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.out(batch[Columns.OBS]).argmax(dim=-1)}


class Branching(Actor):
    """A module that looks at the values of its observation to decide what to compute."""

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits = self.out(batch[Columns.OBS])
        if bool(logits.sum() > 0):
            logits = -logits
        return {Columns.ACTION_DIST_INPUTS: logits}


class Counting(Actor):
    """A module that looks at the number of its observations to decide what to compute."""

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits = self.out(batch[Columns.OBS])
        return {Columns.ACTION_DIST_INPUTS: logits if logits.shape[0] <= 100 else -logits}


class Constant(Actor):
    """A module that computes a part of its output in numpy, which a trace takes as a constant."""

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        logits = self.out(batch[Columns.OBS])
        self.calls = getattr(self, "calls", 0) + 1
        return {Columns.ACTION_DIST_INPUTS: logits * (-1) ** self.calls}


class BranchingModel(TorchModelV2, torch.nn.Module):
    """A model of the old stack that looks at values to decide what to compute."""

    def __init__(self, obs_space: Any, action_space: Any, outputs: int, config: Any, name: str):
        TorchModelV2.__init__(self, obs_space, action_space, outputs, config, name)
        torch.nn.Module.__init__(self)
        self.heads = torch.nn.Linear(obs_space.shape[0], outputs)

    def forward(self, input_dict: Any, state: Any, seq_lens: Any) -> Any:
        out = self.heads(input_dict["obs_flat"])
        return (out if out.max() > 0 else -out), state

    def value_function(self) -> Any:
        return torch.zeros(1)


def _old(
    obs: gym.Space[Any],
    act: gym.Space[Any],
    *,
    filtered: str | None = None,
    normalize: bool = True,
    clip: bool = False,
    **model: Any,
) -> Cell:
    """Return a PPO policy of the old stack with its connectors, as an Algorithm makes it."""
    from ray.rllib.models.preprocessors import get_preprocessor

    config = old_ppo().training(model={**OLD_SMALL, **model})
    config.environment(normalize_actions=normalize, clip_actions=clip)
    config.observation_filter = filtered or "NoFilter"
    config.preprocessor_pref = "rllib"
    preprocessor = get_preprocessor(obs)(obs, config.model)
    policy = PPOTorchPolicy(preprocessor.observation_space, act, config.to_dict())
    old_stack_matrix.perturb(policy)
    context = ConnectorContext.from_policy(policy)
    policy.agent_connectors = get_agent_connectors_from_config(context, config)
    policy.action_connectors = get_action_connectors_from_config(context, config)
    random = np.random.default_rng(6)
    for connector in policy.agent_connectors.connectors:
        if hasattr(connector, "filter"):
            connector.filter.clip = 5.0
            for _ in range(40):
                seen = preprocessor.transform(random_observation(preprocessor._obs_space, random))
                connector.filter(seen)
    return Cell(snapshot(policy), env_spaces=(obs, act))


NEW: dict[str, Callable[[], Cell]] = {
    **{
        name: (lambda make=make: _bare_module(make()))
        for name, make in new_stack_matrix.MODULES.items()
    },
    "filter": lambda: _behind(FAR, Discrete(3), _filter),
    "filter-box": lambda: _behind(FAR, UNEVEN, lambda *_: MeanStdFilter(clip_by_value=1.5)),
    "flatten": lambda: _behind(MIXED, Discrete(3), FlattenObservations),
    "flatten-filter": lambda: _behind(MIXED, UNEVEN, FlattenObservations, _filter),
    "flatten-discrete": lambda: _behind(Discrete(5), UNEVEN, FlattenObservations),
    "flatten-keys-removed": lambda: _behind(
        MIXED,
        Discrete(3),
        lambda *spaces: FlattenObservations(*spaces, keys_to_remove=["kind"]),
    ),
    "clipped": lambda: _bare_module(
        new_stack_matrix._ppo_module(UNEVEN), normalize_actions=False, clip_actions=True
    ),
    "raw-actions": lambda: _bare_module(
        new_stack_matrix._ppo_module(UNEVEN), normalize_actions=False, clip_actions=False
    ),
    "nested-actions": lambda: _ppo(VECTOR, ACTS),
    "float64-box": lambda: _ppo(
        Box(-1.0, 1.0, (4,), np.float64), Box(-2.0, 3.0, (2,), np.float64)
    ),
    "half-bounded": lambda: _ppo(
        VECTOR, Box(np.array([0.0, -1.0], "f4"), np.array([np.inf, 1.0], "f4"))
    ),
    "conv": lambda: _ppo(FRAME, Discrete(6)),
    "conv-lstm": lambda: _ppo(
        Box(0.0, 1.0, (64, 64, 3), np.float32), UNEVEN,
        scale=0.1, model_config={**SMALL, "use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5},
    ),
    "dqn": lambda: _dqn(),
    "dqn-plain": lambda: _dqn(dueling=False, double_q=False),
    "dqn-distributional": lambda: _dqn(num_atoms=5, v_min=-2.0, v_max=2.0),
    "sac-box": lambda: _sac(UNEVEN),
    "sac-discrete": lambda: _sac(Discrete(3)),
    "own-recurrent": lambda: _own(Memory),
    "own-dict": lambda: _bare_module(
        RLModuleSpec(module_class=StructHead, observation_space=MIXED, action_space=Discrete(3))
    ),
    "own-actions": lambda: _own(Actor),
    "own-branching": lambda: _own(Branching),
    "own-counting-rows": lambda: _own(Counting),
    "own-counting": lambda: _own(Constant),
}  # fmt: skip

OLD: dict[str, Callable[[], Cell]] = {
    **{name: (lambda name=name: _from_bare(name)) for name in old_stack_matrix.BARE},
    "filter": lambda: _old(FAR, Discrete(3), filtered="MeanStdFilter"),
    "concurrent-filter": lambda: _old(FAR, UNEVEN, filtered="ConcurrentMeanStdFilter"),
    "mixed-filter": lambda: _old(OLD_MIXED, UNEVEN, filtered="MeanStdFilter"),
    "clipped": lambda: _old(VECTOR, UNEVEN, normalize=False, clip=True),
    "nested-actions": lambda: _old(VECTOR, ACTS),
    "start-at-two": lambda: _old(Discrete(4, start=2), Discrete(3)),
    "image-in-dict": lambda: _old(
        Dict(
            {"eye": Box(0, 255, (42, 42, 3), np.uint8), "speed": Box(-1.0, 1.0, (2,), np.float32)}
        ),
        Discrete(3),
        conv_filters=[[4, 4, 2], [8, 21, 1]],
        post_fcnet_hiddens=[8],
    ),
    "atari-ram": lambda: _old(Box(0, 255, (128,), np.uint8), Discrete(3)),
    "pixels": lambda: _old(Box(0, 255, (210, 160, 3), np.uint8), Discrete(3)),
    "lstm-box": lambda: _old(
        OLD_MIXED, UNEVEN, filtered="MeanStdFilter", use_lstm=True, lstm_cell_size=8
    ),
    "own-branching": lambda: _old(VECTOR, Discrete(3), custom_model=BranchingModel),
}


def _from_bare(name: str) -> Cell:
    with old_stack_matrix.made(name, Path()) as made:
        snap = snapshot(made.policy)
    arguments: dict[str, Any] = {"env_spaces": made.env_spaces}
    if snap.spec.normalize_actions is None:
        arguments["normalize_actions"] = True
    return Cell(snap, **arguments)


def cell(name: str) -> Cell:
    """Return the cell ``new:NAME`` or ``old:NAME``."""
    stack, _, rest = name.partition(":")
    return (NEW if stack == "new" else OLD)[rest]()


NAMES = [*(f"new:{name}" for name in NEW), *(f"old:{name}" for name in OLD)]
