"""The environment's side of a new-stack policy, as specs and states record it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore.format.canonical_json import JsonObject

__all__ = ["PIPELINES", "EnvInterface"]

PIPELINES = ("env_to_module", "module_to_env")
"""RLlib's two pipelines of connectors, as ``AlgorithmConfig`` names them."""


@dataclass
class EnvInterface:
    """What a spec and a state record of the environment's side."""

    observation_space: JsonObject | None = None
    action_space: JsonObject | None = None
    connectors: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    normalize_actions: bool | None = None
    clip_actions: bool | None = None
    omitted: dict[str, str] = field(default_factory=dict)

    def fields(self, omitted: Mapping[str, str]) -> dict[str, Any]:
        """Arguments for a Spec."""
        return {
            "env_observation_space": self.observation_space,
            "env_action_space": self.action_space,
            "connectors": self.connectors,
            "normalize_actions": self.normalize_actions,
            "clip_actions": self.clip_actions,
            "omitted": {**self.omitted, **omitted},
        }
