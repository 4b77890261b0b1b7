"""Read the contents of RLModules. Runs in actors, sent by value (``messages/answers.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.learner_thread import require_idle
from policystore.rllib.worker_code.messages.answers import (
    ModuleContent,
    ModuleIds,
    ModuleLinks,
    MultiModuleContent,
)
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to, acting_names, tensors_of

if TYPE_CHECKING:
    import torch
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
    from ray.rllib.core.rl_module.rl_module import RLModule

__all__ = [
    "links_of_network",
    "read_ids",
    "read_learner",
    "read_links",
    "read_module",
    "read_multi",
]


def read_module(wrapped: RLModule) -> ModuleContent:
    """Return the constructor arguments of an RLModule, and copies of its weights as CPU tensors."""
    import torch
    from ray.rllib.core.rl_module.torch import TorchRLModule

    module: Any = wrapped.unwrapped()
    catalog = getattr(module, "catalog", None)
    content = ModuleContent(
        cls=type(module),
        observation_space=module.observation_space,
        action_space=module.action_space,
        inference_only=bool(module.inference_only),
        learner_only=bool(getattr(module, "learner_only", False)),
        model_config=module.model_config,
        catalog_class=None if catalog is None else type(catalog),
        weights={},
        acting=[],
    )
    is_torch = isinstance(module, torch.nn.Module)
    if not is_torch:
        weights = module.get_state()
        return content.replace(weights=weights, acting=list(weights))
    tensors = tensors_of(module)
    raw = module.state_dict()
    own_get_state = type(module).get_state is not TorchRLModule.get_state
    return content.replace(
        weights={
            name: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
            for name, value in tensors.items()
        },
        acting=acting_names(module, tensors),
        names_clash=len(tensors) != len(raw),
        own_get_state=own_get_state and set(module.get_state()) != set(raw),
    )


def read_multi(multi: MultiRLModule, ids: list[str] | None) -> MultiModuleContent:
    """Read a MultiRLModule with all its modules, or only with those in ``ids``."""
    import torch

    inside = set()
    for child in multi.foreach_module(lambda module_id, module: module):
        if isinstance(child, torch.nn.Module):
            inside |= {id(part) for part in child.modules()}
    outside = sorted(
        name
        for name, value in vars(multi).items()
        if isinstance(value, (torch.nn.Module, torch.Tensor)) and id(value) not in inside
    )
    if isinstance(multi, torch.nn.Module):
        outside += list(multi.state_dict())
    modules = multi.foreach_module(lambda module_id, module: module, return_dict=True)
    # A module does not know it (core/rl_module/rl_module.py:101).
    specs = multi.rl_module_specs
    return MultiModuleContent(
        cls=type(multi),
        observation_space=multi.observation_space,
        action_space=multi.action_space,
        inference_only=bool(multi.inference_only),
        model_config=multi.model_config,
        outside=outside,
        modules={
            module_id: read_module(module).replace(
                learner_only=bool(getattr(specs.get(module_id), "learner_only", False))
            )
            for module_id, module in modules.items()
            if ids is None or module_id in ids
        },
    )


def read_learner(
    learner: Learner | PolicyAccess, ids: list[str] | None, timeout: float
) -> MultiModuleContent:
    """Read a learner's modules, or those of ``ids``, while no update is under way.

    Raises:
        BusyError: updates were under way for ``timeout`` seconds.
    """
    learner = access_to(learner).worker
    require_idle(learner, timeout)
    content = read_multi(learner.module, ids)
    # SAC's temperature, soft_actor_critic: algorithms/sac/sac_learner.py:36.
    temperatures = getattr(learner, "curr_log_alpha", ())
    return content.replace(
        modules={
            module_id: module.replace(learner_only_values=["curr_log_alpha"])
            if module_id in temperatures
            else module
            for module_id, module in content.modules.items()
        }
    )


def read_ids(learner: Learner | PolicyAccess) -> ModuleIds:
    """Return the module ids of a learner, and whether its MultiRLModule is RLlib's own class."""
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

    multi = access_to(learner).worker.module
    return ModuleIds(ids=list(multi.keys()), plain=type(multi) is MultiRLModule)


def read_links(learner: Learner | PolicyAccess, ids: list[str]) -> dict[str, ModuleLinks]:
    """Return by module id which weights of a learner's modules belong together."""
    access = access_to(learner)
    return {
        module_id: ModuleLinks(copies=[], tied=[])
        if network is None
        else links_of_network(network, access.target_pairs(module_id))
        for module_id in ids
        for network in [access.network(module_id)]
    }


def links_of_network(
    network: torch.nn.Module, pairs: list[tuple[torch.nn.Module, torch.nn.Module]]
) -> ModuleLinks:
    """Return which weights of a torch module belong together.

    Args:
        network: the module.
        pairs: networks inside of the module, each with its target network.
    """
    # With keep_vars, one tensor under several names is the same object each time.
    kept = network.state_dict(keep_vars=True).values()
    by_tensor: dict[int, list[str]] = {}
    for name, tensor in zip(tensors_of(network), kept, strict=True):
        by_tensor.setdefault(id(tensor), []).append(name)
    copies = []
    for source, target in pairs:
        sources = source.state_dict(keep_vars=True)
        names = [
            (by_tensor.get(id(tensor)), by_tensor.get(id(sources.get(local))))
            for local, tensor in target.state_dict(keep_vars=True).items()
        ]
        copies.append([(mine[0], theirs[0]) for mine, theirs in names if mine and theirs])
    return ModuleLinks(
        copies=copies, tied=[names for names in by_tensor.values() if len(names) > 1]
    )
