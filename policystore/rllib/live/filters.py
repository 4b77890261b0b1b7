"""Filter statistics of snapshots on their way into a running Algorithm.

On the old stack a filter belongs to a policy. On the new one it belongs to agents, and RLlib merges
what runners have gathered into the local one, so all get the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from policystore.errors import FormatError, InvalidInputError, MismatchError
from policystore.rllib.common.running_stats import running_stat, squares_name
from policystore.rllib.new_stack.connector_state import is_filter, new_filter_state
from policystore.rllib.new_stack.connectors import walk
from policystore.rllib.worker_code.filters import policy_filter, read_old_filter
from policystore.snapshot import Snapshot

__all__ = ["given_old_filter", "new_stack_filters", "old_stack_filters"]


def new_stack_filters(
    algorithm: Any, snaps: Mapping[str, Snapshot], agent_ids: Any
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """States to set in the runners' env-to-module pipelines, by RLlib's name of the connector.

    Args:
        algorithm: of the new stack.
        snaps: what is to be loaded, by module id.
        agent_ids: module id -> agents whose filter the snapshot's goes to; or such agents, of one
            snapshot. Needed in a multi-agent Algorithm where a snapshot has filter statistics;
            an empty list leaves the filters alone.

    Returns:
        Connector -> agent -> state in RLlib's own form, written here from checked arrays; notes.

    Raises:
        MismatchError: statistics without a filter to go to, of other shapes, or of unknown agents.
        InvalidInputError: ``agent_ids`` is missing, or not of the form above.
    """
    wanted = _agents_by_policy(snaps, agent_ids)
    pieces = _pieces(algorithm)
    multi = _is_multi_agent(algorithm.config)
    states: dict[str, dict[Any, Any]] = {}
    notes: list[str] = []
    for pid, snap in snaps.items():
        if not snap.state:
            _refuse_unfiltered(pid, snap, pieces, multi)
            continue
        for name, state in snap.state.items():
            piece = pieces.get(name)
            if piece is None:
                raise MismatchError(
                    f"{snap!r} was trained behind the connector {name!r} and has its state, and "
                    "this Algorithm has no such connector: the policy would see other "
                    "observations. Add it to the config, or load snap.replace(state={})."
                )
            if not is_filter(piece):
                notes.append(f"{pid!r}: the state of connector {name!r} was not loaded: it is no "
                             "filter, and policies share it")  # fmt: skip
                continue
            goes = _goes_to(pid, state, wanted.get(pid), multi)
            fresh = new_filter_state(piece, name, goes)
            taken = states.setdefault(name, {})
            twice = [agent for agent in fresh if agent in taken]
            if twice:
                raise InvalidInputError(
                    f"agent_ids: the filters of {twice!r} are given by two snapshots"
                )
            taken.update(fresh)
    return states, tuple(notes)


def _agents_by_policy(snaps: Mapping[str, Snapshot], agent_ids: Any) -> dict[str, list[Any]]:
    if agent_ids is None:
        return {}
    if isinstance(agent_ids, Mapping):
        unknown = [pid for pid in agent_ids if pid not in snaps]
        if unknown:
            raise InvalidInputError(
                f"agent_ids names the policies {unknown!r}, which are not loaded here: {sorted(snaps)}"
            )
        return {pid: _listed(of_policy) for pid, of_policy in agent_ids.items()}
    if len(snaps) != 1:
        raise InvalidInputError(
            "of several policies, agent_ids is a dict by policy: "
            f"agent_ids={{{next(iter(snaps))!r}: […]}}"
        )
    return {next(iter(snaps)): _listed(agent_ids)}


def _listed(agent_ids: Any) -> list[Any]:
    if isinstance(agent_ids, (str, bytes)) or not isinstance(agent_ids, Iterable):
        raise InvalidInputError(f"agent_ids is a list of agent ids: agent_ids=[{agent_ids!r}]")
    return list(agent_ids)


def _pieces(algorithm: Any) -> dict[str, Any]:
    local = getattr(algorithm, "env_runner", None)
    pipeline = getattr(local, "_env_to_module", None)
    if pipeline is None:
        pipeline = getattr(algorithm, "env_to_module_connector", None)
    return {} if pipeline is None else dict(walk(pipeline.connectors))


def _is_multi_agent(config: Any) -> bool:
    # A method up to Ray 2.40, a property later.
    found = config.is_multi_agent
    return bool(found() if callable(found) else found)


def _refuse_unfiltered(pid: str, snap: Snapshot, pieces: Mapping[str, Any], multi: bool) -> None:
    """A policy that was trained on plain observations must not get normalised ones unnoticed."""
    if multi or not snap.spec.connectors:
        return
    filters = [name for name, piece in pieces.items() if is_filter(piece)]
    if filters and not any(name in snap.spec.omitted for name in _left_out_names(filters)):
        raise MismatchError(
            f"{snap!r} was trained without {filters[0]}, and this Algorithm normalises "
            f"observations by it: policy {pid!r} would see other observations than it was trained "
            "on. Load it "
            "into an Algorithm without the filter, or snap.replace(spec=snap.spec.replace("
            "connectors={})) if you mean it."
        )


def _left_out_names(filters: list[str]) -> list[str]:
    return [f"connectors.{name}" for name in filters]


def _goes_to(pid: str, state: Any, agent_ids: list[Any] | None, multi: bool) -> dict[Any, Any]:
    if not isinstance(state, Mapping):
        raise FormatError(f"state of {pid!r}: expected a dict by agent, found {state!r}")
    if not multi:
        if agent_ids is not None:
            raise InvalidInputError(
                "agent_ids= is for multi-agent Algorithms; this one has a single agent: leave it out"
            )
        if len(state) != 1:
            raise MismatchError(
                f"the snapshot for {pid!r} has filter statistics of the agents {list(state)!r}, "
                "and this Algorithm has one agent; make the snapshot with agent_ids=[…] of one of them"
            )
        return {None: next(iter(state.values()))}
    if agent_ids is None:
        raise InvalidInputError(
            f"the snapshot for {pid!r} has filter statistics (of {list(state)!r}), and filters "
            f"belong to agents: pass agent_ids={{{pid!r}: […]}} with the ids of those who act through "
            "it, or an empty list to leave their filters as they are"
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
    local: Any, snaps: Mapping[str, Snapshot]
) -> dict[str, list[tuple[int, Any, Any]]]:
    """Statistics to set in the policies' filters, by policy: (count, mean, sum of squares) each.

    Args:
        local: the local worker of the training group.
        snaps: what is to be loaded, by policy id.

    Raises:
        MismatchError: statistics without a filter to go to, the reverse, or of other shapes.
    """
    found = {}
    for pid, snap in snaps.items():
        given = given_old_filter(snap)
        has = policy_filter(local.policy_map[pid]) is not None
        if given is None:
            if has and snap.spec.connectors:
                raise MismatchError(
                    f"{snap!r} was trained without an observation filter, and policy {pid!r} has "
                    "one: it would see other observations than it was trained on"
                )
            continue
        if not has:
            raise MismatchError(
                f"{snap!r} was trained behind an observation filter, and policy {pid!r} of this "
                "Algorithm has none: it would see other observations. Set observation_filter in "
                "the config, or load snap.replace(state={})."
            )
        needed = [mean.shape for _, mean, _ in read_old_filter(local.policy_map[pid])]
        if [mean.shape for _, mean, _ in given] != needed:
            raise MismatchError(
                f"{snap!r}: filter statistics of shapes {[mean.shape for _, mean, _ in given]}, "
                f"and policy {pid!r} needs {needed}"
            )
        found[pid] = given
    return found


def given_old_filter(snap: Snapshot) -> list[tuple[int, Any, Any]] | None:
    """The statistics of an old-stack snapshot's filter, checked; None if it has none."""
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
