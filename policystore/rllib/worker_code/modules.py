"""RLModules that come to and leave live learners and env runners. Runs there; sent by value.

Imports nothing of policystore but what is sent along (``worker_side.py`` says why). Nothing raises.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from policystore.rllib.worker_code.learner_thread import forget_queued_states, wait_until_idle
from policystore.rllib.worker_code.policy_mapping import incompatible_agents, named_modules
from policystore.rllib.worker_code.tensors import PolicyAccess, acting_names
from policystore.rllib.worker_code.weights import (
    held_by,
    names_of_targets,
    report_digests,
    write_filters,
    write_policy,
)

__all__ = [
    "can_join",
    "can_leave",
    "drop_module",
    "join_module",
    "leave_module",
    "spec_of",
    "step_aside",
]

_UNDO = "_policystore_undo"
# Tables of learners that RLlib's own remove_module leaves entries in.
_LEFT_BEHIND = (
    "_lr_schedulers",
    "_grad_scalers",
    "last_update_ts_by_mid",
    "_last_update_ts_by_mid",
    "curr_log_alpha",
    "target_entropy",
)


def _is_learner(worker: Any) -> bool:
    return hasattr(worker, "_module_optimizers")


@contextlib.contextmanager
def _at_rest(worker: Any, timeout: float) -> Iterator[None]:
    """A learner's own thread at rest, and its lock for reading weights held."""
    if not wait_until_idle(worker, timeout):
        raise TimeoutError("updates were under way all the time")
    with getattr(worker, "_model_io_lock", None) or contextlib.nullcontext():
        yield


# Before anything is changed ----------------------------------------------------------------------


