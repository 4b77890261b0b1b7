"""RLlib's modules, catalogs and connectors that had other names in earlier Rays."""

from __future__ import annotations

from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.models.catalog import Catalog
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore.rllib.convert.kinds import kind_named
from policystore.rllib.new_stack.model_config import resolve_class

__all__ = [
    "DQNCatalog",
    "DefaultAPPOTorchRLModule",
    "DefaultBCTorchRLModule",
    "DefaultDQNTorchRLModule",
    "DefaultPPOTorchRLModule",
    "DefaultSACTorchRLModule",
    "FrameStacking",
]


def _module(algorithm: str) -> Any:
    return resolve_class(kind_named(algorithm).module, RLModule, algorithm)


DefaultAPPOTorchRLModule = _module("APPO")
DefaultDQNTorchRLModule = _module("DQN")
DefaultPPOTorchRLModule = _module("PPO")
DefaultSACTorchRLModule = _module("SAC")
DefaultBCTorchRLModule: Any = resolve_class(
    "ray.rllib.algorithms.bc.torch.default_bc_torch_rl_module:DefaultBCTorchRLModule",
    RLModule,
    "BC",
)
DQNCatalog: Any = resolve_class(kind_named("DQN").catalog, Catalog, "DQN")
FrameStacking: Any = resolve_class(
    "ray.rllib.connectors.common.frame_stacking:FrameStacking", ConnectorV2, "frames"
)
