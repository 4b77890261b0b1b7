"""Private parts of RLlib and Ray that the driver reads or changes.

There is one function for each private part. A new version of Ray needs changes only here and in
``worker_code/compat.py``, which does the same for code inside actors. ``docs/architecture.md``
lists all private parts. Other modules use no name of RLlib or Ray that begins with an underscore.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ray

from policystore.rllib.worker_code.compat import learner_thread, runner_pipeline

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem
    from ray.actor import ActorHandle
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.learner.learner_group import LearnerGroup
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.env.env_runner_group import EnvRunnerGroup
    from ray.rllib.evaluation.rollout_worker import RolloutWorker
    from ray.rllib.policy.policy import PolicySpec
    from ray.rllib.utils.actor_manager import FaultTolerantActorManager

__all__ = [
    "GROUPS",
    "actor_id",
    "actor_manager",
    "clear_waiting_batches",
    "complete_spec",
    "env_to_module_of",
    "env_to_module_of_driver",
    "experiment_folder",
    "forget_old_policy",
    "groups_of",
    "has_evaluation_mapping",
    "has_learner_thread",
    "has_multi_gpu_thread",
    "intercept_manager",
    "is_new_stack",
    "is_offline",
    "is_shut_down",
    "local_learner",
    "local_runner",
    "restart_counts",
    "runs_in_tune",
    "set_evaluation_mapping",
    "storage_name",
    "take_replay_tables",
    "unfrozen",
    "unmerged_states",
]

GROUPS = (
    ("train", "env_runner_group"),
    ("eval", "eval_env_runner_group"),
    ("offline eval", "offline_eval_runner_group"),
)
"""Groups of env runners of an Algorithm: the name in reports, and RLlib's attribute."""


# Algorithms --------------------------------------------------------------------------------------


def is_new_stack(algorithm: Algorithm) -> bool:
    """Return whether an Algorithm has learners and RLModules."""
    return bool(algorithm.config.enable_rl_module_and_learner)


def is_offline(algorithm: Algorithm) -> bool:
    """Return whether an Algorithm learns from recorded samples (CQL, BC, MARWIL, IQL)."""
    return bool(getattr(algorithm.config, "is_offline", False))


def groups_of(algorithm: Algorithm) -> list[tuple[str, EnvRunnerGroup]]:
    """Return an Algorithm's groups of env runners, with the names that reports show."""
    named = ((name, getattr(algorithm, attribute, None)) for name, attribute in GROUPS)
    return [(name, group) for name, group in named if group is not None]


def unmerged_states(algorithm: Algorithm) -> str:
    """Return the setting by which RLlib does not merge the states of remote env runners.

    Returns:
        Such as ``merge_env_runner_states=False``; empty if RLlib merges, or if there are no remote
        env runners.
    """
    config, group = algorithm.config, algorithm.env_runner_group
    if group is None or not actor_manager(group).actors():
        return ""
    name = "merge_env_runner_states" if is_new_stack(algorithm) else "use_worker_filter_stats"
    return f"{name}={getattr(config, name)!r}" if getattr(config, name, True) is False else ""


def has_evaluation_mapping(algorithm: Algorithm) -> bool:
    """Return whether the config gives evaluation a mapping function of its own."""
    given = algorithm.config.evaluation_config
    if given is None or isinstance(given, dict):
        return "policy_mapping_fn" in (given or {})
    # A whole config: its function counts, whatever it is (algorithm_config.py:4381).
    return True


def set_evaluation_mapping(algorithm: Algorithm, mapping: Callable[..., str], *, own: bool) -> None:
    """Let the driver's configs follow a new mapping function of the evaluation workers.

    Args:
        algorithm: of the new stack.
        mapping: the function.
        own: whether evaluation keeps the function when the one of training changes.
    """
    config = algorithm.config
    given = config.evaluation_config
    if own and (given is None or isinstance(given, dict)):
        with unfrozen(config):
            config.evaluation_config = {**(given or {}), "policy_mapping_fn": mapping}
    elif own:
        with unfrozen(given):
            given.policy_mapping_fn = mapping
    if algorithm.evaluation_config is not None:
        with unfrozen(algorithm.evaluation_config):
            algorithm.evaluation_config.policy_mapping_fn = mapping


