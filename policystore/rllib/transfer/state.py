"""Choose the state of an adapted snapshot: statistics of filters, and other state of connectors.

The first layer of a policy was trained on observations that the filters had normalised. So the
statistics of a filter belong to the weights, and come along with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.rllib.transfer.report import AdaptedPart
from policystore.snapshot import Snapshot

__all__ = ["TakeState", "check_take_state", "mix_state"]

TakeState: TypeAlias = Literal["snapshot", "target"]
"""Whose filter statistics an adapted snapshot gets."""

_Path: TypeAlias = tuple[str, ...]


def check_take_state(state: object) -> None:
    """Refuse other values of ``state=`` than ``"snapshot"`` and ``"target"``."""
    if state not in ("snapshot", "target"):
        raise InvalidInputError(f'state is "snapshot" or "target", not {brief(state)}')


def mix_state(
    snap: Snapshot, target: Snapshot, wanted: TakeState, *, acts: bool
) -> tuple[dict[Any, Any], list[AdaptedPart]]:
    """Return the state of an adapted snapshot, and rows for the report.

    Args:
        snap: the snapshot from which weights were taken.
        target: what the snapshot is adapted to.
        wanted: whose state is used where both have it.
        acts: whether weights that acting needs were taken. If not, the target's state stays.
    """
    given, present = _parts(snap), _parts(target)
    result: dict[Any, Any] = target.state
    rows = []
    for path, value in present.items():
        chosen, why = _choose(path, given.get(path), value, wanted, acts=acts)
        if chosen is None:
            text = why if path in given else _why_absent(snap, path)
            rows.append(AdaptedPart(".".join(path), "kept", "state", why=text))
        else:
            _put(result, path, chosen)
            rows.append(AdaptedPart(".".join(path), "taken", "state", why=why))
    for path in given.keys() - present.keys():
        reason = _omitted(target, path)
        why = "the target has none" if reason is None else f"omitted in the target: {reason}"
        if not target.spec.connectors:
            why = "the target does not record its connectors (give the Algorithm as like=)"
        rows.append(AdaptedPart(".".join(path), "left", "state", why=why))
    return result, sorted(rows, key=lambda row: row.name)


def _parts(snap: Snapshot) -> dict[_Path, Any]:
    """Return the parts of a state by path: connectors, and the exploration of the old stack."""
    state = snap.state
    if snap.spec.stack != "old":
        return {(str(name),): part for name, part in state.items()}
    parts = {
        ("connectors", pipeline, name): part
        for pipeline, by_name in state.get("connectors", {}).items()
        for name, part in by_name.items()
    }
    return parts | {(name,): part for name, part in state.items() if name != "connectors"}


def _put(state: dict[Any, Any], path: _Path, value: Any) -> None:
    for key in path[:-1]:
        state = state[key]
    state[path[-1]] = value


def _choose(
    path: _Path, given: Any, present: Any, wanted: TakeState, *, acts: bool
) -> tuple[Any, str]:
    """Return the value for one part, or None for the target's; and the reason."""
    if given is None:
        return None, ""
    if path == ("exploration",):
        return None, "the progress of exploration is always the target's"
    if wanted == "target":
        return None, 'state="target"'
    if not acts:
        return None, "no weights that acting needs were taken"
    if _is_filter(present) and _is_filter(given):  # old stack
        if _shapes(given) != _shapes(present):
            return None, _other_shapes(given, present)
        return given, _counted(given)
    agents = _agents(present)
    if agents is None or _agents(given) is None:
        return given, ""
    return _by_agent(given, present)


def _by_agent(given: Mapping[Any, Any], present: Mapping[Any, Any]) -> tuple[Any, str]:
    """Return the statistics for each agent of the target's filter, or None; and the reason."""
    only = next(iter(given.values())) if len(given) == 1 else None
    missing = [agent for agent in present if agent not in given]
    if missing and only is None:
        return None, f"the snapshot has statistics of {list(given)!r}, not of {missing!r}"
    chosen = {agent: given.get(agent, only) for agent in present}
    for agent, statistics in chosen.items():
        if _shapes(statistics) != _shapes(present[agent]):
            return None, _other_shapes(statistics, present[agent])
    return chosen, _counted(next(iter(chosen.values()), {}))


def _is_filter(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("running_stats"), (list, tuple))


def _agents(part: Any) -> list[Any] | None:
    """Return the agents of a filter of the new stack; None for other state."""
    if not isinstance(part, Mapping) or not part or not all(map(_is_filter, part.values())):
        return None
    return list(part)


def _shapes(part: Mapping[str, Any]) -> list[tuple[int, ...]]:
    return [np.shape(stat["mean"]) for stat in part["running_stats"]]


def _other_shapes(given: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    return f"the snapshot's statistics have the shapes {_shapes(given)}, not {_shapes(present)}"


def _counted(part: Mapping[str, Any]) -> str:
    counts = [stat.get("count", stat.get("num_pushes")) for stat in part.get("running_stats", ())]
    numbers = [count for count in counts if isinstance(count, int)]
    return f"{max(numbers):,} observations" if numbers else ""


def _why_absent(snap: Snapshot, path: _Path) -> str:
    """Return why a snapshot lacks a part of the target's state."""
    reason = _omitted(snap, path)
    if reason is not None:
        return f"omitted in the snapshot: {reason}"
    if snap.spec.connectors and path != ("exploration",):
        return "the snapshot was trained without this part: its weights expect other observations"
    return "the snapshot has none"


def _omitted(snap: Snapshot, path: _Path) -> str | None:
    """Return why a snapshot leaves out a part of its state; None if it says nothing."""
    omitted = snap.spec.omitted
    places = [f"connectors.{path[-1]}", "connectors.env_to_module", "connectors.agent",
              "connectors", "env_runner"]  # fmt: skip
    return next((omitted[place] for place in places if place in omitted), None)
