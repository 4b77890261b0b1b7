"""Playing with an old-stack policy: raw observation in, environment action out.

A step goes the way it goes in RLlib's own sampling (evaluation/env_runner_v2.py:1057-1161): the
policy's agent connectors, ``compute_actions_from_input_dict``, its action connectors. So
preprocessing, filters, recurrent state, attention memory, and previous actions and rewards are
RLlib's own code, with the connectors that the snapshot recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import tree as dm_tree
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.models.preprocessors import get_preprocessor
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch, concat_samples
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.spaces.space_utils import unbatch
from ray.rllib.utils.typing import ActionConnectorDataType, AgentConnectorDataType

from policystore.errors import InvalidInputError
from policystore.format.spec import Spec
from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.old_stack.connectors import (
    PIPELINES,
    MakeConnector,
    attach,
    default_connectors,
    make_connectors,
)
from policystore.rllib.old_stack.observations import as_observation, rows_of, unbounded
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import torch_model
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json

__all__ = ["PolicyPlayer"]

_AGENT = 0


class PolicyPlayer:
    """Acts with an old-stack policy as its Algorithm's rollout workers did.

    Filters are applied and never updated; exploration stays where it stood. What the policy
    remembers of an episode (recurrent state, attention memory, previous actions and rewards) is
    kept between calls, until :meth:`reset`. Not for use from several threads at once.

    Where RLlib wraps an environment itself, the observation is the wrapped one: of Atari under
    ``preprocessor_pref="deepmind"``, what ``wrap_deepmind(env)`` gives
    (evaluation/rollout_worker.py:407).

    Args:
        snap: of an old-stack policy.
        trust: see :func:`policystore.rllib.old_stack.rebuild.rebuild_policy`.
        env_spaces: the environment's observation and action space. Needed for a snapshot of a
            policy that was built by hand; else it replaces what was recorded.
        connectors: ``{"agent": […], "action": […]}``, connector classes or functions that make a
            connector from RLlib's ``ConnectorContext``, in order. Replaces what was recorded;
            without either, the connectors that RLlib makes by default.

    Attributes:
        policy: the rebuilt policy.
        observation_space, action_space: the environment's.

    Raises:
        InvalidInputError: the environment's side is not known, or does not fit the policy.
        MismatchError, UntrustedError, NotFoundError, FormatError: as ``rebuild_policy``.
    """

    def __init__(
        self,
        snap: Snapshot,
        *,
        trust: Trust = (),
        env_spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None,
        connectors: Mapping[str, Sequence[MakeConnector]] | None = None,
    ) -> None:
        with guarded(f"making a player of {snap!r}"):
            trust = listed(trust)
            self.policy: Policy = rebuild_policy(snap, trust=trust)
            self.observation_space, self.action_space = _env_side(snap.spec, env_spaces)
            if connectors is None:
                _check_fit(self.policy, self.observation_space)
            _check_actions(self.policy, self.action_space)
            makers = _makers(snap, self.policy, connectors, trust)
            attach(self.policy, makers, self._context())
            self.policy.agent_connectors.in_eval()
            self.policy.action_connectors.in_eval()
            self._timestep = self.policy.global_timestep
            views = _views(self.policy)
            self._reads_rewards = any(column == SampleBatch.REWARDS for column, _ in views)
            self._remembers = self.policy.is_recurrent() or any(
                np.any(view.shift_arr) for _, view in views
            )
            self._rows: int | None = None
            self._steps: dict[int, int] = {}

    def _context(self) -> ConnectorContext:
        """RLlib's context of connectors, with the environment's spaces in it."""
        ctx = ConnectorContext.from_policy(self.policy)
        ctx.observation_space = copy.deepcopy(self.policy.observation_space)
        # What a preprocessor is made for (connectors/agent/obs_preproc.py:30).
        ctx.observation_space.original_space = unbounded(self.observation_space)
        ctx.action_space = self.action_space
        return ctx

    def act(self, obs: Any, explore: bool = False, *, reward: float | None = None) -> Any:
        """One action for one observation: ``act_batch([obs])[0]``.

        Args:
            obs: as the environment gives it.
            explore: sample as in training, instead of the deterministic action.
            reward: for the previous action; needed by policies that read previous rewards.

        Returns:
            An action as the environment takes it: a numpy scalar or read-only array, or a dict or
            tuple of these.

        Raises:
            InvalidInputError: an observation that does not fit the environment's space, or a
                missing reward.
        """
        return self.act_batch([obs], explore, rewards=None if reward is None else [reward])[0]

    def act_batch(
        self, obs: Any, explore: bool = False, *, rewards: Sequence[float] | None = None
    ) -> list[Any]:
        """One action for each of several observations, in one forward pass.

        Row ``i`` continues the episode of row ``i`` in the previous call, as in a vectorized
        environment: ``reset(i)`` when that environment's episode ends. A policy without memory
        takes any number of rows at any time.

        Args:
            obs: a list of observations, or arrays (in dicts and tuples too) whose first axis is
                the rows.
            explore: as for :meth:`act`.
            rewards: for the previous actions, one for each row.

        Returns:
            One action for each row.

        Raises:
            InvalidInputError: as :meth:`act`, or another number of rows than since the last
                ``reset()`` for a policy that remembers.
        """
        if not isinstance(explore, (bool, np.bool_)):
            raise InvalidInputError(f"explore is True or False, not {explore!r}")
        rows = rows_of(obs, self.observation_space)
        if rewards is not None and len(rewards) != len(rows):
            raise InvalidInputError(f"{len(rewards)} rewards for {len(rows)} observations")
        if self._remembers and self._rows not in (None, len(rows)):
            raise InvalidInputError(
                f"{len(rows)} observations after calls with {self._rows}: this policy remembers "
                "each row's episode, so call reset() before playing another number of them"
            )
        self._rows = len(rows)
        return self._step(rows, explore, rewards) if rows else []

    def reset(self, row: int | None = None) -> None:
        """Begin new episodes: all of them, or that of one row of :meth:`act_batch`."""
        if row is None:
            self._rows = None
        for slot in list(self._steps) if row is None else [row]:
            self._steps.pop(slot, None)
            self.policy.agent_connectors.reset(slot)

    def _step(self, rows: list[Any], explore: bool, rewards: Sequence[float] | None) -> list[Any]:
        space = self.observation_space
        rows = [as_observation(obs, space, f"observation {i}") for i, obs in enumerate(rows)]
        going_on = any(slot in self._steps for slot in range(len(rows)))
        if rewards is None and self._reads_rewards and going_on:
            raise InvalidInputError(
                "this policy reads previous rewards, so each step but an episode's first takes the "
                "reward for the previous action: act(obs, reward=…), act_batch(obs, rewards=[…])"
            )
        policy = self.policy
        data = [
            AgentConnectorDataType(slot, _AGENT, self._values(slot, obs, rewards))
            for slot, obs in enumerate(rows)
        ]
        processed = policy.agent_connectors(data)
        if len(processed) != len(data):
            raise InvalidInputError(
                f"the policy's connectors gave {len(processed)} inputs for {len(data)} "
                "observations; a player needs one for one"
            )
        batch = concat_samples([item.data.sample_batch for item in processed])
        if "state_in_0" in batch:
            batch[SampleBatch.SEQ_LENS] = np.ones(len(processed), dtype=np.int32)
        actions, states, fetches = policy.compute_actions_from_input_dict(
            batch, explore=explore, timestep=self._timestep
        )
        policy.global_timestep = self._timestep
        actions = convert_to_numpy(actions)
        if isinstance(actions, list):
            actions = np.array(actions)
        return [
            self._finish(item, action, _row(states, index), _row(fetches, index))
            for index, (item, action) in enumerate(zip(processed, unbatch(actions), strict=True))
        ]

    def _values(self, slot: int, obs: Any, rewards: Sequence[float] | None) -> dict[str, Any]:
        step = self._steps.get(slot, 0)
        self._steps[slot] = step + 1
        values = {
            SampleBatch.NEXT_OBS: obs,
            SampleBatch.INFOS: {},
            SampleBatch.T: step,
            SampleBatch.AGENT_INDEX: 0,
        }
        if step:
            values[SampleBatch.ENV_ID] = slot
            values[SampleBatch.REWARDS] = 0.0 if rewards is None else rewards[slot]
            values[SampleBatch.TERMINATEDS] = values[SampleBatch.TRUNCATEDS] = False
        return values

    def _finish(self, item: Any, action: Any, states: Any, fetches: Any) -> Any:
        output = ActionConnectorDataType(
            item.env_id, item.agent_id, item.data.raw_dict, (action, states, fetches)
        )
        sent, states, fetches = self.policy.action_connectors(output).output
        # Buffered is the policy's own action, not the environment's (env_runner_v2.py:1142).
        self.policy.agent_connectors.on_policy_output(
            ActionConnectorDataType(
                item.env_id, item.agent_id, item.data.raw_dict, (action, states, fetches)
            )
        )
        return sent


def _views(policy: Policy) -> list[tuple[str, Any]]:
    """What a policy's model asks for when it acts: column -> requirement."""
    views = getattr(torch_model(policy), "view_requirements", {})
    return [
        (view.data_col or name, view)
        for name, view in views.items()
        if view.used_for_compute_actions
    ]


