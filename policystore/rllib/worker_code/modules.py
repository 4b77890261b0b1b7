"""Add RLModules to live learners and env runners, and remove them; check additions beforehand.

Runs in actors, sent by value (``messages/wire.py``). Each function raises where it fails.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    all_fields,
    clear_queued_states,
    device_of,
    env_to_module,
    is_learner,
    is_learner_only,
    learner_tables,
    module_spec,
    module_tables,
    optimizer_names,
    optimizer_parameters,
    remove_learner_module,
    restart_all_episodes,
    set_module_spec,
    set_weights_seq,
    weights_seq,
)
from policystore.rllib.worker_code.learner_thread import updates_paused
from policystore.rllib.worker_code.messages.answers import PolicyInfo, WorkerDigests
from policystore.rllib.worker_code.messages.requests import (
    AddModuleRequest,
    RemoveRequest,
    SteerRequest,
)
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.rollback import keep_for_rollback, rolled_back_on_error
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to
from policystore.rllib.worker_code.weights import (
    info_of,
    raise_number,
    report_digests,
    write_filters,
    write_policy,
)

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule, MultiRLModuleSpec
    from ray.rllib.core.rl_module.rl_module import RLModule, RLModuleSpec
    from ray.rllib.env.env_runner import EnvRunner

    from policystore.rllib.worker_code.messages.answers import ToTrain
    from policystore.rllib.worker_code.messages.requests import Payload
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = [
    "add_module",
    "check_addition",
    "remove_module",
    "spec_of_modules",
    "steer_modules",
    "without",
]


def _build_module(spec: RLModuleSpec, *, inference_only: bool) -> RLModule:
    """Build a spec's module, whole or with what acting needs; the spec stays unchanged."""
    own = copy.deepcopy(spec)
    own.inference_only = inference_only
    return own.build()


def _make_targets(module: RLModule, names: list[str]) -> None:
    """Make target networks if the weights that will be loaded have some.

    Learners make target networks after building (``core/rl_module/apis/target_network_api.py``).
    """
    inner = module.unwrapped()
    if not hasattr(inner, "make_target_networks") or inner.inference_only:
        return
    if set(names) - set(inner.state_dict()):
        inner.make_target_networks()


def without(to_train: ToTrain | None, removed: tuple[str, ...]) -> ToTrain | None:
    """Return ``policies_to_train`` without removed ids; None (all) and functions stay unchanged."""
    if to_train is None or callable(to_train):
        return to_train
    return type(to_train)(mid for mid in to_train if mid not in removed)


