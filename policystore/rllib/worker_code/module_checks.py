"""Check on each worker that a module can be added or removed, before anything is changed.

Runs in actors, sent by value (``messages/wire.py``). Each function raises where the worker refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policystore.rllib.worker_code.compat import is_learner
from policystore.rllib.worker_code.messages.answers import PolicyInfo
from policystore.rllib.worker_code.messages.requests import AddModuleRequest, RemoveRequest
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.modules import build_module, make_targets, without
from policystore.rllib.worker_code.policy_mapping import incompatible_agents, named_modules
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to
from policystore.rllib.worker_code.weights import info_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.env.env_runner import EnvRunner

    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = ["check_addition", "check_removal"]


def check_addition(
    worker: AnyWorker | PolicyAccess, request: AddModuleRequest
) -> PolicyInfo | None:
    """Check that a worker can add a module: build it and throw it away.

    This runs on every worker before anything changes. With several learners, a learner that fails
    halfway would let the others wait for it.

    Returns:
        What the module would hold, from a learner; None from an env runner.

    Raises:
        RefusedError: the worker has a module of this id, its learner cannot train the module, or
            the mapping function does not fit.
    """
    access = access_to(worker)
    if request.policy_id in access.ids:
        raise RefusedError(f"it has a module {request.policy_id!r} already")
    if not is_learner(access.worker):
        new = build_module(request.spec, inference_only=True)
        if request.policy_mapping_fn is not None:
            modules = {**_modules(access.worker), request.policy_id: new}
            _check_mapping(access.worker, request.policy_mapping_fn, modules)
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
    return info_of(alone, only, trained=trained)


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


def check_removal(worker: AnyWorker | PolicyAccess, request: RemoveRequest) -> None:
    """Check that a module can be removed.

    Raises:
        RefusedError: no remaining module would be trained, or the mapping function names the
            module.
    """
    worker = access_to(worker).worker
    pid = request.policy_id
    if not is_learner(worker):
        modules = {mid: each for mid, each in _modules(worker).items() if mid != pid}
        mapping = request.policy_mapping_fn or worker.config.policy_mapping_fn
        _check_mapping(worker, mapping, modules, _modules(worker))
        return
    others = {mid for mid in worker.module.keys() if mid != pid}  # noqa: SIM118 (no mapping)
    to_train = without(request.policies_to_train or worker.config.policies_to_train, pid)
    if to_train is not None and not callable(to_train) and not set(to_train) & others:
        raise RefusedError("nothing would be trained any more")


def _modules(runner: EnvRunner) -> dict[str, RLModule]:
    return dict(runner.module.unwrapped().items())


def _check_mapping(
    runner: EnvRunner,
    mapping: Callable[..., str],
    modules: dict[str, RLModule],
    present: dict[str, RLModule] | None = None,
) -> None:
    """Check that a mapping function fits the modules after the change.

    Args:
        runner: the env runner whose agents are mapped.
        mapping: the function.
        modules: the modules after the change.
        present: the present modules, if some of them will be removed.

    Raises:
        RefusedError: the function names a module that is missing, or one for other spaces.
    """
    after = named_modules(runner, mapping)
    unknown = sorted({pid for _, pid in after} - modules.keys(), key=str)
    if unknown:
        raise RefusedError(f"the mapping function names {', '.join(map(repr, unknown))}")
    try:
        before = named_modules(runner, runner.config.policy_mapping_fn)
    except Exception:
        # The user's own function, which is about to go.
        before = set()
    spaces = {
        pid: (each.observation_space, each.action_space)
        for pid, each in {**(present or {}), **modules}.items()
    }
    wrong = incompatible_agents(before, after, spaces)
    if wrong:
        raise RefusedError(f"of the mapping function: {wrong}")
