"""Make the exported files and the expected actions of ``tests/data/play``.

    python scripts/tools/make_play_data.py [--out FOLDER] [CELL…]

For each cell, an Algorithm trains for a moment, and then plays whole episodes without exploring.
The environment itself notes each observation that it gives, and each action that it gets. The
policy is exported as ``CELL.onnx``. ``CELL.npz`` has the episodes: ``EPISODE/TENSOR``, an array
with one row for each step, by the names of the inputs and outputs in the file. The tests play the
files where neither Ray nor torch is installed, and expect the same actions.

The files differ from run to run, because the training differs.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # from anywhere: `python scripts/tools/make_play_data.py`

import ray  # noqa: E402
from ray.rllib.algorithms.dqn import DQNConfig  # noqa: E402
from ray.rllib.algorithms.ppo import PPOConfig  # noqa: E402
from ray.rllib.algorithms.sac import SACConfig  # noqa: E402
from ray.rllib.connectors.env_to_module import FlattenObservations, MeanStdFilter  # noqa: E402

from policystore.play.metadata import Metadata  # noqa: E402
from policystore.play.spaces import flatten, read_space  # noqa: E402
from policystore.rllib import export, snapshot  # noqa: E402

EPISODES = 3
VECTOR = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
FORCES = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))
FRAME = gym.spaces.Box(-1.0, 1.0, (12, 12, 1), np.float32)
IMAGE = gym.spaces.Box(0, 255, (12, 12, 3), np.uint8)
NESTED = gym.spaces.Dict(
    {
        "far/near": gym.spaces.Box(-5.0, 9.0, (3,), np.float32),
        "kind": gym.spaces.Tuple([gym.spaces.Discrete(3), gym.spaces.MultiBinary(2)]),
    }
)
SMALL = {"fcnet_hiddens": [16, 16], "head_fcnet_hiddens": [16]}
SMALL_OLD = {"fcnet_hiddens": [16, 16]}


class NotingEnv(gym.Env):  # type: ignore[misc]
    """Shows random observations, and notes them and the actions that it gets.

    Episodes last 12 to 17 steps. Each action changes what comes next, so that one different action
    would show in all later steps.
    """

    noted: list[list[tuple[Any, Any]]] = []  # noqa: RUF012 - whole episodes of all environments
    noting = False

    def __init__(self, config: Any = None) -> None:
        self.observation_space = config["observation_space"]
        self.action_space = config["action_space"]
        self._random = np.random.default_rng(3)
        self._left = 0
        self._shown: Any = None
        self._episode: list[tuple[Any, Any]] | None = None

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        """Begin an episode, and note it if it is to be noted."""
        self._episode = [] if NotingEnv.noting else None
        self._left = int(self._random.integers(12, 18))
        return self._show(), {}

    def step(self, action: Any) -> Any:
        """Note the action, and show the next observation."""
        self._left -= 1
        if self._episode is not None:
            self._episode.append((self._shown, action))
            if self._left <= 0:
                NotingEnv.noted.append(self._episode)
        numbers = np.concatenate([np.ravel(part) for part in flat(action, self.action_space)])
        self._random = np.random.default_rng(
            [abs(round(float(number) * 1000)) for number in numbers] + [self._left]
        )
        # No action is better than others, or the policy would soon take the same one always.
        reward = float(self._random.normal())
        return self._show(), reward, self._left <= 0, False, {}

    def _show(self) -> Any:
        self.observation_space.seed(int(self._random.integers(2**31)))
        self._shown = self.observation_space.sample()
        return self._shown


def flat(value: Any, space: gym.Space[Any]) -> list[Any]:
    """Return the parts of a value of a Dict, Tuple or other space."""
    if isinstance(space, gym.spaces.Dict):
        return [part for key, one in space.spaces.items() for part in flat(value[key], one)]
    if isinstance(space, gym.spaces.Tuple):
        pairs = zip(value, space.spaces, strict=True)
        return [part for item, one in pairs for part in flat(item, one)]
    return [value]


def prepared(config: Any, observations: gym.Space[Any], actions: gym.Space[Any]) -> Any:
    """Return a config whose Algorithm trains quickly in this process, and plays whole episodes."""
    return (
        config.environment(
            NotingEnv, env_config={"observation_space": observations, "action_space": actions}
        )
        .env_runners(num_env_runners=0)
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
        .debugging(log_level="ERROR")
    )


def ppo(
    observations: gym.Space[Any], actions: gym.Space[Any], *connectors: Any, **model: Any
) -> Any:
    config = prepared(PPOConfig(), observations, actions)
    config.training(train_batch_size=200, minibatch_size=50, num_epochs=4, lr=0.003)
    config.rl_module(model_config={**SMALL, **model})
    if connectors:
        config.env_runners(
            env_to_module_connector=lambda env=None, spaces=None, device=None: [
                connector() for connector in connectors
            ]
        )
    return config


def off_policy(config: Any, observations: gym.Space[Any], actions: gym.Space[Any]) -> Any:
    config = prepared(config, observations, actions)
    config.training(train_batch_size=32, num_steps_sampled_before_learning_starts=32)
    return config.rl_module(model_config=SMALL)


def old_ppo(observations: gym.Space[Any], actions: gym.Space[Any], **model: Any) -> Any:
    config = prepared(PPOConfig(), observations, actions).api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    config.training(
        train_batch_size=200,
        minibatch_size=50,
        num_epochs=4,
        lr=0.003,
        model={**SMALL_OLD, **model},
    )
    return config.env_runners(observation_filter="MeanStdFilter")


CELLS: dict[str, Callable[[], Any]] = {
    "ppo": lambda: ppo(VECTOR, gym.spaces.Discrete(3)),
    "ppo-lstm-box": lambda: ppo(
        VECTOR, FORCES, use_lstm=True, lstm_cell_size=8, max_seq_len=5, vf_share_layers=True
    ),
    "ppo-nested-filter": lambda: ppo(
        NESTED, gym.spaces.MultiDiscrete([3, 4]), FlattenObservations, MeanStdFilter
    ),
    "ppo-tuple-actions": lambda: ppo(
        VECTOR, gym.spaces.Tuple([gym.spaces.Discrete(3), gym.spaces.Discrete(2)])
    ),
    "ppo-conv": lambda: ppo(
        FRAME,
        gym.spaces.Discrete(4),
        conv_filters=[[4, 3, 2], [8, 3, 2]],
        head_fcnet_hiddens=[8],
    ),
    "dqn": lambda: off_policy(DQNConfig(), VECTOR, gym.spaces.Discrete(3)),
    "sac": lambda: off_policy(SACConfig(), VECTOR, FORCES),
    "old-ppo-nested-filter": lambda: old_ppo(NESTED, FORCES),
    "old-ppo-conv": lambda: old_ppo(
        IMAGE, gym.spaces.Discrete(4), conv_filters=[[4, [3, 3], 2], [8, [6, 6], 1]]
    ).env_runners(observation_filter="NoFilter"),
    "old-ppo-lstm": lambda: old_ppo(
        VECTOR, gym.spaces.Discrete(3), use_lstm=True, lstm_cell_size=8, max_seq_len=5
    ),
}


def make(name: str, out: Path) -> None:
    """Train, play and export one cell, with other seeds until the policy takes several actions."""
    for seed in range(7, 37):
        algorithm = CELLS[name]().debugging(seed=seed).build_algo()
        try:
            algorithm.train()
            snap = snapshot(algorithm)
            NotingEnv.noted, NotingEnv.noting = [], True
            play(algorithm)
            NotingEnv.noting = False
        finally:
            algorithm.stop()
        actions = {str(action) for episode in NotingEnv.noted for _, action in episode}
        if len(actions) > 1:
            break
    else:
        raise SystemExit(f"{name}: with all seeds, the policy takes only the actions {actions}")
    file = out / f"{name}.onnx"
    metadata = export(snap, file, force=True)
    episodes = NotingEnv.noted[:EPISODES]
    np.savez_compressed(file.with_suffix(".npz"), **arrays_of(episodes, metadata))
    steps = sum(map(len, episodes))
    print(
        f"{name}: {len(episodes)} episodes, {steps} steps, {len(actions)} different actions; the "
        f"file has {file.stat().st_size:,} bytes"
    )


def play(algorithm: Any) -> None:
    """Play whole episodes with a live Algorithm, without exploring.

    Filters stand still, as they do in a snapshot. RLlib's evaluation would go on updating them.
    """
    if algorithm.config.enable_rl_module_and_learner:
        runner = algorithm.env_runner
        for connector in runner._env_to_module.connectors:
            if isinstance(connector, MeanStdFilter):
                connector._update_stats = False
        runner.sample(num_episodes=EPISODES, explore=False, force_reset=True)
        return
    env = NotingEnv(algorithm.config.env_config)
    for _ in range(EPISODES):
        (obs, _), done = env.reset(), False
        state = algorithm.get_policy().get_initial_state()
        while not done:
            action = algorithm.compute_single_action(obs, state, explore=False)
            if state:
                action, state, _ = action
            obs, _, done, _, _ = env.step(action)


def arrays_of(episodes: list[list[tuple[Any, Any]]], metadata: Metadata) -> dict[str, Any]:
    """Return an array for each episode and tensor, by ``EPISODE/TENSOR``."""
    arrays = {}
    sides = (
        (metadata.inputs, read_space(metadata.observation_space), 0),
        (metadata.outputs, read_space(metadata.action_space), 1),
    )
    for number, episode in enumerate(episodes):
        for tensors, space, side in sides:
            rows = [flatten(space, step[side]) for step in episode]
            for tensor, column in zip(tensors, zip(*rows, strict=True), strict=True):
                arrays[f"{number}/{tensor.name}"] = np.stack([np.asarray(one) for one in column])
    return arrays


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "tests" / "data" / "play")
    parser.add_argument("cells", nargs="*", metavar="CELL", help=", ".join(CELLS))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    given.out.mkdir(parents=True, exist_ok=True)
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=1, configure_logging=False)
    try:
        for name in given.cells or CELLS:
            make(name, given.out)
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
