"""Whom a mapping function gives to which agents. Runs on workers; sent by value.

Imports nothing of policystore (``worker_side.py`` says why).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["DRAWS", "incompatible_agents", "named_modules"]

# How often it is asked for each agent, as it may draw lots.
DRAWS = 64


def named_modules(runner: Any, mapping: Any) -> set[tuple[Any, Any]]:
    """Agents and their modules, on an env runner of the new stack, asked as an episode asks."""
    from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

    if runner.env is None:
        return set()
    # Before Ray 2.42 the runner's environment was the single one itself.
    env = getattr(runner.env, "envs", [runner.env])[0].unwrapped
    agents = list(env.possible_agents)
    found = set()
    for _ in range(DRAWS):
        episode = MultiAgentEpisode(agent_to_module_mapping_fn=mapping)
        found |= {(agent, episode.module_for(agent)) for agent in agents}
    return found


def incompatible_agents(
    before: Iterable[tuple[Any, Any]],
    after: Iterable[tuple[Any, Any]],
    spaces: Mapping[Any, tuple[Any, Any]],
) -> str | None:
    """Say which agents would come to policies for observations or actions other than theirs.

    An agent's own spaces do not tell, as connectors may change them; those of the policies that it
    had before do. Bounds may differ.

    Args:
        before: agents and policies of today.
        after: those to come.
        spaces: by policy, its observation and action space.
    """
    played: dict[Any, list[Any]] = {}
    for agent, pid in before:
        if pid in spaces:
            played.setdefault(agent, []).append(pid)
    wrong = {
        f"agent {agent!r} would come from {played[agent][0]!r}, made for "
        f"{_said(spaces[played[agent][0]])}, to {pid!r}, made for {_said(spaces[pid])}"
        for agent, pid in after
        if pid in spaces and agent in played
        if _form(spaces[pid]) not in [_form(spaces[each]) for each in played[agent]]
    }
    return "; ".join(sorted(wrong)[:3]) or None


def _said(spaces: tuple[Any, Any]) -> str:
    return f"observations {spaces[0]} and actions {spaces[1]}"


def _form(space: Any) -> Any:
    """What two spaces must share so that one network can serve both."""
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
