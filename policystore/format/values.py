"""Encode plain values as JSON and decode them again, exactly. ``docs/format.md`` section 8.

Spec, state and metrics are plain values. JSON alone loses tuples, keys that are not strings,
infinities and arrays. Each of these is written under a tag: an object with a single key that starts
with ``~``:

====================  ==================================================================
``{"~tuple": […]}``     a tuple
``{"~map": [[k, v]…]}`` a dict whose keys are not all plain strings, sorted by the canonical
                      JSON of the key; keys are None, bool, int, float, str or tuples of these
``{"~float": "nan"}``   ``nan``, ``inf`` or ``-inf``
``{"~bytes": "00ff"}``  bytes, in hexadecimal
``{"~array": i}``       array number i, counted from 0, stored beside the JSON (state)
``{"~array": {…}}``     a small array in the JSON itself: dtype, shape, data in hexadecimal (spec)
``{"~import": "m:Q"}``  a class or function by import path, see :class:`Tagged`
``{"~space": {…}}``     a gymnasium space as :mod:`policystore.spaces` writes it
====================  ==================================================================
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from policystore._util.late import is_array, np
from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError
from policystore.format.arrays import DTYPES, Array, dtype_code, is_shape, own, raw, size_of, view
from policystore.format.canonical_json import (
    MAX_DEPTH,
    Json,
    NotEncodableError,
    canonical_json,
)

__all__ = ["Tagged", "decode_value", "encode_value"]

# A hostile file can hold many tuples with the same hash. A dict of n such tuples needs n²
# comparisons.
_MAX_TUPLES = 512

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass(frozen=True)
class Tagged:
    """A class, function or space as it is written in JSON; this package does not interpret it.

    ``Tagged("import", "torch.nn.modules.activation:ReLU")`` is a class by its import path,
    ``Tagged("space", {…})`` is a space. Only the code that rebuilds policies makes a class, a
    function or a space of a Tagged.

    Raises:
        InvalidInputError: another tag, or a value of another type.
    """

    tag: str
    value: Json

    def __post_init__(self) -> None:
        if type(self.value) is not {"import": str, "space": dict}.get(self.tag):
            raise InvalidInputError(
                f"Tagged({self.tag!r}, {brief(self.value)}): the tags are 'import' with a string "
                "and 'space' with a dict"
            )


def encode_value(value: object, label: str, arrays: list[Array] | None = None) -> Json:
    """Encode a plain value as JSON.

    Args:
        value: None, bool, int, float, str, bytes, numpy scalars and arrays, :class:`Tagged`, and
            lists, tuples and mappings of these. A numpy scalar becomes a 0-d array.
        label: how messages name the value.
        arrays: a list to which copies of the arrays are appended, in the order in which they occur
            in ``value``. The keys of a mapping are visited in sorted order, so that the order of
            insertion does not matter. With None, arrays are written into the JSON itself.

    Raises:
        InvalidInputError: a value of another type; the message names its place.
    """
    try:
        return _encode(value, arrays, 0)
    except NotEncodableError as error:
        raise error.to_input_error(label) from None


def _encode(value: object, arrays: list[Array] | None, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise NotEncodableError(f"nested deeper than {MAX_DEPTH} levels, or within itself")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, float) and kind is float:
        return _encode_float(value)
    if is_array(value):
        owned = _owned(value)
        if arrays is None:
            return {"~array": _inline(owned)}
        arrays.append(owned)
        return {"~array": len(arrays) - 1}
    if isinstance(value, (bytes, bytearray)):
        return {"~bytes": bytes(value).hex()}
    if isinstance(value, Tagged):
        return {"~" + value.tag: copy.deepcopy(value.value)}
    # A named tuple would be read back as a plain tuple, so only exact lists and tuples are allowed.
    if kind is list or kind is tuple:
        plain = cast("list[object] | tuple[object, ...]", value)
        items = [_encode_at(index, item, arrays, depth + 1) for index, item in enumerate(plain)]
        return items if kind is list else {"~tuple": items}
    if isinstance(value, Mapping):
        return _encode_mapping(value, arrays, depth)
    raise NotEncodableError(
        f"a {kind.__module__}.{kind.__qualname__} is not a plain value. Plain are None, "
        "bool, int, float, str, bytes, numpy arrays, and lists, tuples and dicts of these."
    )


def _encode_at(key: object, value: object, arrays: list[Array] | None, depth: int) -> Json:
    try:
        return _encode(value, arrays, depth)
    except NotEncodableError as error:
        error.path.append(f"[{brief(key)}]")
        raise


def _owned(value: object) -> Array:
    try:
        return own(value, "")
    except InvalidInputError as error:
        raise NotEncodableError(str(error).removeprefix(": ")) from None


def _encode_float(value: float) -> Json:
    return value if math.isfinite(value) else {"~float": str(value)}


def _encode_mapping(value: Mapping[Any, object], arrays: list[Array] | None, depth: int) -> Json:
    if all(type(key) is str and not key.startswith("~") for key in value):
        return {key: _encode_at(key, value[key], arrays, depth + 1) for key in sorted(value)}
    keys: list[tuple[bytes, Json, Any]] = []
    for key in value:
        plain = _encode_key(key, depth + 1)
        keys.append((canonical_json(plain), plain, key))
    if sum(isinstance(plain, dict) for _, plain, _ in keys) > _MAX_TUPLES:
        raise NotEncodableError(f"a dict with more than {_MAX_TUPLES} keys that are tuples")
    keys.sort(key=lambda item: item[0])
    return {
        "~map": [[plain, _encode_at(key, value[key], arrays, depth + 2)] for _, plain, key in keys]
    }


def _encode_key(key: object, depth: int) -> Json:
    if depth > MAX_DEPTH:
        raise NotEncodableError(f"nested deeper than {MAX_DEPTH} levels")
    if is_array(key):
        if isinstance(key, np.integer):
            key = int(key)
        elif type(key) is np.str_:
            key = str(key)
    if key is None or type(key) in (bool, int, str):
        return key
    if type(key) is float and not math.isnan(key):
        return _encode_float(key)
    if type(key) is tuple:
        return {"~tuple": [_encode_key(item, depth + 1) for item in key]}
    raise NotEncodableError(
        f"the key {brief(key)}: a key is None, bool, int, float, str or a tuple of these, not "
        f"{type(key).__qualname__}" + (" NaN" if type(key) is float else "")
    )


def _inline(array: Array) -> Json:
    code = dtype_code(array.dtype, "array")
    return {"dtype": code, "shape": list(array.shape), "data": bytes(raw(array)).hex()}


def decode_value(value: Json, label: str, arrays: list[Array] | None = None) -> Any:
    """Decode what :func:`encode_value` wrote, into new containers around read-only arrays.

    Args:
        value: the JSON.
        label: how messages name the value.
        arrays: the list that :func:`encode_value` filled; None if the arrays are in the JSON.

    Raises:
        FormatError: JSON that :func:`encode_value` does not write.
    """
    if isinstance(value, list):
        return [decode_value(item, label, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    if not tag.startswith("~"):
        if any(key.startswith("~") for key in value):
            raise FormatError(
                f"{label}: a tag beside other keys: {brief(', '.join(sorted(value)))}"
            )
        return {key: decode_value(item, label, arrays) for key, item in value.items()}
    decoder = _DECODERS.get(tag)
    if decoder is None:
        raise FormatError(
            f"{label}: unknown tag {brief(tag)}. It may come from a newer policystore: upgrade to "
            "read it"
        )
    try:
        return decoder(value[tag], label, arrays)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise FormatError(f"{label}: the value under {tag!r} is malformed: {error}") from None


def _decode_tuple(value: Json, label: str, arrays: list[Array] | None) -> Any:
    return tuple(decode_value(item, label, arrays) for item in _typed(value, list))


def _decode_map(value: Json, label: str, arrays: list[Array] | None) -> Any:
    decoded: dict[Any, Any] = {}
    previous = b""
    tuples = 0
    for pair in _typed(value, list):
        key, item = _typed(pair, list)
        text = canonical_json(key)
        # Check the order before the key is put into a dict: hostile tuples may share one hash.
        if text <= previous:
            raise ValueError("keys out of order")
        previous = text
        tuples += isinstance(key, dict)
        if tuples > _MAX_TUPLES:
            raise ValueError(f"more than {_MAX_TUPLES} keys that are tuples")
        decoded[_decode_key(key, label)] = decode_value(item, label, arrays)
    if len(decoded) != len(value):
        raise ValueError("keys that are equal in Python")
    if all(type(key) is str and not key.startswith("~") for key in decoded):
        raise ValueError("a map whose keys are plain strings is written as an object")
    return decoded


def _decode_key(key: Json, label: str) -> Any:
    if isinstance(key, dict) and set(key) == {"~tuple"}:
        return tuple(_decode_key(item, label) for item in _typed(key["~tuple"], list))
    if isinstance(key, dict) and key in ({"~float": "inf"}, {"~float": "-inf"}):
        return _NON_FINITE[key["~float"]]
    if isinstance(key, (dict, list)):
        raise TypeError("a list or an object as a key")
    return key


def _decode_float(value: Json, label: str, arrays: list[Array] | None) -> Any:
    return _NON_FINITE[value]


def _decode_bytes(value: Json, label: str, arrays: list[Array] | None) -> Any:
    data = bytes.fromhex(_typed(value, str))
    if data.hex() != value:
        raise ValueError("hexadecimal digits are lower case and without spaces")
    return data


def _decode_array(value: Json, label: str, arrays: list[Array] | None) -> Any:
    if arrays is not None:
        index = _typed(value, int)
        if not 0 <= index < len(arrays):
            raise IndexError(f"array {index} of {len(arrays)}")
        return arrays[index]
    dtype = DTYPES[_typed(value["dtype"], str)]
    if len(value) != 3 or not is_shape(value["shape"], dtype.itemsize):
        raise ValueError("malformed or impossible shape")
    shape = tuple(value["shape"])
    data = _decode_bytes(value["data"], label, None)
    if len(data) != size_of(dtype, shape):
        raise ValueError("dtype, shape and data do not belong together")
    array = view(data, dtype, shape)
    if own(array, label).tobytes() != data:
        raise ValueError("booleans other than 0 and 1")
    return array


def _decode_import(value: Json, label: str, arrays: list[Array] | None) -> Any:
    return Tagged("import", _typed(value, str))


def _decode_space(value: Json, label: str, arrays: list[Array] | None) -> Any:
    return Tagged("space", copy.deepcopy(_typed(value, dict)))


def _typed(value: Json, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


_DECODERS: dict[str, Callable[[Json, str, list[Array] | None], Any]] = {
    "~tuple": _decode_tuple,
    "~map": _decode_map,
    "~float": _decode_float,
    "~bytes": _decode_bytes,
    "~array": _decode_array,
    "~import": _decode_import,
    "~space": _decode_space,
}