def can_join(worker: Any, job: Any) -> dict[str, Any]:
    """Build the module and throw it away; say what it would hold.

    With several learners one that fails half-way would leave the others waiting for it.
    """
    try:
        held = held_by(worker)
        if job["pid"] in held.ids:
            return {"error": f"it has a module {job['pid']!r} already"}
        if not _is_learner(held.worker):
            new = _build(job["spec"], True)
            return _mapped(held.worker, job, {**_modules(held.worker), job["pid"]: new})
        module = _build(job["spec"], False)
        trained = _would_train(held.worker, job)
        lacking = [
            api.__name__
            for api in getattr(held.worker, "rl_module_required_apis", list)()
            if not isinstance(module, api)
        ]
        if trained and lacking:
            return {
                "error": f"{type(held.worker).__name__} cannot train a {type(module).__name__}: it "
                f"is no {', '.join(lacking)}"
            }
        _make_targets(module, job["names"])
        alone = PolicyAccess(_Alone(module))
        (only,) = alone.ids
        entries = alone.bits(only)
        return {
            "tensors": {name: (entry[0], entry[1]) for name, entry in entries.items()},
            "acting": acting_names(module, entries),
            "targets": names_of_targets(alone, only),
            "spaces": (module.observation_space, module.action_space),
            "trained": trained,
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


class _Alone:
    """A module as the only one of a worker; its id is then RLlib's default one."""

    def __init__(self, module: Any) -> None:
        self.module = module


def _build(spec: Any, inference_only: bool) -> Any:
    found = copy.deepcopy(spec)
    found.inference_only = inference_only
    return found.build()


def _make_targets(module: Any, names: Any) -> None:
    """Learners make target networks after building (core/rl_module/apis/target_network_api.py)."""
    inner = module.unwrapped()
    if not hasattr(inner, "make_target_networks") or inner.inference_only:
        return
    if set(names) - set(inner.state_dict()):
        inner.make_target_networks()


def _would_train(learner: Any, job: Any) -> bool:
    wanted = job["to_train"]
    if wanted is None:
        wanted = learner.config.policies_to_train
    if wanted is None:
        return True
    if callable(wanted):
        try:
            return bool(wanted(job["pid"], None))
        except Exception:
            return True
    return job["pid"] in wanted


def can_leave(worker: Any, job: Any) -> dict[str, Any]:
    """Why a module cannot go: what is left would not train, or the mapping function names it."""
    try:
        worker = held_by(worker).worker
        pid = job["pid"]
        if _is_learner(worker):
            others = [mid for mid in worker.module.keys() if mid != pid]  # noqa: SIM118
            to_train = _without(job["to_train"] or worker.config.policies_to_train, pid)
            if to_train is not None and not callable(to_train) and not set(to_train) & set(others):
                return {"error": "nothing would be trained any more"}
            return {}
        return _mapped(worker, job, _modules(worker), pid)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _modules(runner: Any) -> dict[str, Any]:
    return dict(runner.module.unwrapped().items())


def _mapped(
    runner: Any, job: Any, modules: dict[str, Any], leaving: str | None = None
) -> dict[str, Any]:
    """Why agents cannot be mapped so: who is named is not there, or made for other spaces."""
    if job["mapping"] is None and leaving is None:
        return {}
    mapping = runner.config.policy_mapping_fn
    after = named_modules(runner, job["mapping"] or mapping)
    unknown = sorted({pid for _, pid in after} - (modules.keys() - {leaving}), key=str)
    if unknown:
        return {"error": f"the mapping function names {', '.join(map(repr, unknown))}"}
    try:
        before = named_modules(runner, mapping)
    except Exception:
        # The user's own function, which is about to go.
        before = set()
    spaces = {pid: (each.observation_space, each.action_space) for pid, each in modules.items()}
    wrong = incompatible_agents(before, after, spaces)
    return {"error": f"of the mapping function: {wrong}"} if wrong else {}


def _without(to_train: Any, pid: str) -> Any:
    """``policies_to_train`` without one; None (all) and callables stay as they are."""
    if to_train is None or callable(to_train):
        return to_train
    return type(to_train)(mid for mid in to_train if mid != pid)


# What is kept for undo ---------------------------------------------------------------------------


def _keep(worker: Any) -> dict[str, Any]:
    multi = worker.module.unwrapped()
    kept: dict[str, Any] = {
        "modules": (multi, dict(multi._rl_modules), dict(multi.rl_module_specs)),
        "flags": (multi.inference_only, multi.framework),
        "config": _fields(worker.config),
    }
    if _is_learner(worker):
        # Every table by module, optimizer or parameter, of any subclass of Learner.
        kept["tables"] = [(t, dict(t)) for t in vars(worker).values() if isinstance(t, dict)]
        kept["lists"] = {key: list(names) for key, names in worker._module_optimizers.items()}
        kept["spec"] = worker._module_spec
        kept["stats"] = dict(getattr(worker.metrics, "stats", None) or {})
    elif getattr(worker, "_env_to_module", None) is not None:
        kept["pipeline"] = worker._env_to_module.get_state()
    return kept


def _fields(config: Any) -> dict[str, Any]:
    return {
        key: copy.copy(value) if isinstance(value, (dict, list, set)) else value
        for key, value in vars(config).items()
    }


def _restore(worker: Any, kept: dict[str, Any]) -> None:
    multi, modules, specs = kept["modules"]
    for table, was in (
        *kept.get("tables", ()),
        (multi._rl_modules, modules),
        (multi.rl_module_specs, specs),
        (vars(worker.config), kept["config"]),
    ):
        table.clear()
        table.update(was)
    multi.inference_only, multi.framework = kept["flags"]
    if _is_learner(worker):
        for key, names in kept["lists"].items():
            worker._module_optimizers[key] = names
        worker._module_spec = kept["spec"]
        stats = getattr(worker.metrics, "stats", None)
        if isinstance(stats, dict):
            for mid in stats.keys() - kept["stats"].keys():
                del stats[mid]
        forget_queued_states(worker)
        return
    if "pipeline" in kept:
        worker._env_to_module.set_state(kept["pipeline"])
    worker._needs_initial_reset = True  # episodes begun in between name what is gone


def leave_module(worker: Any, token: str) -> dict[str, Any]:
    """Put a worker back to before the job of ``token``, if it took part in it."""
    try:
        worker = held_by(worker).worker
        found = getattr(worker, _UNDO, None)
        if found is None or found[0] != token:
            return {"undone": False}
        with _at_rest(worker, 5.0):
            _restore(worker, found[1])
        delattr(worker, _UNDO)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"undone": True}


# Coming ------------------------------------------------------------------------------------------


def join_module(worker: Any, job: Any, payload: Any) -> dict[str, Any]:
    """Build a module, give it its weights, and let it take part; say what the worker then holds.

    Args:
        worker: a learner or an env runner.
        job: ``token``, ``pid``, ``spec`` (RLModuleSpec), ``plans``, ``names`` of all weights,
            ``mapping``, ``to_train`` (None: unchanged), ``reset``, ``pipeline``, ``timeout``.
        payload: as for ``worker_side.put``.

    Returns:
        As ``worker_side.tell``; or ``error``, and then the worker is as it was before.
    """
    try:
        worker = held_by(worker).worker
        pid = job["pid"]
        if pid in worker.module:
            return {"error": f"it has a module {pid!r} already"}
        with _at_rest(worker, job["timeout"]):
            setattr(worker, _UNDO, (job["token"], _keep(worker)))
            if _is_learner(worker):
                _join_learner(worker, job)
            else:
                _join_runner(worker, job)
            held = PolicyAccess(worker)
            write_policy(held, pid, payload[pid])
            write_filters(held, job)
        return report_digests(PolicyAccess(worker), job["plans"], job["timeout"])
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return {"error": why, "undone": leave_module(worker, job["token"])}


