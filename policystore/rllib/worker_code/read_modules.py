"""What RLModules hold, read where they live. Runs there; sent by value, see ``worker_side.py``."""

from __future__ import annotations

from typing import Any

from policystore.rllib.worker_code.learner_thread import wait_until_idle
from policystore.rllib.worker_code.tensors import acting_names, tensors_of
from policystore.rllib.worker_code.weights import held_by

__all__ = ["read_ids", "read_learner", "read_module", "read_multi"]


def read_module(wrapped: Any) -> dict[str, Any]:
    """One RLModule: constructor arguments, and copies of its weights as CPU tensors."""
    import torch
    from ray.rllib.core.rl_module.torch import TorchRLModule

    module: Any = wrapped.unwrapped()
    catalog = getattr(module, "catalog", None)
    found: dict[str, Any] = {
        "cls": type(module),
        "observation_space": module.observation_space,
        "action_space": module.action_space,
        "inference_only": bool(module.inference_only),
        "learner_only": bool(getattr(module, "learner_only", False)),
        "model_config": module.model_config,
        "catalog_class": None if catalog is None else type(catalog),
    }
    is_torch = isinstance(module, torch.nn.Module)
    if not is_torch:
        found["weights"] = module.get_state()
        found["acting"] = list(found["weights"])
        return found
    tensors = tensors_of(module)
    raw = module.state_dict()
    found["weights"] = {
        name: value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value
        for name, value in tensors.items()
    }
    found["clash"] = len(tensors) != len(raw)
    if type(module).get_state is not TorchRLModule.get_state:
        found["own_get_state"] = set(module.get_state()) != set(raw)
    found["acting"] = acting_names(module, tensors)
    return found


def read_multi(multi: Any, ids: Any) -> dict[str, Any]:
    """A MultiRLModule, or of it only the modules of ``ids``."""
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
    return {
        "cls": type(multi),
        "observation_space": multi.observation_space,
        "action_space": multi.action_space,
        "inference_only": bool(multi.inference_only),
        "model_config": multi.model_config,
        "outside": outside,
        "modules": {
            module_id: read_module(module)
            for module_id, module in modules.items()
            if ids is None or module_id in ids
        },
    }


def read_learner(learner: Any, ids: Any, timeout: float) -> dict[str, Any]:
    """A learner's modules, while no update is under way; or ``error``, or ``unsteady``."""
    try:
        learner = held_by(learner).worker
        if not wait_until_idle(learner, timeout):
            return {"unsteady": True}
        found = read_multi(learner.module, ids)
        # SAC's temperature, soft_actor_critic: algorithms/sac/sac_learner.py:36.
        for module_id, facts in found["modules"].items():
            if module_id in getattr(learner, "curr_log_alpha", ()):
                facts["learner_only_values"] = ["curr_log_alpha"]
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return found


def read_ids(learner: Any) -> dict[str, Any]:
    """Module ids of a learner, and whether its MultiRLModule is RLlib's plain one; or ``error``."""
    try:
        from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

        multi = held_by(learner).worker.module
        return {"ids": list(multi.keys()), "plain": type(multi) is MultiRLModule}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
