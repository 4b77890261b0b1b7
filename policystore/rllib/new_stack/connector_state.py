"""Turn the state of ConnectorV2 pieces into arrays and plain values, and back.

A piece is one ConnectorV2 of a pipeline, a MeanStdFilter for example. RLlib keeps arrays in filter
state as base64 strings and reads them with ``np.load(allow_pickle=True)``
(``utils/serialization.py:83``), which runs code. So these strings are decoded without pickle when a
snapshot is made, and RLlib only gets strings that this process wrote from checked arrays. No string
or bytes of a snapshot ever reach RLlib's decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter

from policystore.errors import FormatError, InvalidInputError, MismatchError
from policystore.format.values import encode_value
from policystore.rllib.common.running_stats import running_stat
from policystore.rllib.common.trust import path_of
from policystore.rllib_schema.packed_arrays import is_packed_array, unpack_array

__all__ = ["filter_agents", "has_state", "is_filter", "new_filter_state", "put_state", "take_state"]

_FLAGS = ("de_mean_to_zero", "de_std_to_one", "clip_by_value")
# Sums of squared differences; Ray 2.40 calls them std_array, although they are no deviation.
_SQUARES = ("sum_sq_diff_array", "std_array")
_STATISTICS = "filter statistics"  # how messages name a packed array


def is_filter(piece: ConnectorV2) -> bool:
    """Return whether a piece keeps its state as RLlib's MeanStdFilter does."""
    return isinstance(piece, MeanStdFilter)


def has_state(piece: ConnectorV2) -> bool:
    """Return whether a piece has state that an identical new piece would not have."""
    return is_filter(piece) or bool(piece.get_state())


def filter_agents(piece: ConnectorV2) -> list[Any]:
    """Return the agents that a filter keeps statistics of; ``[None]`` in a single-agent setup."""
    return list(piece.get_state())


def take_state(
    piece: ConnectorV2, name: str, agent_ids: Iterable[Any] | None, state: Any = None
) -> dict[Any, Any]:
    """Return a piece's state as plain values and arrays.

    The state of a filter has for each agent its flags and, for each component of the observation,
    the number of observations, their mean and the sum of squared differences (float64, shape of
    the component). Observations since the last merge of the env runners are included, and are not
    kept separately.

    Args:
        piece: a live connector.
        name: how messages name the piece.
        agent_ids: the agents whose filter statistics are taken; None takes all.
        state: what the same piece of another env runner returned from ``get_state()``; None takes
            the state of ``piece``.

    Raises:
        InvalidInputError: state that cannot be kept; the message says what to do.
    """
    state = piece.get_state() if state is None else state
    if is_filter(piece):
        if type(piece).get_state is not MeanStdFilter.get_state:
            raise InvalidInputError(
                f"connector {name}: {path_of(type(piece))} is a MeanStdFilter with a get_state of "
                f"its own, which policystore cannot read. {_remedy(name)}"
            )
        wanted = list(state) if agent_ids is None else list(agent_ids)
        return {agent: _plain_filter(state[agent]) for agent in wanted}
    try:
        encode_value(state, f"state of connector {name}", [])
    except InvalidInputError as error:
        raise InvalidInputError(f"{error} {_remedy(name)}") from None
    where = _find_packed_array(state, "state")
    if where is not None:
        raise InvalidInputError(
            f"connector {name}: {where} is an array as RLlib packs it into a string, and RLlib's "
            "reader of such strings can be made to run code. Return the array itself from "
            f"get_state(). {_remedy(name)}"
        )
    return dict(state)


def _remedy(name: str) -> str:
    return f"Or leave its state out with omit=[{name!r}], which the spec then records."


