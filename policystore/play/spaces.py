"""Read the JSON of a space as a tree of tensors: their names, and values from and to them.

:mod:`policystore.spaces` writes the JSON, and ``docs/spaces.md`` describes it. This module needs no
gymnasium. The JSON may come from a hostile file: sizes and depth are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json, JsonObject
from policystore.spaces import fields
from policystore.spaces.place import Limits, Place
from policystore.spaces.words import space_in_words

__all__ = [
    "DictSpace",
    "Key",
    "LeafSpace",
    "PlaySpace",
    "TupleSpace",
    "flatten",
    "leaves_of",
    "read_space",
    "tensor_name",
    "unflatten",
]

Key: TypeAlias = str | int
"""A key of a Dict space, or an index of a Tuple space."""


@dataclass(frozen=True, eq=False)
class LeafSpace:
    """A space whose values are one array or number each.

    Attributes:
        kind: gymnasium's name of the class: Box, Discrete, MultiBinary or MultiDiscrete, or
            RLlib's Simplex.
        dtype: the dtype of the tensor: that of a Box or Simplex, in the byte order of this machine;
            int64 for Discrete and MultiDiscrete, int8 for MultiBinary.
        shape: the shape of one value; ``()`` for Discrete.
        words: the space as gymnasium prints it.
        low, high: the least and the greatest values of a Discrete, MultiDiscrete or MultiBinary;
            None for other spaces. Observations of a Box are often slightly out of their bounds.
    """

    kind: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    words: str
    low: Array | int | None = None
    high: Array | int | None = None


@dataclass(frozen=True, eq=False)
class DictSpace:
    """A Dict space: its keys in their order, each with its space.

    Attributes:
        spaces: the keys and spaces.
        words: the space as gymnasium prints it.
    """

    spaces: tuple[tuple[Key, PlaySpace], ...]
    words: str


@dataclass(frozen=True, eq=False)
class TupleSpace:
    """A Tuple space.

    Attributes:
        spaces: the parts.
        words: the space as gymnasium prints it.
    """

    spaces: tuple[PlaySpace, ...]
    words: str


PlaySpace: TypeAlias = LeafSpace | DictSpace | TupleSpace


def read_space(written: Json, *, label: str = "space") -> PlaySpace:
    """Return a space whose values can be tensors of an exported file.

    Args:
        written: the JSON of the space.
        label: how messages name the space.

    Raises:
        FormatError: JSON that policystore does not write; a class of spaces that has no tensors,
            such as Text or Graph; a key of a Dict that is neither a string nor an integer; or two
            keys that give tensors of the same name, such as 7 and "7".
    """
    space = _read(written, Place(label, Limits(FormatError)))
    names = [tensor_name("", path) for path, _ in leaves_of(space)]
    if len(set(names)) != len(names):
        raise FormatError(
            f"{label}: two keys give tensors of the same name, as 7 and '7' do: rename one key in "
            "the environment"
        )
    return space


def leaves_of(space: PlaySpace) -> list[tuple[tuple[Key, ...], LeafSpace]]:
    """Return the leaves of a space in order, each with the keys and indices that lead to it."""
    return list(_walk(space, ()))


def _walk(space: PlaySpace, path: tuple[Key, ...]) -> Iterator[tuple[tuple[Key, ...], LeafSpace]]:
    if isinstance(space, LeafSpace):
        yield path, space
        return
    inner = space.spaces if isinstance(space, DictSpace) else enumerate(space.spaces)
    for key, part in inner:
        yield from _walk(part, (*path, key))


def tensor_name(root: str, path: Sequence[Key]) -> str:
    """Return the name of a tensor in an exported file, such as ``obs/camera/0``.

    Keys and indices follow the root, with ``/`` before each. In a key, ``~`` is written ``~0`` and
    ``/`` is written ``~1``, as in a JSON Pointer (RFC 6901).
    """
    keys = (str(key).replace("~", "~0").replace("/", "~1") for key in path)
    return "/".join([root, *keys])


def flatten(space: PlaySpace, value: Any) -> list[Any]:
    """Return the parts of a value in the order of :func:`leaves_of`.

    Raises:
        InvalidInputError: the value does not have the structure of the space.
    """
    if isinstance(space, LeafSpace):
        return [value]
    if isinstance(space, DictSpace):
        expected = {key for key, _ in space.spaces}
        if not isinstance(value, Mapping) or set(value) != expected:
            raise InvalidInputError(
                f"expected a dict with the keys {sorted(map(str, expected))}, found {brief(value)}"
            )
        return [part for key, inner in space.spaces for part in flatten(inner, value[key])]
    if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
        raise InvalidInputError(
            f"expected a tuple of {len(space.spaces)} parts, found {brief(value)}"
        )
    pairs = zip(space.spaces, value, strict=True)
    return [part for inner, item in pairs for part in flatten(inner, item)]


def unflatten(space: PlaySpace, parts: Sequence[Any]) -> Any:
    """Return the value whose parts are these, in the order of :func:`leaves_of`.

    Raises:
        InvalidInputError: another number of parts than the space has leaves.
    """
    if len(parts) != len(leaves_of(space)):
        raise InvalidInputError(f"{len(parts)} parts for a space of {len(leaves_of(space))} leaves")
    return _unflatten(space, iter(parts))


def _unflatten(space: PlaySpace, parts: Iterator[Any]) -> Any:
    if isinstance(space, LeafSpace):
        return next(parts)
    if isinstance(space, DictSpace):
        return {key: _unflatten(inner, parts) for key, inner in space.spaces}
    return tuple(_unflatten(inner, parts) for inner in space.spaces)


def _read(written: Json, outer: Place) -> PlaySpace:
    place = outer.enter()
    space: JsonObject = fields.typed(written, dict, place)
    kind = space.get("space")
    reader = _READERS.get(kind) if type(kind) is str else None
    if reader is None:
        place.fail(
            f"{brief(kind)} is not a space whose values are tensors; these are "
            f"{', '.join(_READERS)}"
        )
    return reader(space, place)


def _field(written: JsonObject, name: str, place: Place) -> Json:
    if name not in written:
        place.fail(f"the field {name!r} is missing")
    return written[name]


def _dict(written: JsonObject, place: Place) -> PlaySpace:
    keys = fields.typed(_field(written, "keys", place), list, place.at("keys"))
    spaces = fields.typed(_field(written, "spaces", place), list, place.at("spaces"))
    for key in keys:
        if type(key) not in (str, int):
            place.fail(f"a tensor is named by a string or an integer, not by the key {brief(key)}")
    if len(keys) != len(spaces):
        place.fail(f"{len(keys)} keys to {len(spaces)} spaces")
    return DictSpace(
        tuple(
            (key, _read(one, place.inner(f"spaces[{brief(key)}]")))
            for key, one in zip(keys, spaces, strict=True)
        ),
        space_in_words(written),
    )


def _tuple(written: JsonObject, place: Place) -> PlaySpace:
    spaces = fields.typed(_field(written, "spaces", place), list, place.at("spaces"))
    return TupleSpace(
        tuple(_read(one, place.inner(f"spaces[{index}]")) for index, one in enumerate(spaces)),
        space_in_words(written),
    )


def _array(written: JsonObject, place: Place) -> PlaySpace:
    dtype = fields.dtype_from_json(_field(written, "dtype", place), place.at("dtype"))
    shape = fields.shape_from_json(_field(written, "shape", place), place.at("shape"))
    return LeafSpace(written["space"], dtype.newbyteorder("="), shape, space_in_words(written))


def _discrete(written: JsonObject, place: Place) -> PlaySpace:
    dtype = fields.dtype_from_json(_field(written, "dtype", place), place.at("dtype"))
    start, n = (
        int(fields.scalar_from_json(_field(written, name, place), dtype, place.at(name)))
        for name in ("start", "n")
    )
    if n < 1 or not -_INT64_MAX <= start <= start + n - 1 <= _INT64_MAX:
        place.fail(f"the {n} values from {start} on do not fit int64")
    return LeafSpace("Discrete", _INT64, (), space_in_words(written), start, start + n - 1)


def _multi_discrete(written: JsonObject, place: Place) -> PlaySpace:
    dtype = fields.dtype_from_json(_field(written, "dtype", place), place.at("dtype"))
    shape = fields.shape_from_json(_field(written, "shape", place), place.at("shape"))
    nvec, start = (
        fields.array_from_json(_field(written, name, place), dtype, shape, place.at(name)).astype(
            np.int64
        )
        for name in ("nvec", "start")
    )
    words = space_in_words(written)
    return LeafSpace("MultiDiscrete", _INT64, shape, words, start, start + nvec - 1)


def _multi_binary(written: JsonObject, place: Place) -> PlaySpace:
    n = _field(written, "n", place)
    shape = fields.shape_from_json(n if type(n) is list else [n], place.at("n"))
    return LeafSpace("MultiBinary", np.dtype(np.int8), shape, space_in_words(written), 0, 1)


_INT64 = np.dtype(np.int64)
_INT64_MAX = 2**63 - 1

_READERS: dict[str, Callable[[JsonObject, Place], PlaySpace]] = {
    "Box": _array,
    "Dict": _dict,
    "Discrete": _discrete,
    "MultiBinary": _multi_binary,
    "MultiDiscrete": _multi_discrete,
    "Simplex": _array,
    "Tuple": _tuple,
}
