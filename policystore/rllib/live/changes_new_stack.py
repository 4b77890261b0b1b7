"""Add modules to a running Algorithm of the new API stack, and remove them.

RLlib's ``add_module`` leaves the runners with random weights until the next ``train()``
(``algorithms/algorithm.py:2647``). RLlib's ``remove_module`` fails for IMPALA, APPO and SAC,
because their learners do not take the arguments of that call. The functions of this module give all
workers the new module together with its weights, or change no worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.policy import PolicySpec

from policystore.errors import InvalidInputError
from policystore.rllib.common.trust import Trust
from policystore.rllib.live.checks.compatibility import prepare
from policystore.rllib.live.checks.filters import AgentIds, new_stack_filters
from policystore.rllib.live.report import SyncReport
from policystore.rllib.live.session import Session
from policystore.rllib.live.transaction import Payload, StepFailedError, Transaction
from policystore.rllib.new_stack.rebuild import module_spec
from policystore.rllib.worker_code.compat import is_multi_agent, overrides_per_module
from policystore.rllib.worker_code.messages.answers import WorkerInfo
from policystore.rllib.worker_code.messages.requests import (
    AddModuleRequest,
    LoadRequest,
    RemoveRequest,
    ReplayEntry,
)
from policystore.rllib.worker_code.module_checks import check_addition, check_removal
from policystore.rllib.worker_code.modules import (
    add_module,
    quiesce_runner,
    remove_module,
    spec_of_modules,
)
from policystore.rllib.workers.calls import Deadline
from policystore.rllib.workers.compat import (
    actor_manager,
    clear_waiting_batches,
    take_replay_tables,
    unfrozen,
)
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec

    from policystore.rllib.worker_code.messages.answers import ToTrain

__all__ = ["add_new", "remove_new"]

_NOTHING = "Nothing was changed."
# For these algorithms RLlib splits the samples of the replay buffer by module.
_SPLITTING = ("SAC", "DQN")


def add_new(
    transaction: Transaction,
    before: WorkerInfo,
    policy_id: str,
    snap: Snapshot,
    *,
    policy_mapping_fn: Callable[..., str] | None,
    policies_to_train: ToTrain | None,
    agent_ids: AgentIds,
    trust: Trust,
) -> SyncReport:
    """Add a module on the new stack: see :func:`policystore.rllib.add_policy`.

    Args:
        transaction: the transaction of this change.
        before: description of all modules that the Algorithm has.
        policy_id: id of the new module.
        snap: snapshot of the new module.
        policy_mapping_fn: the new mapping function; None keeps the present function.
        policies_to_train: the new choice; None keeps the present choice.
        agent_ids: agents whose filters get the snapshot's statistics, or None.
        trust: classes that the snapshot may name.
    """
    algo = transaction.algo
    learners = len(transaction.learners)
    _check_setup(algo, "added")
    request = AddModuleRequest(
        policy_id=policy_id,
        spec=_plain(module_spec(snap, trust)),
        weight_names=sorted(snap.weights),
        load=LoadRequest(transaction.token, {}, transaction.deadline.left()),
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
        restart_episodes=policy_mapping_fn is not None and learners > 1,
    )
    _check_order(learners, [*before.ids, policy_id], before, policies_to_train)
    answers = transaction.check(
        check_addition,
        request,
        description=f"module {policy_id!r} cannot be added",
        advice=_NOTHING,
    )
    # Only a learner has all weights of a module, so only learners describe the new module.
    info = next(each for each in answers.values_of(transaction.learners) if each is not None)
    prepared = prepare(policy_id, snap, info, "new")
    pipeline, notes = new_stack_filters(algo, {policy_id: snap}, agent_ids)
    load = request.load.replace(plans={policy_id: prepared.plan}, pipeline=pipeline)
    request = request.replace(load=load)
    payload = Payload(transaction.workers, {policy_id: prepared})
    with transaction.changes(before, "the module was not added"):
        report = transaction.apply_and_prove(
            add_module,
            request,
            payload=payload,
            info=before.replace(policies={policy_id: info}),
            expected={policy_id: prepared.expected},
            notes=prepared.notes + notes,
        )
    transaction.commit(transaction.replay_of(request, payload, add_module), policy_mapping_fn)
    spec = _present_spec(transaction)
    for config in (algo.config, algo.learner_group.config):
        with unfrozen(config):
            config.policies[policy_id] = PolicySpec()
            config.rl_module(rl_module_spec=spec)
            _follow(config, policy_mapping_fn, policies_to_train)
    return report


def remove_new(
    transaction: Transaction,
    before: WorkerInfo,
    policy_id: str,
    *,
    policy_mapping_fn: Callable[..., str] | None,
    policies_to_train: ToTrain | None,
) -> SyncReport:
    """Remove a module on the new stack: see :func:`policystore.rllib.remove_policy`.

    Args:
        transaction: the transaction of this change.
        before: description of all modules that the Algorithm has.
        policy_id: id of the module.
        policy_mapping_fn: the new mapping function; None keeps the present function.
        policies_to_train: the new choice; None keeps the present choice.
    """
    algo = transaction.algo
    learners = transaction.learners
    runners = [worker for worker in transaction.workers if not worker.is_learner]
    _check_setup(algo, "removed")
    if len(before.ids) < 2:
        raise InvalidInputError(f"{policy_id!r} is the only module of the Algorithm. {_NOTHING}")
    left = [pid for pid in before.ids if pid != policy_id]
    _check_order(len(learners), left, before, policies_to_train)
    request = RemoveRequest(
        token=transaction.token,
        policy_id=policy_id,
        policy_mapping_fn=policy_mapping_fn,
        policies_to_train=policies_to_train,
        timeout=transaction.deadline.left(),
    )
    transaction.check(
        check_removal,
        request,
        description=f"module {policy_id!r} cannot be removed",
        advice=f"{_NOTHING} Pass policy_mapping_fn= that names others, and policies_to_train=.",
    )
    with transaction.changes(before, f"module {policy_id!r} was not removed"):
        # Runners first stop using the module, because their samples name it. Learners remove the
        # module before the runners do.
        transaction.apply(quiesce_runner, request, workers=runners)
        _drop_samples(algo, transaction.deadline)
        transaction.undo_on_driver(take_replay_tables(algo, policy_id))
        transaction.apply(remove_module, request, workers=learners)
        transaction.apply(remove_module, request, workers=runners)
    transaction.commit(ReplayEntry("remove", (policy_id,)), policy_mapping_fn)
    spec = _present_spec(transaction)
    for config in (algo.config, algo.learner_group.config):
        with unfrozen(config):
            config.policies = {k: v for k, v in config.policies.items() if k != policy_id}
            config.algorithm_config_overrides_per_module.pop(policy_id, None)
            overrides_per_module(config).pop(policy_id, None)
            config.rl_module(rl_module_spec=spec)
            to_train = policies_to_train or config.policies_to_train
            if to_train is not None and not callable(to_train):
                to_train = type(to_train)(mid for mid in to_train if mid != policy_id)
            _follow(config, policy_mapping_fn, to_train)
    # A new session, because the transaction still has the removed module in its descriptions.
    after = Session(algo, _time_left(transaction))
    return after.report(after.describe(None))


def _check_setup(algo: Algorithm, change: str) -> None:
    """Check that RLlib can change the modules of an Algorithm while the Algorithm runs.

    Args:
        algo: an Algorithm of the new stack.
        change: ``added`` or ``removed``, for messages.

    Raises:
        InvalidInputError: the Algorithm would fail later; the message says why.
    """
    config = algo.config
    if not is_multi_agent(config):
        raise InvalidInputError(
            f"modules can be {change} in a multi-agent Algorithm only; this one has a single "
            f"agent. Give its config .multi_agent(policies=…, policy_mapping_fn=…). {_NOTHING}"
        )
    if getattr(config, "num_aggregator_actors_per_learner", 0):
        raise InvalidInputError(
            "this Algorithm has aggregator actors, which keep the modules they were made with: "
            f"once a module is {change}, the learner never learns again. Use "
            f"num_aggregator_actors_per_learner=0. {_NOTHING}"
        )
    if (config.num_learners or 0) > 1 and any(
        cls.__name__ in _SPLITTING for cls in type(algo).__mro__
    ):
        raise InvalidInputError(
            f"{type(algo).__name__} with {config.num_learners} learners: RLlib splits samples of "
            "its replay buffer by module, and learners that hold other modules abort. Use "
            f"num_learners of 0 or 1. {_NOTHING}"
        )


def _check_order(
    learners: int, ids: list[str], before: WorkerInfo, policies_to_train: ToTrain | None
) -> None:
    """Check that several learners would list the modules in training in one order.

    Learners average gradients in the order in which their batches list the modules. This order
    depends on the ids and on the mapping, and may differ between processes. If two learners have
    different orders, the learners abort. That also happens with RLlib's own ``add_module``.

    Raises:
        InvalidInputError: several learners, and more than one policy of ``ids`` in training.
    """
    if learners < 2:
        return
    trained = [pid for pid in ids if before.is_trained(pid, policies_to_train)]
    if len(trained) > 1:
        raise InvalidInputError(
            f"with {learners} learners and {', '.join(map(repr, trained))} in training the "
            "learners may list these policies in different orders, and abort. Let "
            f"policies_to_train= name one policy only, or use num_learners of 0 or 1. {_NOTHING}"
        )


def _plain(spec: RLModuleSpec) -> RLModuleSpec:
    """Return the same spec as an object of RLlib's own class.

    Nodes without policystore have only RLlib's class.
    """
    return RLModuleSpec(
        module_class=spec.module_class,
        observation_space=spec.observation_space,
        action_space=spec.action_space,
        learner_only=spec.learner_only,
        model_config=spec.model_config,
        catalog_class=spec.catalog_class,
    )


def _drop_samples(algo: Algorithm, deadline: Deadline) -> None:
    """Drop samples of IMPALA and APPO that are on their way, because they may name the module.

    A learner that gets a sample of a removed module never answers again
    (``core/learner/learner.py:1100``).
    """
    group = algo.env_runner_group
    manager = None if group is None else actor_manager(group)
    while manager is not None and manager.num_outstanding_async_reqs():
        if not deadline.left():
            raise StepFailedError({"samples": "some samples were on their way until the timeout"})
        manager.fetch_ready_async_reqs(timeout_seconds=min(0.2, deadline.left()))
    clear_waiting_batches(algo)


def _time_left(transaction: Transaction) -> float:
    """Return the seconds for the last steps, after all workers have changed: at least ten."""
    return max(transaction.deadline.left(), 10.0)


def _present_spec(transaction: Transaction) -> MultiRLModuleSpec:
    """Return the spec of the modules that the first learner holds now.

    Raises:
        StorageError: the learner does not answer.
    """
    leader = transaction.learners[0]
    deadline = Deadline(_time_left(transaction))
    return transaction.call(spec_of_modules, workers=[leader], deadline=deadline)[leader].get()


def _follow(
    config: AlgorithmConfig, mapping: Callable[..., str] | None, policies_to_train: ToTrain | None
) -> None:
    """Set the mapping function and the policies to train in a config; None changes nothing."""
    if mapping is not None:
        config.multi_agent(policy_mapping_fn=mapping)
    if policies_to_train is not None:
        config.multi_agent(policies_to_train=policies_to_train)
