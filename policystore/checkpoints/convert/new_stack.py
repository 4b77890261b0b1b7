"""Converts modules of the new API stack, and hybrids of Ray 2.3 to 2.10, into snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.config_values import CheckpointConfigWalker
from policystore.checkpoints.convert.env_interface import env_interface_of_config
from policystore.checkpoints.convert.model_keys import (
    ALGORITHM_MODULES,
    MODEL_DEFAULTS,
    MODEL_KEYS,
)
from policystore.checkpoints.convert.old_stack import policy_config
from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.convert.weights import flatten_weights
from policystore.checkpoints.files.folder import FileRef
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    UnbuiltObject,
    class_path,
    kind_of,
    text_or_kind,
)
from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import todays_path
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot

__all__ = ["NOT_FOR_ACTING", "ModuleDescription", "describe_by_args", "describe_by_metadata",
           "hybrid_snapshot", "infer_env_interface", "module_snapshot"]  # fmt: skip

NOT_FOR_ACTING = {
    "optimizer": "the optimizer's state is for training on, not for acting",
    "replay_buffer": "what an Algorithm had sampled, if its checkpoint holds any of it",
}
"""Parts of a checkpoint that no snapshot of a module has, with the reason; for ``spec.omitted``."""


class ModuleDescription:
    """What a checkpoint says about how a module is built.

    Attributes:
        label: names the source in error messages.
        cls: the import path of the module's class; None where it is not known.
        observation_space, action_space: the spaces that the module was built for.
        inference_only: whether the module was built without the parts that only training needs.
        config: the ``config`` of the module's spec.
        omitted: parts that could not be recorded, place -> reason.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.cls: str | None = None
        self.observation_space: JsonObject | None = None
        self.action_space: JsonObject | None = None
        self.inference_only = False
        self.config: dict[str, Any] = {}
        self.omitted: dict[str, str] = {}

    def set_arguments(self, given: Mapping[str, Any], *, earlier: bool) -> ModuleDescription:
        """Take over the constructor arguments of the module, and return the description.

        Args:
            given: the arguments by the names of RLModule's constructor, or by those of the
                RLModuleConfig of Ray before 2.40.
            earlier: whether the model config has the keys that Ray used before 2.40.
        """
        label = self.label
        self.observation_space = described_space(
            given.get("observation_space"), f"{label}: observation space"
        )
        self.action_space = described_space(given.get("action_space"), f"{label}: action space")
        self.inference_only = given.get("inference_only") is True
        model = given.get("model_config")
        if model is None:
            model = given.get("model_config_dict")
        if isinstance(model, UnbuiltObject):  # a dataclass, such as DefaultModelConfig
            model = model.attributes()
        if not isinstance(model, Mapping):
            model = {}
        if earlier and (self.cls or "").startswith("ray.rllib."):
            model = {MODEL_KEYS[key]: model[key] for key in MODEL_KEYS if key in model}
        catalog = class_path(given.get("catalog_class"))
        if catalog is not None:
            model = {**MODEL_DEFAULTS, **model}
        plain_model = CheckpointConfigWalker(label, self.omitted).mapping(
            model, "config.model_config"
        )
        self.config = {"model_config": plain_model}
        if catalog is not None:
            self.config["catalog_class"] = Tagged("import", todays_path(catalog))
        if given.get("learner_only") is True:
            self.config["learner_only"] = True
        return self


def describe_by_args(content: Any, label: str) -> ModuleDescription:
    """Describe a module by its ``class_and_ctor_args.pkl``, as Ray 2.40 and later write it.

    Args:
        content: the content of the file.
        label: names the file in error messages.

    Raises:
        FormatError: the content does not have that form.
    """
    module = ModuleDescription(label)
    try:
        cls, (args, kwargs) = content["class"], content["ctor_args_and_kwargs"]
        given = {str(key): value for key, value in kwargs.items()}
        args = tuple(args)
    except BAD_DATA_ERRORS as error:
        raise FormatError(
            f"{label}: not the class and arguments of a module: {error!r:.200}"
        ) from None
    path = class_path(cls)
    if path is None:
        module.omitted["class"] = f"{kind_of(cls)}: no other process can import it by name"
    else:
        module.cls = todays_path(path)
    config = given.get("config", args[0] if args else None)
    if isinstance(config, UnbuiltObject):  # the one argument of modules before 2.40
        given = config.attributes() | given
    return module.set_arguments(given, earlier=False)


def describe_by_metadata(content: Mapping[str, Any], label: str) -> ModuleDescription:
    """Describe a module by its ``rl_module_metadata.json``, as Ray 2.5 to 2.24 wrote it.

    Args:
        content: the content of the file.
        label: names the file in error messages.

    Raises:
        FormatError: the content does not have that form.
    """
    module = ModuleDescription(label)
    spec = content.get("module_spec_dict")
    given = spec.get("module_config") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(given, Mapping):
        raise FormatError(
            f"{label}: expected the description of a module, found {kind_of(content)}"
        )
    module.cls = _path_of_dotted(spec.get("module_class"))
    catalog = _path_of_dotted(given.get("catalog_class_path"))
    catalog_class = None if catalog is None else Global(*catalog.split(":", 1))
    return module.set_arguments({**given, "catalog_class": catalog_class}, earlier=True)


