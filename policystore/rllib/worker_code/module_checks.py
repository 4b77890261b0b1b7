"""Check on each worker that a module can be added, before anything is changed.

Runs in actors, sent by value (``messages/wire.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policystore.rllib.worker_code.compat import is_learner
from policystore.rllib.worker_code.messages.answers import PolicyInfo
from policystore.rllib.worker_code.messages.requests import AddModuleRequest
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.modules import build_module, make_targets
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to
from policystore.rllib.worker_code.weights import info_of

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.rl_module import RLModule

    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = ["check_addition"]


def check_addition(
    worker: AnyWorker | PolicyAccess, request: AddModuleRequest
) -> PolicyInfo | None:
    """Check that a worker can add a module: build it and throw it away.

    This runs on every worker before anything changes. With several learners, a learner that fails
    halfway would let the others wait for it.

    Returns:
        What the module would hold, from a learner; None from an env runner.

    Raises:
        RefusedError: the worker has a module of this id, or its learner cannot train the module.
    """
    access = access_to(worker)
    if request.policy_id in access.ids:
        raise RefusedError(f"it has a module {request.policy_id!r} already")
    if not is_learner(access.worker):
        build_module(request.spec, inference_only=True)
        return None
    module = build_module(request.spec, inference_only=False)
    trained = _would_train(access.worker, request)
    lacking = [
        api.__name__
        for api in getattr(access.worker, "rl_module_required_apis", list)()
        if not isinstance(module, api)
    ]
    if trained and lacking:
        raise RefusedError(
            f"{type(access.worker).__name__} cannot train a {type(module).__name__}: it is no "
            f"{', '.join(lacking)}"
        )
    make_targets(module, request.weight_names)
    alone = PolicyAccess(_SingleModule(module))
    (only,) = alone.ids
    info = info_of(alone, only, trained=trained)
    return info.replace(learner_only=request.spec.learner_only)


class _SingleModule:
    """A worker that holds one module; the module's id is then RLlib's default one."""

    def __init__(self, module: RLModule) -> None:
        self.module = module


def _would_train(learner: Learner, request: AddModuleRequest) -> bool:
    """Return whether a learner would train the new module; True for a function that raises."""
    to_train = request.policies_to_train
    if to_train is None:
        to_train = learner.config.policies_to_train
    if to_train is None:
        return True
    if callable(to_train):
        try:
            return bool(to_train(request.policy_id, None))
        except Exception:
            # The user's own function, made for a batch.
            return True
    return request.policy_id in to_train
