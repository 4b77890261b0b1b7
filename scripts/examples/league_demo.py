"""Play against a growing league, and show which weights every remote worker really plays with.

    ./.venv/bin/python scripts/examples/league_demo.py            # with add_policy of policystore
    ./.venv/bin/python scripts/examples/league_demo.py --naive    # as RLlib's own examples do it

After each iteration the trained policy is pushed to a store and added to the league under a new id.
Then every worker computes the logits of each policy of the league for the same observations. The
demo rebuilds each snapshot on the driver and compares its logits with the logits of the workers.
The exit status is 1 if any logits differ. (With --naive the demo shows such differences, and the
exit status is 0.)
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
import zlib
from typing import Any

# Ray reads these variables when it is imported. The second hides log lines of Ray's C++ part.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

import gymnasium as gym
import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from policystore import PolicyStore, PolicyStoreError, Snapshot
from policystore.rllib import add_policy, rebuild_module, rebuild_policy, snapshot

MOVES, ROUNDS = 3, 20
AGENTS = "left", "right"
NAME = "league/main"


class RockPaperScissors(MultiAgentEnv):  # type: ignore[misc]
    """Rock, paper, scissors in twenty rounds; both agents see the last moves of both agents."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.agents = self.possible_agents = list(AGENTS)
        seen: Any = gym.spaces.Box(0.0, 1.0, (2 * MOVES,), np.float32)
        self.observation_spaces = dict.fromkeys(AGENTS, seen)
        moves: Any = gym.spaces.Discrete(MOVES)
        self.action_spaces = dict.fromkeys(AGENTS, moves)
        self._round = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        """Start a game; both agents have seen nothing yet."""
        self._round = 0
        return {agent: np.zeros(2 * MOVES, np.float32) for agent in AGENTS}, {}

    def step(self, action_dict: Any) -> tuple[Any, ...]:
        """Play one round."""
        self._round += 1
        left, right = (int(action_dict[agent]) for agent in AGENTS)
        won = ((left - right + 1) % MOVES) - 1  # 1: left wins, 0: a draw, -1: right wins
        over = self._round == ROUNDS
        return (
            {"left": _seen(left, right), "right": _seen(right, left)},
            {"left": float(won), "right": float(-won)},
            {"__all__": over},
            {"__all__": False},
            {},
        )


def _seen(own: int, other: int) -> Any:
    seen = np.zeros(2 * MOVES, np.float32)
    seen[own] = seen[MOVES + other] = 1.0
    return seen


class Pairing:
    """Mapping function: one agent plays ``main``, the other agent a policy of the league.

    The episode decides which agent plays ``main``, and which policy of the league plays.
    """

    def __init__(self, league: list[str]) -> None:
        self.league = list(league)

    def __call__(self, agent_id: Any, episode: Any, *_args: Any, **_more: Any) -> str:
        """Return the policy that plays for an agent in an episode."""
        # Both agents of an episode must get matching answers, so this function is not random.
        named = getattr(episode, "id_", None) or getattr(episode, "episode_id", "")
        drawn = zlib.crc32(str(named).encode())
        if not self.league or AGENTS[drawn % 2] == agent_id:
            return "main"
        return self.league[drawn // 2 % len(self.league)]


def build(stack: str, runners: int) -> Any:
    """Return PPO that trains ``main``; ``main`` plays against itself until there is a league."""
    config = (
        PPOConfig()
        .environment(RockPaperScissors)
        .multi_agent(policies={"main"}, policy_mapping_fn=Pairing([]), policies_to_train=["main"])
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.1)
        .debugging(seed=0, log_level="ERROR")
    )
    numbers = {"minibatch_size": 200, "num_epochs": 6, "lr": 3e-3}
    if stack == "new":
        config.training(train_batch_size_per_learner=800, **numbers)
        config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[32]))
        return config.build_algo()
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config.training(train_batch_size=800, model={"fcnet_hiddens": [32]}, **numbers)
    return config.build_algo()


def add_as_rllib_does(algo: Any, stack: str, policy_id: str, mapping: Pairing) -> None:
    """Add a copy of ``main`` under a new id, in the usual way with RLlib alone.

    New stack: the calls of ``rllib/examples/multi_agent/utils/self_play_callback.py``. Old stack:
    ``add_policy``, then ``set_weights`` on the driver's policy. (RLlib's example of the old stack
    also calls ``env_runner_group.sync_weights()``. That call reaches the training workers, but no
    evaluation worker.)
    """
    if stack == "new":
        main = algo.get_module("main")
        algo.add_module(
            module_id=policy_id,
            module_spec=RLModuleSpec.from_module(main),
            new_agent_to_module_mapping_fn=mapping,
        )
        state = {"rl_module": {policy_id: main.get_state()}}
        algo.set_state({"learner_group": {"learner": state}})
        return
    main = algo.get_policy("main")
    algo.add_policy(
        policy_id=policy_id,
        policy_cls=type(main),
        policy_mapping_fn=mapping,
        config=main.config,
        observation_space=main.observation_space,
        action_space=main.action_space,
    )
    algo.get_policy(policy_id).set_weights(main.get_weights())


