"""gymnasium spaces as JSON and back, exactly.

``space_from_json(space_to_json(space))`` has the same class, dtypes, shapes, bounds (bit for bit),
order of keys and ``original_space`` as ``space``, so that it samples from the same set, contains
the same values and flattens in the same way. The state of random generators is not kept: a space
that was seeded comes back unseeded. ``docs/spaces.md`` is the normative text, with an example for
each class.

RLlib's own converter (``gym_space_to_dict``, ``ray/rllib/utils/serialization.py:89``) silently
loses the dtype of Discrete, the start of MultiDiscrete, subclasses and ``original_space``, turns
Text and Simplex into something that is not JSON, and refuses Sequence, Graph and OneOf.

gymnasium and RLlib are imported when a space is read, never by importing this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject
from policystore.spaces import fields
from policystore.spaces import fundamental as leaves
from policystore.spaces.fields import Limits, Place
from policystore.spaces.fundamental import GYMNASIUM, REPEATED, SIMPLEX, build

if TYPE_CHECKING:
    import gymnasium

__all__ = ["space_from_json", "space_to_json"]


def space_to_json(space: gymnasium.Space[Any], *, what: str = "space") -> JsonObject:
    """Write a space as JSON that :func:`policystore.format.canonical_json.canonical_json` takes.

    Equal spaces give equal JSON in every process, with one exception that is in the space itself:
    before gymnasium 1.4, ``Text`` orders a character *set* (its default too) by Python's random
    string hashes, and flattening uses that order, so it is kept. A ``charset`` given as a string
    has one order everywhere.

    Args:
        space: any gymnasium space, or RLlib's ``Repeated`` or ``Simplex``, nested at will.
        what: how messages name it.

    Raises:
        InvalidInputError: a space of another class (subclasses of the known ones and spaces of the
            legacy ``gym`` package included), one whose attributes do not belong together, or one
            beyond the limits of :mod:`policystore.spaces.fields`. The message names class and place.
    """
    return _encode(space, Place(what, Limits(InvalidInputError)))


def space_from_json(value: object, *, what: str = "space") -> gymnasium.Space[Any]:
    """Build the space that :func:`space_to_json` wrote; a new one at each call, not seeded.

    Accepts exactly what :func:`space_to_json` writes, also from a hostile source: sizes are checked
    before anything is allocated, and the built space is written again and compared.

    Args:
        value: parsed JSON.
        what: how messages name it.

    Raises:
        FormatError: anything else, a class this version does not know, or one that the installed
            gymnasium does not have or refuses.
    """
    space = _decode(value, Place(what, Limits(FormatError)))
    written = _encode(space, Place(what, Limits(FormatError)))
    differs = _difference(written, value, what)
    if differs is not None:
        raise FormatError(
            f"{differs}. A space has one written form, and this is not it: it was not written by "
            "policystore, or the installed gymnasium builds this space in another way."
        )
    return space  # type: ignore[no-any-return]


def _difference(written: Json, found: Json, where: str) -> str | None:
    """Where ``found`` differs from what policystore writes, exact in types; None if nowhere."""
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
        return f"{where}: expected {fields.brief(written)}, found {fields.brief(found)}"
    return next(filter(None, (_difference(*pair) for pair in pairs)), None)


def _encode(space: Any, outer: Place) -> JsonObject:
    place = outer.enter()
    cls = type(space)
    kind = _KINDS.get(cls.__qualname__)
    if kind is None or not (cls.__module__ + ".").startswith(kind.package + "."):
        place.fail(_why_unknown(cls))
    found = {"space": cls.__qualname__, **kind.encode(space, place)}
    # RLlib's preprocessors set it on the flattened Box (ray/rllib/models/preprocessors.py:107).
    if "original_space" in vars(space):
        found["original_space"] = _encode(space.original_space, place.inner("original_space"))
    return found


def _why_unknown(cls: type) -> str:
    name = f"{cls.__module__}.{cls.__qualname__}"
    known = f"Known are gymnasium's own and RLlib's: {', '.join(_KINDS)}."
    if cls.__module__.split(".")[0] == "gym":
        return f"{name} is a space of the legacy gym package; build it with gymnasium. {known}"
    for base in cls.__mro__[1:]:
        if base.__qualname__ in _KINDS and base.__module__.startswith(("gymnasium.", "ray.")):
            return (
                f"{name} is a subclass of {base.__qualname__} and would come back as something "
                f"else. Use {base.__qualname__} itself where the policy is built. {known}"
            )
    return f"{name} is not a space that can be kept. {known}"


def _decode(value: object, outer: Place) -> Any:
    place = outer.enter()
    found: JsonObject = fields.typed(value, dict, place)
    name = found.get("space")
    kind = _KINDS.get(name) if type(name) is str else None
    if kind is None:
        place.fail(
            f"unknown class of space {fields.brief(name)}; known are {', '.join(_KINDS)}. It may "
            "come from a newer policystore: upgrade to read it"
        )
    keys = found.keys() - {"space", "original_space"}
    if not kind.keys <= keys <= kind.keys | kind.optional:
        place.fail(
            f"{name} has the keys {sorted(kind.keys)}; missing here are "
            f"{sorted(kind.keys - keys)}, and {len(keys - kind.keys - kind.optional)} are unknown"
        )
    space = kind.decode(found, place)
    if "original_space" in found:
        space.original_space = _decode(found["original_space"], place.inner("original_space"))
    return space


def _tuple_to_json(space: Any, place: Place) -> JsonObject:
    inner = enumerate(space.spaces)
    return {"spaces": [_encode(one, place.inner(f"spaces[{index}]")) for index, one in inner]}


def _tuple_from_json(found: JsonObject, place: Place) -> Any:
    inner = enumerate(fields.typed(found["spaces"], list, place.at("spaces")))
    spaces = [_decode(one, place.inner(f"spaces[{index}]")) for index, one in inner]
    return build(GYMNASIUM, found["space"], place, spaces=spaces)


def _dict_to_json(space: Any, place: Place) -> JsonObject:
    # Two lists, since the keys of a JSON object have no order and are strings.
    return {
        "keys": [fields.key_to_json(key, place.at("keys")) for key in space.spaces],
        "spaces": [
            _encode(one, place.inner(f"spaces[{fields.brief(key)}]"))
            for key, one in space.spaces.items()
        ],
    }


def _dict_from_json(found: JsonObject, place: Place) -> Any:
    listed = fields.typed(found["keys"], list, place.at("keys"))
    spaces = fields.typed(found["spaces"], list, place.at("spaces"))
    keys = [fields.key_from_json(key, place.at("keys")) for key in listed]
    if len(keys) != len(spaces) or len(set(keys)) != len(keys):
        place.fail(f"{len(keys)} keys, {len(set(keys))} of them different, to {len(spaces)} spaces")
    # Given pairs, every gymnasium keeps their order; mappings are sorted, in 1.0 even ordered ones.
    pairs = [
        (key, _decode(one, place.inner(f"spaces[{fields.brief(key)}]")))
        for key, one in zip(keys, spaces, strict=True)
    ]
    return build(GYMNASIUM, "Dict", place, spaces=pairs)


# Stacking makes gymnasium hold a batched copy beside the space: nested, their number doubles at
# each level, which the limits must see. Graph does the same in newer gymnasium (1.4).
_STACKED = 2


def _sequence_to_json(space: Any, place: Place) -> JsonObject:
    stack = bool(space.stack)
    inner = place.inner("feature_space", copies=_STACKED if stack else 1)
    return {"feature_space": _encode(space.feature_space, inner), "stack": stack}


def _sequence_from_json(found: JsonObject, place: Place) -> Any:
    stack = fields.typed(found["stack"], bool, place.at("stack"))
    inner = place.inner("feature_space", copies=_STACKED if stack else 1)
    space = _decode(found["feature_space"], inner)
    return build(GYMNASIUM, "Sequence", place, space=space, stack=stack)


def _graph_to_json(space: Any, place: Place) -> JsonObject:
    nodes, edges = (place.inner(name, copies=_STACKED) for name in ("node_space", "edge_space"))
    return {
        "node_space": _encode(space.node_space, nodes),
        "edge_space": None if space.edge_space is None else _encode(space.edge_space, edges),
    }


def _graph_from_json(found: JsonObject, place: Place) -> Any:
    nodes, edges = (place.inner(name, copies=_STACKED) for name in ("node_space", "edge_space"))
    return build(
        GYMNASIUM,
        "Graph",
        place,
        node_space=_decode(found["node_space"], nodes),
        edge_space=None if found["edge_space"] is None else _decode(found["edge_space"], edges),
    )


def _repeated_to_json(space: Any, place: Place) -> JsonObject:
    return {
        "child_space": _encode(space.child_space, place.inner("child_space")),
        "max_len": fields.integer(space.max_len, place.at("max_len")),
    }


def _repeated_from_json(found: JsonObject, place: Place) -> Any:
    max_len = fields.integer(found["max_len"], place.at("max_len"))
    child = _decode(found["child_space"], place.inner("child_space"))
    return build(REPEATED, "Repeated", place, child_space=child, max_len=max_len)


@dataclass(frozen=True)
class _Kind:
    """How one class is written and read.

    Attributes:
        package: module, or package of the module, that defines the class.
        keys: the fields it always has.
        encode, decode: writer and reader of these fields.
        optional: the fields that stand only where they say something.
    """

    package: str
    keys: frozenset[str]
    encode: Callable[[Any, Place], JsonObject]
    decode: Callable[[JsonObject, Place], Any]
    optional: frozenset[str] = frozenset()


_KINDS = {
    "Box": _Kind(
        GYMNASIUM,
        frozenset({"dtype", "shape", "low", "high"}),
        leaves.box_to_json,
        leaves.box_from_json,
        optional=frozenset({"bounded_below", "bounded_above"}),
    ),
    "Discrete": _Kind(
        GYMNASIUM,
        frozenset({"dtype", "n", "start"}),
        leaves.discrete_to_json,
        leaves.discrete_from_json,
    ),
    "MultiDiscrete": _Kind(
        GYMNASIUM,
        frozenset({"dtype", "shape", "nvec", "start"}),
        leaves.multi_discrete_to_json,
        leaves.multi_discrete_from_json,
    ),
    "MultiBinary": _Kind(
        GYMNASIUM,
        frozenset({"n"}),
        leaves.multi_binary_to_json,
        leaves.multi_binary_from_json,
    ),
    "Text": _Kind(
        GYMNASIUM,
        frozenset({"min_length", "max_length", "charset"}),
        leaves.text_to_json,
        leaves.text_from_json,
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
        leaves.simplex_to_json,
        leaves.simplex_from_json,
    ),
}
