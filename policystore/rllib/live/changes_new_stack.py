"""Change the modules of a running Algorithm of the new API stack.

RLlib's ``add_module`` leaves the runners with random weights until the next ``train()``
(``algorithms/algorithm.py:2647``). RLlib's ``remove_module`` fails for IMPALA, APPO and SAC,
because their learners do not take the arguments of that call. The functions of this module give all
workers a new module together with its weights, or change no worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.policy.policy import PolicySpec

from policystore.errors import InvalidInputError
from policystore.rllib.live.changes import Addition, Stack, remove_requests
from policystore.rllib.live.checks.compatibility import prepare
from policystore.rllib.live.checks.filters import new_stack_filters
from policystore.rllib.live.transaction import StepFailedError, Transaction
from policystore.rllib.new_stack.rebuild import module_spec
from policystore.rllib.worker_code.compat import is_multi_agent, overrides_per_module
from policystore.rllib.worker_code.messages.answers import WorkerInfo
from policystore.rllib.worker_code.messages.requests import AddModuleRequest, LoadRequest
from policystore.rllib.worker_code.modules import (
    add_module,
    check_addition,
    remove_module,
    spec_of_modules,
    steer_modules,
    without,
)
from policystore.rllib.workers.calls import Deadline
from policystore.rllib.workers.compat import (
    actor_manager,
    clear_waiting_batches,
    env_to_module_of_driver,
    has_evaluation_mapping,
    set_evaluation_mapping,
    take_replay_tables,
    unfrozen,
)
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec

    from policystore.rllib.worker_code.messages.answers import ToTrain

__all__ = ["NewStack", "drop_late_states"]

_NOTHING = "Nothing was changed."
# For these algorithms RLlib splits the samples of the replay buffer by module.
_SPLITTING = ("SAC", "DQN")


class NewStack(Stack[AddModuleRequest]):
    """Changes of an Algorithm that has learners and env runners."""

    name = "new"
    add = staticmethod(add_module)
    steer = staticmethod(steer_modules)

    def check(self, left: list[str]) -> None:
        """Refuse changes that RLlib cannot carry out while the Algorithm runs."""
        changes = self.changes
        if not (changes.add or changes.steers):
            return
        to_train = changes.steering.policies_to_train
        change = "added" if changes.add else "removed" if changes.remove else "mapped"
        _check_setup(self.algo, change)
        if changes.add or changes.remove or to_train is not None:
            _check_order(len(self.transaction.learners), left, self.before, to_train)

    @property
    def restarts_episodes(self) -> bool:
        """Whether all episodes begin anew: after a removal, and for several learners.

        With several learners, an episode that continues under the old mapping lists its modules in
        another order. Then the learners' all-reduces do not match, and a learner aborts.
        """
        several = len(self.transaction.learners) > 1
        mapping = self.changes.steering.policy_mapping_fn
        return bool(self.changes.remove) or (several and mapping is not None)

    def prepare_addition(self, policy_id: str, snap: Snapshot) -> Addition[AddModuleRequest]:
        """Check that a module can be added: each worker builds it and throws it away."""
        transaction, changes = self.transaction, self.changes
        overrides = changes.config_overrides.get(policy_id)
        request = AddModuleRequest(
            policy_id=policy_id,
            spec=_plain(module_spec(snap, changes.trust)),
            weight_names=sorted(snap.weights),
            load=LoadRequest(transaction.token, {}, transaction.deadline.left(), seq=self.seq),
            policies_to_train=changes.steering.policies_to_train,
            config_overrides=None if overrides is None else dict(overrides),
        )
        answers = transaction.check(
            check_addition,
            request,
            description=f"module {policy_id!r} cannot be added",
            advice=_NOTHING,
        )
        # Only a learner has all weights of a module, so only learners describe the new module.
        info = next(each for each in answers.values_of(transaction.learners) if each is not None)
        prepared = prepare(policy_id, snap, info, self.name)
        load = request.load.replace(
            plans={policy_id: prepared.plan},
            learner_only=(policy_id,) if info.learner_only else (),
        )
        load, notes = self.filters({policy_id: snap}, load)
        return Addition(request.replace(load=load), info, prepared, prepared.notes + notes)

    def filters(
        self, snaps: Mapping[str, Snapshot], request: LoadRequest
    ) -> tuple[LoadRequest, tuple[str, ...]]:
        """Return a request with the states of filters, which belong to agents."""
        if not snaps:
            return request, ()
        pipeline, notes = new_stack_filters(self.algo, snaps, self.changes.agent_ids)
        return request.replace(pipeline=pipeline), notes

    def remove(self, policy_ids: tuple[str, ...]) -> None:
        """Remove modules: learners remove each module before the env runners do."""
        transaction = self.transaction
        runners = [worker for worker in transaction.workers if not worker.is_learner]
        _drop_samples(self.algo, transaction)
        for request in remove_requests(self, policy_ids):
            transaction.undo_on_driver(take_replay_tables(self.algo, request.policy_id))
            transaction.apply(remove_module, request, workers=transaction.learners)
            transaction.apply(remove_module, request, workers=runners)

    def after(self, request: LoadRequest) -> None:
        """Let the driver's configs and filters follow, and drop old weights on their way."""
        if (self.changes.load or self.changes.add) and self.before.asynchronous:
            drop_late_states(self.algo)
        _set_filters_of_driver(self.transaction, request)
        if self.changes.add or self.changes.steers:
            self._follow()

    def _follow(self) -> None:
        """Make the driver's configs describe the modules, as ``Algorithm.add_module`` does."""
        algo, changes = self.algo, self.changes
        steering = changes.steering
        spec = _present_spec(self.transaction)
        for config in (algo.config, algo.learner_group.config):
            with unfrozen(config):
                config.policies = {
                    pid: each for pid, each in config.policies.items() if pid not in changes.remove
                } | {pid: PolicySpec() for pid in changes.add}
                for pid in changes.remove:
                    config.algorithm_config_overrides_per_module.pop(pid, None)
                    overrides_per_module(config).pop(pid, None)
                for pid, overrides in changes.config_overrides.items():
                    config.algorithm_config_overrides_per_module[pid] = dict(overrides)
                config.rl_module(rl_module_spec=spec)
                to_train = steering.policies_to_train or config.policies_to_train
                config.multi_agent(policies_to_train=without(to_train, changes.remove))
                if steering.policy_mapping_fn is not None:
                    config.multi_agent(policy_mapping_fn=steering.policy_mapping_fn)
        if steering.evaluation_policy_mapping_fn is not None:
            set_evaluation_mapping(algo, steering.evaluation_policy_mapping_fn, own=True)
        elif steering.policy_mapping_fn is not None and not has_evaluation_mapping(algo):
            set_evaluation_mapping(algo, steering.policy_mapping_fn, own=False)


