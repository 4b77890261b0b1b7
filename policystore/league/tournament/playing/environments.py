"""Environments of all kinds behind one small interface: who acts now, and what came of it.

The rules are those of RLlib's env runners. An agent acts if the last step gave it an observation
and it is not done (``env/multi_agent_episode.py``, ``get_agents_to_act``). An episode is over when
``__all__`` is terminated or truncated. All rewards count, also those of steps in which the agent
does not act.
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError

if TYPE_CHECKING:
    import gymnasium as gym

__all__ = ["SINGLE_ROLE", "GameEnv", "Spaces", "Turn", "adapt_env"]

SINGLE_ROLE = "agent"
"""The role of the only agent of a ``gymnasium.Env``."""

Spaces: TypeAlias = "tuple[gym.Space[Any], gym.Space[Any]]"
"""The observation space and the action space of one agent."""


@dataclass
class Turn:
    """What an environment gave back.

    Attributes:
        observations: role -> observation, of the roles that have to act now.
        rewards: role -> reward.
        over: whether the episode has ended.
        infos: role -> what the environment says beside the observation.
    """

    observations: dict[str, Any]
    rewards: dict[str, float] = field(default_factory=dict)
    over: bool = False
    infos: dict[str, Any] = field(default_factory=dict)


class GameEnv(abc.ABC):
    """One environment, whatever its library.

    ``numpy.random``'s functions draw from a generator of the environment's own, which each episode
    seeds anew: environments that use them (RLlib's ``OpenSpielEnv`` does, for chance) play the same
    episode from the same seed, whatever else draws numbers meanwhile.

    Args:
        env: the environment.
        agents: its agents, all that may ever appear.

    Attributes:
        env: the environment.
        roles: the agents as texts, sorted.
        agents: role -> agent id.
    """

    def __init__(self, env: Any, agents: Iterable[Any]) -> None:
        self.env = env
        self.agents = {str(agent): agent for agent in agents}
        # RLlib's PettingZooEnv makes its list of a set, whose order differs between processes.
        self.roles = tuple(sorted(self.agents))
        self._numbers = np.random.MT19937(0)

    def reset(self, seed: int) -> Turn:
        """Begin the episode of a seed; ``env.reset(seed=seed)``."""
        before = np.random.get_bit_generator()  # type: ignore[attr-defined]
        np.random.set_bit_generator(self._numbers)  # type: ignore[attr-defined]
        try:
            np.random.seed(seed)
            return self._reset(seed)
        finally:
            np.random.set_bit_generator(before)  # type: ignore[attr-defined]

    def step(self, actions: Mapping[str, Any]) -> Turn:
        """Let the roles that have to act take their actions."""
        before = np.random.get_bit_generator()  # type: ignore[attr-defined]
        np.random.set_bit_generator(self._numbers)  # type: ignore[attr-defined]
        try:
            return self._step(actions)
        finally:
            np.random.set_bit_generator(before)  # type: ignore[attr-defined]

    @abc.abstractmethod
    def _reset(self, seed: int) -> Turn:
        """Begin an episode."""

    @abc.abstractmethod
    def _step(self, actions: Mapping[str, Any]) -> Turn:
        """Take a step."""

    @abc.abstractmethod
    def spaces(self, role: str) -> Spaces:
        """Return the spaces of a role."""

    def render(self) -> Any:
        """Return a picture, as the environment renders it."""
        return self.env.render()

    def frames_per_second(self) -> float:
        """Return how many steps a second a film shows: what the environment says, else 15."""
        metadata = getattr(self.env, "metadata", None) or {}
        return float(metadata.get("render_fps") or 15)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


class _SingleAgent(GameEnv):
    """A ``gymnasium.Env``: one agent, which acts in each step."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env, [SINGLE_ROLE])

    def _reset(self, seed: int) -> Turn:
        observation, info = self.env.reset(seed=seed)
        return Turn({SINGLE_ROLE: observation}, infos={SINGLE_ROLE: info})

    def _step(self, actions: Mapping[str, Any]) -> Turn:
        observation, reward, terminated, truncated, info = self.env.step(actions[SINGLE_ROLE])
        return Turn(
            {SINGLE_ROLE: observation},
            {SINGLE_ROLE: float(reward)},
            bool(terminated or truncated),
            {SINGLE_ROLE: info},
        )

    def spaces(self, role: str) -> Spaces:
        return self.env.observation_space, self.env.action_space


class _MultiAgent(GameEnv):
    """A ``MultiAgentEnv`` of RLlib, also one that wraps a game of another library."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, _agents_of(env))

    def _reset(self, seed: int) -> Turn:
        self._done: set[Any] = set()
        observations, infos = self.env.reset(seed=seed)
        return self._turn(observations, {}, False, infos)

    def _step(self, actions: Mapping[str, Any]) -> Turn:
        given = {self.agents[role]: action for role, action in actions.items()}
        observations, rewards, terminated, truncated, infos = self.env.step(given)
        for ended in (terminated, truncated):
            self._done.update(agent for agent, done in ended.items() if done)
        over = bool(terminated.get("__all__") or truncated.get("__all__"))
        return self._turn(observations, rewards, over, infos)

    def _turn(self, observations: Any, rewards: Any, over: bool, infos: Any) -> Turn:
        done = self._done
        return Turn(
            {self._role(agent): seen for agent, seen in observations.items() if agent not in done},
            {self._role(agent): float(reward) for agent, reward in rewards.items()},
            over,
            {str(agent): info for agent, info in (infos or {}).items()},
        )

    def _role(self, agent: Any) -> str:
        role = str(agent)
        if role not in self.agents:
            raise InvalidInputError(
                f"the environment speaks of the agent {brief(agent)}, which is not among its "
                f"possible_agents: {brief(list(self.agents.values()))}"
            )
        return role

    def spaces(self, role: str) -> Spaces:
        agent = self.agents[role]
        return (
            _space_of(self.env, "observation", agent),
            _space_of(self.env, "action", agent),
        )


class _TurnBased(GameEnv):
    """A PettingZoo AEC environment: one agent acts at a time."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, env.possible_agents)

    def _reset(self, seed: int) -> Turn:
        self.env.reset(seed=seed)
        return self._turn()

    def _step(self, actions: Mapping[str, Any]) -> Turn:
        (action,) = actions.values()
        self.env.step(action)
        return self._turn()

    def _turn(self) -> Turn:
        """Go on to the next agent that lives, and collect the rewards of those that do not.

        ``env.last()`` gives an agent what it was rewarded since its last turn.
        """
        turn = Turn({})
        while self.env.agents:
            role = str(self.env.agent_selection)
            observation, reward, terminated, truncated, info = self.env.last()
            turn.rewards[role] = turn.rewards.get(role, 0.0) + float(reward)
            turn.infos[role] = info
            if not (terminated or truncated):
                turn.observations[role] = observation
                return turn
            self.env.step(None)
        turn.over = True
        return turn

    def spaces(self, role: str) -> Spaces:
        agent = self.agents[role]
        return self.env.observation_space(agent), self.env.action_space(agent)


class _Parallel(GameEnv):
    """A PettingZoo parallel environment: all agents that live act at the same time."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, env.possible_agents)

    def _reset(self, seed: int) -> Turn:
        observations, infos = self.env.reset(seed=seed)
        return self._turn(observations, {}, infos)

    def _step(self, actions: Mapping[str, Any]) -> Turn:
        given = {self.agents[role]: action for role, action in actions.items()}
        observations, rewards, _, _, infos = self.env.step(given)
        return self._turn(observations, rewards, infos)

    def _turn(self, observations: Any, rewards: Any, infos: Any) -> Turn:
        living = {str(agent) for agent in self.env.agents}
        return Turn(
            {str(agent): seen for agent, seen in observations.items() if str(agent) in living},
            {str(agent): float(reward) for agent, reward in rewards.items()},
            not living,
            {str(agent): info for agent, info in (infos or {}).items()},
        )

    def spaces(self, role: str) -> Spaces:
        agent = self.agents[role]
        return self.env.observation_space(agent), self.env.action_space(agent)


def adapt_env(env: object) -> GameEnv:
    """Return the interface to an environment.

    Args:
        env: a ``gymnasium.Env``, an RLlib ``MultiAgentEnv``, or a PettingZoo AEC or parallel
            environment.

    Raises:
        InvalidInputError: another object, or an environment without agents.
    """
    # A library whose module is not loaded has made no environment: so none is imported here.
    for module, name, adapter in (
        ("ray.rllib.env.multi_agent_env", "MultiAgentEnv", _MultiAgent),
        ("pettingzoo.utils.env", "AECEnv", _TurnBased),
        ("pettingzoo.utils.env", "ParallelEnv", _Parallel),
    ):
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(_innermost(env), kind):
            return _checked(adapter(env))
    gymnasium: Any = sys.modules.get("gymnasium")
    if gymnasium is not None and isinstance(env, gymnasium.Env):
        return _SingleAgent(env)
    raise InvalidInputError(
        "expected an environment (gymnasium.Env, RLlib's MultiAgentEnv, or PettingZoo's AECEnv or "
        f"ParallelEnv), found {brief(env)}"
    )


def _innermost(env: Any) -> Any:
    """Return the environment in gymnasium's wrappers, such as those that ``gymnasium.make`` adds.

    A MultiAgentEnv is a ``gymnasium.Env``, and may be in wrappers.
    """
    gymnasium: Any = sys.modules.get("gymnasium")
    is_wrapped = gymnasium is not None and isinstance(env, gymnasium.Wrapper)
    return env.unwrapped if is_wrapped else env


def _checked(adapted: GameEnv) -> GameEnv:
    if not adapted.roles:
        raise InvalidInputError(
            f"{brief(adapted.env)} names no agents: set its possible_agents to the ids of all "
            "agents that may appear"
        )
    return adapted


def _agents_of(env: Any) -> list[Any]:
    """Return all agents that an environment names, in its own order."""
    inner = _innermost(env)
    for name in ("possible_agents", "agents"):
        agents = getattr(inner, name, None)
        if agents:
            return list(agents)
    # Before Ray 2.41, RLlib's wrappers name their agents by this method alone.
    agent_ids: Iterable[Any] = getattr(inner, "get_agent_ids", tuple)()
    return sorted(agent_ids, key=str)


def _space_of(env: Any, kind: str, agent: Any) -> gym.Space[Any]:
    """Return a space of one agent of a MultiAgentEnv, whose spaces may be kept in three places."""
    inner = _innermost(env)
    by_agent = getattr(inner, f"{kind}_spaces", None)
    from gymnasium import Space, spaces  # only here: what has spaces has loaded it

    if isinstance(by_agent, (Mapping, spaces.Dict)) and agent in by_agent:
        space: Space[Any] = by_agent[agent]
        return space
    common = getattr(inner, f"{kind}_space", None)
    if isinstance(common, spaces.Dict) and agent in common.spaces:
        return common.spaces[agent]
    if isinstance(common, Space):
        return common
    raise InvalidInputError(f"{brief(inner)} has no {kind} space for the agent {brief(agent)}")