# What is kept for a roll-back --------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """All that adding or removing a module changes on a worker.

    Attributes:
        tables: dicts of the worker, each with a copy of what it held.
        multi: the MultiRLModule.
        flags: ``inference_only`` and ``framework`` of the MultiRLModule.
        seq: number of the weights.
        names: names of optimizers by module (learners).
        spec: spec of the modules (learners).
        stats: statistics in the metrics (learners).
        connectors: state of the env-to-module pipeline (env runners).
    """

    tables: list[tuple[dict[Any, Any], dict[Any, Any]]]
    multi: MultiRLModule
    flags: tuple[bool, str | None]
    seq: int | None
    names: dict[str, list[str]] | None = None
    spec: MultiRLModuleSpec | None = None
    stats: dict[Any, Any] | None = None
    connectors: dict[str, Any] | None = None


def _keep(worker: AnyWorker, token: str) -> None:
    """Keep for a roll-back all that adding or removing a module changes on a worker."""
    multi = worker.module.unwrapped()
    flags = (multi.inference_only, multi.framework)
    fields = all_fields(worker.config)
    tables = [(table, dict(table)) for table in module_tables(multi)]
    tables.append((fields, {key: _shallow_copy(value) for key, value in fields.items()}))
    if is_learner(worker):
        kept = _Kept(
            tables=[*((table, dict(table)) for table in learner_tables(worker)), *tables],
            multi=multi,
            flags=flags,
            seq=weights_seq(worker),
            names={key: list(names) for key, names in optimizer_names(worker).items()},
            spec=module_spec(worker),
            stats=dict(getattr(worker.metrics, "stats", None) or {}),
        )
    else:
        pipeline = env_to_module(worker)
        state = None if pipeline is None else pipeline.get_state()
        kept = _Kept(
            tables=tables, multi=multi, flags=flags, seq=weights_seq(worker), connectors=state
        )
    keep_for_rollback(worker, token, functools.partial(_put_back, kept))


def _shallow_copy(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (dict, list, set)) else value


def _put_back(kept: _Kept, access: PolicyAccess) -> None:
    """Give a worker back what :func:`_keep` kept."""
    worker = access.worker
    with updates_paused(worker, 5.0):
        for table, was in kept.tables:
            table.clear()
            table.update(was)
        kept.multi.inference_only, kept.multi.framework = kept.flags
        if kept.seq is not None:
            set_weights_seq(worker, kept.seq)
        if not is_learner(worker):
            pipeline = env_to_module(worker)
            if kept.connectors is not None and pipeline is not None:
                pipeline.set_state(kept.connectors)
            restart_all_episodes(worker)  # episodes begun in between name what is gone
            return
        for key, names in (kept.names or {}).items():
            optimizer_names(worker)[key] = names
        set_module_spec(worker, kept.spec)
        stats = getattr(worker.metrics, "stats", None)
        if isinstance(stats, dict):
            for mid in stats.keys() - (kept.stats or {}).keys():
                del stats[mid]
        clear_queued_states(worker)


# Adding ------------------------------------------------------------------------------------------


def add_module(
    worker: AnyWorker | PolicyAccess, request: AddModuleRequest, payload: Payload
) -> WorkerDigests:
    """Build a module, load its weights, put it into use, and return digests of the weights.

    If this raises, the worker is as it was before.

    Args:
        worker: a learner or an env runner.
        request: what to add.
        payload: its weights.

    Raises:
        RefusedError: the worker has a module of this id.
        BusyError: a learner that updates in a thread did not come to rest in time.
    """
    worker = access_to(worker).worker
    pid, load = request.policy_id, request.load
    if pid in worker.module:
        raise RefusedError(f"it has a module {pid!r} already")
    with rolled_back_on_error(worker, load.token):
        with updates_paused(worker, load.timeout):
            _keep(worker, load.token)
            if is_learner(worker):
                _add_to_learner(worker, request)
            elif not request.spec.learner_only:
                _add_to_runner(worker, request)
            access = PolicyAccess(worker)
            if pid in access.ids:
                write_policy(access, pid, payload[pid])
            write_filters(access, load)
            raise_number(access, load)
        return report_digests(PolicyAccess(worker), load.plans, load.timeout)


def _add_to_learner(learner: Learner, request: AddModuleRequest) -> None:
    pid = request.policy_id
    learner.add_module(
        module_id=pid,
        module_spec=request.spec,
        config_overrides=request.config_overrides,
        new_should_module_be_updated=request.policies_to_train,
    )
    _make_targets(learner.module[pid], request.weight_names)
    # SACLearner.add_module makes a new log alpha after its optimizer took the first, which then
    # trains nothing (algorithms/sac/sac_learner.py:89).
    if hasattr(learner, "curr_log_alpha"):
        parameters = optimizer_parameters(learner, f"{pid}_alpha")
        if parameters:
            learner.curr_log_alpha[pid] = parameters[0]


def _add_to_runner(runner: EnvRunner, request: AddModuleRequest) -> None:
    module = _build_module(request.spec, inference_only=True)
    device = device_of(runner)
    if hasattr(module, "to") and device is not None:
        module.to(device)
    runner.module.add_module(request.policy_id, module)


def spec_of_modules(worker: AnyWorker | PolicyAccess) -> MultiRLModuleSpec:
    """Return the spec of the modules that a learner holds now."""
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec

    worker = access_to(worker).worker
    spec = MultiRLModuleSpec.from_module(worker.module)
    for pid, each in spec.rl_module_specs.items():
        each.learner_only = is_learner_only(worker, pid)
    return spec


# Which modules act and which are trained ---------------------------------------------------------


def steer_modules(worker: AnyWorker | PolicyAccess, request: SteerRequest) -> None:
    """Set the mapping function and the modules to train, and let env runners drop their episodes.

    An env runner takes no more steps with modules that are about to be removed, but keeps these
    modules for now. If this raises, the worker is as it was before the transaction.

    Raises:
        RefusedError: the worker has another function or choice after they were set.
        BusyError: a learner that updates in a thread did not come to rest in time.
    """
    worker = access_to(worker).worker
    mapping, to_train = request.policy_mapping_fn, request.policies_to_train
    with rolled_back_on_error(worker, request.token), updates_paused(worker, request.timeout):
        _keep(worker, request.token)
        config = worker.config
        if to_train is None:
            to_train = config.policies_to_train
        config.multi_agent(policies_to_train=without(to_train, request.removed))
        if mapping is not None and not is_learner(worker):
            config.multi_agent(policy_mapping_fn=mapping)
            if config.policy_mapping_fn is not mapping:
                raise RefusedError("its config keeps another mapping function")
        if request.restart_episodes and not is_learner(worker):
            restart_all_episodes(worker)


# Removing ----------------------------------------------------------------------------------------


def remove_module(worker: AnyWorker | PolicyAccess, request: RemoveRequest) -> None:
    """Remove a module from a learner, or from an env runner after :func:`steer_modules`.

    If this raises, the worker is as it was before the transaction.

    Raises:
        BusyError: a learner that updates in a thread did not come to rest in time.
    """
    worker = access_to(worker).worker
    with rolled_back_on_error(worker, request.token):
        if not is_learner(worker):
            if request.policy_id in worker.module:  # not so for a learner_only module
                worker.module.remove_module(request.policy_id)
            return
        with updates_paused(worker, request.timeout):
            _keep(worker, request.token)
            _remove_from_learner(worker, request.policy_id)


def _remove_from_learner(learner: Learner, pid: str) -> None:
    remove_learner_module(learner, pid)
    set_module_spec(learner, spec_of_modules(learner))
    clear_queued_states(learner)


# Checks before an addition -----------------------------------------------------------------------


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
        _build_module(request.spec, inference_only=True)
        return None
    module = _build_module(request.spec, inference_only=False)
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
    _make_targets(module, request.weight_names)
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