def _join_learner(learner: Any, job: Any) -> None:
    pid = job["pid"]
    learner.add_module(
        module_id=pid, module_spec=job["spec"], new_should_module_be_updated=job["to_train"]
    )
    _make_targets(learner.module[pid], job["names"])
    # SACLearner.add_module makes a new log alpha after its optimizer took the first, which then
    # trains nothing (algorithms/sac/sac_learner.py:89).
    name = f"{pid}_alpha"
    if hasattr(learner, "curr_log_alpha") and name in learner._named_optimizers:
        optimizer = learner._named_optimizers[name]
        learner.curr_log_alpha[pid] = learner._params[learner._optimizer_parameters[optimizer][0]]


def _join_runner(runner: Any, job: Any) -> None:
    module = _build(job["spec"], True)
    if hasattr(module, "to") and getattr(runner, "_device", None) is not None:
        module.to(runner._device)
    runner.module.add_module(job["pid"], module)
    _follow(runner, job)
    if job["reset"]:
        # With several learners: an episode that goes on under the old mapping lists its modules in
        # another order, their all-reduces do not match, and a learner aborts.
        runner._needs_initial_reset = True


def _follow(runner: Any, job: Any) -> None:
    if job["mapping"] is not None:
        runner.config.multi_agent(policy_mapping_fn=job["mapping"])
    if job["to_train"] is not None:
        runner.config.multi_agent(policies_to_train=job["to_train"])


def spec_of(worker: Any) -> dict[str, Any]:
    """The MultiRLModuleSpec of what a learner holds now."""
    try:
        from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec

        return {"spec": MultiRLModuleSpec.from_module(held_by(worker).worker.module)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


# Going -------------------------------------------------------------------------------------------


def step_aside(worker: Any, job: Any) -> dict[str, Any]:
    """On an env runner: no new step by the module, which stays until the learners are through."""
    try:
        worker = held_by(worker).worker
        setattr(worker, _UNDO, (job["token"], _keep(worker)))
        _follow(worker, {**job, "to_train": None})
        worker.config.multi_agent(
            policies_to_train=_without(
                job["to_train"] or worker.config.policies_to_train, job["pid"]
            )
        )
        worker._needs_initial_reset = True
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def drop_module(worker: Any, job: Any) -> dict[str, Any]:
    """Take the module away from a learner, or from an env runner that has stepped aside."""
    try:
        worker = held_by(worker).worker
        if not _is_learner(worker):
            worker.module.remove_module(job["pid"])
            return {}
        with _at_rest(worker, job["timeout"]):
            setattr(worker, _UNDO, (job["token"], _keep(worker)))
            _drop_from_learner(worker, job)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return {"error": why, "undone": leave_module(worker, job["token"])}
    return {}


def _drop_from_learner(learner: Any, job: Any) -> None:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec

    pid = job["pid"]
    to_train = _without(job["to_train"] or learner.config.policies_to_train, pid)
    own = [optimizer for _, optimizer in learner.get_optimizers_for_module(pid)]
    parameters = [ref for optimizer in own for ref in learner._optimizer_parameters[optimizer]]
    names = list(learner._module_optimizers[pid])
    for made_on_demand in ("entropy_coeff_schedulers_per_module", "curr_kl_coeffs_per_module"):
        # IMPALA and APPO pop, without a default, what a frozen module may never have had
        # (algorithms/impala/impala_learner.py:306); asking makes it.
        if hasattr(learner, made_on_demand):
            getattr(learner, made_on_demand)[pid]
    # Without new_should_module_be_updated, which IMPALA, APPO and SAC do not take.
    learner.remove_module(module_id=pid)
    for parameter in parameters:
        learner._params.pop(parameter, None)
    for name in names:
        getattr(learner, "_optimizer_name_to_module", {}).pop(name, None)
    for left in _LEFT_BEHIND:
        table = getattr(learner, left, None)
        if isinstance(table, dict):
            table.pop(pid, None)
    getattr(learner.config, "_per_module_overrides", {}).pop(pid, None)
    learner.config.multi_agent(policies_to_train=to_train)
    learner._module_spec = MultiRLModuleSpec.from_module(learner.module)
    forget_queued_states(learner)
