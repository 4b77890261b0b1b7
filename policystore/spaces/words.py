"""Describe a space in gymnasium's words, from its JSON, without an import of gymnasium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from policystore._util.messages import brief, shorten
from policystore.errors import FormatError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.spaces import fields
from policystore.spaces.place import Limits, Place

__all__ = ["space_in_words"]

_MOST_BOUNDS = 6  # bounds that are written out; of more bounds, the least and the greatest
_MOST_CHARACTERS = 30


def space_in_words(written: object, *, longest: int = 400) -> str:
    """Return a space as gymnasium prints it, such as ``Box(-1.0, 1.0, (4,), float32)``.

    The JSON may come from a hostile store: the text is bounded, and a value that is not the JSON of
    a space of :mod:`policystore.spaces` becomes a text that says so.

    Args:
        written: the JSON of a space; None for no space.
        longest: the most characters of the text; a longer text is cut.

    Returns:
        One line, as the ``repr`` of the space in gymnasium. An array of more than 6 different
        bounds is shown as its least and its greatest bound: ``[-1.0 .. 1.0]``.
    """
    if written is None:
        return "none"
    try:
        return shorten(_words(written, Place("space", Limits(FormatError))), longest)
    except (FormatError, KeyError, TypeError) as error:
        return f"a space that this release cannot read ({brief(str(error))})"


def _words(written: Any, outer: Place) -> str:
    place = outer.enter()
    if not isinstance(written, dict):
        place.fail(f"expected a JSON object, found {brief(written)}")
    kind = written.get("space")
    writer = _WRITERS.get(kind) if isinstance(kind, str) else None
    if writer is None:
        place.fail(f"{brief(kind)} is no class of spaces that this release knows")
    return writer(written, place)


def _box(written: JsonObject, place: Place) -> str:
    dtype = fields.dtype_from_json(written["dtype"], place)
    shape = fields.shape_from_json(written["shape"], place)
    low, high = (
        _bounds(fields.array_from_json(written[side], dtype, shape, place.at(side)))
        for side in ("low", "high")
    )
    return f"Box({low}, {high}, {shape}, {dtype.name})"


def _bounds(array: Array) -> str:
    values = array.reshape(-1)
    if values.size == 0:
        return "[]"
    if (values == values[0]).all():
        return _number(values[0])
    if values.size <= _MOST_BOUNDS:
        return f"[{' '.join(map(_number, values))}]"
    return f"[{_number(values.min())} .. {_number(values.max())}]"


def _number(value: np.generic) -> str:
    # numpy's str() of a float32 has the digits that tell it from other float32 numbers.
    return str(value)


def _discrete(written: JsonObject, place: Place) -> str:
    dtype = fields.dtype_from_json(written["dtype"], place)
    n, start = (
        int(fields.scalar_from_json(written[name], dtype, place.at(name)))
        for name in ("n", "start")
    )
    return f"Discrete({n}, start={start})" if start else f"Discrete({n})"


def _multi_discrete(written: JsonObject, place: Place) -> str:
    dtype = fields.dtype_from_json(written["dtype"], place)
    shape = fields.shape_from_json(written["shape"], place)
    nvec, start = (
        fields.array_from_json(written[name], dtype, shape, place.at(name))
        for name in ("nvec", "start")
    )
    # All sizes are shown, as gymnasium does: each is the number of actions of one head.
    sizes = shorten(str(nvec.tolist()), 120)
    return f"MultiDiscrete({sizes}{f', start={_bounds(start)}' if start.any() else ''})"


def _multi_binary(written: JsonObject, place: Place) -> str:
    n = written["n"]
    fields.shape_from_json(n if isinstance(n, list) else [n], place)
    return f"MultiBinary({tuple(n) if isinstance(n, list) else n})"


def _text(written: JsonObject, place: Place) -> str:
    least, most = (fields.integer(written[key], place) for key in ("min_length", "max_length"))
    charset = fields.typed(written["charset"], str, place)
    return f"Text({least}, {most}, charset={shorten(charset, _MOST_CHARACTERS)!a})"


def _listed(written: JsonObject, place: Place) -> str:
    spaces = fields.typed(written["spaces"], list, place)
    return f"{written['space']}({', '.join(_words(each, place) for each in spaces)})"


def _dict(written: JsonObject, place: Place) -> str:
    keys = fields.typed(written["keys"], list, place)
    spaces = fields.typed(written["spaces"], list, place)
    shown = [
        f"{shorten(ascii(fields.key_from_json(key, place)), _MOST_CHARACTERS)}: "
        f"{_words(each, place)}"
        for key, each in zip(keys, spaces, strict=False)
    ]
    return f"Dict({', '.join(shown)})"


def _sequence(written: JsonObject, place: Place) -> str:
    return f"Sequence({_words(written['feature_space'], place)}, stack={written['stack'] is True})"


def _graph(written: JsonObject, place: Place) -> str:
    edges = written["edge_space"]
    return (
        f"Graph({_words(written['node_space'], place)}, "
        f"{None if edges is None else _words(edges, place)})"
    )


def _repeated(written: JsonObject, place: Place) -> str:
    most = fields.integer(written["max_len"], place)
    return f"Repeated({_words(written['child_space'], place)}, {most})"


def _simplex(written: JsonObject, place: Place) -> str:
    shape = fields.shape_from_json(written["shape"], place)
    return f"Simplex({shape}, {fields.dtype_from_json(written['dtype'], place).name})"


_WRITERS: dict[str, Callable[[JsonObject, Place], str]] = {
    "Box": _box,
    "Dict": _dict,
    "Discrete": _discrete,
    "Graph": _graph,
    "MultiBinary": _multi_binary,
    "MultiDiscrete": _multi_discrete,
    "OneOf": _listed,
    "Repeated": _repeated,
    "Sequence": _sequence,
    "Simplex": _simplex,
    "Text": _text,
    "Tuple": _listed,
}
