"""Hold what a spec and a state record of the environment's side of a new-stack policy."""

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
    """The environment's side of a policy: its spaces, connectors and action handling.

    Attributes:
        observation_space: of the environment, as :mod:`policystore.spaces` writes it; None if it is
            not known.
        action_space: of the environment, likewise.
        connectors: the user's connectors by pipeline, and what a player needs to add RLlib's own.
        state: state of connectors, by name.
        normalize_actions: whether actions in [-1, 1] are scaled to the action space; None if it is
            not known.
        clip_actions: whether actions are clipped to the action space; None if it is not known.
        omitted: place -> reason, of all that was left out.
    """

    observation_space: JsonObject | None = None
    action_space: JsonObject | None = None
    connectors: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    normalize_actions: bool | None = None
    clip_actions: bool | None = None
    omitted: dict[str, str] = field(default_factory=dict)

    def fields(self, omitted: Mapping[str, str]) -> dict[str, Any]:
        """Return keyword arguments for a :class:`policystore.Spec`.

        Args:
            omitted: place -> reason, of what was left out of the rest of the policy.
        """
        return {
            "env_observation_space": self.observation_space,
            "env_action_space": self.action_space,
            "connectors": self.connectors,
            "normalize_actions": self.normalize_actions,
            "clip_actions": self.clip_actions,
            "omitted": {**self.omitted, **omitted},
        }