def _row(batches: Any, index: int) -> Any:
    return dm_tree.map_structure(lambda batch: batch[index], batches)


def _env_side(
    spec: Spec, given: tuple[gym.Space[Any], gym.Space[Any]] | None
) -> tuple[gym.Space[Any], gym.Space[Any]]:
    if given is not None:
        if not (
            isinstance(given, tuple)
            and len(given) == 2
            and all(isinstance(space, gym.Space) for space in given)
        ):
            raise InvalidInputError(
                f"env_spaces: expected (env.observation_space, env.action_space), found {given!r}"
            )
        return given
    if spec.env_observation_space is None or spec.env_action_space is None:
        raise InvalidInputError(
            "the snapshot was taken of a policy built by hand, so it does not say what the "
            "environment's observations are. Pass env_spaces=(env.observation_space, "
            "env.action_space), and connectors=… if they are not RLlib's default ones."
        )
    return space_from_json(spec.env_observation_space), space_from_json(spec.env_action_space)


def _makers(
    snap: Snapshot,
    policy: Policy,
    given: Mapping[str, Sequence[MakeConnector]] | None,
    trust: Trust,
) -> Mapping[str, Sequence[MakeConnector]]:
    if given is not None:
        if not isinstance(given, Mapping) or set(given) != set(PIPELINES):
            raise InvalidInputError(
                "connectors: expected {'agent': […], 'action': […]} with connector classes or "
                f"functions of a ConnectorContext, found {given!r}"
            )
        return given
    if snap.spec.connectors:
        return make_connectors(snap.spec.connectors, snap.state.get("connectors", {}), trust)
    config = policy.config
    return default_connectors(
        preprocess=_preprocesses(config),
        normalize_actions=bool(config["normalize_actions"]),
        clip_actions=bool(config["clip_actions"]),
    )


def _preprocesses(config: Mapping[str, Any]) -> bool:
    """connectors/util.py:31-40."""
    return not config["_disable_preprocessor_api"] and config["preprocessor_pref"] is not None


def _check_fit(policy: Policy, observations: gym.Space[Any]) -> None:
    needed = policy.observation_space
    if _preprocesses(policy.config):
        made = get_preprocessor(observations)(observations, policy.config["model"]).shape
        fits = tuple(made) == needed.shape
    elif isinstance(observations, gym.spaces.Box):
        fits = observations.shape == needed.shape
    else:
        fits = unbounded(observations) == unbounded(needed)
    if not fits:
        raise InvalidInputError(
            f"the environment's observations are in {observations}, which RLlib does not turn into "
            f"what this policy takes, {needed}: the policy is not for this environment"
        )


def _check_actions(policy: Policy, actions: gym.Space[Any]) -> None:
    given = policy.action_space
    if unbounded(actions) != unbounded(given):
        raise InvalidInputError(
            f"the environment takes actions in {actions}, the policy gives actions in {given}: "
            "the policy is not for this environment"
        )
