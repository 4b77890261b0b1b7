"""State of ConnectorV2 pieces, MeanStdFilter above all, as arrays and plain values, and back.

RLlib keeps arrays in filter state as base64 strings and reads them with
``np.load(allow_pickle=True)`` (``utils/serialization.py:83``), which runs code. So strings are
decoded here, without pickle, when a snapshot is made, and what goes back into RLlib are
strings that were written in this process from checked arrays. No string or bytes of a snapshot ever
reach RLlib's decoder.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter

from policystore.errors import FormatError, InvalidInputError, MismatchError
from policystore.format.arrays import Array
from policystore.format.values import encode_value
from policystore.rllib.common.running_stats import running_stat
from policystore.rllib.common.trust import path_of

__all__ = ["filter_agents", "has_state", "is_filter", "new_filter_state", "put_state", "take_state"]

_FLAGS = ("de_mean_to_zero", "de_std_to_one", "clip_by_value")
# Sums of squared differences; std_array in older versions (2.40), although no deviation.
_SQUARES = ("sum_sq_diff_array", "std_array")
_MAX_ARRAY_BYTES = 2**28


def is_filter(piece: ConnectorV2) -> bool:
    """Whether a piece keeps its state as RLlib's MeanStdFilter does."""
    return isinstance(piece, MeanStdFilter)


def has_state(piece: ConnectorV2) -> bool:
    """Whether a piece has something that an identical new one would not have."""
    return is_filter(piece) or bool(piece.get_state())


def filter_agents(piece: ConnectorV2) -> list[Any]:
    """The agents that a filter keeps statistics of; ``[None]`` in a single-agent setup."""
    return list(piece.get_state())


def take_state(piece: ConnectorV2, name: str, agent_ids: Iterable[Any] | None) -> dict[Any, Any]:
    """A piece's state as plain values and arrays.

    Of a filter: per agent its flags and, per component of the observation, number of
    observations, mean and sum of squared differences (float64, shape of the component). What it
    has gathered since runners were last merged is part of these and not kept apart.

    Args:
        piece: a live connector.
        name: how messages call it.
        agent_ids: whose statistics of a filter to take; None takes all.

    Raises:
        InvalidInputError: state that cannot be kept; says what to do.
    """
    state = piece.get_state()
    if is_filter(piece):
        if type(piece).get_state is not MeanStdFilter.get_state:
            raise InvalidInputError(
                f"connector {name}: {path_of(type(piece))} is a MeanStdFilter with a get_state of "
                f"its own, which policystore cannot read. {_way_on(name)}"
            )
        wanted = list(state) if agent_ids is None else list(agent_ids)
        return {agent: _plain_filter(state[agent]) for agent in wanted}
    try:
        encode_value(state, f"state of connector {name}", [])
    except InvalidInputError as error:
        raise InvalidInputError(f"{error} {_way_on(name)}") from None
    where = _find_encoded_array(state, "state")
    if where is not None:
        raise InvalidInputError(
            f"connector {name}: {where} is an array as RLlib packs it into a string, and what "
            f"reads these back can be made to run code. Return the array itself from get_state(). "
            + _way_on(name)
        )
    return dict(state)


def _way_on(name: str) -> str:
    return f"Or leave its state out with omit=[{name!r}], which the spec then records."


def _plain_filter(state: Mapping[str, Any]) -> dict[str, Any]:
    stats = []
    for stat in state["running_stats"]:
        squares = next(stat[key] for key in _SQUARES if key in stat)
        stats.append(
            {
                "num_pushes": int(stat["num_pushes"]),
                "mean": np.asarray(decode_array(stat["mean_array"]), np.float64),
                "sum_sq_diff": np.asarray(decode_array(squares), np.float64),
            }
        )
    flags = {flag: state[flag] for flag in _FLAGS}
    flags["clip_by_value"] = (
        None if flags["clip_by_value"] is None else float(flags["clip_by_value"])
    )
    return {**flags, "running_stats": stats}


def decode_array(text: str) -> Array:
    """An array out of the string that RLlib packs it into, without pickle.

    Raises:
        FormatError: not such a string, or one that needs pickle.
    """
    data = _inflate(text)
    if data is None:
        raise FormatError("filter statistics: not an array as RLlib packs it")
    try:
        found: Array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"filter statistics: not a plain array: {error}") from None
    return found


def _inflate(text: str | bytes) -> bytes | None:
    """What RLlib's decoder would hand to ``np.load``, or None where it would fail before."""
    try:
        packed = base64.b64decode(text)
        inflater = zlib.decompressobj()
        data = inflater.decompress(packed, _MAX_ARRAY_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        return None
    if not inflater.eof and not inflater.unconsumed_tail:
        return None
    return data


def _find_encoded_array(value: Any, where: str) -> str | None:
    """The place of a string or bytes that RLlib's array decoder would accept."""
    if isinstance(value, (str, bytes)):
        return where if _inflate(value) else None
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return None
    for key, item in items:
        found = _find_encoded_array(key, where) or _find_encoded_array(item, f"{where}[{key!r}]")
        if found is not None:
            return found
    return None


def put_state(piece: ConnectorV2, name: str, state: Any) -> None:
    """Give a piece the state that :func:`take_state` took from another.

    Raises:
        MismatchError: statistics of other agents or shapes than the piece's.
        FormatError: state that :func:`take_state` does not write.
    """
    if not isinstance(state, Mapping):
        raise FormatError(f"state of connector {name}: expected a dict, found {state!r}")
    if is_filter(piece):
        _put_filter(piece, name, state)
        return
    where = _find_encoded_array(state, "state")
    if where is not None or type(piece).__module__.startswith("ray.rllib."):
        raise FormatError(
            f"state of connector {name}: {where or 'a piece of RLlib has none'}: not what "
            "policystore writes"
        )
    piece.set_state(_writable(state))


def _put_filter(piece: ConnectorV2, name: str, state: Mapping[Any, Any]) -> None:
    piece.set_state(new_filter_state(piece, name, state))


def new_filter_state(piece: ConnectorV2, name: str, state: Mapping[Any, Any]) -> dict[Any, Any]:
    """What ``piece.set_state`` takes, of statistics as :func:`take_state` gives them.

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
        needed = [decode_array(stat["mean_array"]).shape for stat in target[agent]["running_stats"]]
        try:
            stats = [
                running_stat(stat["num_pushes"], stat["mean"], stat["sum_sq_diff"])
                for stat in wanted["running_stats"]
            ]
            flags = {flag: _flag(wanted[flag]) for flag in _FLAGS}
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


def _flag(value: Any) -> bool | float | None:
    if value is None or type(value) is bool or (type(value) is float and math.isfinite(value)):
        return value
    raise TypeError(f"{value!r} is no flag")


def _writable(value: Any) -> Any:
    """Copies of all arrays: a connector may go on updating its state in place."""
    if isinstance(value, np.ndarray):
        return np.array(value, copy=True)
    if isinstance(value, Mapping):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_writable(item) for item in value)
    return value
