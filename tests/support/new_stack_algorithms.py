"""Small Algorithms and checks for the tests of running Algorithms, new API stack.

The checks ask learners and env runners with functions of this file, and use nothing of the code
under test. This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

from policystore import Snapshot
from policystore.rllib import SyncReport
from tests.support.envs import Duo, Solo

# State of workers ---------------------------------------------------------------------------------


def arrays_of(module: Any) -> dict[str, dict[str, Any]]:
    """Return copies of all weights, by module and name; without the prefixes of wrappers."""
    multi = module.unwrapped()
    parts = {"default_policy": multi}
    if isinstance(multi, MultiRLModule):
        parts = {mid: multi[mid].unwrapped() for mid in multi.keys()}  # noqa: SIM118
    return {
        mid: {
            name.replace("_orig_mod.", ""): value.detach().cpu().numpy().copy()
            for name, value in part.state_dict().items()
        }
        for mid, part in parts.items()
    }


def print_of(arrays: Mapping[str, Any]) -> str:
    """Return a fingerprint of all bits of the weights."""
    hasher = hashlib.sha256()
    for name in sorted(arrays):
        hasher.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        hasher.update(np.ascontiguousarray(arrays[name]).tobytes())
    return hasher.hexdigest()[:16]


def level_of(arrays: Mapping[str, Any]) -> float:
    """Return the level (:func:`other`) of weights; short training changes it by less than 0.5."""
    return float(50 * np.mean(np.concatenate([arrays[name].ravel() for name in sorted(arrays)])))


class Recorder(DefaultCallbacks):
    """Records on the runner, after every step, which weights it has; one list for each sample."""

    def on_episode_start(self, *, env_runner: Any, **kwargs: Any) -> None:
        self._look(env_runner)

    def on_episode_step(self, *, env_runner: Any, **kwargs: Any) -> None:
        self._look(env_runner)

    def _look(self, runner: Any) -> None:
        runner.__dict__["observed"] = runner.__dict__.get("observed", 0) + 1
        arrays = arrays_of(runner.module)
        seen = {
            "prints": {mid: print_of(each) for mid, each in arrays.items()},
            "levels": {mid: level_of(each) for mid, each in arrays.items()},
            "seq": runner._weights_seq_no,
        }
        now = runner.__dict__.setdefault("seen_now", [])
        if seen not in now:
            now.append(seen)

    def on_sample_end(self, *, env_runner: Any, **kwargs: Any) -> None:
        runner = env_runner
        runner.__dict__.setdefault("drawn", []).append(runner.__dict__.pop("seen_now", []))


def read(worker: Any) -> dict[str, Any]:
    """Return what a learner or runner holds, and the records of its samples since ``forget``."""
    return {
        "arrays": arrays_of(worker.module),
        "seq": worker._weights_seq_no,
        "drawn": list(worker.__dict__.get("drawn", ())),
        "observed": worker.__dict__.get("observed", 0),
    }


def forget(worker: Any) -> None:
    """Clear the records of a runner's samples."""
    worker.__dict__.pop("drawn", None)
    worker.__dict__.pop("observed", None)


def counts(worker: Any) -> Any:
    """Return count and mean of a runner's MeanStdFilter for each agent; None for a learner."""
    pipeline = getattr(worker, "_env_to_module", None)
    return None if pipeline is None else counts_of(pipeline)


def counts_of(pipeline: Any) -> dict[Any, tuple[int, Any]]:
    (found,) = (piece for piece in pipeline.connectors if hasattr(piece, "_filters"))
    return {
        # RLlib makes the filters with the first observation.
        agent: (each.running_stats.num_pushes, np.array(each.running_stats.mean))
        for agent, each in (found._filters or {}).items()
    }


# All workers --------------------------------------------------------------------------------------


def workers(algo: Any) -> dict[str, Any]:
    """Return every learner and runner by name: the object itself or its actor."""
    group = algo.learner_group
    if group.is_local:
        found = {"learner local": group._learner}
    else:
        found = {f"learner {n}": each for n, each in group._worker_manager.actors().items()}
    for name, runners in (("train", algo.env_runner_group), ("eval", algo.eval_env_runner_group)):
        if runners is None:
            continue
        if runners.local_env_runner is not None:
            found[f"{name} local"] = runners.local_env_runner
        found |= {f"{name} {n}": each for n, each in runners._worker_manager.actors().items()}
    return found


