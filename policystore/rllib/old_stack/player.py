"""Old API stack: play a snapshot, raw observation in, environment action out.

A step has the same parts as in RLlib's own sampling (evaluation/env_runner_v2.py:1057-1161): the
policy's agent connectors, ``compute_actions_from_input_dict``, and the policy's action connectors.
So preprocessing, filters, recurrent state, attention memory, and previous actions and rewards are
RLlib's own code, with the connectors that the snapshot recorded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tree as dm_tree
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch, concat_samples
from ray.rllib.policy.view_requirement import ViewRequirement
from ray.rllib.utils.numpy import convert_to_numpy
from ray.rllib.utils.spaces.space_utils import unbatch
from ray.rllib.utils.typing import (
    ActionConnectorDataType,
    AgentConnectorDataType,
    AgentID,
    EnvActionType,
    EnvObsType,
)

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.player import Player
from policystore.rllib.common.player_args import (
    EnvSpaces,
    PlayerArguments,
    check_actions,
    check_stack,
    connector_lists,
    player_arguments,
    refuse_omitted_connectors,
)
from policystore.rllib.common.trust import Trust
from policystore.rllib.old_stack.connectors import (
    PIPELINES,
    MakeConnector,
    attach,
    default_connectors,
    make_connectors,
)
from policystore.rllib.old_stack.observations import (
    check_observations,
    has_preprocessor,
    unbounded,
)
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import torch_model
from policystore.snapshot import Snapshot

__all__ = ["PolicyPlayer"]

_AGENT = 0
_EXAMPLE = "connectors={'agent': […], 'action': […]}"


class PolicyPlayer(Player):
    """Acts with an old-stack policy as its Algorithm's rollout workers did.

    Filters are applied and never updated; exploration stays at its recorded timestep. The policy's
    memory of an episode (recurrent state, attention memory, previous actions and rewards) is kept
    between calls, until :meth:`reset`. A player is for one thread at a time, and cannot be pickled.

    The arguments are those of :class:`policystore.rllib.new_stack.player.ModulePlayer`. The stacks
    differ in three points. ``connectors`` holds connectors of the old stack. ``agent`` and
    ``module_id`` are refused, because on the old stack a policy has one set of connectors for all
    its agents. And observations keep their dtype, as in RLlib's old sampling.

    Where RLlib wraps an environment itself, the observation is the wrapped one: for Atari under
    ``preprocessor_pref="deepmind"``, what ``wrap_deepmind(env)`` returns
    (evaluation/rollout_worker.py:407).

    Args:
        snap: a snapshot of an old-stack policy.
        trust: see :func:`policystore.rllib.old_stack.rebuild.rebuild_policy`.
        env_spaces: the environment's observation and action space. Needed for a snapshot of a
            policy that was built by hand; else it replaces the recorded spaces.
        connectors: ``{"agent": […], "action": […]}``, connector classes or functions that make a
            connector from RLlib's ``ConnectorContext``, in order. They replace the recorded
            connectors. If there are no recorded connectors either, the player takes RLlib's default
            connectors.
        agent, module_id: refused if given.
        normalize_actions: whether Box actions are unsquashed to the action space's bounds, for a
            snapshot that does not say.
        clip_actions: whether Box actions are clipped, for a snapshot that does not say.

    Attributes:
        policy: the rebuilt policy.
        observation_space, action_space: the environment's.

    Raises:
        InvalidInputError: an argument is malformed, missing or of no use for this snapshot, or
            the environment does not fit the policy.
        MismatchError, UntrustedError, NotFoundError, FormatError: as ``rebuild_policy``.
    """

    policy: Policy

    def __init__(
        self,
        snap: Snapshot,
        *,
        trust: Trust = (),
        env_spaces: EnvSpaces | None = None,
        connectors: Mapping[str, Sequence[MakeConnector]] | None = None,
        agent: AgentID | None = None,
        module_id: str | None = None,
        normalize_actions: bool | None = None,
        clip_actions: bool | None = None,
    ) -> None:
        check_stack(snap, "old")
        with guarded(f"making a player of {snap!r}"):
            arguments = player_arguments(
                snap,
                trust=trust,
                env_spaces=env_spaces,
                agent=agent,
                module_id=module_id,
                normalize_actions=normalize_actions,
                clip_actions=clip_actions,
            )
            super().__init__(arguments)
            own = None if connectors is None else _own_makers(connectors)
            self.policy = _rebuilt(snap, arguments)
            if own is None:
                refuse_omitted_connectors(snap, _EXAMPLE)
                check_observations(snap, self.policy, self.observation_space)
            check_actions(snap, self.action_space, self.policy.action_space)
            makers = _recorded_makers(snap, self.policy, arguments) if own is None else own
            attach(self.policy, makers, self._context())
            self.policy.agent_connectors.in_eval()
            self.policy.action_connectors.in_eval()
            self._timestep = self.policy.global_timestep
            views = _views_for_acting(self.policy)
            self._reads_rewards = any(column == SampleBatch.REWARDS for column, _ in views)
            self._remembers = (
                self.policy.is_recurrent()
                or any(np.any(view.shift_arr) for _, view in views)
                or _has_foreign_connectors(self.policy)
            )
            # RLlib's connectors keep the memory of an episode by the id of its environment. An
            # environment keeps its id when its row changes. By row:
            self._env_ids: list[int] = []
            # Id of an environment -> number of steps in its episode.
            self._steps: dict[int, int] = {}

    def _context(self) -> ConnectorContext:
        """Return RLlib's context of connectors, with the environment's spaces in it."""
        context = ConnectorContext.from_policy(self.policy)
        context.observation_space = copy.deepcopy(self.policy.observation_space)
        # A preprocessor is made for this space (connectors/agent/obs_preproc.py:30).
        context.observation_space.original_space = unbounded(self.observation_space)
        context.action_space = self.action_space
        return context

    def _forget(self) -> None:
        for env_id in self._env_ids:
            self._forget_env(env_id)
        self._env_ids = []

    def _forget_row(self, row: int) -> None:
        self._forget_env(self._env_ids[row])

    def _forget_env(self, env_id: int) -> None:
        self._steps.pop(env_id, None)
        self.policy.agent_connectors.reset(env_id)

    def _keep(self, rows: list[int]) -> None:
        kept = [self._env_ids[row] for row in rows]
        for env_id in set(self._env_ids).difference(kept):
            self._forget_env(env_id)
        self._env_ids = kept

    def _step(
        self, observations: list[EnvObsType], explore: bool, rewards: list[float] | None
    ) -> list[EnvActionType]:
        policy = self.policy
        if not self._env_ids:
            self._env_ids = list(range(len(observations)))
        data = [
            AgentConnectorDataType(
                env_id,
                _AGENT,
                self._connector_input(env_id, obs, None if rewards is None else rewards[row]),
            )
            for row, (env_id, obs) in enumerate(zip(self._env_ids, observations, strict=True))
        ]
        processed = policy.agent_connectors(data)
        if len(processed) != len(data):
            raise InvalidInputError(
                f"the policy's connectors returned {len(processed)} inputs for {len(data)} "
                "observations; a player needs one input for each observation"
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
            self._through_action_connectors(item, action, _row(states, row), _row(fetches, row))
            for row, (item, action) in enumerate(zip(processed, unbatch(actions), strict=True))
        ]

    def _connector_input(
        self, env_id: int, obs: EnvObsType, reward: float | None
    ) -> dict[str, Any]:
        """Return the input for the agent connectors, as in RLlib's sampling; count the step."""
        step = self._steps.get(env_id, 0)
        self._steps[env_id] = step + 1
        values = {
            SampleBatch.NEXT_OBS: obs,
            SampleBatch.INFOS: {},
            SampleBatch.T: step,
            SampleBatch.AGENT_INDEX: 0,
        }
        if step:
            values[SampleBatch.ENV_ID] = env_id
            values[SampleBatch.REWARDS] = 0.0 if reward is None else reward
            values[SampleBatch.TERMINATEDS] = values[SampleBatch.TRUNCATEDS] = False
        return values

    def _through_action_connectors(
        self, item: AgentConnectorDataType, action: Any, states: Any, fetches: Any
    ) -> EnvActionType:
        """Return the environment's action for a policy's action, and buffer the policy's action."""
        output = ActionConnectorDataType(
            item.env_id, item.agent_id, item.data.raw_dict, (action, states, fetches)
        )
        env_action, states, fetches = self.policy.action_connectors(output).output
        # Connectors buffer the policy's own action, not the environment's
        # (evaluation/env_runner_v2.py:1142).
        self.policy.agent_connectors.on_policy_output(
            ActionConnectorDataType(
                item.env_id, item.agent_id, item.data.raw_dict, (action, states, fetches)
            )
        )
        return env_action


