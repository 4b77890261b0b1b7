"""Policies of the old stack that come to and leave live rollout workers. Runs there; sent by value.

Imports nothing of policystore but what is sent along (``worker_side.py`` says why). Nothing raises
but :func:`build`.

Policies are built and put in place here and not by ``RolloutWorker.add_policy``, which deepcopies
the whole config, gives random weights first, and calls ``on_create_policy`` for every policy there
is (``evaluation/rollout_worker.py:1723``, ``:1852``). RLlib uses that for restarted workers and
checkpoints all the same, so a policy's own ``config`` is made to survive it.
"""

from __future__ import annotations

import copy
from typing import Any

from policystore.rllib.worker_code.policy_mapping import DRAWS, incompatible_agents
from policystore.rllib.worker_code.tensors import PolicyAccess, misfit
from policystore.rllib.worker_code.weights import (
    UNDO,
    held_by,
    report_digests,
    write_filters,
    write_policy,
)

__all__ = ["build", "can_map", "drop_policy", "join_policy", "leave_policy"]

_GONE = "_policystore_gone"
_INNER = "_policystore_inner"


# Coming ------------------------------------------------------------------------------------------


def join_policy(worker: Any, job: Any, payload: Any) -> dict[str, Any]:
    """Build a policy, give it its weights, and let it take part; say what the worker then holds.

    Args:
        worker: a rollout worker.
        job: ``token``, ``plans``, ``filters``, ``timeout`` as for ``worker_side.put``, ``mapping``
            and ``to_train`` (None: unchanged), and what :func:`build` takes.
        payload: as for ``worker_side.put``.

    Returns:
        As ``worker_side.tell``; or ``error``, and then the worker is as it was before.
    """
    try:
        worker = held_by(worker).worker
        pid = job["pid"]
        if pid in worker.policy_map:
            return {"error": f"it has a policy {pid!r} already"}
        policy = build(worker, job)
        setattr(worker, UNDO, (job["token"], {"pid": pid, "was": None, **_functions(worker)}))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        _insert(worker, pid, policy, _spec_of(policy), None)
        worker.callbacks.on_create_policy(policy_id=pid, policy=policy)
        # After the callback: what is proven is what is held.
        held = PolicyAccess(worker)
        wrong = misfit(held.bits(pid), job["plans"][pid][1])
        if wrong:
            raise ValueError(wrong)
        write_policy(held, pid, payload[pid])
        write_filters(held, job)
        _welcome(worker, pid)
        _follow(worker, job)
        return report_digests(PolicyAccess(worker), job["plans"], job["timeout"])
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return {"error": why, "undone": leave_policy(worker, job["token"])}


def build(worker: Any, job: Any) -> Any:
    """A policy with random weights, as it fits into a worker, which is not changed.

    Args:
        worker: a rollout worker.
        job: ``pid``, ``cls``, ``spaces``, ``config``, ``running`` (keys of the config that the
            worker's own has the say on), ``forced`` (key -> value, above both), ``config_class``
            (of AlgorithmConfig, or None), ``connectors``, ``filter``, ``exploration``.
    """
    import torch

    own = worker.config.to_dict()
    config = copy.deepcopy(job["config"])
    config.update({key: own[key] for key in job["running"] if key in own})
    config.update(job["forced"])
    config["worker_index"] = worker.worker_index
    config["__policy_id"] = job["pid"]
    # A restarted worker makes its list of filters from this, and training demands the same filters
    # of all workers (utils/filter_manager.py:63): it says what the pipeline really has.
    config["observation_filter"] = job["filter"]
    with torch.random.fork_rng(devices=[]):
        policy = job["cls"](*job["spaces"], config)
    if job["config_class"] is not None:
        # A restarted worker reads a dict by the running Algorithm's class, whose training() may not
        # take its keys (algorithms/algorithm_config.py:843). Such an object is taken as it is.
        policy.config = job["config_class"]().update_from_dict(config)
    if not getattr(policy, "_model_init_state_automatically_added", True):
        policy._update_model_view_requirements_from_init_state()  # rollout_worker.py:500
    _connect(policy, job["connectors"], worker.config)
    exploration = job["exploration"]
    if "timestep" in exploration:
        policy.global_timestep = exploration["timestep"]
    if "stddev" in exploration:
        policy.exploration.stddev = policy.exploration.stddev_val = exploration["stddev"]
    if "custom" in exploration:
        policy.exploration.set_state(exploration["custom"])
    return policy


