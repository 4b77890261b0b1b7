"""Check filter statistics of snapshots, and convert them to the form in which workers take them.

On the old stack a filter belongs to a policy. On the new stack a filter belongs to agents, and
RLlib merges the statistics of all env runners into the filter of the local runner. So all runners
get the same statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from policystore._util.near import close_names, did_you_mean
from policystore.errors import FormatError, InvalidInputError, MismatchError
from policystore.rllib.common.running_stats import running_stat
from policystore.rllib.new_stack.connector_state import is_filter, new_filter_state
from policystore.rllib.new_stack.connectors import walk
from policystore.rllib.worker_code.compat import is_multi_agent, squares_name
from policystore.rllib.worker_code.filters import policy_filter, read_old_filter
from policystore.rllib.worker_code.messages.requests import FilterStats
from policystore.rllib.workers.compat import env_to_module_of, is_new_stack
from policystore.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm
    from ray.rllib.connectors.connector_v2 import ConnectorV2
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

__all__ = [
    "AgentIds",
    "agents_by_policy",
    "has_filter",
    "new_stack_filters",
    "old_stack_filters",
]

AgentIds: TypeAlias = "Mapping[str, Iterable[Any]] | Iterable[Any] | None"
"""Ids of agents by policy, or of the agents of one policy."""


def has_filter(algorithm: Algorithm) -> bool:
    """Return whether the env runners of an Algorithm normalise observations by their statistics."""
    if is_new_stack(algorithm):
        return any(is_filter(piece) for piece in _pieces(algorithm).values())
    return bool(algorithm.config.observation_filter != "NoFilter")


def new_stack_filters(
    algorithm: Algorithm,
    snaps: Mapping[str, Snapshot],
    agent_ids: Mapping[str, list[Any]] | None,
) -> tuple[dict[str, dict[Any, Any]], tuple[str, ...]]:
    """Return the states to set in the env-to-module pipelines of env runners.

    Args:
        algorithm: an Algorithm of the new stack.
        snaps: the snapshots to be loaded, by module id.
        agent_ids: module id -> agents whose filters get the snapshot's statistics. Needed in a
            multi-agent Algorithm if a snapshot has filter statistics; an empty list leaves the
            filters as they are.

    Returns:
        RLlib's name of the connector -> agent -> state in RLlib's own form, made from checked
        arrays; and notes for the report.

    Raises:
        MismatchError: statistics for which the Algorithm has no filter, statistics of other shapes,
            statistics of unknown agents, or ``agent_ids`` for a snapshot without statistics.
        InvalidInputError: ``agent_ids`` is missing.
    """
    wanted = agent_ids or {}
    pieces = _pieces(algorithm)
    multi = is_multi_agent(algorithm.config)
    states: dict[str, dict[Any, Any]] = {}
    notes: list[str] = []
    for pid, snap in snaps.items():
        for name, piece in pieces.items():
            if is_filter(piece) and name not in snap.state:
                notes += _without_statistics(pid, snap, name, wanted.get(pid), multi)
        if wanted.get(pid) and not any(is_filter(piece) for piece in pieces.values()):
            raise InvalidInputError(
                f"agent_ids={{{pid!r}: {wanted[pid]!r}}}: this Algorithm has no observation "
                "filters, so there is nothing to give to agents. Leave agent_ids= out."
            )
        for name, state in snap.state.items():
            piece = pieces.get(name)
            if piece is None:
                raise MismatchError(
                    f"{snap!r} was trained with the connector {name!r} and has its state, but "
                    "this Algorithm has no such connector: the policy would see other "
                    "observations. Add it to the config, or load snap.replace(state={})."
                )
            if not is_filter(piece):
                notes.append(
                    f"{pid!r}: the state of connector {name!r} was not loaded: of the connectors "
                    "of a running Algorithm, only filters get a state"
                )
                continue
            by_agent = _by_agent(pid, state, wanted.get(pid), multi)
            fresh = new_filter_state(piece, name, by_agent)
            so_far = states.setdefault(name, {})
            twice = [agent for agent in fresh if agent in so_far]
            if twice:
                raise InvalidInputError(
                    f"agent_ids: the filters of {twice!r} are given by two snapshots"
                )
            so_far.update(fresh)
    return states, tuple(notes)


def agents_by_policy(
    policy_ids: Collection[str], agent_ids: AgentIds
) -> dict[str, list[Any]] | None:
    """Return the agents that the caller gave for each policy; None if the caller gave none.

    Args:
        policy_ids: ids of the policies that the call is about.
        agent_ids: policy id -> agents; for a single policy also only the agents.

    Raises:
        InvalidInputError: another form, or a policy that is not among ``policy_ids``.
    """
    if agent_ids is None:
        return None
    if isinstance(agent_ids, Mapping):
        unknown = [pid for pid in agent_ids if pid not in policy_ids]
        if unknown:
            raise InvalidInputError(
                f"agent_ids names the policies {unknown!r}, but the call is about "
                f"{sorted(policy_ids)}.{did_you_mean(close_names(str(unknown[0]), policy_ids))}"
            )
        return {pid: _listed(of_policy) for pid, of_policy in agent_ids.items()}
    if len(policy_ids) != 1:
        raise InvalidInputError(
            "for several policies agent_ids is a dict by policy: "
            f"agent_ids={{{next(iter(policy_ids))!r}: […]}}"
        )
    return {next(iter(policy_ids)): _listed(agent_ids)}


def _listed(agent_ids: object) -> list[Any]:
    if isinstance(agent_ids, (str, bytes)) or not isinstance(agent_ids, Iterable):
        raise InvalidInputError(f"agent_ids is a list of agent ids: agent_ids=[{agent_ids!r}]")
    return list(agent_ids)


def _pieces(algorithm: Algorithm) -> dict[str, ConnectorV2]:
    """Return the connectors of the env-to-module pipeline by RLlib's name."""
    pipeline = env_to_module_of(algorithm)
    return {} if pipeline is None else dict(walk(pipeline.connectors))


