"""Turn spaces that checkpoints describe into JSON of :mod:`policystore.spaces`; build no space.

A pickle holds a space's attributes. RLlib's own dicts (``ray/rllib/utils/serialization.py:89``)
hold the arguments of a space's constructor. Arrays in these dicts are base64 of zlib of ``.npy``.
RLlib reads such arrays with ``allow_pickle=True``, :mod:`policystore.rllib_schema.packed_arrays`
reads them without pickle.

Both forms become an object that has the attributes of the space and nothing else. So
:func:`policystore.spaces.space_to_json` can write live spaces and described spaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from policystore.checkpoints.files.pickle_reader import dtype_of
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    UnbuiltObject,
    kind_of,
)
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import JsonObject
from policystore.rllib_schema.packed_arrays import unpack_array
from policystore.spaces import space_to_json

__all__ = ["described_space", "space_if_known"]

# Attributes of all kinds of spaces.
_FIELDS = frozenset(
    (
        "dtype", "shape", "low", "high", "bounded_below", "bounded_above", "n", "start", "nvec",
        "min_length", "max_length", "character_list", "spaces", "stack", "feature_space",
        "node_space", "edge_space", "child_space", "max_len", "concentration", "original_space",
    )
)  # fmt: skip
# Modules of spaces that are not gymnasium's.
_HOME = {"Repeated": "ray.rllib.utils.spaces.repeated", "Simplex": "ray.rllib.utils.spaces.simplex"}
_KNOWN = frozenset(
    (
        "Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text", "Tuple", "Dict", "Sequence",
        "Graph", "OneOf", "Repeated", "Simplex",
    )
)  # fmt: skip
# Kinds of spaces in RLlib's dicts.
_NAMES = {
    "box": "Box", "discrete": "Discrete", "multi-binary": "MultiBinary",
    "multi-discrete": "MultiDiscrete", "tuple": "Tuple", "dict": "Dict", "simplex": "Simplex",
    "repeated": "Repeated", "text": "Text",
}  # fmt: skip


def described_space(value: object, label: str) -> JsonObject | None:
    """Return a described space as JSON; None if ``value`` is None.

    Args:
        value: a space out of a pickle (of gymnasium, or of the older gym), or one of RLlib's dicts.
        label: how messages name the space.

    Raises:
        FormatError: something that is no space, or a damaged space.
    """
    if value is None:
        return None
    try:
        return space_to_json(_described(value, label), label=label)
    except InvalidInputError as error:
        raise FormatError(str(error)) from None
    except FormatError:
        raise
    except (*BAD_DATA_ERRORS, RecursionError) as error:
        raise FormatError(f"{label}: not a space as gymnasium has them: {error!r:.200}") from None


def space_if_known(
    value: object, label: str, omitted: dict[str, str], place: str
) -> JsonObject | None:
    """Return a described space as JSON; None, with a note, if policystore does not know the space.

    A user's own subclass of a space may mean anything: only its class name is noted.

    Args:
        value: as in :func:`described_space`.
        label: how messages name the space.
        omitted: place -> reason; an entry is added for a space that is not known.
        place: the key of that entry.
    """
    try:
        return described_space(value, label)
    except FormatError as error:
        omitted[place] = f"{error}; whoever rebuilds the policy gives this space"
        return None


def _described(value: object, label: str) -> Any:
    """Return an object with the attributes of the space that a value describes."""
    if isinstance(value, UnbuiltObject):
        cls = value.cls
        name = cls.name if isinstance(cls, Global) else ""
        package = cls.module.partition(".")[0] if isinstance(cls, Global) else ""
        if name not in _KNOWN or package not in ("gymnasium", "gym", "ray"):
            raise FormatError(f"{label}: expected a space, found {kind_of(value)}")
        return _space(name, _attributes_of_pickle(name, value), label)
    if isinstance(value, Mapping):
        if isinstance(value.get("space"), Mapping):  # space_to_dict: with the original beside it
            space = _described(value["space"], label)
            if value.get("original_space") is not None:
                space.original_space = _described(value["original_space"], label)
            return space
        kind = value.get("space")
        known = _NAMES.get(kind) if isinstance(kind, str) else None
        if known is None:
            raise FormatError(f"{label}: expected a space, found {kind_of(value)}")
        return _space(known, _attributes_of_dict(known, value, label), label)
    raise FormatError(f"{label}: expected a space, found {kind_of(value)}")


class _Space:
    """The attributes of a space. Spaces inside of the space are described on access."""

    def __init__(self, attributes: Mapping[str, Any], label: str) -> None:
        for name in _FIELDS & attributes.keys():
            setattr(self, name, attributes[name])
        self._label = label

    def __getattr__(self, name: str) -> Any:
        raise FormatError(f"{self._label}: a {type(self).__qualname__} without {name}")


class _InnerSpaces:
    """The spaces inside of a space, as a list or mapping of gymnasium has them."""

    def __init__(self, described: Any, label: str) -> None:
        self._described = described
        self._label = label

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self._described, Mapping):
            return iter(self._described)
        return (_described(space, self._label) for space in self._described)

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Return the keys of a mapping and their spaces."""
        return ((key, _described(space, self._label)) for key, space in self._described.items())