def _connect(policy: Any, makers: Any, running: Any) -> None:
    """Its own connectors, but how rewards are clipped is the running Algorithm's business."""
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
    agent += [_connector(ctx, *each) for each in makers["agent"]]
    policy.agent_connectors = AgentConnectorPipeline(ctx, agent)
    action = [_connector(ctx, *each) for each in makers["action"]]
    policy.action_connectors = ActionConnectorPipeline(ctx, action)


def _connector(ctx: Any, make: Any, arguments: Any, options: Any) -> Any:
    made = make(ctx, *arguments)
    for name, value in options.items():
        # The concurrent class ignores its arguments (connectors/agent/mean_std_filter.py:178).
        setattr(made.filter, name, value)
    return made


def _spec_of(policy: Any) -> Any:
    from ray.rllib.policy.policy import PolicySpec

    seen = policy.observation_space
    raw = getattr(seen, "original_space", seen)
    return PolicySpec(type(policy), raw, policy.action_space, policy.config)


def _insert(worker: Any, pid: str, policy: Any, spec: Any, preprocessor: Any) -> None:
    """What ``RolloutWorker.add_policy`` does with a policy, once it has one."""
    from ray.rllib.connectors.util import maybe_get_filters_for_syncing

    worker.policy_map[pid] = policy
    worker.policy_dict[pid] = spec
    worker.preprocessors[pid] = preprocessor
    maybe_get_filters_for_syncing(worker, pid)


# Who plays and who is trained --------------------------------------------------------------------


def _functions(worker: Any) -> dict[str, Any]:
    return {"mapping": worker.policy_mapping_fn, "to_train": worker.is_policy_to_train}


def _follow(worker: Any, job: Any) -> None:
    if job["mapping"] is not None:
        worker.set_policy_mapping_fn(job["mapping"])
    if job["to_train"] is not None:
        worker.set_is_policy_to_train(job["to_train"])


def _turn_away(worker: Any, pid: str) -> None:
    """No training of a policy that is not there: batches on their way may still hold it."""
    if PolicyAccess(worker).is_trained(pid):
        decide = worker.is_policy_to_train
        gone = getattr(decide, _GONE, frozenset()) | {pid}
        worker.is_policy_to_train = _saying_no(getattr(decide, _INNER, decide), gone)


def _welcome(worker: Any, pid: str) -> None:
    """The reverse, for a policy that comes back."""
    decide = worker.is_policy_to_train
    gone: frozenset[str] = getattr(decide, _GONE, frozenset())
    if pid in gone:
        inner, left = getattr(decide, _INNER), gone - {pid}
        worker.is_policy_to_train = _saying_no(inner, left) if left else inner


def _saying_no(decide: Any, gone: Any) -> Any:
    def is_policy_to_train(pid: str, batch: Any = None) -> bool:
        return pid not in gone and (decide is None or bool(decide(pid, batch)))

    setattr(is_policy_to_train, _GONE, gone)
    setattr(is_policy_to_train, _INNER, decide)
    return is_policy_to_train


def can_map(worker: Any, job: Any) -> dict[str, Any]:
    """Whether a mapping function names policies that there will be, and no others.

    It is asked about the agents of the worker's episodes and environment, and with new episodes
    many times, as it may draw lots.

    Args:
        worker: a rollout worker.
        job: ``mapping`` (None: the worker's own), ``coming`` (ids, and their
            observation and action spaces) and ``leaving`` (ids).

    Returns:
        ``{}``; or ``error``.
    """
    import random

    import numpy as np

    try:
        worker = held_by(worker).worker
        base = getattr(_runner_of(worker), "_base_env", None)
        if job["leaving"] and base is not None:
            from ray.rllib.env.multi_agent_env import MultiAgentEnvWrapper

            if not isinstance(base, MultiAgentEnvWrapper):
                # Remote and external ones reset in other ways.
                return {"error": f"its episodes, in a {type(base).__name__}, cannot start anew"}
        known = (set(worker.policy_map.keys()) | set(job["coming"])) - set(job["leaving"])
        states = random.getstate(), np.random.get_state()
        try:
            named = _named(worker, job["mapping"] or worker.policy_mapping_fn)
            try:
                before = _named(worker, worker.policy_mapping_fn)
            except Exception:
                # The user's own function, which is about to go.
                before = []
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
        wrong = sorted({f"{pid!r} for agent {a!r}" for a, pid in named if pid not in known})
        if wrong:
            return {"error": f"policy_mapping_fn names {', '.join(wrong[:5])}"}
        spaces = dict(job["coming"])
        for pid in {pid for _, pid in [*before, *named]} - spaces.keys():
            if pid in worker.policy_map:
                policy = worker.policy_map[pid]
                spaces[pid] = (policy.observation_space, policy.action_space)
        other = incompatible_agents(before, named, spaces)
        return {"error": f"policy_mapping_fn: {other}"} if other else {}
    except Exception as error:
        return {"error": f"policy_mapping_fn raised {type(error).__name__}: {error}"}