def _without_statistics(
    pid: str, snap: Snapshot, name: str, agent_ids: list[Any] | None, multi: bool
) -> list[str]:
    """Return a note on a filter of the Algorithm for which a snapshot has no statistics.

    Raises:
        MismatchError: ``agent_ids`` asks for the statistics; or the policy was trained on plain
            observations, and the Algorithm gives it normalised ones.
    """
    places = (f"connectors.{name}", "connectors.env_to_module", "connectors", "env_runner")
    reason = next((snap.spec.omitted[each] for each in places if each in snap.spec.omitted), None)
    if agent_ids:
        raise MismatchError(
            f"agent_ids={{{pid!r}: {agent_ids!r}}}: the snapshot for {pid!r} has no statistics of "
            f"{name}" + (f", which it leaves out ({reason})" if reason else "") + ". Nothing was "
            "sent. Take a snapshot with agent_ids= and without omit=, or leave agent_ids= out: "
            "then the Algorithm's filters keep their own statistics."
        )
    if reason is not None:
        return [
            f"{pid!r}: its snapshot leaves out {name} ({reason}), so the Algorithm's own "
            "statistics stay in use: the policy may see other observations than it was trained on"
        ]
    if multi or not snap.spec.connectors:
        return []
    raise MismatchError(
        f"{snap!r} was trained without {name}, but this Algorithm normalises observations with "
        f"this filter: policy {pid!r} would see other observations than it was trained on. Load "
        "the snapshot into an Algorithm without the filter, or, to load it anyway, load "
        "snap.replace(spec=snap.spec.replace(connectors={}))."
    )


