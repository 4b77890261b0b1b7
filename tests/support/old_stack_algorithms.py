"""Small Algorithms and checks for the tests of running Algorithms, old API stack.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import tree
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.algorithms.sac import SACConfig

from policystore import Snapshot
from tests.support.envs import Duo, Solo


class ScaledPolicy(PPOTorchPolicy):
    """A policy whose get_weights and set_weights use other names and scaled values."""

    def get_weights(self) -> Any:
        return {f"own/{name}": 2 * array for name, array in super().get_weights().items()}

    def set_weights(self, weights: Any) -> None:
        super().set_weights(
            {name.removeprefix("own/"): array / 2 for name, array in weights.items()}
        )


def configured(
    kind: Any = PPOConfig,
    *,
    runners: int = 0,
    evals: int | None = None,
    policies: Any = ("main", "foe"),
    multi: bool = True,
    model: Any = None,
    **other: Any,
) -> Any:
    """Return a tiny config; with several agents ``main`` is trained and the others are not."""
    config = (
        kind()
        .api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        .environment(Duo if multi else Solo)
        .env_runners(
            num_env_runners=runners, num_cpus_per_env_runner=0.1, rollout_fragment_length=10
        )
        .resources(num_gpus=0)
        .reporting(min_sample_timesteps_per_iteration=0, min_time_s_per_iteration=0)
        .debugging(log_level="ERROR", seed=1, log_sys_usage=False)
        .training(train_batch_size=20, model={"fcnet_hiddens": [8], **(model or {})})
    )
    if multi:
        config.multi_agent(
            policies=policies if isinstance(policies, dict) else set(policies),
            policy_mapping_fn=lambda agent, *_, **__: "main" if agent == "a" else "foe",
            policies_to_train=["main"],
        )
    if kind is SACConfig:
        config.training(
            q_model_config={"fcnet_hiddens": [8]},
            policy_model_config={"fcnet_hiddens": [8]},
            replay_buffer_config={"type": "MultiAgentReplayBuffer", "capacity": 500},
            num_steps_sampled_before_learning_starts=10,
        )
    if kind is PPOConfig:
        config.training(minibatch_size=10, num_epochs=1)
    if hasattr(config, "learner_queue_timeout"):
        # After stop() the learner's thread still waits, and raises an error when the time is over.
        config.training(learner_queue_timeout=86_400)
    if evals is not None:
        config.evaluation(
            evaluation_interval=1000, evaluation_num_env_runners=evals, evaluation_duration=2
        )
    for name, value in other.items():
        setattr(config, name, value)
    return config


@contextmanager
def built(config: Any) -> Iterator[Any]:
    """Build an Algorithm, and stop it at the end in any case."""
    algo = config.build_algo()
    try:
        yield algo
    finally:
        algo.stop()


def read(worker: Any) -> dict[str, Any]:
    """Return what a rollout worker holds of each policy: weights, target nets, filter counts."""
    found: dict[str, Any] = {}
    for pid in sorted(worker.policy_map.keys()):
        policy = worker.policy_map[pid]
        targets = list(getattr(policy, "target_models", {}).values())
        found[pid] = {
            "weights": {n: t.detach().numpy().copy() for n, t in policy.model.state_dict().items()},
            "targets": [
                {n: t.detach().numpy().copy() for n, t in net.state_dict().items()}
                for net in targets
            ],
            "count": max(
                (
                    int(stat.num_pushes)
                    for c in policy.agent_connectors.connectors
                    if hasattr(c, "filter")
                    for stat in tree.flatten(c.filter.running_stats)
                ),
                default=None,
            ),
        }
    return found


def ask(algo: Any, function: Any, *arguments: Any) -> dict[str, Any]:
    """Run a function on every worker of both groups, and return the results by name."""
    found = {}
    for name, group in (("train", algo.env_runner_group), ("eval", algo.eval_env_runner_group)):
        if group is None:
            continue
        if group.local_env_runner is not None:
            found[f"{name} local"] = function(group.local_env_runner, *arguments)
        for index, actor in group._worker_manager.actors().items():
            answer = actor.apply.remote(function, *arguments)
            found[f"{name} {index}"] = ray.get(answer, timeout=60)
    return found


def assert_held(algo: Any, snaps: Mapping[str, Snapshot]) -> None:
    """Check that each worker holds exactly these weights."""
    for name, found in ask(algo, read).items():
        for pid, snap in snaps.items():
            held = found[pid]["weights"]
            assert held.keys() == snap.weights.keys(), (name, pid)
            for each, array in held.items():
                assert array.tobytes() == snap.weights[each].tobytes(), (name, pid, each)