def _path_of_dotted(path: object) -> str | None:
    """Return today's ``a.b:C`` for ``a.b.C``; None for what is not such a path."""
    if isinstance(path, Global):
        return class_path(path)
    if not isinstance(path, str) or "." not in path:
        return None
    module, _, name = path.rpartition(".")
    return todays_path(f"{module}:{name}")


def _describe_by_policy(
    config: Mapping[Any, Any], policy_spec: Mapping[Any, Any], algorithm: str | None, label: str
) -> ModuleDescription:
    """Describe a hybrid's module: that of the config, or else the algorithm's default module."""
    module = ModuleDescription(label)
    module_spec = config.get("rl_module_spec")
    if module_spec is None:
        module_spec = config.get("_rl_module_spec")
    custom = (
        module_spec.attributes().get("module_class")
        if isinstance(module_spec, UnbuiltObject)
        else None
    )
    cls, catalog = ALGORITHM_MODULES.get(algorithm or "", (None, None))
    path = class_path(custom)
    if path is not None:
        cls, catalog = todays_path(path), None
    if cls is None:
        module.omitted["class"] = (
            f"the module that {algorithm} had is not told by the checkpoint, or not in Ray 2.60"
        )
    module.cls = cls
    return module.set_arguments(
        {
            "observation_space": policy_spec.get("observation_space"),
            "action_space": policy_spec.get("action_space"),
            "model_config_dict": config.get("model"),
            "catalog_class": None if catalog is None else Global(*catalog.split(":")),
        },
        earlier=True,
    )


def hybrid_snapshot(
    state: Mapping[Any, Any],
    algorithm: str | None,
    label: str,
    *,
    stored: int,
    multi_agent: bool,
) -> Snapshot:
    """Return the snapshot of a hybrid: a policy of Ray 2.3 to 2.10 that holds an RLModule.

    Args:
        state: the content of the policy's ``policy_state``.
        algorithm: RLlib's name of the algorithm; None where it is not known.
        label: names the file in error messages.
        stored: bytes of the file.
        multi_agent: whether the checkpoint has several policies.

    Raises:
        FormatError: not the state of a policy, or a damaged one.
    """
    policy_spec = state.get("policy_spec")
    if not isinstance(policy_spec, Mapping):
        raise FormatError(f"{label}: expected a policy_spec, found {kind_of(policy_spec)}")
    config = policy_config(state)
    module = _describe_by_policy(
        config, policy_spec, algorithm or _algorithm_of_learner(config), label
    )
    weights = flatten_weights(state.get("weights"), label, stored=stored)
    interface = env_interface_of_config(
        config, module.observation_space, module.action_space, multi_agent=multi_agent
    )
    module.omitted |= NOT_FOR_ACTING
    return module_snapshot(module, weights, algorithm, interface)


def _algorithm_of_learner(config: Mapping[Any, Any]) -> str | None:
    """Return the algorithm of a single policy, by the Learner class that its config names."""
    learner = text_or_kind(config.get("learner_class") or config.get("_learner_class"))
    return "PPO" if ".ppo." in learner else None


def infer_env_interface(
    module: ModuleDescription,
    config: Mapping[str, Any],
    policy_state: FileRef | None,
    *,
    multi_agent: bool,
) -> EnvInterface:
    """Return the env interface of a module that Ray 2.5 to 2.24 wrote without its connectors.

    Args:
        module: the module.
        config: the attributes of the AlgorithmConfig.
        policy_state: for a hybrid, the file with the hybrid's policy; else None. The observation
            space of this policy holds the environment's original space.
        multi_agent: whether the checkpoint has several policies.

    Raises:
        FormatError: ``policy_state`` does not hold a policy.
    """
    observation_space = module.observation_space
    if policy_state is not None:
        state = policy_state.read_data().value
        policy_spec = state.get("policy_spec") if isinstance(state, Mapping) else None
        if not isinstance(policy_spec, Mapping):
            raise FormatError(
                f"{policy_state.location}: expected the state of a policy, found {kind_of(state)}"
            )
        observation_space = described_space(
            policy_spec.get("observation_space"), policy_state.location
        )
    return env_interface_of_config(
        config, observation_space, module.action_space, multi_agent=multi_agent
    )


def module_snapshot(
    module: ModuleDescription,
    weights: Mapping[str, Array],
    algorithm: str | None,
    interface: EnvInterface,
) -> Snapshot:
    """Return the snapshot of one module, from its parts."""
    spec = Spec(
        stack="none" if module.cls is None else "new",
        algorithm=algorithm,
        cls=module.cls,
        observation_space=module.observation_space,
        action_space=module.action_space,
        config=module.config,
        weights="inference-only" if module.inference_only else "full",
        **interface.fields(module.omitted),
    )
    return Snapshot(weights=weights, spec=spec, state=interface.state)
