"""ConnectorV2 pieces of the new API stack as plain values, and back.

A pipeline is RLlib's default pieces around the user's. Only the user's are recorded, each with its
class and constructor arguments: RLlib builds its own around them again
(``AlgorithmConfig.build_env_to_module_connector``), so a snapshot follows when they change.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gymnasium as gym
from ray.rllib.connectors.connector_pipeline_v2 import ConnectorPipelineV2
from ray.rllib.connectors.connector_v2 import ConnectorV2

from policystore.errors import FormatError, InvalidInputError
from policystore.format.values import Tagged
from policystore.rllib.common.trust import Trust, path_of
from policystore.rllib.new_stack.model_config import from_plain, resolve_class, to_plain

__all__ = ["piece_name", "piece_to_plain", "pieces_from_plain", "walk"]

_SPACES = ("input_observation_space", "input_action_space")
_MOST = 1 << 20


def piece_name(piece: ConnectorV2) -> str:
    """What a piece is called in state and messages, as in RLlib: its class's name."""
    return type(piece).__name__


def walk(pieces: Iterable[ConnectorV2]) -> list[tuple[str, ConnectorV2]]:
    """All pieces in order, those of nested pipelines included, each with a name of its own.

    The second piece of a class is ``Name#2``: RLlib's own state would keep the last one only
    (``connector_pipeline_v2.py:get_state``).
    """
    found: list[tuple[str, ConnectorV2]] = []
    count: dict[str, int] = {}

    def visit(piece: ConnectorV2) -> None:
        if isinstance(piece, ConnectorPipelineV2):
            for inner in piece.connectors:
                visit(inner)
            return
        name = piece_name(piece)
        count[name] = count.get(name, 0) + 1
        found.append((name if count[name] == 1 else f"{name}#{count[name]}", piece))

    for piece in pieces:
        visit(piece)
    return found


def piece_to_plain(piece: ConnectorV2) -> dict[str, Any]:
    """Class and constructor arguments of one connector piece.

    Raises:
        InvalidInputError: the arguments cannot be found out or kept; says what to do.
    """
    if isinstance(piece, ConnectorPipelineV2):
        return {
            "class": Tagged("import", path_of(type(piece))),
            "connectors": [piece_to_plain(inner) for inner in piece.connectors],
        }
    args, kwargs = piece.get_ctor_args_and_kwargs()
    _check_arguments(piece, args, kwargs)
    problems: dict[str, str] = {}
    plain: dict[str, Any] = {"class": Tagged("import", path_of(type(piece)))}
    kept = {
        key: to_plain(value, key, problems) for key, value in kwargs.items() if key not in _SPACES
    }
    if args:
        plain["args"] = [
            to_plain(value, f"args[{index}]", problems) for index, value in enumerate(args)
        ]
    if problems:
        where, why = next(iter(problems.items()))
        raise InvalidInputError(
            f"connector {piece_name(piece)}: its constructor argument {where} cannot be kept: "
            f"{why}. {_way_on(piece)}"
        )
    if kept:
        plain["kwargs"] = kept
    if any(kwargs.get(key) is not None for key in _SPACES):
        # Its spaces come from its place in the pipeline; here only that it was given them.
        plain["spaces"] = True
    return plain


def _check_sizes(kwargs: Mapping[str, Any], what: str) -> None:
    """Connectors allocate by their arguments: numbers of frames or steps, not of gigabytes."""
    for name, value in kwargs.items():
        if type(value) is int and abs(value) > _MOST:
            raise FormatError(f"spec.connectors: {what}({name}={value}) is beyond any use")


def _check_arguments(piece: ConnectorV2, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that RLlib noted of the wrong constructor.

    It notes those of the frame that calls ``ConnectorV2.__init__`` (``connector_v2.py:108``), which
    is another class's where one with arguments is inherited from.
    """
    if type(piece).get_ctor_args_and_kwargs is not ConnectorV2.get_ctor_args_and_kwargs:
        return
    named = {
        name
        for name, parameter in inspect.signature(type(piece)).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    if args or named != set(kwargs):
        raise InvalidInputError(
            f"connector {piece_name(piece)}: RLlib knows its constructor arguments as "
            f"{sorted(kwargs)}, but the class {path_of(type(piece))} takes {sorted(named)} (it "
            f"notes only those of the class that calls ConnectorV2.__init__). {_way_on(piece)}"
        )


def _way_on(piece: ConnectorV2) -> str:
    return (
        "Define get_ctor_args_and_kwargs() on it, or leave it out with "
        f"omit=[{piece_name(piece)!r}]; a player then needs connectors=."
    )


def pieces_from_plain(
    plain: Iterable[Mapping[str, Any]],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    *,
    overrides: Mapping[type, Mapping[str, Any]] | None = None,
    trust: Trust = (),
) -> list[ConnectorV2]:
    """Build connector pieces, in order.

    Args:
        plain: what :func:`piece_to_plain` wrote.
        observation_space, action_space: what goes into the first piece.
        overrides: constructor arguments to change, for pieces of a class.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        UntrustedError: a class outside ``ray.rllib`` that is not vouched for.
        InvalidInputError: a constructor refuses what was recorded.
        FormatError: not what :func:`piece_to_plain` writes.
    """
    found = []
    for item in plain:
        piece = _build_piece(item, observation_space, action_space, overrides or {}, trust)
        # As ConnectorPipelineV2._fix_spaces does: each piece sees what the one before puts out.
        piece.input_action_space = action_space
        piece.input_observation_space = observation_space
        observation_space, action_space = piece.observation_space, piece.action_space
        found.append(piece)
    return found


def _build_piece(
    plain: Mapping[str, Any],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    overrides: Mapping[type, Mapping[str, Any]],
    trust: Trust,
) -> ConnectorV2:
    tagged = plain.get("class") if isinstance(plain, Mapping) else None
    if not isinstance(tagged, Tagged) or tagged.tag != "import":
        raise FormatError(f"spec.connectors: a connector without a class: {plain!r}")
    cls = resolve_class(tagged.value, ConnectorV2, "spec.connectors", trust)
    if issubclass(cls, ConnectorPipelineV2):
        inner = pieces_from_plain(
            plain.get("connectors", ()),
            observation_space,
            action_space,
            overrides=overrides,
            trust=trust,
        )
        args, kwargs = (), {"connectors": inner}
    else:
        args = from_plain(plain.get("args", []), "spec.connectors", trust)
        kwargs = from_plain(plain.get("kwargs", {}), "spec.connectors", trust)
        if plain.get("spaces"):
            kwargs |= dict(zip(_SPACES, (observation_space, action_space), strict=True))
        for base, changes in overrides.items():
            if issubclass(cls, base):
                kwargs |= changes
    try:
        _check_sizes(kwargs, path_of(cls))
        piece: ConnectorV2 = cls(*args, **kwargs)
    except Exception as error:
        raise InvalidInputError(
            f"connector {path_of(cls)} cannot be built from the recorded arguments "
            f"{sorted(kwargs)}: {type(error).__name__}: {error}. Its class may have changed since; "
            "give connectors of your own with connectors=."
        ) from error
    return piece
