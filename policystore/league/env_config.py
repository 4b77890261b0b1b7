"""Write the config of an environment as a text for a match, and read this text.

``docs/format.md`` describes the form: JSON, and tags for values that JSON lacks. A value that has
no form is left out. The text says where the value was, and of what kind, so that a replay can ask
for the value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from policystore._util.messages import brief, printable, shorten
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical
from policystore.format.records.matches import MAX_CONFIG
from policystore.format.values import decode_value, encode_value

__all__ = ["missing_values", "read_config", "without_config", "write_config"]

_MISSING = "~missing"
_MOST_WORDS = 300  # characters about a value without a form
_INT_MAX = 2**63 - 1
_KEYS = (str, int, bool, type(None))
_NUMBERS = (np.bool_, np.integer, np.float64)  # which numbers of Python can replace exactly


def write_config(config: Mapping[Any, Any]) -> str:
    """Return a config as canonical JSON of at most 65,536 characters; an empty text for none.

    In the place of a value without a form is ``{"~missing": "what it is"}``.
    """
    if not config:
        return ""
    try:
        text = canonical_json(_encode(dict(config))).decode()
    except InvalidInputError as error:  # nested too deeply, or a text that UTF-8 cannot write
        return without_config(f"the config, which has no JSON form: {error}")
    if len(text) > MAX_CONFIG:
        return without_config(
            f"the config, which takes {len(text):,} characters; at most {MAX_CONFIG:,} are allowed"
        )
    return text


def without_config(words: str) -> str:
    """Return the text of a match that does not hold the config; ``words`` say why."""
    return canonical_json(_left_out(words)).decode()


def read_config(text: str) -> dict[Any, Any]:
    """Return the config that :func:`write_config` has written, if the text has all its values.

    Nothing is imported, and time and memory are in proportion to the text.

    Raises:
        FormatError: another text.
        InvalidInputError: the text leaves out a value; see :func:`missing_values`.
    """
    document = parse_canonical(text.encode(), "env_config of the match")
    missing = list(_find_missing(document, "config"))
    if missing:
        raise InvalidInputError(f"the match does not hold {'; '.join(missing[:8])}")
    config = _decode(document)
    if not isinstance(config, dict):
        raise FormatError(f"env_config of the match: expected an object, found {brief(config)}")
    return config


def missing_values(text: str) -> list[str]:
    """Return the place and the kind of each value that a text of :func:`write_config` leaves out.

    Raises:
        FormatError: another text.
    """
    return list(_find_missing(parse_canonical(text.encode(), "env_config of the match"), "config"))


def _encode(value: Any) -> Json:
    if isinstance(value, _NUMBERS):
        value = value.item()
    kind = type(value)
    if kind is str and len(value) > MAX_CONFIG:
        return _left_out(f"a text of {len(value):,} characters")
    if value is None or kind in (bool, str) or (kind is int and abs(value) <= _INT_MAX):
        return value
    if kind is float:
        return encode_value(value, "")
    if kind is list:
        return [_encode(item) for item in value]
    if kind is tuple:
        return {"~tuple": [_encode(item) for item in value]}
    if kind in (dict, OrderedDict):  # others, such as a defaultdict, answer in their own ways
        return _encode_mapping(value)
    if kind is bytes and 2 * len(value) > MAX_CONFIG:  # two digits a byte
        return _left_out(f"{len(value):,} bytes")
    if kind is np.ndarray and 2 * value.nbytes > MAX_CONFIG:
        return _left_out(f"an array of {value.nbytes:,} bytes")
    if kind in (bytes, np.ndarray):
        try:
            return encode_value(value, "")
        except InvalidInputError:
            return _left_out(f"an array of {value.dtype}")
    return _left_out(_kind_of(value))


def _encode_mapping(value: Mapping[Any, Any]) -> Json:
    """Return a dict in its order: an environment may make its agents in the order of a config."""
    if not all(type(key) in _KEYS and _encode(key) == key for key in value):
        return _left_out(
            f"a dict with a key that is no text of at most {MAX_CONFIG:,} characters, boolean, "
            "None or integer of 64 bits"
        )
    keys = list(value)
    is_plain = all(type(key) is str and not key.startswith("~") for key in keys)
    if is_plain and keys == sorted(keys):
        return {key: _encode(item) for key, item in value.items()}
    return {"~dict": [[_encode(key), _encode(item)] for key, item in value.items()]}


def _kind_of(value: object) -> str:
    named = isinstance(value, type) or hasattr(value, "__qualname__")
    path = value if named else type(value)
    name = f"{getattr(path, '__module__', '?')}:{getattr(path, '__qualname__', '?')}"
    if isinstance(value, type):
        return f"the class {name}"
    return f"the function {name}" if named else f"an object of the class {name}"


def _left_out(words: str) -> JsonObject:
    return {_MISSING: shorten(printable(words), _MOST_WORDS)}


def _find_missing(value: Json, place: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_missing(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        if value.keys() == {_MISSING}:
            words = _words(value[_MISSING])
            yield words if place == "config" else f"{place}, {words}"
        elif value.keys() == {"~dict"} and _are_pairs(value["~dict"]):
            for key, item in value["~dict"]:
                yield from _find_missing(item, f"{place}[{brief(key)}]")
        else:
            for key, item in value.items():
                deeper = place if key == "~tuple" else f"{place}[{brief(key)}]"
                yield from _find_missing(item, deeper)


def _words(value: Json) -> str:
    """Return the words about a missing value, which may be anybody's, on one printable line."""
    if not isinstance(value, str):
        return "a value of an unknown kind"
    return shorten(printable(value), _MOST_WORDS)


def _are_pairs(value: Json) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 for pair in value
    )


def _decode(value: Json) -> Any:
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value)) if len(value) == 1 else ""
    decode = _TAGS.get(tag)
    if decode is not None:
        return decode(value[tag])
    if any(key.startswith("~") for key in value):
        raise FormatError(
            f"env_config of the match: unknown tag in {brief(sorted(value))}. It may come from a "
            "newer policystore: upgrade to read it"
        )
    return {key: _decode(item) for key, item in value.items()}


def _decode_dict(pairs: Json) -> Any:
    if not _are_pairs(pairs) or not all(type(key) in _KEYS for key, _ in pairs):
        raise FormatError("env_config of the match: malformed ~dict")
    decoded = {key: _decode(item) for key, item in pairs}
    if len(decoded) != len(pairs):
        raise FormatError("env_config of the match: two keys of a ~dict are equal")
    return decoded


def _decode_tuple(items: Json) -> Any:
    if not isinstance(items, list):
        raise FormatError("env_config of the match: malformed ~tuple")
    return tuple(_decode(item) for item in items)


def _decode_float(name: Json) -> Any:
    return decode_value({"~float": name}, "env_config of the match")


def _decode_bytes(digits: Json) -> Any:
    return decode_value({"~bytes": digits}, "env_config of the match")


def _decode_array(document: Json) -> Any:
    # A copy that can be written: the environment may change the array, as it may change its own.
    return np.array(decode_value({"~array": document}, "env_config of the match"))


_TAGS: dict[str, Callable[[Json], Any]] = {
    "~dict": _decode_dict,
    "~tuple": _decode_tuple,
    "~float": _decode_float,
    "~bytes": _decode_bytes,
    "~array": _decode_array,
}