def has_learner_thread(algorithm: Algorithm) -> bool:
    """Return whether an Algorithm of the old stack learns in a thread of its own (IMPALA, APPO)."""
    return learner_thread(algorithm) is not None


def has_multi_gpu_thread(algorithm: Algorithm) -> bool:
    """Return whether an Algorithm learns in the thread that ``simple_optimizer=False`` starts."""
    return type(learner_thread(algorithm)).__name__ == "MultiGPULearnerThread"


def env_to_module_of(algorithm: Algorithm) -> ConnectorPipelineV2 | None:
    """Return the env-to-module pipeline of the local env runner, or the driver's own, or None.

    Without a local runner the driver itself keeps the merged filters
    (``algorithms/algorithm.py:992``).
    """
    pipeline = runner_pipeline(getattr(algorithm, "env_runner", None), "env_to_module")
    return env_to_module_of_driver(algorithm) if pipeline is None else pipeline


def env_to_module_of_driver(algorithm: Algorithm) -> ConnectorPipelineV2 | None:
    """Return the driver's own env-to-module pipeline; None where it has none."""
    return getattr(algorithm, "env_to_module_connector", None)


def clear_waiting_batches(algorithm: Algorithm) -> None:
    """Drop samples that IMPALA and APPO keep on the driver on their way to the learners."""
    # Ray 2.40 builds batches in the one list, later versions in two tables.
    for queue in ("batch_being_built", "_episode_packs_being_built", "data_to_place_on_learner"):
        if hasattr(algorithm, queue):
            setattr(algorithm, queue, [])
    for batches in getattr(algorithm, "_ma_batches_being_built", {}).values():
        batches.clear()


def take_replay_tables(algorithm: Algorithm, policy_id: str) -> Callable[[], None]:
    """Take a module out of the replay buffer of SAC and DQN; return a function that restores it.

    The buffer samples for every module for which it has a table
    (``utils/replay_buffers/multi_agent_episode_buffer.py``).
    """
    buffer = getattr(algorithm, "local_replay_buffer", None)
    taken = [
        (table, table.pop(policy_id))
        for name, table in ({} if buffer is None else vars(buffer)).items()
        if name.startswith("_module_to_") and isinstance(table, dict) and policy_id in table
    ]

    def put_back() -> None:
        for table, entry in taken:
            table[policy_id] = entry

    return put_back


def forget_old_policy(algorithm: Algorithm, policy_id: str) -> None:
    """Delete what the driver keeps of an old-stack policy beside its workers.

    If the Algorithm has a learner thread, the thread must be at rest.
    """
    buffer = getattr(algorithm, "local_replay_buffer", None)
    getattr(buffer, "replay_buffers", {}).pop(policy_id, None)
    thread = learner_thread(algorithm)
    updated = getattr(thread, "policy_ids_updated", [])
    while (
        policy_id in updated
    ):  # RLlib looks each of them up next (algorithms/impala/impala.py:1392)
        updated.remove(policy_id)
    getattr(thread, "learner_info", {}).pop(policy_id, None)


def storage_name(algorithm: Algorithm, level: str) -> str | None:
    """Return the folder name of Tune's ``experiment`` or ``trial``; None outside of Tune."""
    storage = getattr(algorithm, "_storage", None)
    name: str | None = getattr(storage, f"{level}_dir_name", None)
    return name


def experiment_folder(algorithm: Algorithm) -> tuple[FileSystem, str] | None:
    """Return the folder of the Tune experiment, in its filesystem; None outside of Tune."""
    storage = getattr(algorithm, "_storage", None)
    filesystem = getattr(storage, "storage_filesystem", None)
    path = getattr(storage, "experiment_fs_path", None)
    return None if filesystem is None or path is None else (filesystem, path)


