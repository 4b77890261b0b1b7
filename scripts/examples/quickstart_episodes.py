"""Play seeded episodes in the same way with a trained Algorithm and with a rebuilt player."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

Act = Callable[[Any], Any]
"""A function of one agent's observation that returns its action; called once a step."""


class Episode(TypedDict):
    """The actions and the return of one agent in one episode, as JSON can hold them."""

    actions: list[int]
    reward: float


def play_alone(env: Any, seed: int, act: Act) -> Episode:
    """Play one episode of a gymnasium environment with discrete actions."""
    observation, _ = env.reset(seed=seed)
    episode = Episode(actions=[], reward=0.0)
    over = False
    while not over:
        action = act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        episode["actions"].append(int(action))
        episode["reward"] += float(reward)
        over = terminated or truncated
    return episode


def play_together(env: Any, seed: int, acts: Mapping[int, Act]) -> dict[int, Episode]:
    """Play one episode of an RLlib MultiAgentEnv, whose agents end one by one."""
    observations, _ = env.reset(seed=seed)
    episodes = {agent: Episode(actions=[], reward=0.0) for agent in acts}
    playing = set(acts)
    while playing:
        actions = {agent: acts[agent](observations[agent]) for agent in sorted(playing)}
        observations, rewards, terminated, truncated, _ = env.step(actions)
        for agent, action in actions.items():
            episodes[agent]["actions"].append(int(action))
            episodes[agent]["reward"] += float(rewards[agent])
            if terminated[agent] or truncated[agent]:
                playing.discard(agent)
    return episodes


def mean_return(episodes: Sequence[Episode]) -> float:
    """Return the mean of the episodes' undiscounted returns."""
    return sum(episode["reward"] for episode in episodes) / len(episodes)


def count_actions(episodes: Sequence[Episode]) -> int:
    """Return the number of actions in the episodes."""
    return sum(len(episode["actions"]) for episode in episodes)


def differing_actions(given: Sequence[Episode], got: Sequence[Episode]) -> int:
    """Count the steps with different actions; a step that only one of the two has counts, too."""
    differing = 0
    for left, right in zip(given, got, strict=True):
        pairs = zip(left["actions"], right["actions"], strict=False)
        differing += sum(a != b for a, b in pairs)
        differing += abs(len(left["actions"]) - len(right["actions"]))
    return differing