_CLASSES = {
    name: type(name, (_Space,), {"__module__": _HOME.get(name, "gymnasium.spaces")})
    for name in _KNOWN
}


def _space(name: str, attributes: Mapping[str, Any], label: str) -> Any:
    """Return an object with the attributes of a space.

    Args:
        name: one of :data:`_KNOWN`.
        attributes: of the space; spaces inside of it may still be descriptions.
        label: how messages name the space.
    """
    complete = dict(attributes)
    if name in ("Tuple", "Dict", "OneOf"):
        inner = complete.get("spaces")
        if not isinstance(inner, Mapping if name == "Dict" else (list, tuple)):
            raise FormatError(f"{label}: a {name} without spaces")
        complete["spaces"] = _InnerSpaces(inner, label)
    for part in ("feature_space", "node_space", "edge_space", "child_space", "original_space"):
        if complete.get(part) is not None:
            complete[part] = _described(complete[part], label)
    return _CLASSES[name](complete, label)


def _attributes_of_pickle(name: str, value: UnbuiltObject) -> dict[str, Any]:
    """Return the attributes of a space out of a pickle; add those that older versions lack."""
    attributes = value.attributes()
    attributes |= {
        part: attributes[f"_{part}"] for part in ("shape", "dtype") if f"_{part}" in attributes
    }
    if name == "Dict" and isinstance(attributes.get("spaces"), UnbuiltObject):
        attributes["spaces"] = attributes["spaces"].entries
    if name == "Discrete":
        attributes.setdefault("start", 0)
        attributes.setdefault("dtype", np.dtype(np.int64))
    if name == "MultiDiscrete" and isinstance(attributes.get("nvec"), np.ndarray):
        attributes.setdefault("start", np.zeros_like(attributes["nvec"]))
    if name == "Text":
        text = attributes.get("_char_str")
        characters = tuple(text) if isinstance(text, str) else ()
        stored = attributes.get("_char_list")
        attributes["character_list"] = stored if isinstance(stored, tuple) else characters
    if name == "Sequence":
        attributes.setdefault("stack", False)
    if name == "MultiBinary" and isinstance(attributes.get("n"), (list, np.ndarray)):
        attributes["n"] = tuple(np.asarray(attributes["n"]).tolist())
    if not isinstance(attributes.get("stack", False), bool):
        attributes["stack"] = False
    return {part: item for part, item in attributes.items() if not part.startswith("_")}


def _attributes_of_dict(name: str, given: Mapping[Any, Any], label: str) -> dict[str, Any]:
    """Return the attributes of a space in the form of RLlib's dicts."""
    attributes: dict[str, Any] = {
        key: value for key, value in given.items() if isinstance(key, str) and key != "space"
    }
    if "dtype" in attributes:
        attributes["dtype"] = dtype_of(attributes["dtype"])
    if isinstance(attributes.get("shape"), list):
        attributes["shape"] = tuple(attributes["shape"])
    for part in ("low", "high", "nvec"):
        if isinstance(attributes.get(part), str):
            attributes[part] = unpack_array(attributes[part], f"{label}.{part}")
    if name == "Box":
        low, high = attributes.get("low"), attributes.get("high")
        if isinstance(low, np.ndarray) and isinstance(high, np.ndarray):
            attributes["bounded_below"] = low > -np.inf
            attributes["bounded_above"] = high < np.inf
    elif name == "Discrete":
        attributes |= {"start": attributes.get("start", 0), "dtype": np.dtype(np.int64)}
    elif name == "MultiDiscrete" and isinstance(attributes.get("nvec"), np.ndarray):
        nvec = attributes["nvec"]
        attributes |= {"start": np.zeros_like(nvec), "shape": nvec.shape}
    elif name == "MultiBinary":
        n = attributes.get("n")
        attributes["n"] = tuple(n) if isinstance(n, (list, tuple)) else n
        is_shape = isinstance(attributes["n"], tuple)
        attributes["shape"] = attributes["n"] if is_shape else (attributes["n"],)
    elif name == "Text":
        characters = attributes.get("charset", "")
        attributes["character_list"] = tuple(
            characters
            if isinstance(characters, str)
            else sorted(item for item in list(characters or ()) if isinstance(item, str))
        )
    elif name == "Simplex" and isinstance(attributes.get("concentration"), list):
        numbers = attributes["concentration"]
        if all(isinstance(number, (int, float)) for number in numbers):
            attributes["concentration"] = np.array(numbers)
    return attributes
