"""Modules that come to and leave a running Algorithm of the new API stack.

RLlib's ``add_module`` leaves the runners with random weights until the next ``train()``
(``algorithms/algorithm.py:2497``), and its ``remove_module`` fails for IMPALA, APPO and SAC, whose
learners do not take its arguments. Here everyone gets a module with its weights at once, or nobody.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.policy import PolicySpec

from policystore.errors import InvalidInputError, StorageError, SyncError
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.compatibility import PreparedWeights, fit
from policystore.rllib.live.filters import new_stack_filters
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.restart_guard import forget, mapping, remember, watch
from policystore.rllib.live.transaction import Payload, Steps, carry_out, compare, describe_policies
from policystore.rllib.new_stack.rebuild import module_spec
from policystore.rllib.worker_code.modules import (
    can_join,
    can_leave,
    drop_module,
    join_module,
    leave_module,
    spec_of,
    step_aside,
)
from policystore.rllib.worker_code.weights import commit
from policystore.rllib.workers.calls import Deadline, Worker, send, workers_of
from policystore.snapshot import Snapshot

__all__ = ["add_new", "remove_new"]

_STEPS = Steps(put=join_module, undo=leave_module, commit=commit, failed="the module was not added")
_REPLAY = ("SAC", "DQN")


def add_new(
    algo: Algorithm,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: Any,
    policies_to_train: Any,
    agent_ids: Any,
    trust: Trust,
    deadline: Deadline,
) -> SyncReport:
    """:func:`policystore.rllib.add_policy` on the new stack."""
    team = workers_of(algo)
    _refuse_setup(algo, "added")
    before = describe_policies(team, None, deadline)
    spec = _plain(module_spec(snap, trust))
    job: dict[str, Any] = {
        "token": uuid.uuid4().hex,
        "pid": policy_id,
        "spec": spec,
        "names": sorted(snap.weights),
        "mapping": policy_mapping_fn,
        "to_train": policies_to_train,
        "reset": policy_mapping_fn is not None and _learners(team) > 1,
        "timeout": deadline.left(),
    }
    _refuse_split(team, [*before["ids"], policy_id], before, policies_to_train)
    described = _described(team, job, deadline)
    fitting = fit(policy_id, snap, described, "new")
    pipeline, notes = new_stack_filters(algo, {policy_id: snap}, agent_ids)
    job |= {"plans": {policy_id: fitting.plan}, "pipeline": pipeline, "seq": None}
    fits: Mapping[str, PreparedWeights] = {policy_id: fitting}
    payload = Payload(team, fits)
    watch(algo)
    report = carry_out(
        team,
        job,
        payload,
        {policy_id: fitting.expected},
        {**before, "policies": {policy_id: described}},
        deadline,
        notes=fitting.notes + notes,
        steps=_STEPS,
        before=before,
    )
    remember(algo, team, job, payload, join=join_module)
    if policy_mapping_fn is not None:
        mapping(algo, policy_mapping_fn)
    changed = _spec_now(team, _afterwards(deadline))
    for config in (algo.config, algo.learner_group.config):
        with _Thawed(config):
            config.policies[policy_id] = PolicySpec()
            config.rl_module(rl_module_spec=changed)
            _follow(config, policy_mapping_fn, policies_to_train)
    return report


def remove_new(
    algo: Algorithm,
    policy_id: str,
    *,
    policy_mapping_fn: Any,
    policies_to_train: Any,
    deadline: Deadline,
) -> SyncReport:
    """:func:`policystore.rllib.remove_policy` on the new stack."""
    team = workers_of(algo)
    _refuse_setup(algo, "removed")
    before = describe_policies(team, None, deadline)
    if len(before["ids"]) < 2:
        raise InvalidInputError(
            f"{policy_id!r} is the only module of the Algorithm; nothing was sent"
        )
    left = [pid for pid in before["ids"] if pid != policy_id]
    _refuse_split(team, left, before, policies_to_train)
    job: dict[str, Any] = {
        "token": uuid.uuid4().hex,
        "pid": policy_id,
        "mapping": policy_mapping_fn,
        "to_train": policies_to_train,
        "timeout": deadline.left(),
    }
    _refuse_any(
        send(team, can_leave, lambda worker: (job,)).collect(deadline),
        f"module {policy_id!r} cannot be removed",
        "Nothing was changed. Pass policy_mapping_fn= that names others, and policies_to_train=.",
    )
    runners = [worker for worker in team if worker.group != "learner"]
    learners = [worker for worker in team if worker.group == "learner"]
    watch(algo)
    forgotten: list[tuple[dict[Any, Any], Any]] = []
    try:
        # Runners first, as their samples name the module; learners before the runners let go of it.
        _all(runners, step_aside, job, deadline)
        _drop_samples(algo, deadline)
        forgotten = _forget_replay(algo, policy_id)
        _all(learners, drop_module, job, deadline)
        _all(runners, drop_module, job, deadline)
    except BaseException as error:
        send(team, leave_module, lambda worker: (job["token"],)).collect(Deadline(10.0))
        for table, entry in forgotten:
            table[policy_id] = entry
        if isinstance(error, _NotAllError):
            raise SyncError(
                f"module {policy_id!r} was not removed; everyone who answers has it as before:\n"
                + "\n".join(error.reasons),
                report=compare(team, before, Deadline(10.0), error.silent),
            ) from None
        raise
    deadline = _afterwards(deadline)
    changed = _spec_now(team, deadline)
    for config in (algo.config, algo.learner_group.config):
        with _Thawed(config):
            config.policies = {k: v for k, v in config.policies.items() if k != policy_id}
            config.algorithm_config_overrides_per_module.pop(policy_id, None)
            getattr(config, "_per_module_overrides", {}).pop(policy_id, None)
            config.rl_module(rl_module_spec=changed)
            wanted = policies_to_train or config.policies_to_train
            if wanted is not None and not callable(wanted):
                wanted = type(wanted)(mid for mid in wanted if mid != policy_id)
            _follow(config, policy_mapping_fn, wanted)
    send(team, commit, lambda worker: (job["token"],))
    forget(algo, policy_id)
    if policy_mapping_fn is not None:
        mapping(algo, policy_mapping_fn)
    team = workers_of(algo)  # anew: what was found out before still knows the module
    return compare(team, describe_policies(team, None, deadline), deadline)


def _refuse_setup(algo: Algorithm, what: str) -> None:
    config = algo.config
    multi = config.is_multi_agent
    if not (multi() if callable(multi) else multi):
        raise InvalidInputError(
            f"modules can be {what} in a multi-agent Algorithm only; this one has a single agent. "
            "Give its config .multi_agent(policies=…, policy_mapping_fn=…). Nothing was sent."
        )
    if getattr(config, "num_aggregator_actors_per_learner", 0):
        raise InvalidInputError(
            "this Algorithm has aggregator actors, which keep the modules they were made with: "
            f"once one is {what}, its learner never learns again. Use "
            "num_aggregator_actors_per_learner=0. Nothing was sent."
        )
    if (config.num_learners or 0) > 1 and any(
        cls.__name__ in _REPLAY for cls in type(algo).__mro__
    ):
        raise InvalidInputError(
            f"{type(algo).__name__} with {config.num_learners} learners: RLlib splits samples of "
            "its replay buffer by module, and learners that hold other modules abort. Use "
            "num_learners of 0 or 1. Nothing was sent."
        )


def _refuse_split(
    team: list[Worker], ids: list[str], before: Mapping[str, Any], to_train: Any
) -> None:
    """With several learners, two modules in training and a changed set of them.

    Learners average gradients in the order in which their batches list the modules. That order
    changes with ids and mapping, from process to process; where it differs between learners they
    abort, in RLlib's own ``add_module`` as well.
    """
    if _learners(team) < 2:
        return
    trained = [pid for pid in ids if _is_trained(pid, before, to_train)]
    if len(trained) > 1:
        raise InvalidInputError(
            f"with {_learners(team)} learners and {', '.join(map(repr, trained))} in training the "
            "learners may list them in different orders, and abort. Let policies_to_train= name "
            "one policy only, or use num_learners of 0 or 1. Nothing was sent."
        )


def _is_trained(pid: str, before: Mapping[str, Any], to_train: Any) -> bool:
    if to_train is None:
        known = before["policies"].get(pid)
        return bool(before["trains_new"] if known is None else known["trained"])
    if not callable(to_train):
        return pid in to_train
    try:
        return bool(to_train(pid, None))
    except Exception:
        # The user's own function, made for a batch: then it may well be trained.
        return True


def _plain(spec: RLModuleSpec) -> RLModuleSpec:
    """RLlib's own class, which nodes without policystore have as well."""
    return RLModuleSpec(
        module_class=spec.module_class,
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        learner_only=spec.learner_only,
        model_config=spec.model_config,
        catalog_class=spec.catalog_class,
    )


