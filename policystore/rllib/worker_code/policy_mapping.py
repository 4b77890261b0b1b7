"""Ask mapping functions which policies play for which agents. Runs in actors, sent by value."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from policystore.rllib.worker_code.compat import (
    active_episodes,
    agents_of_env,
    base_env,
    episode_policies,
    ongoing_episodes,
    single_env,
)
from policystore.rllib.worker_code.messages.answers import MappingAnswer
from policystore.rllib.worker_code.messages.requests import MappingRequest
from policystore.rllib.worker_code.messages.wire import RefusedError
from policystore.rllib.worker_code.tensors import PolicyAccess, access_to

if TYPE_CHECKING:
    from policystore.rllib.worker_code.messages.answers import Spaces
    from policystore.rllib.worker_code.messages.wire import AnyWorker

__all__ = ["DRAWS", "check_mapping"]

DRAWS = 64
"""How many new episodes a mapping function is asked about if it draws random numbers."""
_FIRST_DRAWS = 4


def check_mapping(worker: AnyWorker | PolicyAccess, request: MappingRequest) -> MappingAnswer:
    """Check that a mapping function names only policies that exist after the change.

    The function is asked about the agents of the worker's environment in new episodes, and about
    the agents of the episodes under way. A function that draws random numbers is asked about many
    new episodes. The random number generators of Python, numpy and torch are left as they were.

    A function may read what a callback of the user has put into the episode. Such a function raises
    an error for a new episode, which proves nothing, so the error becomes a remark.

    Raises:
        RefusedError: the function names other policies, or policies for other spaces; or a policy
            is removed, and the worker's episodes cannot start anew.
    """
    access = access_to(worker)
    if request.removed and access.is_old:
        _require_restartable_episodes(access.worker)
    if not request.ask:
        return MappingAnswer([], asked=False)
    present = _present_mapping(access)
    with _random_states_kept():
        mapping = request.policy_mapping_fn or present
        named, asked, remark = _named(access, mapping, request.removed)
        before = _present_pairs(access, present)
    known = (set(access.ids) | set(request.added)) - set(request.removed)
    unknown = sorted({f"{pid!r} for agent {agent!r}" for agent, pid in named if pid not in known})
    if unknown:
        raise RefusedError(f"policy_mapping_fn names {', '.join(unknown[:5])}")
    spaces = dict(request.added)
    for pid in {pid for _, pid in before | named} - spaces.keys():
        if pid in access.ids:
            holder = access.holder(pid)
            spaces[pid] = (holder.observation_space, holder.action_space)
    differing = _incompatible_agents(before, named, spaces)
    if differing:
        raise RefusedError(f"policy_mapping_fn: {differing}")
    return MappingAnswer(sorted({str(pid) for _, pid in named}), asked, remark)


def _require_restartable_episodes(worker: Any) -> None:
    """Check that the episodes of an old-stack worker can start anew."""
    from ray.rllib.env.multi_agent_env import MultiAgentEnvWrapper

    base = base_env(worker)
    if base is not None and not isinstance(base, MultiAgentEnvWrapper):
        # Remote and external environments reset in other ways.
        raise RefusedError(f"its episodes, in a {type(base).__name__}, cannot start anew")


def _present_mapping(access: PolicyAccess) -> Callable[..., Any]:
    worker = access.worker
    mapping: Callable[..., Any] = (
        worker.policy_mapping_fn if access.is_old else worker.config.policy_mapping_fn
    )
    return mapping


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """Leave the random number generators of Python, numpy and torch as they were."""
    import numpy as np
    import torch

    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _random_state() -> tuple[Any, ...]:
    """Return what changes if anything draws from the three generators."""
    import numpy as np
    import torch

    of_numpy = np.random.get_state(legacy=False)["state"]
    keys, position = of_numpy["key"].tobytes(), of_numpy["pos"]
    return random.getstate(), keys, position, torch.get_rng_state().numpy().tobytes()


def _named(
    access: PolicyAccess, mapping: Callable[..., Any], removed: list[str]
) -> tuple[set[tuple[Any, Any]], bool, str]:
    """Ask a mapping function about the agents of a worker.

    Returns:
        Pairs of agent and policy; whether the function was asked about new episodes; why it could
        not be asked.
    """
    pairs, agents, works = _named_under_way(access, mapping, removed)
    agents |= _agents(access)
    if not agents:
        return pairs, False, ""
    try:
        return pairs | _named_anew(access, mapping, agents), True, ""
    except Exception as error:
        # The user's own function, made for the user's own episodes.
        why = f"{type(error).__name__}: {error}"
        if works is False:
            raise RefusedError(
                f"policy_mapping_fn raised {why}, for an episode that was just made and for all "
                "episodes under way"
            ) from error
        return pairs, False, why


def _present_pairs(access: PolicyAccess, present: Callable[..., Any]) -> set[tuple[Any, Any]]:
    """Return the pairs of the present function, which may be about to go; none if it raises."""
    try:
        return _named(access, present, [])[0]
    except RefusedError:
        return set()


def _agents(access: PolicyAccess) -> set[Any]:
    """Return the agents of a worker's environment; none if the worker has no environment."""
    env = getattr(access.worker, "env", None)
    if env is None:
        return set()
    return agents_of_env(env) if access.is_old else set(single_env(access.worker).possible_agents)


