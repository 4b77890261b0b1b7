"""Private parts of RLlib that code inside learners and env runners reads or changes.

There is one function for each private part. A new version of Ray needs changes only here and in
``workers/compat.py``, which does the same for the driver. ``docs/architecture.md`` lists all
private parts. Other modules use no name of RLlib that begins with an underscore. Imports nothing of
policystore (``messages/wire.py`` says why).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
    from ray.rllib.core.rl_module.rl_module import RLModule
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.evaluation.episode_v2 import EpisodeV2
    from ray.rllib.evaluation.rollout_worker import RolloutWorker
    from ray.rllib.policy.policy import Policy

    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = [
    "active_episodes",
    "add_model_state_views",
    "agents_of_env",
    "all_fields",
    "base_env",
    "clear_queued_states",
    "device_of",
    "env_to_module",
    "episode_policies",
    "holds_originals",
    "in_queue",
    "is_asynchronous",
    "is_learner",
    "is_learner_only",
    "is_multi_agent",
    "is_old_worker",
    "learner_tables",
    "learner_thread",
    "loader_threads",
    "lock_for_reading",
    "module_spec",
    "module_tables",
    "ongoing_episodes",
    "optimizer_names",
    "optimizer_parameters",
    "overrides_per_module",
    "remove_learner_module",
    "replace_method",
    "restart_all_episodes",
    "restart_episodes_of",
    "restart_every_episode",
    "restore_method",
    "runner_pipeline",
    "set_module_spec",
    "set_weights_seq",
    "single_env",
    "squares_name",
    "state_setter_name",
    "weights_seq",
]


def is_multi_agent(config: AlgorithmConfig) -> bool:
    """Return whether a config is of a multi-agent Algorithm."""
    # A method up to Ray 2.40, a property later.
    value = config.is_multi_agent
    return bool(value() if callable(value) else value)


def is_old_worker(worker: AnyWorker) -> bool:
    """Return whether a worker is a rollout worker of the old API stack."""
    return hasattr(worker, "policy_map")


def is_learner(worker: AnyWorker) -> bool:
    """Return whether a worker of the new API stack is a learner, and no env runner."""
    return hasattr(worker, "_module_optimizers")


def squares_name(stat: object) -> str:
    """Return the name of the sum of squared differences in a RunningStat of ``utils/filter.py``."""
    # Ray 2.40 calls it std_array, which it is not.
    return "sum_sq_diff_array" if hasattr(stat, "sum_sq_diff_array") else "std_array"


# Methods through which RLlib sets weights --------------------------------------------------------


def state_setter_name(holder: Policy | RLModule) -> str:
    """Return the name of the method through which RLlib sets the weights of a module or policy."""
    # A policy's set_state calls set_weights (policy/policy.py:1034).
    return "set_weights" if hasattr(holder, "get_weights") else "set_state"


def replace_method(holder: Policy | RLModule, name: str, function: Callable[..., Any]) -> None:
    """Let one module or policy have another function in place of a method of its class."""
    vars(holder)[name] = function


def restore_method(holder: Policy | RLModule, name: str) -> None:
    """Let a module or policy have the method of its class again."""
    vars(holder).pop(name, None)


def holds_originals(worker: AnyWorker) -> bool:
    """Return whether RLlib reads the policies of a worker for other workers and checkpoints.

    Only the local worker of the old stack, ``Algorithm.env_runner``, is such a worker.
    """
    if not is_old_worker(worker):
        return False
    return bool(worker.worker_index == 0 and not worker.config.in_evaluation)


# Env runners of the new stack --------------------------------------------------------------------


def weights_seq(worker: AnyWorker) -> int | None:
    """Return the number of the learner's update that made a worker's weights."""
    name = "weights_seq_no" if is_old_worker(worker) else "_weights_seq_no"
    number = getattr(worker, name, None)
    return number if type(number) is int else None


def set_weights_seq(worker: Learner | EnvRunner, number: int | None) -> None:
    """Set the number of the update that made a worker's weights.

    Runners drop weights of a lower number (``env/single_agent_env_runner.py:596``).
    """
    worker._weights_seq_no = number


def runner_pipeline(worker: AnyWorker | None, name: str) -> ConnectorPipelineV2 | None:
    """Return a connector pipeline of an env runner; None where it has none.

    An env runner that serves an external environment has none: its client owns them.

    Args:
        worker: any worker.
        name: ``env_to_module`` or ``module_to_env``.
    """
    return getattr(worker, f"_{name}", None)


def env_to_module(worker: AnyWorker) -> ConnectorPipelineV2 | None:
    """Return an env runner's pipeline from environment to module; None where it has none."""
    return runner_pipeline(worker, "env_to_module")


