"""Modules of the new API stack, out of the folders that RLlib's learners write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.config_values import CheckpointConfigWalker
from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    UnbuiltObject,
    class_path,
    kind_of,
)
from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import todays_path
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot

__all__ = ["ModuleDescription", "described_by_args", "described_by_metadata", "described_by_policy",
           "module_snapshot"]  # fmt: skip

# Before Ray 2.40, a module's config had the names of the old stack's models (models/catalog.py);
# since then those of core/rl_module/default_model_config.py. None: what it said has no place there.
_MODEL_KEYS = {
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
# core/rl_module/default_model_config.py of Ray 2.60, whose Catalog fills gaps with these.
_MODEL_DEFAULTS: dict[str, Any] = {
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
        f"{part}_{what}_initializer{kwargs}": None
        for part in ("fcnet", "conv", "head_fcnet", "lstm", "fusionnet")
        for what in ("kernel", "bias")
        for kwargs in ("", "_kwargs")
    },
}
_ALGORITHM_MODULES = {
    "PPO": (
        "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule",
        "ray.rllib.algorithms.ppo.ppo_catalog:PPOCatalog",
    ),
}


class ModuleDescription:
    """What a module's constructor was given.

    Attributes:
        cls: import path; None where the checkpoint does not say.
        config: the spec's config.
        omitted: what of it has no form, place -> why.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.cls: str | None = None
        self.observation_space: JsonObject | None = None
        self.action_space: JsonObject | None = None
        self.inference_only = False
        self.config: dict[str, Any] = {}
        self.omitted: dict[str, str] = {}

    def fill(self, given: Mapping[str, Any], *, earlier: bool) -> ModuleDescription:
        """Take over constructor arguments.

        Args:
            given: by the names of RLModule's constructor, or of the RLModuleConfig of before.
            earlier: whether a model config has the names of before Ray 2.40.
        """
        what = self.what
        self.observation_space = described_space(
            given.get("observation_space"), f"{what}: observations"
        )
        self.action_space = described_space(given.get("action_space"), f"{what}: actions")
        self.inference_only = given.get("inference_only") is True
        model = given.get("model_config")
        if model is None:
            model = given.get("model_config_dict")
        if isinstance(model, UnbuiltObject):  # a dataclass, such as DefaultModelConfig
            model = model.attributes()
        if not isinstance(model, Mapping):
            model = {}
        if earlier and (self.cls or "").startswith("ray.rllib."):
            model = {_MODEL_KEYS[key]: model[key] for key in _MODEL_KEYS if key in model}
        catalog = class_path(given.get("catalog_class"))
        if catalog is not None:
            model = {**_MODEL_DEFAULTS, **model}
        plain = CheckpointConfigWalker(what, self.omitted).mapping(model, "config.model_config")
        self.config = {"model_config": plain}
        if catalog is not None:
            self.config["catalog_class"] = Tagged("import", todays_path(catalog))
        if given.get("learner_only") is True:
            self.config["learner_only"] = True
        return self


def described_by_args(found: Any, what: str) -> ModuleDescription:
    """By ``class_and_ctor_args.pkl``, as Ray 2.40 and later write it.

    Raises:
        FormatError: something else.
    """
    module = ModuleDescription(what)
    try:
        cls, (args, kwargs) = found["class"], found["ctor_args_and_kwargs"]
        given = {str(key): value for key, value in kwargs.items()}
        args = tuple(args)
    except BAD_DATA_ERRORS as error:
        raise FormatError(
            f"{what}: not the class and arguments of a module: {error!r:.200}"
        ) from None
    path = class_path(cls)
    if path is None:
        module.omitted["class"] = f"{kind_of(cls)}: no other process can import it by name"
    else:
        module.cls = todays_path(path)
    config = given.get("config", args[0] if args else None)
    if isinstance(config, UnbuiltObject):  # the one argument of modules before 2.40
        given = config.attributes() | given
    return module.fill(given, earlier=False)


def described_by_metadata(found: Mapping[str, Any], what: str) -> ModuleDescription:
    """By ``rl_module_metadata.json``, as Ray 2.5 to 2.24 wrote it.

    Raises:
        FormatError: something else.
    """
    module = ModuleDescription(what)
    spec = found.get("module_spec_dict")
    given = spec.get("module_config") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(given, Mapping):
        raise FormatError(f"{what}: expected the description of a module, found {kind_of(found)}")
    module.cls = _dotted(spec.get("module_class"))
    catalog = _dotted(given.get("catalog_class_path"))
    named = None if catalog is None else Global(*catalog.split(":", 1))
    return module.fill({**given, "catalog_class": named}, earlier=True)


def described_by_policy(
    config: Mapping[Any, Any], spec: Mapping[Any, Any], algorithm: str | None, what: str
) -> ModuleDescription:
    """By the policy of a hybrid, which held a module of its algorithm's default class."""
    module = ModuleDescription(what)
    given = config.get("rl_module_spec")
    if given is None:
        given = config.get("_rl_module_spec")
    custom = given.attributes().get("module_class") if isinstance(given, UnbuiltObject) else None
    cls, catalog = _ALGORITHM_MODULES.get(algorithm or "", (None, None))
    path = class_path(custom)
    if path is not None:
        cls, catalog = todays_path(path), None
    if cls is None:
        module.omitted["class"] = (
            f"the module that {algorithm} had is not told by the checkpoint, or not in Ray 2.60"
        )
    module.cls = cls
    return module.fill(
        {
            "observation_space": spec.get("observation_space"),
            "action_space": spec.get("action_space"),
            "model_config_dict": config.get("model"),
            "catalog_class": None if catalog is None else Global(*catalog.split(":")),
        },
        earlier=True,
    )


def _dotted(path: Any) -> str | None:
    """``a.b.C`` as ``a.b:C``."""
    if isinstance(path, Global):
        return class_path(path)
    if not isinstance(path, str) or "." not in path:
        return None
    module, _, name = path.rpartition(".")
    return todays_path(f"{module}:{name}")


def module_snapshot(
    module: ModuleDescription,
    weights: Mapping[str, Array],
    algorithm: str | None,
    side: EnvInterface,
) -> Snapshot:
    """A snapshot of one module."""
    known = module.cls is not None
    spec = Spec(
        stack="new" if known else "none",
        algorithm=algorithm,
        cls=module.cls,
        observation_space=module.observation_space,
        action_space=module.action_space,
        config=module.config,
        weights="inference-only" if module.inference_only else "full",
        **side.fields(module.omitted),
    )
    return Snapshot(weights=weights, spec=spec, state=side.state)