def observations() -> Any:
    """Return all possible observations: of the first round, and of each pair of moves."""
    pairs = [_seen(own, other) for own in range(MOVES) for other in range(MOVES)]
    return np.stack([np.zeros(2 * MOVES, np.float32), *pairs])


def logits_of(policy: Any, seen: Any) -> Any:
    """Return the logits that a policy or module computes from observations."""
    batch = {"obs": torch.from_numpy(seen)}
    with torch.no_grad():
        if hasattr(policy, "forward_inference"):
            return policy.forward_inference(batch)["action_dist_inputs"].numpy()
        return policy.model(batch)[0].numpy()


def logits_on_workers(algo: Any, stack: str, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Return logits by worker and policy, computed inside each worker."""
    seen = observations()

    def of_one(worker: Any, policy_id: str) -> Any:
        try:
            held = worker.module if stack == "new" else worker.policy_map
            return logits_of(held[policy_id], seen)
        except Exception as error:  # RLlib ends a worker whose function raises
            return f"{type(error).__name__}: {error}"

    def inside(worker: Any) -> dict[str, Any]:
        return {policy_id: of_one(worker, policy_id) for policy_id in ids}

    group = algo.env_runner_group
    found = {"train local": inside(group.local_env_runner)}
    actors = group._worker_manager.actors()
    for number, actor in actors.items():
        found[f"train {number}"] = ray.get(actor.apply.remote(inside))
    return found


def largest_difference(given: Any, expected: Any) -> float:
    """Return the largest difference of logits; infinity if a worker could not answer."""
    if isinstance(given, str) or given.shape != expected.shape:
        return float("inf")
    return float(np.abs(given - expected).max())


def show(league: dict[str, Any], on_workers: dict[str, dict[str, Any]]) -> tuple[int, int]:
    """Print the table of one iteration; return the number of differing cells and of all cells."""
    width = max(len(policy_id) for policy_id in league)
    say("largest difference of logits from the snapshot's own:")
    say(" " * width + "".join(f"{worker:>13}" for worker in on_workers))
    differing = 0
    for policy_id, expected in league.items():
        row = [largest_difference(found[policy_id], expected) for found in on_workers.values()]
        differing += sum(value != 0.0 for value in row)
        cells = "".join(f"{'0' if value == 0.0 else format(value, '.1e'):>13}" for value in row)
        say(f"{policy_id:<{width}}{cells}")
    return differing, len(league) * len(on_workers)


def run(options: argparse.Namespace, store: PolicyStore) -> tuple[int, int]:
    """Run all iterations; return the number of differing comparisons and of all comparisons."""
    algo = build(options.stack, options.runners)
    differing = compared = 0
    league: dict[str, Any] = {}
    try:
        for iteration in range(1, options.iterations + 1):
            started = time.monotonic()
            score = mean_return(algo.train(), options.stack)
            print(f"\nIteration {iteration}", flush=True)
            version = store.push(snapshot(algo, "main"), NAME, metrics={"return": round(score, 3)})
            policy_id = f"main-{iteration}"
            say(
                f"main against the league: {score:+.2f} of {ROUNDS} points; "
                f"{version.ref} joins as {policy_id}"
            )
            snap = store.pull(version)
            mapping = Pairing([*league, policy_id])
            if options.naive:
                add_as_rllib_does(algo, options.stack, policy_id, mapping)
            else:
                report = add_policy(algo, policy_id, snap, policy_mapping_fn=mapping)
                say(str(report).replace("\n", "\n  "))
            league[policy_id] = logits_of(rebuilt(snap, options.stack), observations())
            of_workers = logits_on_workers(algo, options.stack, list(league))
            wrong, cells = show(league, of_workers)
            differing, compared = differing + wrong, compared + cells
            say(f"{time.monotonic() - started:.1f} s")
    finally:
        algo.stop()
    return differing, compared


def rebuilt(snap: Snapshot, stack: str) -> Any:
    return rebuild_module(snap) if stack == "new" else rebuild_policy(snap)


def mean_return(result: Any, stack: str) -> float:
    """Return the mean return of ``main`` in the episodes of an iteration."""
    found = result["env_runners"]
    key = "module_episode_returns_mean" if stack == "new" else "policy_reward_mean"
    return float(found[key]["main"])


def say(line: str) -> None:
    print(f"  {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--runners", type=int, default=2, help="remote env runners")
    parser.add_argument("--stack", choices=("new", "old"), default="new", help="RLlib's API stack")
    parser.add_argument("--naive", action="store_true", help="add policies as RLlib's examples do")
    parser.add_argument("--store", metavar="PATH", help="keep the snapshots in this policy store")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # RLlib warns of its own deprecated calls
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # as in the workers: another number changes the order of sums
    started = time.monotonic()
    try:
        store = PolicyStore(options.store or "memory://league-demo")
        store.names()  # fails before the training if the store cannot be read
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        differing, compared = run(options, store)
    except PolicyStoreError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()
    way = "added as RLlib's examples do it" if options.naive else "added by add_policy"
    print(
        f"\n{differing} of {compared} comparisons differ; {way}, {options.stack} stack. "
        f"{time.monotonic() - started:.0f} s in all."
    )
    if options.store:
        print(f"{len(store.log(NAME))} versions of {NAME} in {store.url}")
    return 1 if differing and not options.naive else 0


if __name__ == "__main__":
    sys.exit(main())
