"""One front for every source and target: which adapter takes a policy, and which plays it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import gymnasium as gym
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.policy.policy import Policy

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.trust import Trust, listed
from policystore.rllib.new_stack.learner import known_module
from policystore.rllib.new_stack.player import ModulePlayer
from policystore.rllib.new_stack.snapshot import (
    snapshot_from_algorithm,
    snapshot_module,
    snapshot_multi_module,
    snapshots_from_algorithm,
)
from policystore.rllib.old_stack.player import PolicyPlayer
from policystore.rllib.old_stack.snapshot import snapshot_policy
from policystore.rllib.workers.compat import is_new_stack
from policystore.snapshot import Snapshot

__all__ = ["Player", "Source", "rebuild_player", "snapshot", "snapshot_all"]

Source: TypeAlias = Policy | RLModule | Algorithm
"""A policy of either API stack, or an Algorithm that has some; a MultiRLModule is an RLModule."""

Player: TypeAlias = PolicyPlayer | ModulePlayer
"""Acts with a policy of the old, or of the new API stack; both have ``act``, ``act_batch``,
``reset``."""


def snapshot(
    source: Source,
    policy_id: str | None = None,
    *,
    agent_ids: Iterable[Any] | None = None,
    omit: Iterable[str] = (),
) -> Snapshot:
    """Keep one policy as it is now: weights, what rebuilds it, and what inference needs beside.

    The copy shares no memory with the source: training on changes nothing in it.

    Args:
        source: an old-stack ``Policy``, an ``RLModule`` or ``MultiRLModule``, or an ``Algorithm``
            of either stack. Of a new-stack Algorithm the full weights of its learner are taken,
            be it local or remote; a bare module or policy lacks what only the Algorithm knows of
            the environment.
        policy_id: which policy or module; may be left out where there is only one.
        agent_ids: in a new-stack multi-agent Algorithm, ids of the agents whose filters and spaces
            belong to the module: filters there belong to agents.
        omit: what to leave out on request, by the names that an error gives; recorded in
            ``spec.omitted``.

    Raises:
        NotFoundError: no such policy; lists those there are.
        InvalidInputError: no id though there are several, another kind of source, or something
            that cannot be kept; says what to do.
        StorageError: a learner that does not answer.
    """
    if isinstance(source, Algorithm):
        if is_new_stack(source):
            return snapshot_from_algorithm(source, policy_id, agent_ids=agent_ids, omit=omit)
        _refuse(agent_ids=agent_ids)
        chosen = known_module(_policies(source), policy_id, "the Algorithm", "policy")
        return _of_policy(source, chosen, omit)
    _refuse(agent_ids=agent_ids)
    if isinstance(source, MultiRLModule):
        return snapshot_multi_module(source, policy_id)
    _refuse(policy_id=policy_id)
    if isinstance(source, RLModule):
        return snapshot_module(source)
    if isinstance(source, Policy):
        return snapshot_policy(source, omit=omit)
    if isinstance(source, (str, os.PathLike)):
        raise InvalidInputError(
            f"snapshot takes a live policy, not the path {str(source)!r}. Of a checkpoint, "
            "read_checkpoint(path) makes snapshots by policy id."
        )
    raise InvalidInputError(
        "snapshot takes an Algorithm, Policy, RLModule or MultiRLModule of RLlib, not "
        f"{type(source).__module__}.{type(source).__qualname__}. Of a plain torch module "
        "policystore.torch.snapshot makes one."
    )


def snapshot_all(
    algorithm: Algorithm,
    *,
    agent_ids: Mapping[str, Iterable[Any]] | None = None,
    omit: Iterable[str] = (),
) -> dict[str, Snapshot]:
    """Keep all policies of an Algorithm, by policy or module id.

    Args:
        algorithm: of either API stack.
        agent_ids: module id -> agents, see :func:`snapshot` (new API stack).
        omit: see :func:`snapshot`.

    Returns:
        Id -> snapshot. New-stack modules that share parts make one snapshot together, under
        RLlib's ``"__all_modules__"``.

    Raises:
        InvalidInputError, NotFoundError, StorageError: as :func:`snapshot`.
    """
    if not isinstance(algorithm, Algorithm):
        raise InvalidInputError(
            f"snapshots takes an Algorithm, not {type(algorithm).__qualname__}; "
            "snapshot takes single policies and modules"
        )
    if is_new_stack(algorithm):
        return snapshots_from_algorithm(algorithm, agent_ids=agent_ids, omit=omit)
    _refuse(agent_ids=agent_ids)
    left = tuple(omit) if not isinstance(omit, str) else omit
    return {policy_id: _of_policy(algorithm, policy_id, left) for policy_id in _policies(algorithm)}


def rebuild_player(
    snap: Snapshot,
    *,
    trust: Trust = (),
    env_spaces: tuple[gym.Space[Any], gym.Space[Any]] | None = None,
    connectors: Any = None,
    agent: Any = None,
    module_id: str | None = None,
    normalize_actions: bool | None = None,
    clip_actions: bool | None = None,
) -> Player:
    """Rebuild a policy with all that stands between it and its environment.

    ``player.act(obs)`` takes a raw observation of the environment and gives an action for it:
    preprocessing, filters, recurrent state, action distribution, unsquashing and clipping
    included. Deterministic actions equal those of the Algorithm that the snapshot was taken from.
    No Ray cluster is started, no Algorithm and no environment is made.

    Args:
        snap: of either API stack.
        trust: prefixes of import paths (``"mypkg."``) and classes that the snapshot may name
            beside RLlib's own.
        env_spaces: the environment's observation and action space, where the snapshot is of a bare
            policy or module and does not have them.
        connectors: in place of the recorded ones; see :class:`PolicyPlayer
            <policystore.rllib.old_stack.player.PolicyPlayer>` and :class:`ModulePlayer
            <policystore.rllib.new_stack.player.ModulePlayer>` for the form on each stack.
        agent: as which agent to act, where the snapshot has several (new API stack).
        module_id: through which module, where several go together (new API stack).
        normalize_actions, clip_actions: how actions go back to the environment, where the
            snapshot does not say (new API stack).

    Raises:
        InvalidInputError: not a policy of RLlib, or something of the environment's side is missing.
        UntrustedError, NotFoundError: a class that may not or cannot be imported.
        MismatchError: weights or filters do not fit.
        FormatError: a spec or state that is not as snapshots write it.
    """
    trust = listed(trust)
    check_snapshot(snap)
    if snap.spec.stack == "new":
        return ModulePlayer(
            snap,
            trust=trust,
            env_spaces=env_spaces,
            connectors=connectors,
            agent=agent,
            module_id=module_id,
            normalize_actions=normalize_actions,
            clip_actions=clip_actions,
        )
    if snap.spec.stack == "old":
        _refuse(
            agent=agent,
            module_id=module_id,
            normalize_actions=normalize_actions,
            clip_actions=clip_actions,
        )
        return PolicyPlayer(snap, trust=trust, env_spaces=env_spaces, connectors=connectors)
    raise InvalidInputError(
        f"{snap!r} is no policy of RLlib (its stack is {snap.spec.stack!r}). "
        "Weights of a plain torch module go back with policystore.torch.load_into."
    )


def _policies(algorithm: Algorithm) -> list[str]:
    # The driver's own worker: what training updates, and what remote workers get theirs from.
    return sorted(algorithm.env_runner.policy_map.keys())


def _of_policy(algorithm: Algorithm, policy_id: str, omit: Iterable[str]) -> Snapshot:
    # Fetched each time: with policy_map_capacity a held policy goes stale.
    policy = algorithm.get_policy(policy_id)
    return snapshot_policy(policy, algorithm=algorithm, policy_id=policy_id, omit=omit)


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidInputError(
                f"{name}={value!r} has no meaning for this source or snapshot; leave it out"
            )
