"""Seeded episodes, played the same way by a trained Algorithm and by a rebuilt player."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

Act = Callable[[Any], Any]
"""One agent's observation in, its action out; one call per step of an episode."""


class Episode(TypedDict):
    """What one agent did in one episode, as JSON can hold it."""

    actions: list[int]
    reward: float


def play_alone(env: Any, seed: int, act: Act) -> Episode:
    """One episode of a gymnasium environment with discrete actions."""
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
    """One episode of an RLlib MultiAgentEnv, whose agents end one by one."""
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
    """The mean of the episodes' undiscounted returns."""
    return sum(episode["reward"] for episode in episodes) / len(episodes)


def count_actions(episodes: Sequence[Episode]) -> int:
    """How many actions the episodes hold."""
    return sum(len(episode["actions"]) for episode in episodes)


def differing_actions(given: Sequence[Episode], got: Sequence[Episode]) -> int:
    """Steps at which two plays of the same episodes differ; one that ends early differs after."""
    differing = 0
    for left, right in zip(given, got, strict=True):
        pairs = zip(left["actions"], right["actions"], strict=False)
        differing += sum(a != b for a, b in pairs)
        differing += abs(len(left["actions"]) - len(right["actions"]))
    return differing
