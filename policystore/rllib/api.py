"""Take snapshots of RLlib's policies and rebuild players, with the code for the right API stack."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.policy.policy import Policy

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import check_snapshot
from policystore.rllib.common.ids import pick_id
from policystore.rllib.common.player import Player
from policystore.rllib.common.player_args import EnvSpaces, NanHandling
from policystore.rllib.common.trust import Trust
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
"""A policy of either API stack, or an Algorithm with policies. A MultiRLModule is an RLModule."""


def snapshot(
    source: Source,
    policy_id: str | None = None,
    *,
    agent_ids: Iterable[Any] | None = None,
    omit: Iterable[str] = (),
    from_runner: int | None = None,
) -> Snapshot:
    """Take a snapshot of one policy: its weights, its spec, and the state that inference needs.

    The snapshot shares no memory with the source: further training does not change it.

    Args:
        source: an old-stack ``Policy``, an ``RLModule`` or ``MultiRLModule``, or an ``Algorithm``
            of either stack. From a new-stack Algorithm, the full weights of its learner are taken,
            local or remote. A bare module or policy lacks the env interface (spaces, connectors,
            filters), which only the Algorithm has.
        policy_id: id of the policy or module; may be left out if there is only one. For new-stack
            modules that share parts, leave the id out, or give RLlib's ``"__all_modules__"``.
        agent_ids: the agents whose filters and spaces the snapshot of the module gets. Only for a
            multi-agent Algorithm of the new stack, where filters belong to agents. Without filters,
            the snapshot gets the spaces of these agents alone.
        omit: names of parts that the snapshot leaves out; error messages give these names.
            ``spec.omitted`` lists the parts.
        from_runner: RLlib's number of the remote env runner whose filter statistics and connector
            states are kept. Needed if RLlib is told not to merge them
            (``merge_env_runner_states=False``, on the old stack ``use_worker_filter_stats=False``).

    Raises:
        NotFoundError: no policy of that id; the message lists the ids.
        InvalidInputError: several policies and no id, another kind of source, or a part of the
            policy that cannot be kept; the message says what to do.
        StorageError: a learner does not answer.
    """
    if isinstance(source, Algorithm):
        if is_new_stack(source):
            return snapshot_from_algorithm(
                source, policy_id, agent_ids=agent_ids, omit=omit, from_runner=from_runner
            )
        _refuse_agents(agent_ids, "on the old one, filters belong to policies")
        chosen = pick_id(_policy_ids(source), policy_id, "the Algorithm", "policy")
        return _snapshot_old(source, chosen, omit, from_runner)
    _refuse_agents(agent_ids, "a policy or module alone has no filters of agents")
    _refuse(from_runner=from_runner)
    if isinstance(source, MultiRLModule):
        return snapshot_multi_module(source, policy_id)
    _refuse(policy_id=policy_id)
    if isinstance(source, RLModule):
        return snapshot_module(source)
    if isinstance(source, Policy):
        return snapshot_policy(source, omit=omit)
    if isinstance(source, (str, os.PathLike)):
        raise InvalidInputError(
            f"snapshot takes a live policy, not the path {str(source)!r}. For a checkpoint, "
            "read_checkpoint(path) returns snapshots by policy id."
        )
    raise InvalidInputError(
        "snapshot takes an Algorithm, Policy, RLModule or MultiRLModule of RLlib, not "
        f"{type(source).__module__}.{type(source).__qualname__}. For a plain torch module, "
        "use policystore.torch.snapshot."
    )


def snapshot_all(
    algorithm: Algorithm,
    *,
    agent_ids: Mapping[str, Iterable[Any]] | None = None,
    omit: Iterable[str] = (),
    from_runner: int | None = None,
) -> dict[str, Snapshot]:
    """Take a snapshot of each policy of an Algorithm.

    Args:
        algorithm: of either API stack.
        agent_ids: module id -> agents, as for :func:`snapshot` (new API stack).
        omit, from_runner: as for :func:`snapshot`.

    Returns:
        Policy or module id -> snapshot. New-stack modules that share parts make one snapshot
        together, under RLlib's ``"__all_modules__"``.

    Raises:
        InvalidInputError, NotFoundError, StorageError: as :func:`snapshot`.
    """
    if not isinstance(algorithm, Algorithm):
        raise InvalidInputError(
            f"snapshot_all takes an Algorithm, not {type(algorithm).__qualname__}; "
            "snapshot() takes single policies and modules"
        )
    if is_new_stack(algorithm):
        return snapshots_from_algorithm(
            algorithm, agent_ids=agent_ids, omit=omit, from_runner=from_runner
        )
    _refuse_agents(agent_ids, "on the old one, filters belong to policies")
    names = omit if isinstance(omit, str) else tuple(omit)  # an iterator ends after one policy
    return {
        policy_id: _snapshot_old(algorithm, policy_id, names, from_runner)
        for policy_id in _policy_ids(algorithm)
    }


def rebuild_player(
    snap: Snapshot,
    *,
    trust: Trust = (),
    env_spaces: EnvSpaces | None = None,
    connectors: Any = None,
    agent: Any = None,
    module_id: str | None = None,
    normalize_actions: bool | None = None,
    clip_actions: bool | None = None,
    nan: NanHandling = "error",
) -> Player:
    """Rebuild a policy together with everything between the policy and its environment.

    ``player.act(obs)`` takes a raw observation of the environment and returns an action for the
    environment. The player does the preprocessing, filters, recurrent state, action distribution,
    unsquashing and clipping. Deterministic actions equal those of the Algorithm that the snapshot
    was taken from. The call starts no Ray cluster, and makes no Algorithm and no environment.

    Args:
        snap: a snapshot of either API stack.
        trust: prefixes of import paths (``"mypkg."``) and classes that the snapshot may name
            beside RLlib's own.
        env_spaces: the environment's observation and action space (of one agent). Needed if the
            snapshot does not record these spaces; otherwise they replace the recorded spaces.
        connectors: the caller's connectors, which replace the recorded ones. Their form differs
            between the stacks, as RLlib's connectors do: see :class:`PolicyPlayer
            <policystore.rllib.old_stack.player.PolicyPlayer>` and :class:`ModulePlayer
            <policystore.rllib.new_stack.player.ModulePlayer>`.
        agent: the agent to act as, if the snapshot has several agents; refused otherwise, and
            always on the old API stack.
        module_id: the module to act through, if the snapshot has several modules; refused
            otherwise, and always on the old API stack.
        normalize_actions, clip_actions: whether Box actions are unsquashed and clipped to the
            bounds of the action space; refused if the snapshot records it.
        nan: ``"error"`` to refuse observations with NaN, ``"allow"`` to play them.

    Returns:
        A ``PolicyPlayer`` for the old API stack, a ``ModulePlayer`` for the new one; both are
        called in the same way.

    Raises:
        InvalidInputError: not a policy of RLlib; or an argument that is malformed, missing, or of
            no use for this snapshot.
        NotFoundError: no such agent or module, or a class that cannot be imported.
        UntrustedError: a class that may not be imported.
        MismatchError: weights or filters do not fit.
        FormatError: a spec or state that is not as snapshots write it.
    """
    check_snapshot(snap)
    make: type[PolicyPlayer] | type[ModulePlayer]
    if snap.spec.stack == "new":
        make = ModulePlayer
    elif snap.spec.stack == "old":
        make = PolicyPlayer
    else:
        raise InvalidInputError(
            f"{snap!r} is no policy of RLlib (its stack is {snap.spec.stack!r}). "
            "To load weights into a plain torch module, use policystore.torch.load_into."
        )
    return make(
        snap,
        trust=trust,
        env_spaces=env_spaces,
        connectors=connectors,
        agent=agent,
        module_id=module_id,
        normalize_actions=normalize_actions,
        clip_actions=clip_actions,
        nan=nan,
    )


def _policy_ids(algorithm: Algorithm) -> list[str]:
    # The driver's local worker holds the policies that training updates.
    return sorted(algorithm.env_runner.policy_map.keys())


def _snapshot_old(
    algorithm: Algorithm, policy_id: str, omit: Iterable[str], from_runner: int | None
) -> Snapshot:
    # With policy_map_capacity, RLlib swaps policies out: a reference may be to an outdated policy.
    policy = algorithm.get_policy(policy_id)
    return snapshot_policy(
        policy, algorithm=algorithm, policy_id=policy_id, omit=omit, from_runner=from_runner
    )


def _refuse_agents(agent_ids: object, reason: str) -> None:
    if agent_ids is not None:
        raise InvalidInputError(
            f"agent_ids={agent_ids!r}: agent_ids= is for multi-agent Algorithms of the new API "
            f"stack; {reason}: leave it out"
        )


def _refuse(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidInputError(
                f"{name}={value!r} has no meaning for this source or snapshot; leave it out"
            )
