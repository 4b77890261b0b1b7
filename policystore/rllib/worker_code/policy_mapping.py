"""Ask mapping functions which policies play for which agents. Runs in actors, sent by value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    active_episodes,
    agents_of_env,
    base_env,
    episode_policies,
    single_env,
)
from policystore.rllib.worker_code.messages.requests import MappingRequest
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to

if TYPE_CHECKING:
    from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

    from policystore.rllib.worker_code.messages.answers import Spaces

__all__ = ["DRAWS", "check_mapping", "incompatible_agents", "named_modules"]

# How often a mapping function is called for each agent, because it may choose at random.
DRAWS = 64


def named_modules(runner: MultiAgentEnvRunner, mapping: Callable[..., str]) -> set[tuple[Any, Any]]:
    """Return agents and the modules that a function maps them to, called as an episode calls it.

    Args:
        runner: an env runner of the new stack; the agents are those of its environment.
        mapping: RLlib's function of an agent's id and an episode.
    """
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    if runner.env is None:
        return set()
    agents = list(single_env(runner).possible_agents)
    pairs = set()
    for _ in range(DRAWS):
        episode = MultiAgentEpisode(agent_to_module_mapping_fn=mapping)
        pairs |= {(agent, episode.module_for(agent)) for agent in agents}
    return pairs


def check_mapping(worker: RolloutWorker | PolicyAccess, request: MappingRequest) -> None:
    """Check that a mapping function names only policies that exist after the change.

    The function is called for the agents of the worker's episodes and environment. For new episodes
    it is called many times, because it may choose at random.

    Raises:
        RefusedError: the function names other policies, or policies for other spaces, or it raises;
            or a policy is removed, and the worker's episodes cannot start anew.
    """
    worker = access_to(worker).worker
    try:
        wrong = _mapping_error(worker, request)
    except Exception as error:
        raise RefusedError(f"policy_mapping_fn raised {type(error).__name__}: {error}") from error
    if wrong:
        raise RefusedError(wrong)


def _mapping_error(worker: RolloutWorker, request: MappingRequest) -> str:
    """Say what is wrong with a mapping function; empty if nothing is."""
    import random

    import numpy as np

    base = base_env(worker)
    if request.removed and base is not None:
        from ray.rllib.env.multi_agent_env import MultiAgentEnvWrapper

        if not isinstance(base, MultiAgentEnvWrapper):
            # Remote and external environments reset in other ways.
            return f"its episodes, in a {type(base).__name__}, cannot start anew"
    known = (set(worker.policy_map.keys()) | set(request.added)) - set(request.removed)
    states = random.getstate(), np.random.get_state()
    try:
        named = _named(worker, request.policy_mapping_fn or worker.policy_mapping_fn)
        try:
            before = _named(worker, worker.policy_mapping_fn)
        except Exception:
            # The user's own function, which is about to go.
            before = []
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
    unknown = sorted({f"{pid!r} for agent {a!r}" for a, pid in named if pid not in known})
    if unknown:
        return f"policy_mapping_fn names {', '.join(unknown[:5])}"
    spaces = dict(request.added)
    for pid in {pid for _, pid in [*before, *named]} - spaces.keys():
        if pid in worker.policy_map:
            policy = worker.policy_map[pid]
            spaces[pid] = (policy.observation_space, policy.action_space)
    differing = incompatible_agents(before, named, spaces)
    return f"policy_mapping_fn: {differing}" if differing else ""


def _named(worker: RolloutWorker, mapping: Callable[..., str]) -> list[tuple[Any, Any]]:
    """Return agents and the policies that a function maps them to, called many times."""
    from ray.rllib.evaluation.episode_v2 import EpisodeV2

    pairs = []
    agents = agents_of_env(worker.env)
    for episode in active_episodes(worker):
        playing = list(episode_policies(episode))
        agents |= set(playing)
        for agent in playing:
            pairs += [(agent, mapping(agent, episode, worker=worker)) for _ in range(4)]
    for agent in agents:
        for _ in range(DRAWS):
            episode = EpisodeV2(
                0, worker.policy_map, mapping, worker=worker, callbacks=worker.callbacks
            )
            pairs.append((agent, mapping(agent, episode, worker=worker)))
    return pairs


def incompatible_agents(
    before: Iterable[tuple[Any, Any]],
    after: Iterable[tuple[Any, Any]],
    spaces: Mapping[Any, Spaces],
) -> str | None:
    """Return which agents would get policies for other observations or actions than before.

    Connectors may change an agent's own spaces. So the spaces of the agent's present policies are
    compared with those of the future ones. Bounds may differ.

    Args:
        before: present pairs of agent and policy.
        after: future pairs of agent and policy.
        spaces: by policy, its observation and action space.

    Returns:
        The first three such agents; None if there are none.
    """
    played: dict[Any, list[Any]] = {}
    for agent, pid in before:
        if pid in spaces:
            played.setdefault(agent, []).append(pid)
    wrong = {
        f"agent {agent!r} would come from {played[agent][0]!r}, made for "
        f"{_worded(spaces[played[agent][0]])}, to {pid!r}, made for {_worded(spaces[pid])}"
        for agent, pid in after
        if pid in spaces and agent in played
        if _form(spaces[pid]) not in [_form(spaces[each]) for each in played[agent]]
    }
    return "; ".join(sorted(wrong)[:3]) or None


def _worded(spaces: Spaces) -> str:
    return f"observations {spaces[0]} and actions {spaces[1]}"


def _form(space: Any) -> Any:
    """Return what two spaces must share so that one network can serve both."""
    if isinstance(space, tuple):
        return tuple(_form(each) for each in space)
    kind = type(space).__name__
    if kind == "Box":
        return kind, tuple(space.shape)
    if kind in ("Dict", "Tuple"):
        parts = space.spaces
        items = sorted(parts.items()) if kind == "Dict" else enumerate(parts)
        return kind, tuple((key, _form(part)) for key, part in items)
    return kind, repr(space)
