"""Test add_policy and remove_policy on the old API stack: Algorithms, snapshots and checks.

The checks ask the workers with functions of this file, and use nothing of the code under test. This
file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import tree
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.sac.sac_torch_policy import SACTorchPolicy
from ray.rllib.connectors.util import create_connectors_for_policy
from ray.rllib.models import ModelCatalog
from ray.rllib.policy.policy import PolicySpec

from policystore import Snapshot
from policystore.rllib import SyncReport, load_into, snapshot, snapshot_all
from tests.support.crowd_env import SPACES, Crowd


class Recorder(DefaultCallbacks):
    """Records on the worker which weights its agents use; refuses or delays some policies."""

    def on_create_policy(self, *, policy_id: str, policy: Any) -> None:
        if policy.config.get("worker_index") != 2:
            return
        if policy_id == "refused":
            raise RuntimeError("this worker takes no such policy")
        if policy_id.startswith("late"):
            _wait_for(Path(policy_id.partition("@")[2].replace("!", "/")))

    def on_episode_step(self, *, worker: Any, episode: Any, **kwargs: Any) -> None:
        now = worker.__dict__.setdefault("played", set())
        for agent, pid in episode._agent_to_policy.items():
            now.add((agent, pid, print_of(worker.policy_map[pid])))


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)


# State of workers ---------------------------------------------------------------------------------


def print_of(policy: Any) -> str:
    """Return a fingerprint of all bits of a policy's parameters."""
    if not hasattr(policy, "model"):
        return print_arrays({})
    return print_arrays({n: t.detach().cpu().numpy() for n, t in policy.model.state_dict().items()})


def print_arrays(arrays: Any) -> str:
    hasher = hashlib.sha256()
    for name in sorted(arrays):
        hasher.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        hasher.update(np.ascontiguousarray(arrays[name]).tobytes())
    return hasher.hexdigest()[:16]


def read(worker: Any) -> dict[str, Any]:
    """Return fingerprints of all policies, and what was played since the last :func:`forget`."""
    return {
        "prints": {pid: print_of(worker.policy_map[pid]) for pid in worker.policy_map.keys()},  # noqa: SIM118
        "played": set(worker.__dict__.get("played", ())),
    }


def prints(algo: Any) -> dict[str, Any]:
    return {name: found["prints"] for name, found in ask(algo, read).items()}


def forget(worker: Any) -> None:
    worker.__dict__.pop("played", None)


def functions(worker: Any) -> tuple[int, Any]:
    """Return the id of the mapping function, and the policies that are trained."""
    says = worker.is_policy_to_train
    ids = [*worker.policy_map.keys()]
    return id(worker.policy_mapping_fn), sorted(p for p in ids if says is None or says(p, None))


def trains(worker: Any, pid: str) -> bool:
    return worker.is_policy_to_train is None or bool(worker.is_policy_to_train(pid, None))


def traces(worker: Any, pid: str) -> list[str]:
    """Return the places in which a worker still has a policy."""
    tables: dict[str, Any] = {
        "policy_map": list(worker.policy_map.keys()),
        "cache": worker.policy_map.cache,
        "refs": worker.policy_map._policy_state_refs,
        "specs": worker.policy_dict,
        "preprocessors": worker.preprocessors,
        "filters": worker.filters,
        "updates": worker.global_vars["num_grad_updates_per_policy"],
    }
    runner = getattr(worker.sampler, "_env_runner_obj", None)
    if runner is not None:
        for number, episode in enumerate(runner._active_episodes.values()):
            tables[f"episode {number}"] = episode._agent_to_policy.values()
        for number, builder in enumerate(runner._batch_builders.values()):
            tables[f"batch {number}"] = builder.policy_collectors
    return [name for name, table in tables.items() if pid in table]


def playing(worker: Any, pid: str) -> bool:
    """Return whether a running episode uses a policy."""
    return any(name.startswith("episode") for name in traces(worker, pid))


def at_play(algo: Any, pid: str) -> list[bool]:
    """Return for each remote train worker whether a running episode uses a policy."""
    found = ask(algo, playing, pid)
    return [found[name] for name in found if name.startswith("train") and "local" not in name]


