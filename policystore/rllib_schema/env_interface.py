"""Hold the env interface of a new-stack policy, as its spec and its state record it."""

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
    """The env interface of a policy: the environment's spaces, the connectors, the action handling.

    Attributes:
        observation_space: the observation space of the environment, as JSON of
            :mod:`policystore.spaces`; None if the space is not known.
        action_space: the action space of the environment, in the same form.
        connectors: the user's connectors by pipeline, and what a player needs to add RLlib's own.
        state: the state of the connectors, by name.
        normalize_actions: whether actions in [-1, 1] are scaled to the action space; None if this
            is not known.
        clip_actions: whether actions are clipped to the action space; None if this is not known.
        omitted: the place of each part that was left out -> the reason.
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
            omitted: the same for the parts that were left out of the rest of the policy.
        """
        return {
            "env_observation_space": self.observation_space,
            "env_action_space": self.action_space,
            "connectors": self.connectors,
            "normalize_actions": self.normalize_actions,
            "clip_actions": self.clip_actions,
            "omitted": {**self.omitted, **omitted},
        }
