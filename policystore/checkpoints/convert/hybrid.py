"""Converts hybrids of Ray 2.3 to 2.37: policies of the old stack that hold an RLModule.

Such a policy writes a ``policy_state`` as any old-stack policy does. From Ray 2.5 on its Learner
writes the module once more, with a description of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.env_interface import env_interface_of_config
from policystore.checkpoints.convert.model_keys import ALGORITHM_MODULES, CATALOGS, LINEAR_CATALOG
from policystore.checkpoints.convert.new_stack import (
    NOT_FOR_ACTING,
    ModuleDescription,
    module_snapshot,
)
from policystore.checkpoints.convert.old_stack import hybrid_connectors, policy_config
from policystore.checkpoints.convert.spaces import space_if_known
from policystore.checkpoints.files.folder import FileRef
from policystore.checkpoints.files.placeholders import (
    Global,
    UnbuiltObject,
    class_path,
    kind_of,
    text_or_kind,
)
from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import ALGORITHMS, POLICIES, todays_path
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot

__all__ = ["hybrid_snapshot", "infer_env_interface"]

_MEAN_STD_FILTER = "ray.rllib.connectors.env_to_module.mean_std_filter:MeanStdFilter"


def _describe_by_policy(
    config: Mapping[Any, Any],
    policy_spec: Mapping[Any, Any],
    algorithm: str | None,
    policy_id: str,
    label: str,
) -> ModuleDescription:
    """Describe a hybrid's module: that of the config, or else the algorithm's default module."""
    module = ModuleDescription(label)
    module_spec = config.get("rl_module_spec")
    if module_spec is None:
        module_spec = config.get("_rl_module_spec")
    fields = module_spec.attributes() if isinstance(module_spec, UnbuiltObject) else {}
    several = fields.get("module_specs")
    if isinstance(several, Mapping):  # the modules of several policies
        own = several.get(policy_id)
        fields = own.attributes() if isinstance(own, UnbuiltObject) else {}
    elif several is not None:
        fields = several.attributes() if isinstance(several, UnbuiltObject) else {}
    custom = fields.get("module_class")
    model = fields.get("model_config_dict")
    cls, catalog = ALGORITHM_MODULES.get(algorithm or "", (None, None))
    path = class_path(custom)
    if path is not None:
        cls = todays_path(path)
        catalog = class_path(fields.get("catalog_class")) or CATALOGS.get(cls)
    if cls is None:
        module.omitted["class"] = (
            f"the module that {algorithm} had is not told by the checkpoint, or not in Ray 2.60"
        )
    module.cls = cls
    return module.set_arguments(
        {
            "observation_space": policy_spec.get("observation_space"),
            "action_space": policy_spec.get("action_space"),
            "model_config_dict": model if isinstance(model, Mapping) else config.get("model"),
            "catalog_class": None if catalog is None else Global(*catalog.split(":")),
        },
        earlier=True,
    )


def hybrid_snapshot(
    state: Mapping[Any, Any],
    weights: Mapping[str, Array],
    algorithm: str | None,
    label: str,
    *,
    policy_id: str,
    ray_version: str | None,
    multi_agent: bool,
    omitted: Mapping[str, str],
) -> Snapshot:
    """Return the snapshot of a hybrid: a policy of Ray 2.3 to 2.37 that holds an RLModule.

    Args:
        state: the content of the policy's ``policy_state``.
        weights: its weights.
        algorithm: RLlib's name of the algorithm; None where it is not known.
        label: names the file in error messages.
        policy_id: the policy's id, by which a config of several modules names its own.
        ray_version: the version of the Ray that wrote the policy; None where it is not known.
        multi_agent: whether the checkpoint has several policies.
        omitted: parts that are known to be missing already, place -> reason.

    Returns:
        The snapshot. Damage to any part but the weights is noted as omitted.
    """
    policy_spec = state.get("policy_spec")
    if not isinstance(policy_spec, Mapping):
        policy_spec = {}
    config = policy_config(state)
    module = _describe_by_policy(
        config, policy_spec, algorithm or _algorithm_of_policy(policy_spec), policy_id, label
    )
    is_ppo = module.config.get("catalog_class") == Tagged("import", CATALOGS.get(module.cls or ""))
    if is_ppo and (ray_version or "").startswith("2.4."):
        module.config["catalog_class"] = Tagged("import", LINEAR_CATALOG)
    interface = env_interface_of_config(
        config, module.observation_space, module.action_space, multi_agent=multi_agent
    )
    _take_connectors(interface, state, label)
    module.omitted |= {**NOT_FOR_ACTING, **omitted}
    return module_snapshot(module, weights, algorithm, interface)


def _take_connectors(interface: EnvInterface, state: Mapping[Any, Any], label: str) -> None:
    """Give an env interface the filter of a hybrid, and note the user's own connectors.

    A hybrid's filter is one of the old stack's connectors. The new stack's MeanStdFilter computes
    the same (``rllib/connectors/env_to_module/mean_std_filter.py``).
    """
    try:
        stats, own = hybrid_connectors(state.get("connector_configs"), label)
    except FormatError as error:
        interface.omitted["connectors"] = f"{error}; a player needs connectors="
        return
    for name in own:
        interface.omitted[f"connectors.{name}"] = (
            f"{label}: a connector of the old stack, which no module has; a player needs "
            "connectors="
        )
    if stats is None:
        return
    flags = {
        "de_mean_to_zero": stats["demean"],
        "de_std_to_one": stats["destd"],
        "clip_by_value": stats["clip"],
    }
    # For None, the connector of Ray 2.60 fails when it is given its spaces.
    bound = math.inf if stats["clip"] is None else stats["clip"]
    entry = {
        "class": Tagged("import", _MEAN_STD_FILTER),
        "kwargs": {**flags, "clip_by_value": bound},
    }
    interface.connectors["env_to_module"] = [entry]
    running_stats = [
        {"num_pushes": part["count"], "mean": part["mean"], "sum_sq_diff": part["sum_sq_diff"]}
        for part in stats["running_stats"]
    ]
    interface.state["MeanStdFilter"] = {None: {**flags, "running_stats": running_stats}}


def _algorithm_of_policy(policy_spec: Mapping[Any, Any]) -> str | None:
    """Return the algorithm of a single policy, by the policy class that its spec names."""
    name = text_or_kind(policy_spec.get("policy_class")).replace(":", ".").rpartition(".")[2]
    return ALGORITHMS.get(POLICIES.get(name.removesuffix("WithRLModule"), ""))


def infer_env_interface(
    module: ModuleDescription,
    config: Mapping[str, Any],
    policy_state: FileRef | None,
    *,
    multi_agent: bool,
) -> EnvInterface:
    """Return the env interface of a module that Ray 2.5 to 2.32 wrote without its connectors.

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
    state: object = None
    if policy_state is not None:
        try:
            state = policy_state.read_data().value
        except FormatError as error:
            module.omitted["env_observation_space"] = str(error)
            state = None
        policy_spec = state.get("policy_spec") if isinstance(state, Mapping) else None
        if not isinstance(policy_spec, Mapping):
            module.omitted.setdefault(
                "env_observation_space",
                f"{policy_state.location}: expected the state of a policy, found {kind_of(state)}",
            )
            policy_spec = {}
        observation_space = space_if_known(
            policy_spec.get("observation_space"),
            policy_state.location,
            module.omitted,
            "env_observation_space",
        )
    interface = env_interface_of_config(
        config, observation_space, module.action_space, multi_agent=multi_agent
    )
    if policy_state is not None and isinstance(state, Mapping):
        _take_connectors(interface, state, policy_state.location)
    elif config.get("observation_filter") not in (None, "NoFilter"):
        where = "policies/ID/policy_state.pkl" if policy_state is None else policy_state.location
        interface.omitted.setdefault(
            "connectors.MeanStdFilter",
            f"the config names the filter {text_or_kind(config['observation_filter'])}, whose "
            f"statistics are in {where}; a player needs connectors=",
        )
    return interface
