"""Turn configs out of checkpoints into the plain values of a spec, by the rules of live snapshots.

:mod:`policystore.rllib.old_stack.config` describes what a config may hold and what is recorded of
it. In a checkpoint, the values are descriptions: classes and functions are names already. A lambda,
or a function of a script, is pickled by value. It has no name, so it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.files.placeholders import (
    Global,
    UnbuiltObject,
    class_path,
    is_class_by_value,
    is_text,
    kind_of,
)
from policystore.errors import FormatError
from policystore.format.values import Tagged
from policystore.rllib_schema.class_paths import todays_path
from policystore.rllib_schema.config_keys import REGISTRY_KEYS
from policystore.rllib_schema.plain_config import (
    NotPlainError,
    Place,
    PlainWalker,
    check_plain_value,
    is_plain_key,
    plain_scalar,
)

__all__ = ["CheckpointConfigWalker", "plain_mapping", "registered_name"]

_MAX_BITS = 63  # of an integer, beside the sign
_MAX_VALUES = 200_000  # a config has some hundreds
_MAX_DEPTH = 40
_MAX_PATH = 500  # characters of a place in a config
_SHOWN = 100  # characters of a place that is longer
_MAX_ARRAY_BYTES = 1 << 20  # of all arrays together: arrays of a real config hold a few numbers
# Functions of pickle and cloudpickle that make a function or class anew from what a file describes.
_MADE_BY_VALUE = ("_make_function", "_make_skel_func", "_fill_function", "_builtin_type")


class CheckpointConfigWalker(PlainWalker):
    """Turns the values that one file describes into plain values, within bounds for all together.

    Args:
        label: how messages name the source.
        omitted: path -> reason; the walker adds entries.

    Raises:
        FormatError: raised by the methods, for more values or levels than any real config has.
    """

    def __init__(self, label: str, omitted: dict[str, str]) -> None:
        super().__init__(omitted)
        self._label = label
        self._values = 0
        self._array_bytes = 0

    def plain(self, value: object, place: Place) -> object:
        """Return the plain form of a value, and count it against the bounds of one config.

        Raises:
            NotPlainError: the value has no plain form.
            FormatError: there are more values, or more levels of nesting, than any real config has.
        """
        self._values += 1
        if self._values > _MAX_VALUES or place.depth > _MAX_DEPTH:
            raise FormatError(
                f"{self._label}: its config is nested or repeated beyond any use; nothing was read"
            )
        if isinstance(value, UnbuiltObject) and value.entries and not is_class_by_value(value):
            value = value.entries  # an object of a class derived from dict
        if type(value) is int and value.bit_length() > _MAX_BITS:
            raise NotPlainError(f"an integer of more than {_MAX_BITS} bits")
        if type(value) is str and not is_text(value):
            raise NotPlainError("a text with parts of characters")
        return super().plain(value, place)

    def entry_place(self, key: object, place: Place) -> Place | None:
        """Return the place of an entry; None, with a note, if the key is not plain or too long."""
        if not is_plain_key(key) or (isinstance(key, str) and not is_text(key)):
            place.omitted[f"{place.path}, a key"] = f"a key of type {kind_of(key)} is not plain"
            return None
        inside = place.inside(f".{key}")
        if len(inside.path) > _MAX_PATH:
            reason = "a key that is longer than any of RLlib's"
            place.omitted[f"{inside.path[:_SHOWN]}…"] = reason
            return None
        return inside

    def item_place(self, index: int, place: Place) -> Place:
        """Return the place of an item, without its index; all items of a list share one place."""
        return place.inside("[]")

    def entry(self, key: object, item: object, place: Place) -> object:
        """Return the plain form of an item; a name in one of RLlib's registries has no plain form.

        Raises:
            NotPlainError: the item has no plain form.
        """
        if key in REGISTRY_KEYS and isinstance(item, str) and item:
            raise NotPlainError(
                f"{registered_name(item[:_MAX_PATH])}trained; {self._label} does not say which "
                f"class. read_checkpoint(…, classes={{{item[:_SHOWN]!r}: MyClass}}) tells it"
            )
        return super().entry(key, item, place)

    def leaf(self, value: object, place: Place) -> object:
        """Return the plain form of a numpy value, a name, a described object or space.

        Raises:
            NotPlainError: the value has no plain form.
        """
        if isinstance(value, np.generic):
            return plain_scalar(value, kind_of(value))
        if isinstance(value, Global):
            return Tagged("import", _import_path(value))
        if isinstance(value, UnbuiltObject):
            return _plain_object(value, place.path)
        if isinstance(value, np.ndarray):
            self._array_bytes += value.nbytes
            if self._array_bytes > _MAX_ARRAY_BYTES:
                raise NotPlainError("arrays of more than a MiB are no config")
        check_plain_value(value, kind_of(value))
        return value


def registered_name(name: str) -> str:
    """Return how the reason begins for which a class is omitted that a file knows by a name."""
    return f"{name!r}, a name under which a class was registered with RLlib in the process that "


def plain_mapping(
    value: Mapping[Any, Any], label: str, omitted: dict[str, str], path: str
) -> dict[Any, Any]:
    """Return the plain entries of a config; ``{}``, with a note, if none of it can be read.

    Args:
        value: the config as a file describes it.
        label: how messages name the file.
        omitted: path -> reason; an entry is added for each value that is left out.
        path: the place of the config.
    """
    notes: dict[str, str] = {}
    try:
        plain = CheckpointConfigWalker(label, notes).mapping(value, path)
    except (FormatError, NotPlainError) as error:
        omitted[path] = str(error)
        return {}
    omitted |= notes
    return plain


def _import_path(name: Global) -> str:
    """Return the path of a class or function that another process can import today."""
    path = todays_path(str(name))
    module, _, qualified = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *qualified.split(".")]):
        raise NotPlainError("a class or function that no other process can import by name")
    return path


def _plain_object(value: UnbuiltObject, where: str) -> Tagged:
    """Return the import path of a described class, or the JSON of a described space."""
    cls = value.cls
    name = cls.name.rpartition(".")[2] if isinstance(cls, Global) else ""
    path = class_path(value)
    if path is not None:
        return Tagged("import", path)
    if name in _MADE_BY_VALUE:
        raise NotPlainError("a function that no other process can import by name")
    if isinstance(cls, Global) and cls.module.split(".")[0] in ("gymnasium", "gym"):
        try:
            return Tagged("space", described_space(value, where) or {})
        except FormatError as error:
            raise NotPlainError(str(error)) from None
    if isinstance(cls, str):
        raise NotPlainError(kind_of(value))
    kind = f"{cls.module}.{cls.name}" if isinstance(cls, Global) else "object"
    raise NotPlainError(f"a {kind[:200]} is not a plain value")