def runs_in_tune(algorithm: Algorithm) -> bool:
    """Return whether an Algorithm is a trial of Tune."""
    return getattr(algorithm, "_storage", None) is not None


# Configs -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def unfrozen(config: AlgorithmConfig) -> Iterator[None]:
    """Allow changes to a config inside the block, as ``Algorithm.add_module`` does."""
    was_frozen = config._is_frozen
    config._is_frozen = False
    try:
        yield
    finally:
        if was_frozen:
            config.freeze()


# Groups and their actors -------------------------------------------------------------------------


def actor_manager(group: EnvRunnerGroup | LearnerGroup) -> FaultTolerantActorManager:
    """Return the manager of a group's actors (``utils/actor_manager.py``)."""
    return group._worker_manager


def local_runner(group: EnvRunnerGroup) -> EnvRunner | RolloutWorker | None:
    """Return a group's env runner in this process; None where it has none."""
    local = getattr(group, "local_env_runner", None)
    return getattr(group, "local_runner", None) if local is None else local


def local_learner(group: LearnerGroup) -> Learner:
    """Return the learner of a group that runs in this process."""
    return group._learner


def is_shut_down(group: LearnerGroup) -> bool:
    """Return whether a learner group was shut down."""
    return bool(group._is_shut_down)


def intercept_manager(
    manager: FaultTolerantActorManager,
    gate: Callable[[Any], Any],
    before_probe: Callable[[], None],
) -> bool:
    """Pass every call of RLlib to a manager's actors through a gate function.

    Replaces two methods of this manager. All calls to its actors go through ``_call_actors``;
    ``probe_unhealthy_actors`` is how RLlib looks, at the start of each training step, for actors
    that have to be restored.

    Args:
        manager: of a group of env runners.
        gate: gets each function, or name of a method, that RLlib is about to call on an actor, and
            returns what is called instead.
        before_probe: called each time before RLlib looks for actors to restore.

    Returns:
        Whether the methods are there; if not, nothing is replaced.
    """
    call = getattr(manager, "_call_actors", None)
    probe = getattr(manager, "probe_unhealthy_actors", None)
    if call is None or probe is None:
        return False

    def call_through_gate(func: Any, *args: Any, **kwargs: Any) -> Any:
        gated = [gate(each) for each in func] if isinstance(func, list) else gate(func)
        return call(gated, *args, **kwargs)

    def probe_after(*args: Any, **kwargs: Any) -> Any:
        before_probe()
        return probe(*args, **kwargs)

    manager._call_actors = call_through_gate
    manager.probe_unhealthy_actors = probe_after
    return True


def actor_id(actor: ActorHandle) -> str:
    """Return the id of an actor, in hexadecimal digits."""
    return str(actor._actor_id.hex())


def restart_counts(actors: list[str], ask_for_each_up_to: int) -> dict[str, int]:
    """Return how often each actor was restarted; a count rises before the actor answers again.

    Args:
        actors: their ids.
        ask_for_each_up_to: up to this number of actors, Ray is asked about each actor alone. For
            more actors, Ray is asked once about all actors of the job, also those of other owners.
    """
    from ray._private.state import actors as table

    if len(actors) <= ask_for_each_up_to:
        rows = {name: table(name) for name in actors}
    else:
        job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
        rows = table(job_id=job)
    return {name: int(rows[name]["NumRestarts"]) for name in actors if rows.get(name)}


def complete_spec(worker: RolloutWorker, policy_id: str, spec: PolicySpec) -> PolicySpec:
    """Return a policy's spec as a restarted worker would merge it into its own config.

    ``evaluation/rollout_worker.py:1417-1435``.
    """
    setup, _ = worker.config.get_multi_agent_setup(
        policies={policy_id: spec},
        env=worker.env,
        spaces=worker.spaces,
        default_policy_class=worker.default_policy_class,
    )
    before = dict(worker.preprocessors)
    try:
        return worker._get_complete_policy_specs_dict(setup)[policy_id]
    finally:
        worker.preprocessors.clear()
        worker.preprocessors.update(before)