def ongoing_episodes(runner: EnvRunner) -> list[Any]:
    """Return the episodes under way on an env runner of the new stack."""
    return [each for each in getattr(runner, "_ongoing_episodes", None) or () if each is not None]


def restart_all_episodes(runner: EnvRunner) -> None:
    """Let all episodes of an env runner start anew with its next sample."""
    runner._needs_initial_reset = True


def device_of(runner: EnvRunner) -> Any:
    """Return the torch device of an env runner; None where it does not say."""
    return getattr(runner, "_device", None)


def single_env(runner: MultiAgentEnvRunner) -> Any:
    """Return the first environment of a multi-agent env runner, without wrappers."""
    # Before Ray 2.42 the runner's environment was the single one itself.
    return getattr(runner.env, "envs", [runner.env])[0].unwrapped


def module_tables(multi: MultiRLModule) -> tuple[dict[str, RLModule], dict[str, Any]]:
    """Return the tables of modules and of their specs that a MultiRLModule keeps."""
    return multi._rl_modules, multi.rl_module_specs


def is_learner_only(worker: AnyWorker, module_id: str) -> bool:
    """Return whether RLlib builds a module on learners alone.

    The module itself does not know it (``core/rl_module/rl_module.py:101``); its spec does.
    """
    multi = getattr(worker.module, "unwrapped", lambda: worker.module)()
    spec = getattr(multi, "rl_module_specs", {}).get(module_id)
    return bool(getattr(spec, "learner_only", False))


def all_fields(config: AlgorithmConfig) -> dict[str, Any]:
    """Return all fields of a config, the frozen flag among them."""
    fields: dict[str, Any] = vars(config)
    return fields


def overrides_per_module(config: AlgorithmConfig) -> dict[str, Any]:
    """Return the table of config overrides that RLlib has applied, by module."""
    overrides: dict[str, Any] = getattr(config, "_per_module_overrides", {})
    return overrides


# Learners ----------------------------------------------------------------------------------------

# Tables of learners in which RLlib's own remove_module leaves entries.
_LEFT_BEHIND = (
    "_lr_schedulers",
    "_grad_scalers",
    "last_update_ts_by_mid",
    "_last_update_ts_by_mid",
    "curr_log_alpha",
    "target_entropy",
)


def learner_tables(learner: Learner) -> list[dict[Any, Any]]:
    """Return every table by module, optimizer or parameter of any subclass of Learner."""
    return [table for table in vars(learner).values() if isinstance(table, dict)]


def optimizer_names(learner: Learner) -> dict[str, list[str]]:
    """Return the table of the names of optimizers, by module."""
    names: dict[str, list[str]] = learner._module_optimizers
    return names


def optimizer_parameters(learner: Learner, name: str) -> list[Any] | None:
    """Return the parameters of the optimizer with a name; None if there is no such optimizer."""
    optimizer = learner._named_optimizers.get(name)
    if optimizer is None:
        return None
    return [learner._params[ref] for ref in learner._optimizer_parameters[optimizer]]


def set_module_spec(learner: Learner, spec: Any) -> None:
    """Set the spec that describes a learner's modules."""
    learner._module_spec = spec


def module_spec(learner: Learner) -> Any:
    """Return the spec that describes a learner's modules."""
    return learner._module_spec


def lock_for_reading(learner: AnyWorker) -> AbstractContextManager[Any]:
    """Return a learner's lock for reading weights, which RLlib's own threads take."""
    return getattr(learner, "_model_io_lock", None) or contextlib.nullcontext()


def remove_learner_module(learner: Learner, policy_id: str) -> None:
    """Remove a module from a learner, with all that RLlib's own ``remove_module`` leaves behind."""
    own = [optimizer for _, optimizer in learner.get_optimizers_for_module(policy_id)]
    parameters = [ref for optimizer in own for ref in learner._optimizer_parameters[optimizer]]
    names = list(learner._module_optimizers[policy_id])
    for made_on_demand in ("entropy_coeff_schedulers_per_module", "curr_kl_coeffs_per_module"):
        # IMPALA and APPO pop, without a default, an entry that a frozen module may never have had
        # (algorithms/impala/impala_learner.py:306); reading the entry makes it.
        if hasattr(learner, made_on_demand):
            getattr(learner, made_on_demand)[policy_id]
    # Without new_should_module_be_updated, which IMPALA, APPO and SAC do not take.
    learner.remove_module(module_id=policy_id)
    for parameter in parameters:
        learner._params.pop(parameter, None)
    for name in names:
        getattr(learner, "_optimizer_name_to_module", {}).pop(name, None)
    for left in _LEFT_BEHIND:
        table = getattr(learner, left, None)
        if isinstance(table, dict):
            table.pop(policy_id, None)
    overrides_per_module(learner.config).pop(policy_id, None)