def _check_setup(algo: Algorithm, change: str) -> None:
    """Check that RLlib can change the modules of an Algorithm while the Algorithm runs.

    Args:
        algo: an Algorithm of the new stack.
        change: ``added``, ``removed`` or ``mapped``, for messages.

    Raises:
        InvalidInputError: the Algorithm would fail later; the message says why.
    """
    config = algo.config
    if not is_multi_agent(config):
        raise InvalidInputError(
            f"modules can be {change} in a multi-agent Algorithm only; this one has a single "
            f"agent. Give its config .multi_agent(policies=…, policy_mapping_fn=…). {_NOTHING}"
        )
    if change == "mapped":
        return
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


def _drop_samples(algo: Algorithm, transaction: Transaction) -> None:
    """Drop samples of IMPALA and APPO that are on their way, because they may name the module.

    A learner that gets a sample of a removed module never answers again
    (``core/learner/learner.py:1100``).
    """
    group, deadline = algo.env_runner_group, transaction.deadline
    manager = None if group is None else actor_manager(group)
    while manager is not None and manager.num_outstanding_async_reqs():
        if not deadline.left():
            raise StepFailedError({"samples": "some samples were on their way until the timeout"})
        manager.fetch_ready_async_reqs(timeout_seconds=min(0.2, deadline.left()))
    clear_waiting_batches(algo)


def _present_spec(transaction: Transaction) -> MultiRLModuleSpec:
    """Return the spec of the modules that the first learner holds now.

    Raises:
        StorageError: the learner does not answer.
    """
    leader = transaction.learners[0]
    deadline = Deadline(transaction.seconds_to_end())
    return transaction.call(spec_of_modules, workers=[leader], deadline=deadline)[leader].get()


def drop_late_states(algo: Algorithm) -> None:
    """Drop old weights that learners sent to the driver and that no runner has got yet.

    A runner drops the first such message, because the message has a lower number. But the runner
    also takes over the lower number (``env/single_agent_env_runner.py:621``), so it would not drop
    a second such message.
    """
    manager = actor_manager(algo.learner_group) if algo.learner_group is not None else None
    if manager is not None and manager.num_outstanding_async_reqs():
        # All learners have answered the load after they sent these weights, so these have arrived.
        manager.fetch_ready_async_reqs(timeout_seconds=1.0)


def _set_filters_of_driver(transaction: Transaction, request: LoadRequest) -> None:
    """Set the merged filters of a driver that has no local env runner (algorithm.py:992)."""
    pipeline = env_to_module_of_driver(transaction.algo)
    if not request.pipeline or pipeline is None:
        return
    if any(w.group == "train" and not w.is_remote for w in transaction.workers):
        return
    now = pipeline.get_state()
    pipeline.set_state(
        {name: {**now[name], **state} for name, state in request.pipeline.items() if name in now}
    )