def _rebuilt(snap: Snapshot, arguments: PlayerArguments) -> Policy:
    """Rebuild a policy; how its actions are handled comes from the arguments if not recorded."""
    if snap.spec.normalize_actions is None:
        spec = snap.spec.replace(
            normalize_actions=arguments.normalize_actions, clip_actions=arguments.clip_actions
        )
        snap = snap.replace(spec=spec)
    omitted = snap.spec.omitted
    return rebuild_policy(
        snap,
        trust=arguments.trust,
        # Where a space is omitted, the policy saw the environment's own.
        observation_space=arguments.observation_space if "observation_space" in omitted else None,
        action_space=arguments.action_space if "action_space" in omitted else None,
    )


def _views_for_acting(policy: Policy) -> list[tuple[str, ViewRequirement]]:
    """Return the columns that a policy's model reads to act, as pairs of column and requirement."""
    views = getattr(torch_model(policy), "view_requirements", {})
    return [
        (view.data_col or name, view)
        for name, view in views.items()
        if view.used_for_compute_actions
    ]


def _has_foreign_connectors(policy: Policy) -> bool:
    """Return whether a policy has connectors that are not RLlib's and may remember anything."""
    return any(
        not type(connector).__module__.startswith("ray.rllib.")
        for pipeline in (policy.agent_connectors, policy.action_connectors)
        for connector in pipeline.connectors
    )