def counts(worker: Any, pid: str) -> tuple[int, bool]:
    """Return the count of a policy's filter, and whether training merges this filter object."""
    for piece in worker.policy_map[pid].agent_connectors.connectors:
        if hasattr(getattr(piece, "filter", None), "running_stats"):
            stats = tree.flatten(piece.filter.running_stats)
            return max(int(each.num_pushes) for each in stats), worker.filters[pid] is piece.filter
    return -1, pid not in worker.filters


def facts(worker: Any, pid: str) -> dict[str, Any]:
    """Return facts about a policy: its connectors, timestep and some settings of its config."""
    policy = worker.policy_map[pid]
    pieces = [*policy.agent_connectors.connectors, *policy.action_connectors.connectors]
    says = {key: policy.config[key] for key in ("observation_filter", "normalize_actions")}
    fragment = worker.config.rollout_fragment_length
    return {
        "pieces": [type(each).__name__ for each in pieces],
        "timestep": policy.global_timestep,
        "index": policy.config["worker_index"] - worker.worker_index,
        "fragment": policy.config["rollout_fragment_length"] - fragment,
        **says,
    }


def set_broken(worker: Any, index: int, broken: bool) -> None:
    if worker.worker_index == index:
        for env in worker.async_env.envs:
            env.broken = broken


def workers(algo: Any) -> dict[str, Any]:
    """Return every worker by name: the object itself or its actor."""
    found = {}
    for name, group in (("train", algo.env_runner_group), ("eval", algo.eval_env_runner_group)):
        if group is not None:
            found[f"{name} local"] = group.local_env_runner
            found |= {f"{name} {n}": each for n, each in group._worker_manager.actors().items()}
    return found


def ask(algo: Any, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a function on each worker, and return the results by name."""
    found = {}
    for name, worker in workers(algo).items():
        if isinstance(worker, ray.actor.ActorHandle):
            found[name] = ray.get(worker.apply.remote(function, *arguments), timeout=60)
        else:
            found[name] = function(worker, *arguments)
    return found


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """Wait until a condition is true, and return its value."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return found


def print_for(snap: Snapshot) -> str:
    return print_arrays(snap.weights)


def assert_held(algo: Any, snaps: dict[str, Snapshot]) -> None:
    for name, found in ask(algo, read).items():
        for pid, snap in snaps.items():
            assert found["prints"][pid] == print_for(snap), (name, pid)


def assert_played(algo: Any, agent: str, pid: str, snap: Snapshot) -> None:
    """Check that an agent acted only with this policy and these weights since ``forget``."""
    seen = 0
    for name, found in ask(algo, read).items():
        of_agent = {(p, held) for a, p, held in found["played"] if a == agent}
        if of_agent:
            seen += 1
            assert of_agent == {(pid, print_for(snap))}, (name, agent)
    assert seen >= sum(not name.endswith("local") for name in workers(algo)) > 0


def assert_gone(algo: Any, pid: str) -> None:
    for name, found in ask(algo, traces, pid).items():
        assert found == [], name


def assert_proven(report: SyncReport, algo: Any, pid: str, snap: Snapshot) -> None:
    assert report.ok, str(report)
    assert {(row.worker, row.policy) for row in report} == {(n, pid) for n in workers(algo)}
    for row in report:
        assert row.digest == snap.acting_digest, str(report)


def healthy(algo: Any) -> bool:
    groups = [algo.env_runner_group, algo.eval_env_runner_group]
    return all(
        group.num_healthy_remote_workers() == group.num_remote_workers()
        for group in groups
        if group is not None
    )


def learned(result: Any) -> set[str]:
    """Return the policies that a ``train()`` has updated."""
    return set(result["info"]["learner"])


# Snapshots ---------------------------------------------------------------------------------------


def made(
    kind: str,
    seed: int = 0,
    *,
    observation_filter: str = "NoFilter",
    lstm: bool = False,
    max_seq_len: int = 5,
    by_hand: bool = False,
    omit: Any = (),
    clip_rewards: Any = None,
) -> Snapshot:
    """Return a snapshot of a policy with random weights; for ``reach`` of SAC, else of PPO.

    With ``by_hand`` the policy has no connectors, like a policy that no Algorithm has made.
    """
    sac = kind == "reach"
    config = old(SACConfig() if sac else PPOConfig())
    config.env_runners(observation_filter=observation_filter)
    config.environment(clip_rewards=clip_rewards, normalize_actions=not by_hand)
    config.training(
        model={
            "fcnet_hiddens": [5, 6],
            "use_lstm": lstm,
            "lstm_cell_size": 4,
            "max_seq_len": max_seq_len,
        }
    )
    if sac:
        config.training(policy_model_config={"fcnet_hiddens": [5]})
        config.training(q_model_config={"fcnet_hiddens": [5]})
        config.env_runners(
            exploration_config={"type": "StochasticSampling", "random_timesteps": 900}
        )
    config._is_atari = False  # without this, RLlib asks the environment, and there is none
    seen, action = SPACES[kind]
    prepared = ModelCatalog.get_preprocessor_for_space(seen).observation_space
    cls = SACTorchPolicy if sac else PPOTorchPolicy
    torch.manual_seed(seed)
    policy = cls(prepared, action, config.to_dict())
    if not by_hand:
        create_connectors_for_policy(policy, config)
    if observation_filter != "NoFilter":
        (piece,) = (each for each in policy.agent_connectors.connectors if hasattr(each, "filter"))
        rng = np.random.default_rng(seed)
        for _ in range(50):
            piece.filter(rng.uniform(-1, 1, prepared.shape))
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for value in policy.model.state_dict().values():
            value.copy_(torch.from_numpy(np.asarray(rng.uniform(-0.3, 0.3, tuple(value.shape)))))
    policy.global_timestep = 500
    snap = snapshot(policy, omit=omit)
    return snap.replace(spec=snap.spec.replace(algorithm="SAC" if sac else "PPO"))


# Algorithms --------------------------------------------------------------------------------------


def first(agent: str, *_: Any, **__: Any) -> str:
    """Map each agent to its own policy, which the config has."""
    return f"p_{agent}"


def instead(agent: str, policy_id: str) -> Callable[..., str]:
    """Return a mapping function that differs from :func:`first` for one agent."""
    return lambda each, *_, **__: policy_id if each == agent else f"p_{each}"


def old(config: Any) -> Any:
    return config.api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    ).framework("torch")


