"""Spaces as checkpoints describe them, as JSON of :mod:`policystore.spaces`; nothing is built.

A pickle holds a space's attributes; RLlib's own dicts (``ray/rllib/utils/serialization.py:89``)
hold its constructor's arguments, arrays as base64 of zlib of ``.npy``, which RLlib reads with
``allow_pickle=True`` and this does not. Either is read through an object that has the attributes
of such a space and nothing else, so that one writer serves live spaces and described ones.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from policystore.checkpoints.files.pickle_reader import array_of, dtype_of
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    UnbuiltObject,
    kind_of,
    said,
)
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import Array
from policystore.format.canonical_json import JsonObject
from policystore.spaces import space_to_json

__all__ = ["array_from_text", "described_space"]

_MAX_ARRAY = 1 << 26  # bytes of one bound: more than any observation has
_FIELDS = frozenset(
    (
        "dtype", "shape", "low", "high", "bounded_below", "bounded_above", "n", "start", "nvec",
        "min_length", "max_length", "character_list", "spaces", "stack", "feature_space",
        "node_space", "edge_space", "child_space", "max_len", "concentration", "original_space",
    )
)  # fmt: skip
_NPY = re.compile(rb"\x93NUMPY([\x01-\x03])\x00")
_HOME = {"Repeated": "ray.rllib.utils.spaces.repeated", "Simplex": "ray.rllib.utils.spaces.simplex"}
_KNOWN = frozenset(
    (
        "Box", "Discrete", "MultiDiscrete", "MultiBinary", "Text", "Tuple", "Dict", "Sequence",
        "Graph", "OneOf", "Repeated", "Simplex",
    )
)  # fmt: skip
_NAMES = {
    "box": "Box", "discrete": "Discrete", "multi-binary": "MultiBinary",
    "multi-discrete": "MultiDiscrete", "tuple": "Tuple", "dict": "Dict", "simplex": "Simplex",
    "repeated": "Repeated", "text": "Text",
}  # fmt: skip


def described_space(value: Any, what: str) -> JsonObject | None:
    """A space as JSON; None where the checkpoint has None.

    Args:
        value: out of a pickle (gymnasium's classes, or those of the older gym), or as RLlib's
            dicts have it.
        what: how messages name it.

    Raises:
        FormatError: not a space, or one that is damaged.
    """
    if value is None:
        return None
    try:
        return space_to_json(_described(value, what), label=what)
    except InvalidInputError as error:
        raise FormatError(str(error)) from None
    except FormatError:
        raise
    except (*BAD_DATA_ERRORS, RecursionError) as error:
        raise FormatError(f"{what}: not a space as gymnasium has them: {error!r:.200}") from None


def _described(value: Any, what: str) -> Any:
    if isinstance(value, UnbuiltObject):
        cls = value.cls
        name = cls.name if isinstance(cls, Global) else ""
        package = cls.module.partition(".")[0] if isinstance(cls, Global) else ""
        if name not in _KNOWN or package not in ("gymnasium", "gym", "ray"):
            raise FormatError(f"{what}: expected a space, found {kind_of(value)}")
        return _space(name, _of_pickle(name, value), what)
    if isinstance(value, Mapping):
        if isinstance(value.get("space"), Mapping):  # space_to_dict: with the original beside it
            found = _described(value["space"], what)
            if value.get("original_space") is not None:
                found.original_space = _described(value["original_space"], what)
            return found
        kind = value.get("space")
        known = _NAMES.get(kind) if isinstance(kind, str) else None
        if known is None:
            raise FormatError(f"{what}: expected a space, found {kind_of(value)}")
        return _space(known, _of_dict(known, value, what), what)
    raise FormatError(f"{what}: expected a space, found {kind_of(value)}")


class _Space:
    """Has the attributes of a space; spaces inside of it are described when they are asked for."""

    def __init__(self, attributes: dict[str, Any], what: str) -> None:
        for name in _FIELDS & attributes.keys():
            setattr(self, name, attributes[name])
        self._what = what

    def __getattr__(self, name: str) -> Any:
        raise FormatError(f"{self._what}: a {type(self).__qualname__} without {name}")


class _Inner:
    """Spaces inside of one, as a list or mapping of gymnasium has them."""

    def __init__(self, found: Any, what: str) -> None:
        self._found = found
        self._what = what

    def __iter__(self) -> Any:
        if isinstance(self._found, Mapping):
            return iter(self._found)
        return (_described(one, self._what) for one in self._found)

    def items(self) -> Any:
        return ((key, _described(one, self._what)) for key, one in self._found.items())


_CLASSES = {
    name: type(name, (_Space,), {"__module__": _HOME.get(name, "gymnasium.spaces")})
    for name in _KNOWN
}


def _space(name: str, attributes: dict[str, Any], what: str) -> Any:
    kept = dict(attributes)
    if name in ("Tuple", "Dict", "OneOf"):
        inner = kept.get("spaces")
        if not isinstance(inner, Mapping if name == "Dict" else (list, tuple)):
            raise FormatError(f"{what}: a {name} without spaces")
        kept["spaces"] = _Inner(inner, what)
    for part in ("feature_space", "node_space", "edge_space", "child_space", "original_space"):
        if kept.get(part) is not None:
            kept[part] = _described(kept[part], what)
    return _CLASSES[name](kept, what)


def _of_pickle(name: str, value: UnbuiltObject) -> dict[str, Any]:
    found = value.attributes()
    found |= {part: found[f"_{part}"] for part in ("shape", "dtype") if f"_{part}" in found}
    if name == "Dict" and isinstance(found.get("spaces"), UnbuiltObject):
        found["spaces"] = found["spaces"].entries
    if name == "Discrete":
        found.setdefault("start", 0)
        found.setdefault("dtype", np.dtype(np.int64))
    if name == "MultiDiscrete" and isinstance(found.get("nvec"), np.ndarray):
        found.setdefault("start", np.zeros_like(found["nvec"]))
    if name == "Text":
        text = found.get("_char_str")
        listed = tuple(text) if isinstance(text, str) else ()
        given = found.get("_char_list")
        found["character_list"] = given if isinstance(given, tuple) else listed
    if name == "Sequence":
        found.setdefault("stack", False)
    if name == "MultiBinary" and isinstance(found.get("n"), (list, np.ndarray)):
        found["n"] = tuple(np.asarray(found["n"]).tolist())
    if not isinstance(found.get("stack", False), bool):
        found["stack"] = False
    return {
        part: value for part, value in found.items() if not part.startswith("_") and part != "what"
    }


def _of_dict(name: str, given: Mapping[str, Any], what: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        key: value for key, value in given.items() if isinstance(key, str) and key != "space"
    }
    if "dtype" in found:
        found["dtype"] = dtype_of(found["dtype"])
    if isinstance(found.get("shape"), list):
        found["shape"] = tuple(found["shape"])
    for part in ("low", "high", "nvec"):
        if isinstance(found.get(part), str):
            found[part] = array_from_text(found[part], f"{what}.{part}")
    if name == "Box":
        low, high = found.get("low"), found.get("high")
        if isinstance(low, np.ndarray) and isinstance(high, np.ndarray):
            found["bounded_below"], found["bounded_above"] = low > -np.inf, high < np.inf
    elif name == "Discrete":
        found |= {"start": found.get("start", 0), "dtype": np.dtype(np.int64)}
    elif name == "MultiDiscrete" and isinstance(found.get("nvec"), np.ndarray):
        found |= {"start": np.zeros_like(found["nvec"]), "shape": found["nvec"].shape}
    elif name == "MultiBinary":
        n = found.get("n")
        found["n"] = tuple(n) if isinstance(n, (list, tuple)) else n
        found["shape"] = found["n"] if isinstance(found["n"], tuple) else (found["n"],)
    elif name == "Text":
        characters = found.get("charset", "")
        found["character_list"] = tuple(
            characters
            if isinstance(characters, str)
            else sorted(one for one in list(characters or ()) if isinstance(one, str))
        )
    elif name == "Simplex" and isinstance(found.get("concentration"), list):
        numbers = found["concentration"]
        if all(isinstance(number, (int, float)) for number in numbers):
            found["concentration"] = np.array(numbers)
    return found


def array_from_text(text: str, what: str) -> Array:
    """An array as RLlib writes it into JSON: base64 of zlib of ``.npy``.

    Raises:
        FormatError: anything else, and arrays of objects.
    """
    try:
        packed = base64.b64decode(text, validate=True)
        machine = zlib.decompressobj()
        raw = machine.decompress(packed, _MAX_ARRAY)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise FormatError(f"{what}: not an array of RLlib's: {error}") from None
    if machine.unconsumed_tail:
        raise FormatError(f"{what}: an array of more than {_MAX_ARRAY:,} bytes")
    version = _NPY.match(raw)
    width = 2 if version and version[1] == b"\x01" else 4
    length = int.from_bytes(raw[8 : 8 + width], "little")
    header, data = raw[8 + width : 8 + width + length], raw[8 + width + length :]
    if not version or length > 10_000:
        raise FormatError(f"{what}: not an array of RLlib's")
    try:
        fields = ast.literal_eval(header.decode("latin-1").strip())
        code, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        raise FormatError(f"{what}: an array with a damaged header") from None
    found = array_of(data, dtype_of(code), shape, "F" if fortran is True else "C")
    if not isinstance(found, np.ndarray):
        raise FormatError(f"{what}: an array of {said(code)}, not of numbers")
    return found
