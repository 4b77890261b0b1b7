"""Write ConnectorV2 pieces of the new API stack as plain values, and build them again.

A pipeline has RLlib's default pieces around the user's pieces. Only the user's pieces are recorded,
each with its class and constructor arguments. RLlib builds its default pieces again
(``AlgorithmConfig.build_env_to_module_connector``), so a player has the default pieces of the Ray
that is installed.
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
_MAX_INTEGER = 1 << 20


def piece_name(piece: ConnectorV2) -> str:
    """Return a piece's name in state and messages: its class's name, as in RLlib."""
    return type(piece).__name__


def walk(pieces: Iterable[ConnectorV2]) -> list[tuple[str, ConnectorV2]]:
    """List all pieces in order, those of nested pipelines included, each with a unique name.

    The second piece of a class is ``Name#2``: RLlib's own state would keep the last one only
    (``connector_pipeline_v2.py:get_state``).
    """
    named: list[tuple[str, ConnectorV2]] = []
    count: dict[str, int] = {}

    def visit(piece: ConnectorV2) -> None:
        if isinstance(piece, ConnectorPipelineV2):
            for inner in piece.connectors:
                visit(inner)
            return
        name = piece_name(piece)
        count[name] = count.get(name, 0) + 1
        named.append((name if count[name] == 1 else f"{name}#{count[name]}", piece))

    for piece in pieces:
        visit(piece)
    return named


def piece_to_plain(piece: ConnectorV2) -> dict[str, Any]:
    """Return the class and constructor arguments of one connector piece as plain values.

    Raises:
        InvalidInputError: the arguments are not known or cannot be kept; the message says what to
            do.
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
            f"{why}. {_advice(piece)}"
        )
    if kept:
        plain["kwargs"] = kept
    if any(kwargs.get(key) is not None for key in _SPACES):
        # The piece's spaces follow from its place in the pipeline. Only the fact that it takes
        # spaces is recorded.
        plain["spaces"] = True
    return plain


def _check_sizes(kwargs: Mapping[str, Any], cls: type) -> None:
    """Refuse integers that no connector uses: connectors allocate memory by their arguments.

    Raises:
        FormatError: an argument beyond 2**20, far more than the frames or steps of any episode.
    """
    for name, value in kwargs.items():
        if type(value) is int and abs(value) > _MAX_INTEGER:
            raise FormatError(f"spec.connectors: {path_of(cls)}({name}={value}) is beyond any use")


def _check_arguments(piece: ConnectorV2, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that RLlib noted of another class's constructor.

    RLlib notes the arguments of the frame that calls ``ConnectorV2.__init__``
    (``connector_v2.py:108``). Where a class inherits from a connector with arguments of its own,
    that frame belongs to the base class.
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
            f"connector {piece_name(piece)}: RLlib noted the constructor arguments "
            f"{sorted(kwargs)}, but the class {path_of(type(piece))} takes {sorted(named)} (RLlib "
            "notes only those of the class that calls ConnectorV2.__init__). "
            f"{_advice(piece)}"
        )


def _advice(piece: ConnectorV2) -> str:
    """Return what messages advise about a connector that cannot be kept."""
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
        plain: values as :func:`piece_to_plain` returns them.
        observation_space, action_space: the spaces that go into the first piece.
        overrides: constructor arguments to change, by class of piece.
        trust: see :func:`policystore.rllib.common.trust.resolve`.

    Raises:
        UntrustedError: a class outside ``ray.rllib`` that the caller does not vouch for.
        NotFoundError: a class that cannot be imported.
        InvalidInputError: a constructor refuses the recorded arguments, or an integer among them is
            beyond any use.
        FormatError: values that :func:`piece_to_plain` does not return.
    """
    pieces = []
    for item in plain:
        piece = _build_piece(item, observation_space, action_space, overrides or {}, trust)
        # As in ConnectorPipelineV2._fix_spaces: each piece takes what the piece before puts out.
        piece.input_action_space = action_space
        piece.input_observation_space = observation_space
        observation_space, action_space = piece.observation_space, piece.action_space
        pieces.append(piece)
    return pieces


def _build_piece(
    plain: Mapping[str, Any],
    observation_space: gym.Space[Any],
    action_space: gym.Space[Any],
    overrides: Mapping[type, Mapping[str, Any]],
    trust: Trust,
) -> ConnectorV2:
    """Build one piece or nested pipeline; arguments as for :func:`pieces_from_plain`."""
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
        _check_sizes(kwargs, cls)
        piece: ConnectorV2 = cls(*args, **kwargs)
    except Exception as error:
        raise InvalidInputError(
            f"connector {path_of(cls)} cannot be built from the recorded arguments "
            f"{sorted(kwargs)}: {type(error).__name__}: {error}. Its class may have changed since "
            "then; pass your own connectors with connectors=."
        ) from error
    return piece
