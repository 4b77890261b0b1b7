"""New API stack: play a snapshot, raw observation in, environment action out.

RLlib's own pipelines run here as in its env runners (``env/single_agent_env_runner.py:_sample``),
around episodes that hold only as much of the past as connectors may look back to.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module import FlattenObservations, PrevActionsPrevRewards
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule

from policystore.errors import InvalidInputError, NotFoundError
from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.trust import Trust
from policystore.rllib.new_stack.connector_state import put_state
from policystore.rllib.new_stack.connectors import pieces_from_plain, walk
from policystore.rllib.new_stack.env_interface import default_pipelines
from policystore.rllib.new_stack.episodes import EpisodeRows, MultiAgentRows, SingleAgentRows
from policystore.rllib.new_stack.player_checks import (
    action_handling,
    check_actions,
    check_connectors,
    check_observations,
    check_size,
    env_spaces_of,
)
from policystore.rllib.new_stack.rebuild import rebuild_module
from policystore.rllib_schema.env_interface import PIPELINES
from policystore.snapshot import Snapshot

__all__ = ["ModulePlayer"]

_MODULE_ID = "module"
_AGENT = "agent"
# Exploration schedules (DQN's epsilon) go by the steps sampled so far, which a snapshot does not
# know: play as at the end of the schedule.
_LATE = 10**12
_MEMORYLESS = (FlattenObservations, MeanStdFilter)
# RLlib's pieces take several multi-agent episodes at once since it has vectorized environments of
# them; before (Ray 2.40) they assert that there is one.
_VECTORIZED = importlib.util.find_spec("ray.rllib.env.vector") is not None

Pieces: TypeAlias = "ConnectorV2 | Iterable[ConnectorV2] | Mapping[str, Iterable[ConnectorV2]]"


class ModulePlayer:
    """Acts in an environment with the policy of a snapshot. Not thread-safe.

    Deterministic actions are those that the Algorithm's env runner takes with ``explore=False``.
    Filters apply their statistics and do not go on learning. Recurrent state, stacked frames
    and previous actions are kept between calls until :meth:`reset`; memory stays bounded however
    long the episode.

    Args:
        snap: a snapshot of the new API stack.
        trust: see :func:`policystore.rllib.new_stack.rebuild.rebuild_module`; for connectors as well.
        env_spaces: observation and action space of the environment (one agent's), for a snapshot
            that does not have them.
        connectors: connector pieces of your own, in place of the recorded ones: a list for
            env-to-module, or ``{"env_to_module": […], "module_to_env": […]}``. Used as they are.
        agent: as which agent to act, where the snapshot has several.
        module_id: through which module, where the snapshot has several that go together.
        normalize_actions: whether Box actions are unsquashed to the action space's bounds,
            for a snapshot that does not say.
        clip_actions: whether Box actions are clipped, for a snapshot that does not say.

    Raises:
        InvalidInputError: something of the environment's side is missing; says what.
        UntrustedError: a class that is not vouched for.
        MismatchError: weights or filter statistics do not fit.
    """

    def __init__(
        self,
        snap: Snapshot,
        *,
        trust: Trust = (),
        env_spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None,
        connectors: Pieces | None = None,
        agent: Any = None,
        module_id: str | None = None,
        normalize_actions: bool | None = None,
        clip_actions: bool | None = None,
    ) -> None:
        with guarded(f"making a player of {snap!r}"):
            spec = snap.spec
            self.observation_space, self.action_space = env_spaces_of(snap, env_spaces)
            check_size(self.observation_space)
            normalize, clip = action_handling(
                snap, self.action_space, normalize_actions, clip_actions
            )
            recorded = spec.connectors
            check_connectors(recorded)
            module_id = _module_id(snap, module_id)
            multi_agent = bool(recorded.get("multi_agent")) or spec.modules is not None
            self.agent = _agent(snap, agent) if multi_agent else None
            if agent is not None and not multi_agent:
                raise InvalidInputError(
                    f"agent={agent!r}: {snap!r} has a single agent; leave it out"
                )
            inputs: Any = (self.observation_space, self.action_space)
            if multi_agent:
                inputs = tuple(_for_agent(self.agent, space) for space in inputs)
            pieces = _pieces(snap, connectors, inputs, self.agent, trust)
            self._pipelines = default_pipelines(
                observation_space=inputs[0],
                action_space=inputs[1],
                module_id=module_id if multi_agent else None,
                pieces=pieces,
                defaults=recorded.get("defaults", dict.fromkeys(PIPELINES, True)),
                normalize_actions=normalize,
                clip_actions=clip,
            )
            module = rebuild_module(snap, trust=trust)
            if module.framework is None:
                # A heuristic gets tensors as well: it plays beside modules of torch, whose
                # framework the MultiRLModule takes over (core/rl_module/multi_rl_module.py:setup).
                module.framework = "torch"
            check_observations(snap, self._pipelines["env_to_module"].observation_space, module)
            check_actions(self.action_space, module, f"{snap!r}")
            if multi_agent and not isinstance(module, MultiRLModule):
                together = MultiRLModule(rl_module_specs={})
                together.add_module(module_id, module)
                module = together
            self.module: RLModule = module
            self._wants_rewards = any(
                isinstance(piece, PrevActionsPrevRewards) and piece.n_prev_rewards
                for _, piece in walk(pieces["env_to_module"])
            )
            kind = MultiAgentRows if multi_agent else SingleAgentRows
            self._slots: list[EpisodeRows] = []
            self._shared: list[dict[str, Any]] = []
            self._new_slots = functools.partial(
                kind, inputs[0], inputs[1], self.agent, module_id, int(recorded.get("lookback", 1))
            )
            self._one_by_one = multi_agent and not _VECTORIZED
            self._memoryless = not self.module.is_stateful() and all(
                type(piece) in _MEMORYLESS for name in PIPELINES for _, piece in walk(pieces[name])
            )

    def reset(self, row: int | None = None) -> None:
        """Begin new episodes: all of them, or that of one row of :meth:`act_batch`."""
        if row is None:
            self._slots.clear()
            self._shared.clear()
            return
        rows = sum(slots.count for slots in self._slots)
        if type(row) is not int or not 0 <= row < rows:
            raise InvalidInputError(f"reset({row!r}): there are {rows} environments, from 0 on")
        if self._one_by_one:
            self._slots[row].clear()
            self._shared[row].clear()
        else:
            self._slots[0].restart(row)

    def act(self, obs: Any, explore: bool = False, *, reward: float | None = None) -> Any:
        """The action for one observation of one environment.

        Args:
            obs: as the environment returns it.
            explore: sample instead of the deterministic action.
            reward: what the previous action earned; only for policies that look at it.

        Returns:
            An action of the environment's action space.

        Raises:
            InvalidInputError: ``obs`` is not of the observation space, or the reward is missing.
        """
        rewards = None if reward is None else [reward]
        return self.act_batch([obs], explore, rewards=rewards)[0]

    def act_batch(
        self,
        obs: Sequence[Any],
        explore: bool = False,
        *,
        rewards: Sequence[float] | None = None,
    ) -> list[Any]:
        """Actions for one observation of each of several environments.

        Row ``i`` continues the episode of row ``i`` in the previous call, as in a vectorized
        environment: ``reset(i)`` when that environment's episode ends. A policy without memory
        takes any number of rows at any time.

        Args:
            obs: one observation per environment.
            explore: sample instead of the deterministic actions.
            rewards: what the previous actions earned, in the same order.

        Returns:
            One action per environment.

        Raises:
            InvalidInputError: another number of rows than since the last :meth:`reset`, for a
                policy that remembers; or as :meth:`act`.
        """
        if self._wants_rewards and rewards is None and any(s.started for s in self._slots):
            raise InvalidInputError(
                "this policy looks at previous rewards (PrevActionsPrevRewards): pass reward= with "
                "what the previous action earned, or call reset() at the start of an episode"
            )
        if not isinstance(explore, (bool, np.bool_)):
            raise InvalidInputError(f"explore is True or False, not {explore!r}")
        if not isinstance(obs, Iterable):
            raise InvalidInputError(f"expected a list of observations, found {obs!r}")
        obs = list(obs)
        if not obs:
            return []
        if self._memoryless and len(obs) != sum(slots.count for slots in self._slots):
            self.reset()
        if not self._one_by_one:
            return self._step(0, obs, explore, rewards)
        if len(obs) != len(self._slots or obs) or len(obs) != len(rewards or obs):
            raise InvalidInputError(
                f"{len(obs)} observations and {len(rewards or obs)} rewards for "
                f"{len(self._slots or obs)} environments; call reset() before playing another "
                "number of them"
            )
        return [
            self._step(row, [item], explore, None if rewards is None else [rewards[row]])[0]
            for row, item in enumerate(obs)
        ]

    def _step(
        self, row: int, obs: Sequence[Any], explore: bool, rewards: Sequence[float] | None
    ) -> list[Any]:
        """One pass for environments that go through RLlib's pipelines together."""
        if row == len(self._slots):
            self._slots.append(self._new_slots())
            self._shared.append({})
        slots, shared = self._slots[row], self._shared[row]
        episodes = slots.observe(obs, rewards)
        batch = self._pipelines["env_to_module"](
            rl_module=self.module,
            batch={},
            episodes=episodes,
            explore=explore,
            shared_data=shared,
        )
        if explore:
            output = self.module.forward_exploration(batch, t=_LATE)
        else:
            output = self.module.forward_inference(batch)
        output = self._pipelines["module_to_env"](
            rl_module=self.module,
            batch=output,
            episodes=episodes,
            explore=explore,
            shared_data=shared,
        )
        actions = output.pop(Columns.ACTIONS)
        for_env = output.pop(Columns.ACTIONS_FOR_ENV, actions)
        return slots.take(actions, for_env, output)


def _for_agent(agent: Any, space: gym.Space[Any]) -> gym.Space[Any]:
    return gym.spaces.Dict({agent: space})


def _module_id(snap: Snapshot, given: str | None) -> str:
    known = snap.spec.modules
    if known is None:
        if given is not None:
            raise InvalidInputError(f"module_id={given!r}: {snap!r} holds one module; leave it out")
        return _MODULE_ID
    if given is None:
        raise InvalidInputError(
            f"{snap!r} holds modules that go together: pass module_id=, one of {sorted(known)}"
        )
    if given not in known:
        raise NotFoundError(f"{snap!r} has no module {given!r}; it has {sorted(known)}")
    return given


def _agent(snap: Snapshot, given: Any) -> Any:
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


def _pieces(
    snap: Snapshot, given: Pieces | None, inputs: tuple[Any, Any], agent: Any, trust: Trust
) -> dict[str, list[ConnectorV2]]:
    recorded, omitted = snap.spec.connectors, snap.spec.omitted
    lacking = sorted(key for key in omitted if key.startswith("connectors."))
    if given is not None:
        return _given_pieces(given)
    if lacking:
        raise InvalidInputError(
            f"{snap!r} was made without {lacking}, so it cannot be played as it was trained: pass "
            "connectors=[…] with the pieces to use instead"
        )
    found = {}
    observation_space, action_space = inputs
    for name in PIPELINES:
        found[name] = pieces_from_plain(
            recorded.get(name, []),
            observation_space,
            action_space,
            overrides={MeanStdFilter: {"update_stats": False}},
            trust=trust,
        )
    by_name = dict(walk(piece for name in PIPELINES for piece in found[name]))
    for name, state in snap.state.items():
        if name not in by_name:
            raise InvalidInputError(
                f"{snap!r} has state of a connector {name!r}, but its connectors are "
                f"{sorted(by_name)}"
            )
        if agent is not None and isinstance(by_name[name], MeanStdFilter):
            if agent not in state:
                raise NotFoundError(
                    f"{snap!r}: {name} has statistics of {list(state)!r}, none of agent {agent!r}"
                )
            state = {agent: state[agent]}
        put_state(by_name[name], name, state)
    return found


def _given_pieces(given: Pieces) -> dict[str, list[ConnectorV2]]:
    if isinstance(given, ConnectorV2):
        given = [given]
    if not isinstance(given, Mapping):
        given = {PIPELINES[0]: given}
    unknown = sorted(set(given) - set(PIPELINES))
    found = {name: list(given.get(name, ())) for name in PIPELINES}
    wrong = [piece for pieces in found.values() for piece in pieces
             if not isinstance(piece, ConnectorV2)]  # fmt: skip
    if unknown or wrong:
        raise InvalidInputError(
            f"connectors is a list of ConnectorV2 pieces, or a dict of such lists with keys "
            f"{PIPELINES}; found {unknown or wrong}"
        )
    return found