def _named(worker: Any, mapping: Any) -> list[tuple[Any, Any]]:
    from ray.rllib.evaluation.episode_v2 import EpisodeV2

    found = []
    agents: set[Any] = set()
    for attribute in ("possible_agents", "agents", "_agent_ids"):  # older ones have the last only
        agents = agents or set(getattr(worker.env, attribute, None) or ())
    for episode in list(getattr(_runner_of(worker), "_active_episodes", {}).values()):
        agents |= episode._agent_to_policy.keys()
        for agent in list(episode._agent_to_policy):
            found += [(agent, mapping(agent, episode, worker=worker)) for _ in range(4)]
    for agent in agents:
        for _ in range(DRAWS):
            episode = EpisodeV2(
                0, worker.policy_map, mapping, worker=worker, callbacks=worker.callbacks
            )
            found.append((agent, mapping(agent, episode, worker=worker)))
    return found


def _runner_of(worker: Any) -> Any:
    return getattr(getattr(worker, "sampler", None), "_env_runner_obj", None)


# Going -------------------------------------------------------------------------------------------


def drop_policy(worker: Any, job: Any) -> dict[str, Any]:
    """Take a policy away from a worker; or ``error``, and then it has it as before.

    Args:
        worker: a rollout worker.
        job: ``token``, ``pid``, ``mapping`` and ``to_train`` (None: unchanged).
    """
    try:
        worker = held_by(worker).worker
        pid = job["pid"]
        was = None
        if pid in worker.policy_map:
            spec, preprocessor = worker.policy_dict.get(pid), worker.preprocessors.get(pid)
            was = (worker.policy_map[pid], spec, preprocessor)
        setattr(worker, UNDO, (job["token"], {"pid": pid, "was": was, **_functions(worker)}))
        _follow(worker, job)
        _turn_away(worker, pid)
        _forget(worker, pid)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return {"error": why, "undone": leave_policy(worker, job["token"])}
    return {}


def _forget(worker: Any, pid: str) -> None:
    """All that a worker knows of a policy but the two functions. May be called twice.

    ``RolloutWorker.remove_policy`` leaves the filter, for which training then raises KeyError, and
    the episodes, in which ``sample()`` then raises it (``evaluation/episode_v2.py:131``).
    """
    runner = _runner_of(worker)
    if runner is not None:
        # Episodes that play it start anew with the next step; what was collected of them is lost.
        for env_id, episode in list(runner._active_episodes.items()):
            if pid in episode._agent_to_policy.values():
                del runner._active_episodes[env_id]
                runner._batch_builders.pop(env_id, None)
                runner._base_env.try_reset(env_id)
                for other in worker.policy_map.cache.values():
                    if other.agent_connectors is not None:
                        other.agent_connectors.reset(env_id)
        for env_id, builder in list(runner._batch_builders.items()):
            collectors = builder.policy_collectors
            if collectors.pop(pid, None) is not None and not collectors:
                del runner._batch_builders[env_id]
    if pid in worker.policy_map:
        del worker.policy_map[pid]
    for table in (
        worker.preprocessors,
        worker.policy_dict,
        worker.filters,
        worker.global_vars["num_grad_updates_per_policy"],
    ):
        table.pop(pid, None)


def leave_policy(worker: Any, token: str) -> dict[str, Any]:
    """Put a worker back to before the job of ``token``, if it took part in it."""
    try:
        worker = held_by(worker).worker
        found = getattr(worker, UNDO, None)
        if found is None or found[0] != token:
            return {"undone": False}
        kept = found[1]
        worker.policy_mapping_fn = kept["mapping"]
        worker.is_policy_to_train = kept["to_train"]
        if kept["was"] is None:
            _forget(worker, kept["pid"])
            _turn_away(worker, kept["pid"])
        else:
            _insert(worker, kept["pid"], *kept["was"])
        delattr(worker, UNDO)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"undone": True}