def _plain_filter(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state that a filter has for one agent, its statistics as arrays."""
    stats = []
    for stat in state["running_stats"]:
        squares = next(stat[key] for key in _SQUARES if key in stat)
        stats.append(
            {
                "num_pushes": int(stat["num_pushes"]),
                "mean": np.array(unpack_array(stat["mean_array"], _STATISTICS), np.float64),
                "sum_sq_diff": np.array(unpack_array(squares, _STATISTICS), np.float64),
            }
        )
    flags = {flag: state[flag] for flag in _FLAGS}
    flags["clip_by_value"] = (
        None if flags["clip_by_value"] is None else float(flags["clip_by_value"])
    )
    return {**flags, "running_stats": stats}


def _find_packed_array(value: object, where: str) -> str | None:
    """Return the place of a string or bytes that RLlib's array decoder would accept, or None."""
    if isinstance(value, (str, bytes)):
        return where if is_packed_array(value) else None
    if isinstance(value, Mapping):
        items: Iterable[tuple[object, object]] = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return None
    for key, item in items:
        place = _find_packed_array(key, where) or _find_packed_array(item, f"{where}[{key!r}]")
        if place is not None:
            return place
    return None


def put_state(piece: ConnectorV2, name: str, state: object) -> None:
    """Give a piece the state that :func:`take_state` took from another piece.

    Args:
        piece: the connector, which is changed.
        name: how messages name the piece.
        state: of the snapshot.

    Raises:
        MismatchError: statistics of other agents or shapes than the piece's.
        FormatError: state that :func:`take_state` does not write.
    """
    if not isinstance(state, Mapping):
        raise FormatError(f"state of connector {name}: expected a dict, found {state!r}")
    if is_filter(piece):
        piece.set_state(new_filter_state(piece, name, state))
        return
    where = _find_packed_array(state, "state")
    if where is not None or type(piece).__module__.startswith("ray.rllib."):
        raise FormatError(
            f"state of connector {name}: {where or 'a piece of RLlib has none'}: not what "
            "policystore writes"
        )
    piece.set_state(_copied(state))


def new_filter_state(piece: ConnectorV2, name: str, state: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return statistics of a filter in the form that ``piece.set_state`` takes.

    Args:
        piece: a live filter; it is not changed.
        name: how messages name the piece.
        state: agent -> flags and statistics, as :func:`take_state` returned them.

    Raises:
        MismatchError: statistics of other agents or shapes than the piece's.
        FormatError: state that :func:`take_state` does not write.
    """
    target = piece.get_state()
    unknown = [agent for agent in state if agent not in target]
    if unknown:
        raise MismatchError(
            f"state of connector {name}: statistics of agents {unknown!r}, but the connector "
            f"knows {list(target)!r}"
        )
    fresh = {}
    for agent, wanted in state.items():
        needed = [
            unpack_array(stat["mean_array"], _STATISTICS).shape
            for stat in target[agent]["running_stats"]
        ]
        try:
            stats = [
                running_stat(stat["num_pushes"], stat["mean"], stat["sum_sq_diff"])
                for stat in wanted["running_stats"]
            ]
            flags = {flag: _checked_flag(wanted[flag]) for flag in _FLAGS}
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise FormatError(
                f"state of connector {name}, agent {agent!r}: not filter statistics: {error!r}"
            ) from None
        if [stat.shape for stat in stats] != needed:
            raise MismatchError(
                f"state of connector {name}, agent {agent!r}: statistics of shapes "
                f"{[stat.shape for stat in stats]}, but its observations have {needed}"
            )
        fresh[agent] = {
            **flags,
            "shape": target[agent]["shape"],
            "running_stats": [stat.to_state() for stat in stats],
        }
    return fresh


def _checked_flag(value: object) -> bool | float | None:
    """Return a flag of a filter; TypeError if it is not None, a bool or a finite float."""
    if value is None or isinstance(value, bool) or (type(value) is float and math.isfinite(value)):
        return value
    raise TypeError(f"{value!r} is no flag")


def _copied(value: Any) -> Any:
    """Return a value with copies of all arrays: a connector may update its state in place."""
    if isinstance(value, np.ndarray):
        return np.array(value, copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