def _row(batches: Any, row: int) -> Any:
    return dm_tree.map_structure(lambda batch: batch[row], batches)


def _own_makers(given: Mapping[str, Sequence[MakeConnector]]) -> dict[str, list[MakeConnector]]:
    """Return the caller's makers of connectors, by pipeline.

    Raises:
        InvalidInputError: another form, or one of the two pipelines is missing.
    """
    description = (
        "{'agent': […], 'action': […]} with connector classes or functions of a ConnectorContext"
    )
    makers = connector_lists(given, PIPELINES, description)
    missing = [name for name in PIPELINES if name not in makers]
    wrong = [maker for name in makers for maker in makers[name] if not callable(maker)]
    if missing or wrong:
        problem = f"no key {missing[0]!r}" if missing else f"{wrong[0]!r}, which cannot be called"
        raise InvalidInputError(f"connectors: expected {description}, found {problem}")
    return makers


def _recorded_makers(
    snap: Snapshot, policy: Policy, arguments: PlayerArguments
) -> dict[str, list[MakeConnector]]:
    """Return makers of the recorded connectors; of RLlib's default ones if none are recorded."""
    if snap.spec.connectors:
        return make_connectors(
            snap.spec.connectors, snap.state.get("connectors", {}), arguments.trust
        )
    return default_connectors(
        preprocess=has_preprocessor(policy.config),
        normalize_actions=bool(policy.config["normalize_actions"]),
        clip_actions=bool(policy.config["clip_actions"]),
    )
