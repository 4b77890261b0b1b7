"""Write gymnasium spaces as JSON and read them back, exactly.

``space_from_json(space_to_json(space))`` has the same class, dtypes, shapes, bounds (bit for bit),
order of keys and ``original_space`` as ``space``. So both spaces sample from the same set, contain
the same values and flatten in the same way. The state of random generators is not stored: the space
that is read has no seed. ``docs/spaces.md`` is the normative text, with an example for
each class.

RLlib's own converter (``gym_space_to_dict``, ``ray/rllib/utils/serialization.py:89``) silently
loses the dtype of Discrete, the start of MultiDiscrete, subclasses and ``original_space``, turns
Text and Simplex into something that is not JSON, and refuses Sequence, Graph and OneOf.

This module imports gymnasium and RLlib only when a space is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject
from policystore.spaces import fields, fundamental
from policystore.spaces.fundamental import GYMNASIUM, REPEATED, SIMPLEX, build
from policystore.spaces.place import Limits, Place

if TYPE_CHECKING:
    from gymnasium.spaces import Dict, Graph, OneOf, Sequence, Space, Tuple
    from ray.rllib.utils.spaces.repeated import Repeated

__all__ = ["space_from_json", "space_to_json"]


def space_to_json(space: Space[Any], *, label: str = "space") -> JsonObject:
    """Write a space as JSON that :func:`~policystore.format.canonical_json.canonical_json` accepts.

    Equal spaces give equal JSON in every process, with one exception. Before gymnasium 1.4, a
    ``Text`` whose ``charset`` is a *set* (also by default) orders its characters by Python's random
    string hashes. Flattening uses this order, so the JSON keeps it. A ``charset`` given as a string
    has the same order in every process.

    Args:
        space: any gymnasium space, or RLlib's ``Repeated`` or ``Simplex``, also nested.
        label: how messages name the space.

    Raises:
        InvalidInputError: a space of another class (subclasses of the known ones and spaces of the
            legacy ``gym`` package included), a space whose attributes contradict each other, or a
            space beyond the limits of ``docs/spaces.md``. The message names the class and the
            place.
    """
    return _encode(space, Place(label, Limits(InvalidInputError)))


def space_from_json(value: object, *, label: str = "space") -> Space[Any]:
    """Build a new space without a seed from the JSON that :func:`space_to_json` wrote.

    The JSON may come from a hostile source. So sizes are checked before memory is allocated, and
    the new space is written as JSON and compared with the given JSON.
    :func:`policystore.spaces.words.space_in_words` shows a space without gymnasium and Ray.

    Args:
        value: parsed JSON.
        label: how messages name the space.

    Raises:
        FormatError: JSON that :func:`space_to_json` does not write, a class that this version does
            not know, or a space that the installed gymnasium does not have or refuses to build.
        MissingPackageError: gymnasium, or for RLlib's own spaces Ray, is not installed.
    """
    space = _decode(value, Place(label, Limits(FormatError)))
    written = _encode(space, Place(label, Limits(FormatError)))
    difference = _difference(written, value, label)
    if difference is not None:
        raise FormatError(
            f"{difference}. Each space has exactly one JSON form, and this JSON has another form: "
            "it was not written by policystore, or the installed gymnasium builds this space in "
            "another way."
        )
    return space


def _difference(written: Json, found: Json, where: str) -> str | None:
    """Describe the first difference of ``found`` from ``written``, types included; None if none."""
    if isinstance(written, dict) and type(found) is dict and written.keys() == found.keys():
        pairs: list[tuple[Json, Json, str]] | None = [
            (written[key], found[key], f"{where}.{key}") for key in written
        ]
    elif isinstance(written, list) and type(found) is list and len(written) == len(found):
        both = enumerate(zip(written, found, strict=True))
        pairs = [(one, other, f"{where}[{index}]") for index, (one, other) in both]
    elif type(written) is type(found) and not isinstance(written, (dict, list)):
        pairs = [] if written == found else None
    else:
        pairs = None
    if pairs is None:
        return f"{where}: expected {brief(written)}, found {brief(found)}"
    return next(filter(None, (_difference(*pair) for pair in pairs)), None)


def _encode(space: object, outer: Place) -> JsonObject:
    place = outer.enter()
    cls = type(space)
    kind = _KINDS.get(cls.__qualname__)
    if kind is None or not (cls.__module__ + ".").startswith(kind.package + "."):
        place.fail(_why_unknown(cls))
    written = {"space": cls.__qualname__, **kind.encode(space, place)}
    # RLlib's preprocessors set original_space on the flattened Box
    # (ray/rllib/models/preprocessors.py:107).
    attributes = vars(space)
    if "original_space" in attributes:
        inner = place.inner("original_space")
        written["original_space"] = _encode(attributes["original_space"], inner)
    return written


def _why_unknown(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    known = f"Known are gymnasium's own and RLlib's: {', '.join(_KINDS)}."
    if cls.__module__.split(".")[0] == "gym":
        return f"{name} is a space of the legacy gym package; build it with gymnasium. {known}"
    for base in cls.__mro__[1:]:
        if base.__qualname__ in _KINDS and base.__module__.startswith(("gymnasium.", "ray.")):
            return (
                f"{name} is a subclass of {base.__qualname__} and would be read back as something "
                f"else. Use {base.__qualname__} itself where the policy is built. {known}"
            )
    return f"{name} is not a space that can be kept. {known}"


def _decode(value: object, outer: Place) -> Space[Any]:
    place = outer.enter()
    written: JsonObject = fields.typed(value, dict, place)
    name = written.get("space")
    kind = _KINDS.get(name) if type(name) is str else None
    if kind is None:
        place.fail(
            f"unknown class of space {brief(name)}; known are {', '.join(_KINDS)}. It may "
            "come from a newer policystore: upgrade to read it"
        )
    keys = written.keys() - {"space", "original_space"}
    if not kind.keys <= keys <= kind.keys | kind.optional:
        place.fail(
            f"{name} has the keys {sorted(kind.keys)}; missing here are "
            f"{sorted(kind.keys - keys)}, and {len(keys - kind.keys - kind.optional)} are unknown"
        )
    space = kind.decode(written, place)
    if "original_space" in written:
        original = _decode(written["original_space"], place.inner("original_space"))
        space.original_space = original  # type: ignore[attr-defined]
    return space


def _tuple_to_json(space: Tuple | OneOf, place: Place) -> JsonObject:
    inner = enumerate(space.spaces)
    return {"spaces": [_encode(one, place.inner(f"spaces[{index}]")) for index, one in inner]}


def _tuple_from_json(written: JsonObject, place: Place) -> Space[Any]:
    inner = enumerate(fields.typed(written["spaces"], list, place.at("spaces")))
    spaces = [_decode(one, place.inner(f"spaces[{index}]")) for index, one in inner]
    return build(GYMNASIUM, written["space"], place, spaces=spaces)


def _dict_to_json(space: Dict, place: Place) -> JsonObject:
    # Two lists, because the keys of a JSON object are strings and have no order.
    return {
        "keys": [fields.key_to_json(key, place.at("keys")) for key in space.spaces],
        "spaces": [
            _encode(one, place.inner(f"spaces[{brief(key)}]")) for key, one in space.spaces.items()
        ],
    }


def _dict_from_json(written: JsonObject, place: Place) -> Space[Any]:
    listed = fields.typed(written["keys"], list, place.at("keys"))
    spaces = fields.typed(written["spaces"], list, place.at("spaces"))
    keys = [fields.key_from_json(key, place.at("keys")) for key in listed]
    if len(keys) != len(spaces) or len(set(keys)) != len(keys):
        place.fail(f"{len(keys)} keys, {len(set(keys))} of them different, to {len(spaces)} spaces")
    # Every gymnasium keeps the order of pairs, but sorts mappings (in 1.0 even ordered ones).
    pairs = [
        (key, _decode(one, place.inner(f"spaces[{brief(key)}]")))
        for key, one in zip(keys, spaces, strict=True)
    ]
    return build(GYMNASIUM, "Dict", place, spaces=pairs)


# For stacking, gymnasium keeps a batched copy of a space (from 1.4 on, also for Graph). If such
# spaces are nested, the number of copies doubles at each level. So the limits count the copies.
_STACKED = 2


def _sequence_to_json(space: Sequence, place: Place) -> JsonObject:
    stack = bool(space.stack)
    inner = place.inner("feature_space", copies=_STACKED if stack else 1)
    return {"feature_space": _encode(space.feature_space, inner), "stack": stack}


def _sequence_from_json(written: JsonObject, place: Place) -> Space[Any]:
    stack = fields.typed(written["stack"], bool, place.at("stack"))
    inner = place.inner("feature_space", copies=_STACKED if stack else 1)
    space = _decode(written["feature_space"], inner)
    return build(GYMNASIUM, "Sequence", place, space=space, stack=stack)


def _graph_to_json(space: Graph, place: Place) -> JsonObject:
    nodes, edges = (place.inner(name, copies=_STACKED) for name in ("node_space", "edge_space"))
    return {
        "node_space": _encode(space.node_space, nodes),
        "edge_space": None if space.edge_space is None else _encode(space.edge_space, edges),
    }


def _graph_from_json(written: JsonObject, place: Place) -> Space[Any]:
    nodes, edges = (place.inner(name, copies=_STACKED) for name in ("node_space", "edge_space"))
    return build(
        GYMNASIUM,
        "Graph",
        place,
        node_space=_decode(written["node_space"], nodes),
        edge_space=None if written["edge_space"] is None else _decode(written["edge_space"], edges),
    )


def _repeated_to_json(space: Repeated, place: Place) -> JsonObject:
    return {
        "child_space": _encode(space.child_space, place.inner("child_space")),
        "max_len": fields.integer(space.max_len, place.at("max_len")),
    }


def _repeated_from_json(written: JsonObject, place: Place) -> Space[Any]:
    max_len = fields.integer(written["max_len"], place.at("max_len"))
    child = _decode(written["child_space"], place.inner("child_space"))
    return build(REPEATED, "Repeated", place, child_space=child, max_len=max_len)


@dataclass(frozen=True)
class _Kind:
    """The writer and the reader of one class of spaces.

    Attributes:
        package: the module that defines the class, or a package that contains this module.
        keys: the fields that the class always has.
        encode, decode: the writer and the reader of these fields.
        optional: the fields that are written only if they differ from their usual value.
    """

    package: str
    keys: frozenset[str]
    encode: Callable[[Any, Place], JsonObject]
    decode: Callable[[JsonObject, Place], Space[Any]]
    optional: frozenset[str] = frozenset()


_KINDS = {
    "Box": _Kind(
        GYMNASIUM,
        frozenset({"dtype", "shape", "low", "high"}),
        fundamental.box_to_json,
        fundamental.box_from_json,
        optional=frozenset({"bounded_below", "bounded_above"}),
    ),
    "Discrete": _Kind(
        GYMNASIUM,
        frozenset({"dtype", "n", "start"}),
        fundamental.discrete_to_json,
        fundamental.discrete_from_json,
    ),
    "MultiDiscrete": _Kind(
        GYMNASIUM,
        frozenset({"dtype", "shape", "nvec", "start"}),
        fundamental.multi_discrete_to_json,
        fundamental.multi_discrete_from_json,
    ),
    "MultiBinary": _Kind(
        GYMNASIUM,
        frozenset({"n"}),
        fundamental.multi_binary_to_json,
        fundamental.multi_binary_from_json,
    ),
    "Text": _Kind(
        GYMNASIUM,
        frozenset({"min_length", "max_length", "charset"}),
        fundamental.text_to_json,
        fundamental.text_from_json,
    ),
    "Tuple": _Kind(GYMNASIUM, frozenset({"spaces"}), _tuple_to_json, _tuple_from_json),
    "Dict": _Kind(GYMNASIUM, frozenset({"keys", "spaces"}), _dict_to_json, _dict_from_json),
    "Sequence": _Kind(
        GYMNASIUM,
        frozenset({"feature_space", "stack"}),
        _sequence_to_json,
        _sequence_from_json,
    ),
    "Graph": _Kind(
        GYMNASIUM,
        frozenset({"node_space", "edge_space"}),
        _graph_to_json,
        _graph_from_json,
    ),
    "OneOf": _Kind(GYMNASIUM, frozenset({"spaces"}), _tuple_to_json, _tuple_from_json),
    "Repeated": _Kind(
        REPEATED,
        frozenset({"child_space", "max_len"}),
        _repeated_to_json,
        _repeated_from_json,
    ),
    "Simplex": _Kind(
        SIMPLEX,
        frozenset({"dtype", "shape", "concentration"}),
        fundamental.simplex_to_json,
        fundamental.simplex_from_json,
    ),
}
