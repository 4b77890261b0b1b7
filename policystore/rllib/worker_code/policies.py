"""Add policies of the old stack to live rollout workers, and remove them.

Runs in actors, sent by value (``messages/wire.py``). Each function raises where it fails.

Policies are built and put in place here and not by ``RolloutWorker.add_policy``, which deepcopies
the whole config, gives random weights first, and calls ``on_create_policy`` for every policy there
is (``evaluation/rollout_worker.py:1723``, ``:1852``). RLlib still uses that method for restarted
workers and checkpoints. So a policy's own ``config`` is made in such a way that the method works
with it.
"""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    add_model_state_views,
    restart_episodes_of,
)
from policystore.rllib.worker_code.messages.answers import WorkerDigests
from policystore.rllib.worker_code.messages.requests import (
    AddPolicyRequest,
    PolicyRecipe,
    RemoveRequest,
    SteerRequest,
)
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.rollback import keep_for_rollback, rolled_back_on_error
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to, differences
from policystore.rllib.worker_code.weights import report_digests, write_filters, write_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.connectors.connector import Connector, ConnectorContext
    from ray.rllib.evaluation.rollout_worker import RolloutWorker
    from ray.rllib.models.preprocessors import Preprocessor
    from ray.rllib.policy.policy import Policy, PolicySpec

    from policystore.rllib.worker_code.messages.requests import Payload

__all__ = ["add_policy", "build", "remove_policy", "steer_policies"]

# Attributes of the function that says which policies are trained: ids of removed policies, and the
# function that decides for all other policies.
_GONE = "_policystore_gone"
_INNER = "_policystore_inner"


# Adding ------------------------------------------------------------------------------------------


def add_policy(
    worker: RolloutWorker | PolicyAccess, request: AddPolicyRequest, payload: Payload
) -> WorkerDigests:
    """Build a policy, load its weights, put it into use, and return digests of the weights.

    If this raises, the worker is as it was before.

    Args:
        worker: a rollout worker.
        request: what to add.
        payload: its weights.

    Raises:
        RefusedError: the worker has a policy of this id.
    """
    worker = access_to(worker).worker
    recipe, load = request.recipe, request.load
    pid = recipe.policy_id
    if pid in worker.policy_map:
        raise RefusedError(f"it has a policy {pid!r} already")
    policy = build(worker, recipe)
    _keep(worker, load.token, pid, None)
    with rolled_back_on_error(worker, load.token):
        _insert(worker, pid, policy, _spec_of(policy), None)
        worker.callbacks.on_create_policy(policy_id=pid, policy=policy)
        # After the callback, which may change the policy: the digests are of the final weights.
        access = PolicyAccess(worker)
        wrong = differences(access.entries(pid), load.plans[pid][1])
        if wrong:
            raise ValueError(wrong)
        write_policy(access, pid, payload[pid])
        write_filters(access, load)
        _train_again(worker, pid)
        return report_digests(PolicyAccess(worker), load.plans, load.timeout)


def build(worker: RolloutWorker, recipe: PolicyRecipe) -> Policy:
    """Return a policy with random weights, built for a worker; the worker is not changed."""
    running = worker.config.to_dict()
    config = copy.deepcopy(recipe.config)
    config.update({key: running[key] for key in recipe.running_keys if key in running})
    config.update(recipe.forced)
    config["worker_index"] = worker.worker_index
    config["__policy_id"] = recipe.policy_id
    # A restarted worker makes its list of filters from this key, and training needs the same
    # filters on all workers (utils/filter_manager.py:63). So the key names the filter of the
    # pipeline.
    config["observation_filter"] = recipe.filter_name
    policy = recipe.cls(*recipe.spaces, config)
    if recipe.config_class is not None:
        # A restarted worker reads a dict by the running Algorithm's class, whose training() may not
        # take its keys (algorithms/algorithm_config.py:843). RLlib takes a config object as it is.
        policy.config = recipe.config_class().update_from_dict(config)
    add_model_state_views(policy)
    _connect(policy, recipe, worker.config)
    exploration = recipe.exploration
    if "timestep" in exploration:
        policy.global_timestep = exploration["timestep"]
    if "stddev" in exploration:
        policy.exploration.stddev = policy.exploration.stddev_val = exploration["stddev"]
    if "custom" in exploration:
        policy.exploration.set_state(exploration["custom"])
    return policy


def _connect(policy: Policy, recipe: PolicyRecipe, running: AlgorithmConfig) -> None:
    """Give a policy its own connectors; the running Algorithm decides how rewards are clipped."""
    from ray.rllib.connectors.action.pipeline import ActionConnectorPipeline
    from ray.rllib.connectors.agent.clip_reward import ClipRewardAgentConnector
    from ray.rllib.connectors.agent.pipeline import AgentConnectorPipeline
    from ray.rllib.connectors.connector import ConnectorContext

    ctx = ConnectorContext.from_policy(policy)
    clip = running.clip_rewards or running.is_atari
    agent = []
    if clip is True:
        agent.append(ClipRewardAgentConnector(ctx, sign=True))
    elif type(clip) is float:
        agent.append(ClipRewardAgentConnector(ctx, limit=abs(clip)))
    agent += [_connector(ctx, *each) for each in recipe.connectors["agent"]]
    policy.agent_connectors = AgentConnectorPipeline(ctx, agent)
    action = [_connector(ctx, *each) for each in recipe.connectors["action"]]
    policy.action_connectors = ActionConnectorPipeline(ctx, action)


def _connector(
    ctx: ConnectorContext,
    make: Callable[..., Connector],
    arguments: tuple[Any, ...],
    options: dict[str, Any],
) -> Connector:
    made = make(ctx, *arguments)
    for name, value in options.items():
        # The concurrent class ignores its arguments (connectors/agent/mean_std_filter.py:178).
        setattr(made.filter, name, value)
    return made


