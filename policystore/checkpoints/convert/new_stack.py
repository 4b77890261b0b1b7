"""Converts modules of the new API stack into snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.config_values import plain_mapping
from policystore.checkpoints.convert.model_keys import (
    CATALOGS,
    DROPPED_KEYS,
    EARLIER_KEYS,
    MODEL_DEFAULTS,
    MODEL_KEYS,
)
from policystore.checkpoints.convert.spaces import space_if_known
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

__all__ = ["NOT_FOR_ACTING", "ModuleDescription", "describe_by_args", "describe_by_map",
           "describe_by_metadata", "module_snapshot"]  # fmt: skip

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

    def set_class(self, cls: object) -> None:
        """Take over the class that a file names, or note why no process can import it."""
        path = _path_of_dotted(cls) if isinstance(cls, str) else class_path(cls)
        if path is None:
            self.omitted["class"] = f"{kind_of(cls)}: no other process can import it by name"
        else:
            self.cls = todays_path(path)

    def set_arguments(self, given: Mapping[str, Any], *, earlier: bool) -> ModuleDescription:
        """Take over the constructor arguments of the module, and return the description.

        Args:
            given: the arguments by the names of RLModule's constructor, or by those of the
                RLModuleConfig of Ray before 2.38.
            earlier: whether the model config has the keys that Ray used before 2.38.
        """
        label, omitted = self.label, self.omitted
        self.observation_space, self.action_space = (
            space_if_known(given.get(name), f"{label}: {name}", omitted, name)
            for name in ("observation_space", "action_space")
        )
        self.inference_only = given.get("inference_only") is True
        model = given.get("model_config")
        if model is None:
            model = given.get("model_config_dict")
        if isinstance(model, UnbuiltObject):  # a dataclass, such as DefaultModelConfig
            model = model.attributes()
        if not isinstance(model, Mapping):
            model = {}
        # Ray 2.33 to 2.37 write the earlier keys in the later layout.
        is_earlier = earlier or any(key in model for key in EARLIER_KEYS)
        if is_earlier and (self.cls or "").startswith("ray.rllib."):
            # Keys that are in no table are an algorithm's own, such as DQN's num_atoms.
            model = {
                MODEL_KEYS.get(key, key): value
                for key, value in model.items()
                if key not in DROPPED_KEYS
            }
        catalog = class_path(given.get("catalog_class"))
        if catalog is not None:
            model = {**MODEL_DEFAULTS, **model}
        self.config = {"model_config": plain_mapping(model, label, omitted, "config.model_config")}
        if catalog is not None:
            self.config["catalog_class"] = Tagged("import", todays_path(catalog))
        if given.get("learner_only") is True:
            self.config["learner_only"] = True
        return self


def describe_by_args(content: Any, label: str) -> ModuleDescription:
    """Describe a module by its ``class_and_ctor_args.pkl``, as Ray 2.33 and later write it.

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
    module.set_class(cls)
    config = given.get("config", args[0] if args else None)
    if isinstance(config, UnbuiltObject):  # the one argument of modules before 2.38
        given = config.attributes() | given
    return module.set_arguments(given, earlier=False)


def describe_by_map(fields: Mapping[str, Any], label: str) -> ModuleDescription:
    """Describe a module by the spec that its MultiRLModule wrote.

    Args:
        fields: what :func:`policystore.checkpoints.convert.module_map.module_spec` returned.
        label: names the file in error messages.
    """
    module = ModuleDescription(label)
    module.set_class(fields.get("module_class"))
    config = fields.get("module_config")  # up to Ray 2.32, the arguments are nested
    given = {**fields, **(config if isinstance(config, Mapping) else {})}
    if class_path(given.get("catalog_class")) is None:
        path = _path_of_dotted(given.get("catalog_class_path")) or CATALOGS.get(module.cls or "")
        given["catalog_class"] = None if path is None else Global(*path.split(":", 1))
    return module.set_arguments(given, earlier=isinstance(config, Mapping))


def describe_by_metadata(content: Mapping[str, Any], label: str) -> ModuleDescription:
    """Describe a module by its ``rl_module_metadata.json``, as Ray 2.5 to 2.32 wrote it.

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