def _learners(team: list[Worker]) -> int:
    return sum(worker.group == "learner" for worker in team)


def _described(team: list[Worker], job: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
    answers = send(team, can_join, lambda worker: (job,)).collect(deadline)
    _refuse_any(answers, f"module {job['pid']!r} cannot be added", "Nothing was changed.")
    return next(dict(answers[worker]) for worker in team if worker.leads)


def _refuse_any(answers: Mapping[Worker, Mapping[str, Any]], what: str, advice: str) -> None:
    wrong = [
        f"  {worker.name}: {answer['error']}"
        for worker, answer in answers.items()
        if "error" in answer
    ]
    if wrong:
        raise InvalidInputError(f"{what}:\n" + "\n".join(wrong[:10]) + f"\n{advice}")
    silent = [
        worker.name
        for worker, answer in answers.items()
        if answer.get("pending") or (worker.group == "learner" and "unreachable" in answer)
    ]
    if silent:
        raise StorageError(f"{what}: no answer from {', '.join(silent)}. {advice}")


class _NotAllError(Exception):
    """Some workers did not do their part."""

    def __init__(self, reasons: list[str], silent: dict[Worker, dict[str, Any]]) -> None:
        super().__init__(reasons)
        self.reasons = reasons
        self.silent = silent


def _all(team: list[Worker], function: Any, job: dict[str, Any], deadline: Deadline) -> None:
    answers = send(team, function, lambda worker: (job,)).collect(deadline)
    failed = {
        worker: answer
        for worker, answer in answers.items()
        if "error" in answer
        or answer.get("pending")
        or ("unreachable" in answer and worker.group == "learner")
    }
    if failed:
        raise _NotAllError(
            [
                f"  {worker.name}: "
                + str(answer.get("error") or answer.get("unreachable") or "no answer in time")
                for worker, answer in failed.items()
            ],
            {
                worker: dict(answer)
                for worker, answer in answers.items()
                if "unreachable" in answer or answer.get("pending")
            },
        )


def _drop_samples(algo: Algorithm, deadline: Deadline) -> None:
    """Samples of IMPALA and APPO under way name the module; a learner that gets one never answers
    again (``core/learner/learner.py:1100``).
    """
    group = algo.env_runner_group
    manager = None if group is None else group._worker_manager
    while manager is not None and manager.num_outstanding_async_reqs():
        if not deadline.left():
            raise _NotAllError(["  samples were under way all the time"], {})
        manager.fetch_ready_async_reqs(timeout_seconds=min(0.2, deadline.left()))
    for queue in ("_episode_packs_being_built", "data_to_place_on_learner"):
        if hasattr(algo, queue):
            setattr(algo, queue, [])
    for batches in getattr(algo, "_ma_batches_being_built", {}).values():
        batches.clear()


def _forget_replay(algo: Algorithm, policy_id: str) -> list[tuple[dict[Any, Any], Any]]:
    """The replay buffer of SAC and DQN samples for every module that it has a table of."""
    buffer = getattr(algo, "local_replay_buffer", None)
    return (
        [
            (table, table.pop(policy_id))
            for name, table in vars(buffer).items()
            if name.startswith("_module_to_") and isinstance(table, dict) and policy_id in table
        ]
        if buffer is not None
        else []
    )


def _afterwards(deadline: Deadline) -> Deadline:
    """Everyone has changed: what is left to do must not fail for the caller's time being up."""
    return Deadline(max(deadline.left(), 10.0))


def _spec_now(team: list[Worker], deadline: Deadline) -> Any:
    leader = [worker for worker in team if worker.leads]
    answer = send(leader, spec_of, lambda worker: ()).collect(deadline)[leader[0]]
    if "spec" not in answer:
        raise StorageError(f"{leader[0].name} did not say which modules it holds now: {answer}")
    return answer["spec"]


class _Thawed:
    """A config that may be changed for a moment, as ``Algorithm.add_module`` does it."""

    def __init__(self, config: Any) -> None:
        self._config = config

    def __enter__(self) -> None:
        self._frozen = self._config._is_frozen
        self._config._is_frozen = False

    def __exit__(self, *_: object) -> None:
        if self._frozen:
            self._config.freeze()


def _follow(config: Any, function: Any, to_train: Any) -> None:
    if function is not None:
        config.multi_agent(policy_mapping_fn=function)
    if to_train is not None:
        config.multi_agent(policies_to_train=to_train)
