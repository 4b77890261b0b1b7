"""Keys and defaults of model configs before and since Ray 2.38, and default modules."""

from __future__ import annotations

from typing import Any

__all__ = ["ALGORITHM_MODULES", "CATALOGS", "DROPPED_KEYS", "EARLIER_KEYS", "LINEAR_CATALOG",
           "MODEL_DEFAULTS", "MODEL_KEYS"]  # fmt: skip

MODEL_KEYS = {
    "fcnet_hiddens": "fcnet_hiddens",
    "fcnet_activation": "fcnet_activation",
    "fcnet_weights_initializer": "fcnet_kernel_initializer",
    "fcnet_weights_initializer_config": "fcnet_kernel_initializer_kwargs",
    "fcnet_bias_initializer": "fcnet_bias_initializer",
    "fcnet_bias_initializer_config": "fcnet_bias_initializer_kwargs",
    "conv_filters": "conv_filters",
    "conv_activation": "conv_activation",
    "conv_kernel_initializer": "conv_kernel_initializer",
    "conv_kernel_initializer_config": "conv_kernel_initializer_kwargs",
    "conv_bias_initializer": "conv_bias_initializer",
    "conv_bias_initializer_config": "conv_bias_initializer_kwargs",
    "post_fcnet_hiddens": "head_fcnet_hiddens",
    "post_fcnet_activation": "head_fcnet_activation",
    "post_fcnet_weights_initializer": "head_fcnet_kernel_initializer",
    "post_fcnet_weights_initializer_config": "head_fcnet_kernel_initializer_kwargs",
    "post_fcnet_bias_initializer": "head_fcnet_bias_initializer",
    "post_fcnet_bias_initializer_config": "head_fcnet_bias_initializer_kwargs",
    "free_log_std": "free_log_std",
    "vf_share_layers": "vf_share_layers",
    "use_lstm": "use_lstm",
    "max_seq_len": "max_seq_len",
    "lstm_cell_size": "lstm_cell_size",
    "lstm_use_prev_action": "lstm_use_prev_action",
    "lstm_use_prev_reward": "lstm_use_prev_reward",
    "lstm_weights_initializer": "lstm_kernel_initializer",
    "lstm_weights_initializer_config": "lstm_kernel_initializer_kwargs",
    "lstm_bias_initializer": "lstm_bias_initializer",
    "lstm_bias_initializer_config": "lstm_bias_initializer_kwargs",
}
"""Key of a model config before Ray 2.38 -> key of today.

The keys before Ray 2.38 are those of the old stack's models (``models/catalog.py``). The keys of
today are those of ``core/rl_module/default_model_config.py``. A key that is not listed here has no
key of today.
"""

EARLIER_KEYS = frozenset(MODEL_KEYS) - frozenset(MODEL_KEYS.values())
"""Keys that a model config has only in the earlier form."""

DROPPED_KEYS = frozenset(
    (
        "_disable_preprocessor_api", "_disable_action_flattening",
        "conv_transpose_kernel_initializer", "conv_transpose_kernel_initializer_config",
        "conv_transpose_bias_initializer", "conv_transpose_bias_initializer_config",
        "no_final_linear", "_time_major", "use_attention", "attention_num_transformer_units",
        "attention_dim", "attention_num_heads", "attention_head_dim", "attention_memory_inference",
        "attention_memory_training", "attention_position_wise_mlp_dim",
        "attention_init_gru_gate_bias", "attention_use_n_prev_actions",
        "attention_use_n_prev_rewards", "framestack", "dim", "grayscale", "zero_mean",
        "custom_model", "custom_model_config", "custom_action_dist", "custom_preprocessor",
        "encoder_latent_dim", "always_check_shapes", "lstm_use_prev_action_reward",
        "_use_default_native_models",
    )
)  # fmt: skip
"""Keys of the earlier model configs that no module of the new stack reads (``models/catalog.py`` of
Ray 2.37)."""

MODEL_DEFAULTS: dict[str, Any] = {
    "fcnet_hiddens": [256, 256],
    "fcnet_activation": "tanh",
    "fcnet_use_layernorm": False,
    "conv_filters": None,
    "conv_activation": "relu",
    "head_fcnet_hiddens": [],
    "head_fcnet_activation": "relu",
    "head_fcnet_use_layernorm": False,
    "free_log_std": False,
    "log_std_clip_param": 20.0,
    "vf_share_layers": True,
    "use_lstm": False,
    "max_seq_len": 20,
    "lstm_cell_size": 256,
    "lstm_use_prev_action": False,
    "lstm_use_prev_reward": False,
    "fusionnet_hiddens": [256, 256],
    "fusionnet_activation": "tanh",
    **{
        f"{part}_{parameter}_initializer{kwargs}": None
        for part in ("fcnet", "conv", "head_fcnet", "lstm", "fusionnet")
        for parameter in ("kernel", "bias")
        for kwargs in ("", "_kwargs")
    },
}
"""Default values of a model config, from ``core/rl_module/default_model_config.py`` of Ray 2.60.

The Catalog of Ray 2.60 reads all of these keys, so these values fill in the keys that an older
config lacks.
"""

ALGORITHM_MODULES = {
    "PPO": (
        "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule",
        "ray.rllib.algorithms.ppo.ppo_catalog:PPOCatalog",
    ),
    "APPO": (
        "ray.rllib.algorithms.appo.torch.default_appo_torch_rl_module:DefaultAPPOTorchRLModule",
        "ray.rllib.algorithms.ppo.ppo_catalog:PPOCatalog",
    ),
    # IMPALA has PPO's module in every release (algorithms/impala/impala.py).
    "IMPALA": (
        "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule",
        "ray.rllib.algorithms.ppo.ppo_catalog:PPOCatalog",
    ),
}
"""Class and catalog of an algorithm's default module, by RLlib's name of the algorithm."""

LINEAR_CATALOG = "policystore.rllib.new_stack.catalogs:LinearEncoderCatalog"
"""The catalog for PPO's hybrids of Ray 2.4, whose encoders had a linear last layer."""

_MODULE = "ray.rllib.algorithms.{0}.torch.default_{0}_torch_rl_module:Default{1}TorchRLModule"
CATALOGS = {
    _MODULE.format(folder, folder.upper()): f"ray.rllib.algorithms.{catalog}"
    for folder, catalog in (
        ("ppo", "ppo.ppo_catalog:PPOCatalog"),
        ("appo", "ppo.ppo_catalog:PPOCatalog"),
        ("bc", "bc.bc_catalog:BCCatalog"),
        ("cql", "sac.sac_catalog:SACCatalog"),
        ("dqn", "dqn.dqn_catalog:DQNCatalog"),
        ("sac", "sac.sac_catalog:SACCatalog"),
    )
}
"""Class of a default module -> the catalog that its constructor takes if it is given none."""