def _by_agent(pid: str, state: object, agent_ids: list[Any] | None, multi: bool) -> dict[Any, Any]:
    """Return the statistics for each agent's filter, taken from the statistics of a snapshot."""
    if not isinstance(state, Mapping):
        raise FormatError(f"state of {pid!r}: expected a dict by agent, found {state!r}")
    if not multi:
        if agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for multi-agent Algorithms; this one has one agent: leave it out"
            )
        if len(state) != 1:
            raise MismatchError(
                f"the snapshot for {pid!r} has filter statistics of the agents {list(state)!r}, "
                "and this Algorithm has one agent; snapshot one agent with agent_ids=[…]"
            )
        return {None: next(iter(state.values()))}
    if agent_ids is None:
        raise InvalidInputError(
            f"the snapshot for {pid!r} has filter statistics (of {list(state)!r}), and filters "
            f"belong to agents: pass agent_ids={{{pid!r}: […]}} with the ids of the agents "
            "that act through this policy, or an empty list to leave all filters as they are"
        )
    if len(state) == 1:
        return {agent: next(iter(state.values())) for agent in agent_ids}
    if not set(agent_ids) <= set(state):
        raise MismatchError(
            f"the snapshot for {pid!r} has filter statistics of {list(state)!r}, not of "
            f"{[agent for agent in agent_ids if agent not in state]!r}"
        )
    return {agent: state[agent] for agent in agent_ids}


def old_stack_filters(
    local: RolloutWorker, snaps: Mapping[str, Snapshot]
) -> tuple[dict[str, FilterStats], tuple[str, ...]]:
    """Return the statistics to set in the policies' filters, by policy, and notes for the report.

    Args:
        local: the local worker of the training group.
        snaps: the snapshots to be loaded, by policy id.

    Raises:
        MismatchError: statistics for a policy without a filter, no statistics for a policy with a
            filter, or statistics of other shapes.
    """
    stats, notes = {}, []
    for pid, snap in snaps.items():
        given = _old_filter(snap)
        has = policy_filter(local.policy_map[pid]) is not None
        if given is None:
            reason = _why_left_out(snap)
            if has and reason is not None:
                notes.append(
                    f"{pid!r}: its snapshot leaves out the observation filter ({reason}), so the "
                    "policy's own statistics stay in use: it may see other observations than it "
                    "was trained on"
                )
            elif has and snap.spec.connectors:
                raise MismatchError(
                    f"{snap!r} was trained without an observation filter, and policy {pid!r} has "
                    "one: the policy would see other observations than it was trained on"
                )
            continue
        if not has:
            raise MismatchError(
                f"{snap!r} was trained with an observation filter, and policy {pid!r} of this "
                "Algorithm has none: the policy would see other observations. Set "
                "observation_filter in the config, or load snap.replace(state={})."
            )
        needed = [mean.shape for _, mean, _ in read_old_filter(local.policy_map[pid])]
        if [mean.shape for _, mean, _ in given] != needed:
            raise MismatchError(
                f"{snap!r}: filter statistics of shapes {[mean.shape for _, mean, _ in given]}, "
                f"and policy {pid!r} needs {needed}"
            )
        stats[pid] = given
    return stats, tuple(notes)


def _why_left_out(snap: Snapshot) -> str | None:
    """Return why an old-stack snapshot lacks the observation filter; None if it says nothing."""
    for key, reason in snap.spec.omitted.items():
        if key in ("connectors", "connectors.agent") or (
            key.startswith("connectors.") and "filter" in key.lower()
        ):
            return reason
    return None


def _old_filter(snap: Snapshot) -> FilterStats | None:
    """Check and return the filter statistics of an old-stack snapshot; None if it has no filter."""
    agent = snap.state.get("connectors", {}).get("agent", {})
    for name, state in agent.items():
        if not isinstance(state, Mapping) or "running_stats" not in state:
            continue
        try:
            stats = [
                running_stat(entry["count"], entry["mean"], entry["sum_sq_diff"])
                for entry in state["running_stats"]
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise FormatError(f"state.connectors.{name}: malformed statistics: {error!r}") from None
        return [(s.num_pushes, s.mean_array, getattr(s, squares_name(s))) for s in stats]
    return None