def ask(algo: Any, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a function on each learner and runner, and return the results by name."""
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
        time.sleep(0.02)
    return found


def assert_held(algo: Any, snaps: Mapping[str, Snapshot], *, targets: bool = True) -> None:
    """Check that each worker holds exactly these weights.

    Learners hold all weights; runners hold at least the weights that acting needs. With
    ``targets=False`` target networks are not compared, because learners may have updated them.
    """
    for name, found in ask(algo, read).items():
        for mid, snap in snaps.items():
            held = found["arrays"][mid]
            if not targets:
                held = {n: a for n, a in held.items() if n in acting(snap)}
            assert acting(snap) <= held.keys(), (name, mid)
            if name.startswith("learner") and targets:
                assert held.keys() >= snap.weights.keys(), (name, mid)
            differing = [
                each
                for each, array in held.items()
                if each in snap.weights and array.tobytes() != snap.weights[each].tobytes()
            ]
            assert not differing, (name, mid, differing)


def acting(snap: Snapshot) -> set[str]:
    """Return the names of the weights that acting needs."""
    return set(snap.weights if snap.spec.acting is None else snap.spec.acting)


def prints_for(algo: Any, snaps: Mapping[str, Snapshot]) -> dict[str, dict[str, str]]:
    """Return for each runner the fingerprints of these snapshots, as the recorder makes them."""
    return {
        name: {
            mid: print_of({each: snap.weights[each] for each in found["arrays"][mid]})
            for mid, snap in snaps.items()
        }
        for name, found in ask(algo, read).items()
        if not name.startswith("learner")
    }


def assert_first_sample(algo: Any, snaps: Mapping[str, Snapshot], group: str) -> None:
    """Check that in a group each first sample since ``forget`` was drawn with these snapshots."""
    expected = prints_for(algo, snaps)
    sampled = {
        name: found["drawn"]
        for name, found in ask(algo, read).items()
        if name.startswith(group) and found["drawn"]
    }
    remote = {name for name in expected if name.startswith(group) and not name.endswith("local")}
    assert set(sampled) == (remote or {f"{group} local"})
    for name, drawn in sampled.items():
        assert drawn[0], name
        for seen in drawn[0]:
            for mid in snaps:
                assert seen["prints"][mid] == expected[name][mid], (name, mid)


def assert_frozen(algo: Any, snap: Snapshot, pid: str) -> None:
    """Check that all steps since ``forget`` were made with these weights of this policy."""
    expected = prints_for(algo, {pid: snap})
    looked = 0
    for name, found in ask(algo, read).items():
        for seen in (each for drawn in found["drawn"] for each in drawn):
            looked += 1
            assert seen["prints"][pid] == expected[name][pid], name
    assert looked
    assert_held(algo, {pid: snap}, targets=False)


def assert_proven(report: SyncReport, algo: Any, snaps: Mapping[str, Snapshot]) -> None:
    """Check that the report has all workers, with the digests of the snapshots themselves."""
    assert report.ok, str(report)
    assert {(row.worker, row.policy) for row in report} == {
        (name, pid) for name in workers(algo) for pid in snaps
    }
    for row in report:
        assert row.status == "ok", str(report)
        assert row.digest == snaps[row.policy].acting_digest, str(report)


# Snapshots ---------------------------------------------------------------------------------------


def other(snap: Snapshot, level: float, *, without: Iterable[str] = ()) -> Snapshot:
    """Return the snapshot with other, random weights whose mean is given by ``level``.

    Short training does not change the level by 1. The weights are so small that no activation
    saturates, and gradients do not vanish.
    """
    rng = np.random.default_rng(abs(int(level * 1000)))
    weights = {}
    for name, array in snap.weights.items():
        if not any(part in name for part in without):
            noise = rng.uniform(-0.3, 0.3, array.shape)
            weights[name] = np.asarray(level / 50 + noise - noise.mean()).astype(array.dtype)
    return Snapshot(weights=weights, spec=snap.spec, state=snap.state)


# Algorithms --------------------------------------------------------------------------------------


def configured(
    kind: Any = PPOConfig,
    *,
    runners: int = 0,
    evals: int | None = None,
    learners: int = 0,
    multi: bool = True,
    action_space: Any = None,
    model: Any = None,
    **training: Any,
) -> Any:
    """Return a tiny config; with several agents ``main`` is trained and ``foe`` is not.

    ``evals=0`` means evaluation on a local worker, None no evaluation at all.
    """
    name = kind.__name__
    config = (
        kind()
        .environment(
            Duo if multi else Solo,
            env_config={} if action_space is None else {"action_space": action_space},
        )
        .callbacks(Recorder)
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.1)
        .learners(num_learners=learners, num_cpus_per_learner=0.1)
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        .debugging(log_level="ERROR", seed=1, log_sys_usage=False)
    )
    if multi:
        config.multi_agent(
            policies={"main", "foe"},
            policy_mapping_fn=lambda agent, *_, **__: "main" if agent == "a" else "foe",
            policies_to_train=["main"],
        )
    if evals is not None:
        config.evaluation(
            evaluation_interval=1000,
            evaluation_num_env_runners=evals,
            evaluation_duration=2,
            evaluation_config={"num_cpus_per_env_runner": 0.1},
        )
    if name == "PPOConfig":
        config.training(train_batch_size_per_learner=40, minibatch_size=20, num_epochs=1)
    elif name in ("IMPALAConfig", "APPOConfig"):
        config.training(train_batch_size_per_learner=20)
        config.env_runners(rollout_fragment_length=10)
    else:
        config.training(train_batch_size=16, num_steps_sampled_before_learning_starts=16)
        if multi:
            config.replay_buffer_config["type"] = "MultiAgentPrioritizedEpisodeReplayBuffer"
        config.env_runners(rollout_fragment_length=10)
    if model is None:
        model = {"fcnet_hiddens": [8], "head_fcnet_hiddens": [8]}
        if name in ("PPOConfig", "IMPALAConfig", "APPOConfig"):
            model = DefaultModelConfig(fcnet_hiddens=[8])
    config.rl_module(model_config=model)
    config.training(**training)
    torch.set_num_threads(1)
    return config


@contextmanager
def built(config: Any) -> Iterator[Any]:
    """Build an Algorithm and always stop it at the end, so that ray.shutdown does not fail."""
    algo = config.build_algo()
    try:
        yield algo
    finally:
        algo.stop()


def train_until_seq(algo: Any, seq: int) -> None:
    """Train until the learners have made ``seq`` updates, as in a real training."""
    until(lambda: algo.train() and learner_seq(algo) >= seq, f"update {seq}")


def learner_seq(algo: Any) -> int:
    """Return the lowest weights sequence number of all learners."""
    found = ask(algo, lambda worker: worker._weights_seq_no)
    return min(seq for name, seq in found.items() if name.startswith("learner"))
