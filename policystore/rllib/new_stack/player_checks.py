"""Check what a new-stack player needs: recorded connectors, the agent, the observations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.utils.typing import AgentID

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError, NotFoundError
from policystore.rllib.common.player_args import observation_mismatch
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot

__all__ = ["check_connectors", "check_observations", "pick_agent"]

# The agent of a snapshot that knows no agent ids.
_AGENT = "agent"


def check_connectors(recorded: Mapping[str, Any]) -> None:
    """Check that recorded connectors have the form that snapshots of the new stack write.

    Args:
        recorded: ``spec.connectors``.

    Raises:
        FormatError: names the part that has another form.
    """
    types: dict[str, tuple[type, ...]] = {
        "env_to_module": (list,),
        "module_to_env": (list,),
        "defaults": (dict,),
        "multi_agent": (bool,),
        "agents": (list, type(None)),
        "lookback": (int,),
    }
    for key, value in recorded.items():
        if type(value) not in types.get(key, ()):
            raise FormatError(f"spec.connectors: snapshots do not hold {key!r}: {brief(value)}")
    defaults = recorded.get("defaults", {})
    if recorded and not (
        defaults.keys() == set(PIPELINES)
        and all(type(value) is bool for value in defaults.values())
    ):
        raise FormatError(f"spec.connectors: malformed defaults: {brief(defaults)}")


def pick_agent(snap: Snapshot, given: AgentID | None) -> AgentID:
    """Return the agent to act as: the given one, else the only recorded one.

    Agent ids are compared with their types: 1, 1.0 and True are different agents.

    Args:
        snap: a snapshot that tells agents apart.
        given: the caller's agent id, or None.

    Raises:
        NotFoundError: the snapshot has no such agent; the message lists the agents.
        InvalidInputError: no agent was given, and several have connectors of their own.
    """
    recorded = snap.spec.connectors
    known = recorded.get("agents") or []
    if given is not None:
        exact = {(type(agent), agent) for agent in known}
        if known and (type(given), given) not in exact:
            raise NotFoundError(f"{snap!r} has no agent {given!r}; it has {known!r}")
        return given
    if len(known) > 1 and any(recorded.get(name) for name in PIPELINES):
        raise InvalidInputError(
            f"{snap!r} acts for several agents, which its connectors may treat differently: pass "
            f"agent=, one of {known!r}"
        )
    return known[0] if known else _AGENT


def check_observations(
    snap: Snapshot, env_space: gym.Space[Any], made: gym.Space[Any] | None, module: RLModule
) -> None:
    """Check that connectors turn observations into what a module was built for.

    Args:
        snap: the snapshot that ``module`` was rebuilt from.
        env_space: the environment's observation space.
        made: the space that comes out of the env-to-module pipeline; of a multi-agent pipeline, a
            Dict with one agent's space.
        module: a single module. One of several that go together, or one that does not take arrays,
            is not checked.

    Raises:
        InvalidInputError: the observations have another shape or structure.
    """
    needed = module.observation_space
    if isinstance(module, MultiRLModule) or not isinstance(needed, gym.spaces.Box):
        return
    if isinstance(made, gym.spaces.Dict) and len(made.spaces) == 1 and snap.spec.connectors:
        made = next(iter(made.spaces.values()))
    if isinstance(made, gym.spaces.Box) and made.shape == needed.shape:
        return
    raise observation_mismatch(snap, env_space, made, needed)
