"""Environments and policies that tell by themselves who has played, for the tests of leagues.

Each observation says which environment, episode, agent and step it is of, and each policy of this
file notes with which weights it answered which observation. So for every finished episode the
environment writes down which weights acted for each agent at every step, in a file of its process.
Nothing here uses the code under test, RLlib's callbacks or version counters of tensors.

This file is a module of its own, because Ray's workers import it by name.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.core.rl_module import RLModule
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.examples._old_api_stack.policy.random_policy import RandomPolicy

from tests.support.rl_modules import DefaultAPPOTorchRLModule, DefaultPPOTorchRLModule

__all__ = [
    "ACTIONS",
    "OBSERVATION",
    "Arena",
    "FixedModule",
    "FixedPolicy",
    "TellingAPPOModule",
    "TellingModule",
    "TellingPolicy",
    "Witness",
]

_SCALE = 2**24  # integers below it are exact in float32
_TAG = 2.0**-40
OBSERVATION = gym.spaces.Box(0.0, 1.0, (5,), np.float32)
ACTIONS = gym.spaces.Discrete(3)
_CRITIC = ("vf.", "encoder.critic_encoder.")


@dataclass
class _Answers:
    """What the policies of this process have answered in one episode.

    Attributes:
        log: the folder for records.
        prints: agent's number -> step -> fingerprint of the weights.
    """

    log: Path
    prints: dict[int, dict[int, str]] = field(default_factory=dict)


# Key of the environment and number of the episode -> the answers.
_ANSWERED: dict[tuple[int, int], _Answers] = {}
_WRITTEN: set[tuple[Path, str]] = set()


# Policies that note -------------------------------------------------------------------------------


def fingerprint(arrays: dict[str, Any]) -> str:
    """Return a fingerprint of all bits of weights."""
    hasher = hashlib.sha256()
    for name in sorted(arrays):
        hasher.update(f"{name} {arrays[name].dtype} {arrays[name].shape};".encode())
        hasher.update(np.ascontiguousarray(arrays[name]).tobytes())
    return hasher.hexdigest()[:20]


def _note(observations: Any, network: Any, heuristic: str = "") -> None:
    """Note which weights answer each row of a batch of observations."""
    rows = np.rint(np.asarray(observations, np.float64) * _SCALE).astype(int)
    arrays = {
        name: value.detach().cpu().numpy()
        for name, value in ({} if heuristic else network.state_dict()).items()
        if not name.startswith(_CRITIC)
    }
    print_ = heuristic or fingerprint(arrays)
    for high, low, episode, agent, step in rows:
        answers = _ANSWERED.get((int(high) * _SCALE + int(low), int(episode)))
        if answers is not None:  # not a batch of zeros that RLlib makes up
            answers.prints.setdefault(int(agent), {})[int(step)] = print_
            if arrays and (answers.log, print_) not in _WRITTEN:
                _write_weights(answers.log / "weights", print_, arrays)
                _WRITTEN.add((answers.log, print_))


def _write_weights(folder: Path, print_: str, arrays: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    temporary = folder / f"{uuid.uuid4().hex}.tmp.npz"
    np.savez(temporary, **arrays)
    os.replace(temporary, folder / f"{print_}.npz")


class _Telling:
    def _forward_exploration(self, batch: Any, **kwargs: Any) -> Any:
        _note(batch["obs"], self)
        return super()._forward_exploration(batch, **kwargs)  # type: ignore[misc]

    def _forward_inference(self, batch: Any, **kwargs: Any) -> Any:
        _note(batch["obs"], self)
        return super()._forward_inference(batch, **kwargs)  # type: ignore[misc]


class TellingModule(_Telling, DefaultPPOTorchRLModule):
    """The module of PPO and IMPALA; it notes its weights each time it acts."""


class TellingAPPOModule(_Telling, DefaultAPPOTorchRLModule):
    """The module of APPO; it notes its weights each time it acts."""


class FixedModule(RLModule):
    """A heuristic of the new stack: always the first action."""

    def _forward(self, batch: Any, **kwargs: Any) -> Any:
        _note(batch["obs"], None, "fixed")
        return {"actions": np.zeros(len(batch["obs"]), np.int64)}

    def _forward_train(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def compile(self, *args: Any, **kwargs: Any) -> None:
        pass


class TellingPolicy(PPOTorchPolicy):
    """PPO's policy of the old stack; it notes its weights each time it acts."""

    def compute_actions_from_input_dict(self, input_dict: Any, *args: Any, **kwargs: Any) -> Any:
        _note(input_dict["obs"], self.model)
        return super().compute_actions_from_input_dict(input_dict, *args, **kwargs)


