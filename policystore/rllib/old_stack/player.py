"""Old API stack: play a snapshot, raw observation in, environment action out.

This module builds the parts of a player. What plays them is in ``playing/``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from ray.rllib.connectors.connector import ConnectorContext
from ray.rllib.policy.policy import Policy
from ray.rllib.policy.sample_batch import SampleBatch
from ray.rllib.policy.view_requirement import ViewRequirement
from ray.rllib.utils.typing import AgentID

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.player import Player
from policystore.rllib.common.player_args import (
    EnvSpaces,
    NanHandling,
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
from policystore.rllib.old_stack.playing.connectors import ConnectorEngine
from policystore.rllib.old_stack.playing.direct import direct_engine
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import torch_model
from policystore.snapshot import Snapshot

__all__ = ["PolicyPlayer"]

_EXAMPLE = "connectors={'agent': […], 'action': […]}"


class PolicyPlayer(Player):
    """Acts with an old-stack policy as its Algorithm's rollout workers did.

    Filters are applied and never updated; exploration stays at its recorded timestep. The policy's
    memory of an episode (recurrent state, attention memory, previous actions and rewards) is kept
    between calls, until :meth:`reset`.

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
        nan: ``"error"`` to refuse observations with NaN, ``"allow"`` to play them.

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
        nan: NanHandling = "error",
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
                nan=nan,
            )
            own = None if connectors is None else _own_makers(connectors)
            super().__init__(
                snap,
                arguments,
                {
                    "trust": arguments.trust,
                    "env_spaces": env_spaces,
                    "connectors": own,
                    "normalize_actions": normalize_actions,
                    "clip_actions": clip_actions,
                    "nan": nan,
                },
            )
            self.policy = _rebuilt(snap, arguments)
            if own is None:
                refuse_omitted_connectors(snap, _EXAMPLE)
                check_observations(snap, self.policy, self.observation_space)
            check_actions(snap, self.action_space, self.policy.action_space)
            makers = _recorded_makers(snap, self.policy, arguments) if own is None else own
            attach(self.policy, makers, self._context())
            self.policy.agent_connectors.in_eval()
            self.policy.action_connectors.in_eval()
            # Always there: what plays a policy that the direct engine does not play.
            self._connector_engine = _connector_engine(self.policy, arguments)
            direct = direct_engine(
                self._connector_engine,
                torch_model(self.policy),
                [
                    (name, view.data_col or name, view.shift_arr.tolist())
                    for name, view in _views_for_acting(self.policy)
                ],
            )
            self._engine = direct or self._connector_engine

    def _context(self) -> ConnectorContext:
        """Return RLlib's context of connectors, with the environment's spaces in it."""
        context = ConnectorContext.from_policy(self.policy)
        context.observation_space = copy.deepcopy(self.policy.observation_space)
        # A preprocessor is made for this space (connectors/agent/obs_preproc.py:30).
        context.observation_space.original_space = unbounded(self.observation_space)
        context.action_space = self.action_space
        return context


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
    """Return what a policy's model reads to act, as pairs of name and requirement."""
    views = getattr(torch_model(policy), "view_requirements", {})
    return [(name, view) for name, view in views.items() if view.used_for_compute_actions]


def _connector_engine(policy: Policy, arguments: PlayerArguments) -> ConnectorEngine:
    """Return what plays a policy through its connectors."""
    connectors = [
        *policy.agent_connectors.connectors,
        *policy.action_connectors.connectors,
    ]
    foreign = any(not type(each).__module__.startswith("ray.rllib.") for each in connectors)
    columns = [(view.data_col or name, view) for name, view in _views_for_acting(policy)]
    layout = (
        [type(each) for each in connectors],
        [np.shape(state) for state in policy.get_initial_state()],
        [(column, view.shift_arr.tolist(), view.space) for column, view in columns],
    )
    return ConnectorEngine(
        policy,
        (arguments.observation_space, arguments.action_space),
        remembers=policy.is_recurrent()
        or any(np.any(view.shift_arr) for _, view in columns)
        or foreign,
        reads_rewards=any(column == SampleBatch.REWARDS for column, _ in columns),
        # A connector of the caller's own may keep anything anywhere.
        memory_layout=None if foreign else layout,
        allow_nan=arguments.allow_nan,
    )


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