def configured(
    kind: Any = PPOConfig,
    agents: Any = ("box", "wide"),
    *,
    runners: int = 0,
    evals: int | None = None,
    **multi: Any,
) -> Any:
    """Return a tiny config; only ``p_box`` is trained. ``evals=None`` means no evaluation."""
    config = old(kind())
    config.environment(Crowd, env_config={"agents": list(agents)}).callbacks(Recorder)
    config.env_runners(
        num_env_runners=runners, num_cpus_per_env_runner=0.1, rollout_fragment_length=7
    )
    config.fault_tolerance(restart_failed_env_runners=True)
    config.fault_tolerance(delay_between_env_runner_restarts_s=0.2)
    config.reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
    config.debugging(log_level="ERROR", seed=1)
    config.training(train_batch_size=28, model={"fcnet_hiddens": [8]})
    if kind is PPOConfig:
        config.training(num_epochs=1, minibatch_size=14)
    elif kind is SACConfig:
        config.training(num_steps_sampled_before_learning_starts=14)
        config.training(
            replay_buffer_config={"type": "MultiAgentReplayBuffer", "capacity": 500},
            q_model_config={"fcnet_hiddens": [8]},
            policy_model_config={"fcnet_hiddens": [8]},
        )
    else:
        # After stop() the learner's thread still waits, and raises an error when the time is over.
        config.training(train_batch_size=14, learner_queue_timeout=86_400)
        config.resources(num_gpus=0)  # IMPALA's default is one
    config.multi_agent(
        policies={
            f"p_{agent}": PolicySpec(
                observation_space=SPACES[agent][0], action_space=SPACES[agent][1]
            )
            for agent in agents
        },
        policy_mapping_fn=first,
        policies_to_train=["p_box"],
        **multi,
    )
    if evals is not None:
        config.evaluation(
            evaluation_interval=1,
            evaluation_num_env_runners=evals,
            evaluation_duration=1,
            evaluation_config={"num_cpus_per_env_runner": 0.1},
        )
    torch.set_num_threads(1)
    return config


def even_out(algo: Any) -> None:
    """Give all workers the same weights; in RLlib untrained policies start differently on each."""
    load_into(algo, snapshot_all(algo))


@contextmanager
def built(config: Any) -> Iterator[Any]:
    """Build an Algorithm and always stop it at the end, so that ray.shutdown does not fail."""
    # Ray 2.40 has no build_algo yet.
    algo = getattr(config, "build_algo", config.build)()
    try:
        yield algo
    finally:
        algo.stop()
