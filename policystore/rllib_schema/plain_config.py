"""Turn a config of any source into the plain values of a spec.

Configs come from live policies of the old stack, from live modules of the new stack and from
checkpoints. :class:`PlainWalker` goes through their mappings, lists and tuples. It keeps plain
values, and notes the place of each other value and the reason why that value is left out. Each
source has a subclass, which converts leaves: classes, functions, spaces, arrays, and objects that a
checkpoint only describes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np

from policystore.errors import InvalidInputError
from policystore.format.values import encode_value

__all__ = [
    "NOTHING",
    "NotPlainError",
    "Nothing",
    "Place",
    "PlainWalker",
    "check_plain_value",
    "is_plain_key",
    "plain_scalar",
]

_SCALARS = (type(None), bool, int, float, str, bytes)


class Nothing(Enum):
    """The type of :data:`NOTHING`."""

    NOTHING = "nothing"


NOTHING: Final = Nothing.NOTHING
"""The result for a value that has no plain form."""


class NotPlainError(Exception):
    """A value that has no lasting form; the text is the reason, without addresses or ids."""


@dataclass(frozen=True)
class Place:
    """A place in a config.

    Attributes:
        path: such as ``config.model.fcnet_hiddens[0]``.
        omitted: the path of each value that was left out -> the reason. The walker adds to this
            dict.
        depth: the number of containers around the value.
    """

    path: str
    omitted: dict[str, str]
    depth: int = 0

    def inside(self, suffix: str) -> Place:
        """Return the place of an entry or item of the container at this place."""
        return Place(self.path + suffix, self.omitted, self.depth + 1)


class PlainWalker(ABC):
    """Turns configs into plain values, and notes what has no plain form.

    Plain are None, bool, int, float, str and bytes of exactly these types, lists, tuples and dicts
    of plain values, and what :meth:`leaf` returns. An entry of a mapping that is not plain is left
    out. A list or tuple is kept with all its items or not at all, because a list without one of its
    items has another meaning.

    Args:
        omitted: a dict of path -> reason. The walker adds an entry for each value that it leaves
            out.

    Attributes:
        whole_items: what happens if a mapping inside a list lacks some of its entries. If True, the
            list is left out, for the reason of the first missing entry. If False, each missing
            entry is noted under its own path, and the list is kept without these entries. An item
            that has no plain form at all is then noted under its path, too, and the list is left
            out for one general reason.
    """

    whole_items = True

    def __init__(self, omitted: dict[str, str]) -> None:
        self._omitted = omitted

    def value(self, value: object, path: str) -> Any:
        """Return the plain form of a value, or :data:`NOTHING` and note why it has none.

        Args:
            value: any value of a config; it is not changed.
            path: the place of the value, for ``omitted`` and messages.
        """
        return self._noted(value, Place(path, self._omitted))

    def mapping(self, value: Mapping[Any, Any], path: str) -> dict[Any, Any]:
        """Return a mapping with all of its entries that are plain; the others are noted.

        Raises:
            NotPlainError: a key that :meth:`entry_place` refuses.
        """
        return self._mapping(value, Place(path, self._omitted))

    @abstractmethod
    def leaf(self, value: object, place: Place) -> object:
        """Return the plain form of a value that is neither a plain scalar nor a container.

        Raises:
            NotPlainError: the value has no plain form.
        """

    def is_leaf(self, value: object) -> bool:
        """Return whether a mapping is a leaf, as gymnasium's ``Dict`` spaces are."""
        return False

    def entry_place(self, key: object, place: Place) -> Place | None:
        """Return the place of a mapping's entry, or None if the entry is to be skipped.

        Args:
            key: the key of the entry.
            place: the place of the mapping.

        Raises:
            NotPlainError: the whole mapping has no plain form because of this key.
        """
        return place.inside(f".{key}")

    def item_place(self, index: int, place: Place) -> Place:
        """Return the place of an item of the list or tuple at ``place``."""
        return place.inside(f"[{index}]")

    def entry(self, key: object, item: object, place: Place) -> object:
        """Return the plain form of a mapping's item; ``place`` is the place of the item.

        Raises:
            NotPlainError: the item has no plain form; only this entry is left out.
        """
        return self.plain(item, place)

    def plain(self, value: object, place: Place) -> object:
        """Return the plain form of a value.

        Raises:
            NotPlainError: the value has no plain form.
        """
        if type(value) in _SCALARS:
            return value
        if isinstance(value, Mapping) and not self.is_leaf(value):
            return self._mapping(value, place)
        if type(value) is list:
            return self._items(value, place)
        if type(value) is tuple:
            return tuple(self._items(value, place))
        return self.leaf(value, place)

    def _mapping(self, value: Mapping[Any, Any], place: Place) -> dict[Any, Any]:
        plain: dict[Any, Any] = {}
        for key, item in value.items():
            inside = self.entry_place(key, place)
            if inside is None:
                continue
            try:
                plain[key] = self.entry(key, item, inside)
            except NotPlainError as why:
                place.omitted[inside.path] = str(why)
        return plain

    def _items(self, items: Sequence[object], place: Place) -> list[object]:
        read = self._whole if self.whole_items else self._noted
        plain = [read(item, self.item_place(index, place)) for index, item in enumerate(items)]
        if any(item is NOTHING for item in plain):
            raise NotPlainError("holds items that cannot be kept")
        return plain

    def _whole(self, item: object, place: Place) -> object:
        """Return the plain form of an item that may not lack anything."""
        missing: dict[str, str] = {}
        plain = self.plain(item, Place(place.path, missing, place.depth))
        if missing:
            raise NotPlainError(next(iter(missing.values())))
        return plain

    def _noted(self, value: object, place: Place) -> object:
        try:
            return self.plain(value, place)
        except NotPlainError as why:
            place.omitted[place.path] = str(why)
            return NOTHING


def check_plain_value(value: object, kind: str) -> None:
    """Check that a value can be in a spec (:func:`policystore.format.values.encode_value`).

    Args:
        value: any value.
        kind: how the message names the kind of the value.

    Raises:
        NotPlainError: the value cannot be in a spec.
    """
    try:
        encode_value(value, kind)
    except InvalidInputError:
        raise NotPlainError(f"a {kind} is not a plain value") from None


def is_plain_key(key: object) -> bool:
    """Return whether a key can be in a mapping of a spec."""
    try:
        encode_value({key: None}, "key")
    except InvalidInputError:
        return False
    return True


def plain_scalar(value: np.generic, kind: str) -> object:
    """Convert a numpy scalar to the same value in a type of Python.

    Raises:
        NotPlainError: a complex number, a time, or a number for which Python has no type.
    """
    plain = value.item()
    check_plain_value(plain, kind)
    return plain