class FixedPolicy(RandomPolicy):
    """A heuristic of the old stack: always the first action."""

    def compute_actions(self, obs_batch: Any, *args: Any, **kwargs: Any) -> Any:
        _note(obs_batch, None, "fixed")
        return np.zeros(len(obs_batch), np.int64), [], {}


# The environment ----------------------------------------------------------------------------------


class Arena(MultiAgentEnv):
    """A game of rock, paper, scissors between agents, which records who has played.

    The keys of the config:

    * ``log``: folder for the records.
    * ``agents``: names of the agents; two by default.
    * ``lengths``: shortest and longest episode, in steps.
    * ``rules``: ``"duel"``, all against all; ``"chase"``, the first agent wants the others' action
      and the others do not; ``"coop"``, all get a point where their actions differ.
    * ``teams``: agent -> team; agents of a team share their rewards.
    * ``dying``: whether all agents but two end at a random step.
    * ``late``: whether all agents but two appear at a random step.
    * ``turns``: whether one agent acts at a time.
    * ``breaks``: an episode in so many raises an error at its second step.

    Every agent gets the same tiny extra reward at its first step, another one in each episode, so
    that a return says of which episode it is. Sums of such rewards are exact.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        config = dict(config or {})
        self.possible_agents = list(config.get("agents", ("red", "blue")))
        self.agents = list(self.possible_agents)
        self._agent_ids = set(self.agents)
        self.observation_spaces = dict.fromkeys(self.agents, OBSERVATION)
        self.action_spaces = dict.fromkeys(self.agents, ACTIONS)
        self.observation_space = gym.spaces.Dict(self.observation_spaces)
        self.action_space = gym.spaces.Dict(self.action_spaces)
        self._config = config
        self._rng = np.random.default_rng()  # another one in each process and sub-environment
        self.key = int(self._rng.integers(1, _SCALE)) * _SCALE + int(self._rng.integers(_SCALE))
        self.episode = 0
        self._over = True
        self._file = Path(config["log"]) / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"

    # Life of an episode ---------------------------------------------------------------------------

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if not self._over:
            _ANSWERED.pop((self.key, self.episode), None)
            self._write("left", {})
        self._over = False
        self.episode += 1
        self._step = 0
        shortest, longest = self._config.get("lengths", (4, 9))
        self._length = int(self._rng.integers(shortest, longest + 1))
        self.tag = int(self._rng.integers(1, 2**28))
        self._returns: dict[str, float] = {}
        self._owed: dict[str, float] = {}
        self._acted: dict[str, int] = {}
        steps = np.arange(1, max(self._length - 1, 2))
        others = self.possible_agents[2:]
        self._born = {a: int(self._rng.choice(steps)) for a in others if self._config.get("late")}
        self._dies = {a: int(self._rng.choice(steps)) for a in others if self._config.get("dying")}
        for agent, born in self._born.items():
            if agent in self._dies:
                self._dies[agent] = max(self._dies[agent], born + 1)
        self._dead: set[str] = set()
        self._breaks = self._config.get("breaks") and not self._rng.integers(self._config["breaks"])
        _ANSWERED[self.key, self.episode] = _Answers(Path(self._config["log"]))
        self._write("begun", {})
        return self._observe(), {}

    def _alive(self) -> list[str]:
        return [
            agent
            for agent in self.possible_agents
            if agent not in self._dead and self._born.get(agent, 0) <= self._step
        ]

    def _observe(self) -> dict[str, Any]:
        alive = self._alive()
        if self._config.get("turns"):
            alive = [alive[self._step % len(alive)]]
        return {agent: self._observation(agent) for agent in alive}

    def _observation(self, agent: str) -> Any:
        numbers = (
            *divmod(self.key, _SCALE),
            self.episode,
            self.possible_agents.index(agent),
            self._step,
        )
        return (np.array(numbers, np.float64) / _SCALE).astype(np.float32)

    def step(self, actions: dict[str, Any]) -> Any:
        if self._breaks and self._step == 1:
            self._over = True
            _ANSWERED.pop((self.key, self.episode), None)
            self._write("broken", {})
            raise RuntimeError("this episode breaks, as its config says")
        for agent in actions:
            self._acted[agent] = self._acted.get(agent, 0) + 1
        for agent, reward in self._rewards({a: int(each) for a, each in actions.items()}).items():
            extra = 0.0 if agent in self._returns else self.tag * _TAG
            self._returns[agent] = self._returns.get(agent, 0.0) + reward + extra
            self._owed[agent] = self._owed.get(agent, 0.0) + reward + extra
        self._step += 1
        dying = {a for a, step in self._dies.items() if step == self._step and a in self._acted}
        observations = self._observe() | {agent: self._observation(agent) for agent in dying}
        self._dead |= dying
        self._over = self._step >= self._length
        ended = dict.fromkeys(dying, True) | {"__all__": self._over}
        if self._over:
            observations = {agent: self._observation(agent) for agent in (*self._alive(), *dying)}
            observations = {a: o for a, o in observations.items() if a in self._acted}
            self._record()
        # An agent gets its rewards with its next observation: the old stack drops others.
        rewards = {agent: self._owed.pop(agent) for agent in observations if agent in self._owed}
        return observations, rewards, ended, {"__all__": False}, {}

    def _rewards(self, actions: dict[str, int]) -> dict[str, float]:
        rules = self._config.get("rules", "duel")
        if rules == "coop":
            return dict.fromkeys(actions, float(len(set(actions.values())) > 1))
        first = self.possible_agents[0]
        if self._config.get("turns"):
            return {agent: float(action == 0) for agent, action in actions.items()}
        rewards = {}
        for agent, own in actions.items():
            others = [other for each, other in actions.items() if each != agent]
            if rules == "chase":
                caught = [(own == other) == (agent == first) for other in others]
                rewards[agent] = float(sum(1 if won else -1 for won in caught))
            else:
                rewards[agent] = float(sum((0, 1, -1)[(own - other) % 3] for other in others))
        teams = self._config.get("teams")
        if teams:
            return {
                agent: sum(value for each, value in rewards.items() if teams[each] == teams[agent])
                for agent in rewards
            }
        return rewards

    # Records --------------------------------------------------------------------------------------

    def _record(self) -> None:
        """Write down who acted at each step of the finished episode."""
        answers = _ANSWERED.pop((self.key, self.episode)).prints
        agents = {}
        for number, agent in enumerate(self.possible_agents):
            if agent in self._acted:
                steps = answers.get(number, {})
                agents[agent] = {
                    "return": self._returns[agent].hex(),
                    "acted": self._acted[agent],
                    "from_first_to_last": [min(steps) == 0, max(steps) == self._step - 1],
                    "prints": [steps[step] for step in sorted(steps)],
                }
        self._write("over", {"agents": agents})

    @property
    def acted(self) -> tuple[str, ...]:
        """The agents that have acted in the present episode."""
        return tuple(self._acted)

    def note(self, what: str, **more: Any) -> None:
        """Write a line about the present episode."""
        self._write(what, more)

    def _write(self, what: str, more: dict[str, Any]) -> None:
        line = {"what": what, "key": self.key, "episode": self.episode, "tag": self.tag, **more}
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


class Witness(DefaultCallbacks):
    """Callbacks of a user, which write down RLlib's id of each episode beside the environment's."""

    def on_episode_start(self, **kwargs: Any) -> None:
        self._write("started", **kwargs)

    def on_episode_end(self, **kwargs: Any) -> None:
        if not isinstance(kwargs["episode"], Exception):
            self._write("ended", **kwargs)

    def _write(self, what: str, *, episode: Any, env_index: int, **kwargs: Any) -> None:
        runner = kwargs.get("env_runner") or kwargs["worker"]
        if "env" in kwargs:
            env = kwargs["env"].envs[env_index].unwrapped
        else:
            env = kwargs["base_env"].get_sub_environments()[env_index]
        name = getattr(episode, "id_", None) or str(episode.episode_id)
        policy_of = getattr(episode, "module_for", None) or episode.policy_for
        env.note(
            what,
            id=name,
            policies={agent: policy_of(agent) for agent in env.acted},
            evaluation=bool(runner.config.in_evaluation),
            worker=runner.worker_index,
            env_index=env_index,
        )