def _named_under_way(
    access: PolicyAccess, mapping: Callable[..., Any], removed: list[str]
) -> tuple[set[tuple[Any, Any]], set[Any], bool | None]:
    """Ask a mapping function about the episodes under way.

    Returns:
        Pairs of agent and policy, without those of episodes that start anew because of a removal:
        what these say is out of date. All agents. Whether the function returned anything for any
        episode; None if no episode is under way.
    """
    pairs: set[tuple[Any, Any]] = set()
    agents: set[Any] = set()
    works: bool | None = None
    playing: list[tuple[Any, list[Any], bool]] = []
    if access.is_old:
        options = {"worker": access.worker}
        for each in active_episodes(access.worker):
            policies = episode_policies(each)
            stale = bool(set(policies.values()) & set(removed))
            playing.append((each, list(policies), stale))
    else:
        options = {}
        under_way = ongoing_episodes(access.worker)
        playing = [(each, list(each.agent_ids), bool(removed)) for each in under_way]
    for episode, ids, stale in playing:
        agents |= set(ids)
        for agent in ids:
            works = bool(works)
            try:
                named = {(agent, mapping(agent, episode, **options)) for _ in range(_FIRST_DRAWS)}
            except Exception:  # noqa: S112 (the user's own function; others are asked)
                continue
            works = True
            pairs |= set() if stale else named
    return pairs, agents, works


def _named_anew(
    access: PolicyAccess, mapping: Callable[..., Any], agents: set[Any]
) -> set[tuple[Any, Any]]:
    """Ask a mapping function about new episodes, about many of them if it seems to draw."""
    before = _random_state()
    pairs: set[tuple[Any, Any]] = set()
    for count in range(DRAWS):
        pairs |= _one_episode(access, mapping, agents)
        draws = len(pairs) > len(agents) or _random_state() != before
        if count + 1 == _FIRST_DRAWS and not draws:
            break
    return pairs


def _one_episode(
    access: PolicyAccess, mapping: Callable[..., Any], agents: set[Any]
) -> set[tuple[Any, Any]]:
    worker = access.worker
    if access.is_old:
        from ray.rllib.evaluation.episode_v2 import EpisodeV2

        old = EpisodeV2(0, worker.policy_map, mapping, worker=worker, callbacks=worker.callbacks)
        return {(agent, mapping(agent, old, worker=worker)) for agent in agents}
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    episode = MultiAgentEpisode(agent_to_module_mapping_fn=mapping)
    return {(agent, episode.module_for(agent)) for agent in agents}


def _incompatible_agents(
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