def _spec_of(policy: Policy) -> PolicySpec:
    from ray.rllib.policy.policy import PolicySpec

    preprocessed = policy.observation_space
    raw = getattr(preprocessed, "original_space", preprocessed)
    return PolicySpec(type(policy), raw, policy.action_space, policy.config)


def _insert(
    worker: RolloutWorker,
    pid: str,
    policy: Policy,
    spec: PolicySpec | None,
    preprocessor: Preprocessor | None,
) -> None:
    """Put a policy into a worker's tables, as ``RolloutWorker.add_policy`` does."""
    from ray.rllib.connectors.util import maybe_get_filters_for_syncing

    worker.policy_map[pid] = policy
    worker.policy_dict[pid] = spec
    worker.preprocessors[pid] = preprocessor
    maybe_get_filters_for_syncing(worker, pid)


# Which policies play and which are trained -------------------------------------------------------


def steer_policies(worker: RolloutWorker | PolicyAccess, request: SteerRequest) -> None:
    """Set a worker's mapping function and its policies to train.

    If this raises, the worker is as it was before the transaction.

    Raises:
        RefusedError: the worker has another mapping function after it was set.
    """
    worker = access_to(worker).worker
    mapping, to_train = request.policy_mapping_fn, request.policies_to_train
    functions = (worker.policy_mapping_fn, worker.is_policy_to_train)
    keep_for_rollback(worker, request.token, functools.partial(_put_functions_back, functions))
    with rolled_back_on_error(worker, request.token):
        if mapping is not None:
            worker.set_policy_mapping_fn(mapping)
            if worker.policy_mapping_fn is not mapping:
                raise RefusedError("it keeps another mapping function")
        if to_train is not None:
            worker.set_is_policy_to_train(to_train)


def _put_functions_back(
    functions: tuple[Callable[..., str], Callable[..., bool] | None], access: PolicyAccess
) -> None:
    access.worker.policy_mapping_fn, access.worker.is_policy_to_train = functions


def _train_no_more(worker: RolloutWorker, pid: str) -> None:
    """Exclude a policy that is gone from training: batches under way may still hold it."""
    if PolicyAccess(worker).is_trained(pid):
        decide = worker.is_policy_to_train
        gone = getattr(decide, _GONE, frozenset()) | {pid}
        worker.is_policy_to_train = _excluding(getattr(decide, _INNER, decide), gone)


def _train_again(worker: RolloutWorker, pid: str) -> None:
    """Undo :func:`_train_no_more`, for a policy that is added again."""
    decide = worker.is_policy_to_train
    gone: frozenset[str] = getattr(decide, _GONE, frozenset())
    if pid in gone:
        inner, left = getattr(decide, _INNER), gone - {pid}
        worker.is_policy_to_train = _excluding(inner, left) if left else inner


def _excluding(decide: Callable[..., bool] | None, gone: frozenset[str]) -> Callable[..., bool]:
    """Return a function that says whether to train a policy; it says no for the ids in ``gone``."""

    def is_policy_to_train(pid: str, batch: Any = None) -> bool:
        return pid not in gone and (decide is None or bool(decide(pid, batch)))

    setattr(is_policy_to_train, _GONE, gone)
    setattr(is_policy_to_train, _INNER, decide)
    return is_policy_to_train


# Removing ----------------------------------------------------------------------------------------


def remove_policy(worker: RolloutWorker | PolicyAccess, request: RemoveRequest) -> None:
    """Remove a policy from a worker; if this raises, the worker has the policy as before."""
    worker = access_to(worker).worker
    pid = request.policy_id
    present = None
    if pid in worker.policy_map:
        spec, preprocessor = worker.policy_dict.get(pid), worker.preprocessors.get(pid)
        present = (worker.policy_map[pid], spec, preprocessor)
    _keep(worker, request.token, pid, present)
    with rolled_back_on_error(worker, request.token):
        _train_no_more(worker, pid)
        _forget(worker, pid)


def _forget(worker: RolloutWorker, pid: str) -> None:
    """Delete everything of a policy on a worker except the two functions. May be called twice.

    The two functions are the mapping function and the one that says what is trained.
    ``RolloutWorker.remove_policy`` leaves the filter and the episodes. Then training raises
    KeyError for the filter, and ``sample()`` for the episodes (``evaluation/episode_v2.py:131``).
    """
    restart_episodes_of(worker, pid)
    if pid in worker.policy_map:
        del worker.policy_map[pid]
    for table in (
        worker.preprocessors,
        worker.policy_dict,
        worker.filters,
        worker.global_vars["num_grad_updates_per_policy"],
    ):
        table.pop(pid, None)


def _keep(
    worker: RolloutWorker,
    token: str,
    pid: str,
    present: tuple[Policy, PolicySpec | None, Preprocessor | None] | None,
) -> None:
    """Keep for a roll-back all that adding or removing a policy changes on a worker."""
    functions = (worker.policy_mapping_fn, worker.is_policy_to_train)
    keep_for_rollback(worker, token, functools.partial(_put_back, pid, present, functions))


def _put_back(
    pid: str,
    present: tuple[Policy, PolicySpec | None, Preprocessor | None] | None,
    functions: tuple[Callable[..., str], Callable[..., bool] | None],
    access: PolicyAccess,
) -> None:
    """Give a worker back what :func:`_keep` kept."""
    worker = access.worker
    worker.policy_mapping_fn, worker.is_policy_to_train = functions
    if present is None:
        _forget(worker, pid)
        _train_no_more(worker, pid)
    else:
        _insert(worker, pid, *present)
