"""Catalogs that build networks as earlier versions of RLlib built them."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.models.configs import MLPEncoderConfig

__all__ = ["LinearEncoderCatalog"]


class LinearEncoderCatalog(PPOCatalog):  # type: ignore[misc]
    """PPO's catalog with MLP encoders whose last layer has no activation.

    So Ray 2.4 built them: its encoder did not hand the activation of the last layer on
    (``core/models/torch/encoder.py:70`` of Ray 2.4). The parameters have the names and shapes of
    today's encoder.
    """

    @classmethod
    def _get_encoder_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Return RLlib's config of an encoder, with a linear last layer."""
        config = super()._get_encoder_config(*args, **kwargs)
        if isinstance(config, MLPEncoderConfig):
            config.output_layer_activation = "linear"
        return config