def learner_thread(owner: Any) -> threading.Thread | None:
    """Return the thread in which a learner, or an Algorithm of the old stack, updates.

    IMPALA and APPO have one (``algorithms/impala/impala_learner.py:444``).
    """
    return getattr(owner, "_learner_thread", None)


def is_asynchronous(worker: AnyWorker) -> bool:
    """Return whether a worker of the new stack is a learner that updates in a thread of its own."""
    return hasattr(worker, "_learner_thread")


def loader_threads(owner: Any) -> list[threading.Thread]:
    """Return the threads that hand batches to the learner thread.

    The learner of the new stack keeps all of them. The learner thread of ``simple_optimizer=False``
    keeps only the last one (``execution/multi_gpu_learner_thread.py:127``), so all threads of the
    process are searched for those with a reference to this learner thread.
    """
    thread = learner_thread(owner)
    of_thread = [
        each
        for each in threading.enumerate()
        if thread is not None and getattr(each, "multi_gpu_learner_thread", None) is thread
    ]
    return [*getattr(owner, "_gpu_loader_threads", ()), *of_thread]


def in_queue(thread: threading.Thread) -> Any:
    """Return the queue that a learner or loader thread takes batches from."""
    queue = getattr(thread, "_in_queue", None)
    return getattr(thread, "inqueue", None) if queue is None else queue


def clear_queued_states(learner: AnyWorker) -> None:
    """Drop the states that wait in an asynchronous learner to be sent to env runners."""
    waiting = getattr(learner, "_learner_state_queue", None)
    while waiting is not None and not waiting.empty():
        waiting.get_nowait()
    if getattr(learner, "_learner_state", None) is not None:
        learner._learner_state = None


# Rollout workers of the old stack ----------------------------------------------------------------


def _sampling(worker: RolloutWorker) -> Any:
    """Return the object that steps a worker's environment (``env_runner_v2.py``), or None."""
    return getattr(getattr(worker, "sampler", None), "_env_runner_obj", None)


def base_env(worker: RolloutWorker) -> Any:
    """Return the BaseEnv that a rollout worker samples from; None where it does not sample."""
    return getattr(_sampling(worker), "_base_env", None)


def active_episodes(worker: RolloutWorker) -> list[EpisodeV2]:
    """Return the episodes under way on a rollout worker."""
    return list(getattr(_sampling(worker), "_active_episodes", {}).values())


def episode_policies(episode: EpisodeV2) -> dict[Any, str]:
    """Return the policy of each agent of an episode."""
    policies: dict[Any, str] = episode._agent_to_policy
    return policies


def restart_episodes_of(worker: RolloutWorker, policy_id: str) -> None:
    """Let the episodes that a policy plays start anew; their collected samples are lost."""
    runner = _sampling(worker)
    if runner is None:
        return
    for env_id, episode in list(runner._active_episodes.items()):
        if policy_id in episode_policies(episode).values():
            del runner._active_episodes[env_id]
            runner._batch_builders.pop(env_id, None)
            runner._base_env.try_reset(env_id)
            for other in worker.policy_map.cache.values():
                if other.agent_connectors is not None:
                    other.agent_connectors.reset(env_id)
    for env_id, builder in list(runner._batch_builders.items()):
        collectors = builder.policy_collectors
        if collectors.pop(policy_id, None) is not None and not collectors:
            del runner._batch_builders[env_id]


def restart_every_episode(worker: RolloutWorker) -> None:
    """Let all episodes of a rollout worker start anew; their collected samples are lost.

    Remote and external environments reset in other ways, and are left as they are.
    """
    from ray.rllib.env.multi_agent_env import MultiAgentEnvWrapper
    from ray.rllib.env.vector_env import VectorEnvWrapper

    base = base_env(worker)
    if not isinstance(base, (MultiAgentEnvWrapper, VectorEnvWrapper)):
        return
    for pid in list(worker.policy_map.keys()):
        restart_episodes_of(worker, pid)
    if isinstance(base, VectorEnvWrapper):
        # Its try_reset does not keep the new observations for the next poll.
        base.first_reset_done = False
        base._init_env_state(idx=None)


def agents_of_env(env: Any) -> set[Any]:
    """Return the ids of the agents that an environment of the old stack names."""
    for name in ("possible_agents", "agents", "_agent_ids"):  # older ones: only the last name
        agents = set(getattr(env, name, None) or ())
        if agents:
            return agents
    return set()


def add_model_state_views(policy: Policy) -> None:
    """Add a model's own initial state to a policy's view requirements, as RLlib does for its own.

    ``evaluation/rollout_worker.py:500``.
    """
    if not getattr(policy, "_model_init_state_automatically_added", True):
        policy._update_model_view_requirements_from_init_state()
