"""Configs out of checkpoints as the plain values of a spec, by the rules of live snapshots.

What a config may hold and what becomes of it is in :mod:`policystore.rllib.old_stack.config`; here
the same is done on descriptions: classes and functions are names already, and what a pickle
carries by value (a lambda, a function of a script) has no name and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.files.placeholders import Global, UnbuiltObject, class_path, kind_of
from policystore.errors import FormatError, InvalidInputError
from policystore.format.values import Tagged, encode_value
from policystore.rllib_schema.class_paths import todays_path

__all__ = ["BY_NAME", "Plainer"]

# Keys whose text RLlib looks up in a registry of the process that trained.
BY_NAME = ("custom_model", "custom_action_dist", "custom_preprocessor")
_MOST = 200_000  # values: a config has some hundreds
_DEEPEST = 40
_LONGEST = 500  # characters of a place in a config
_SHOWN = 100
_MAX_BYTES = 1 << 20  # of arrays: those of a config are a few numbers
_BY_VALUE = ("_make_function", "_make_skel_func", "_fill_function", "_builtin_type")


class _NotPlainError(Exception):
    """A value that has no lasting form; the text says why."""


class Plainer:
    """Turns described values into plain ones; what has no plain form is noted.

    Args:
        what: how messages name the source.
        omitted: place -> why; added to.
    """

    def __init__(self, what: str, omitted: dict[str, str]) -> None:
        self._what = what
        self._omitted = omitted
        self._count = 0
        self._bytes = 0

    def mapping(self, value: Mapping[Any, Any], where: str) -> dict[Any, Any]:
        """A mapping with all of it that is plain."""
        return self._mapping(value, where, self._omitted, 0)

    def value(self, value: Any, where: str) -> tuple[bool, Any]:
        """Whether a value is plain, and its plain form; noted if it is not."""
        try:
            return True, self._plain(value, where, self._omitted, 0)
        except _NotPlainError as why:
            self._omitted[where] = str(why)
            return False, None

    def _step(self, depth: int) -> None:
        self._count += 1
        if self._count > _MOST or depth > _DEEPEST:
            raise FormatError(
                f"{self._what}: its config is nested or repeated beyond any use; nothing was read"
            )

    def _plain(self, value: Any, where: str, omitted: dict[str, str], depth: int) -> Any:
        self._step(depth)
        if value is None or type(value) in (bool, int, float, str, bytes):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, Mapping):
            return self._mapping(value, where, omitted, depth)
        if type(value) in (list, tuple):
            # All or nothing: a list without one of its items would mean something else.
            items = [self._whole(item, f"{where}[]", depth + 1) for item in value]
            return items if type(value) is list else tuple(items)
        if isinstance(value, Global):
            return Tagged("import", self._path(value))
        if isinstance(value, UnbuiltObject):
            return self._object(value, where)
        if isinstance(value, np.ndarray):
            self._bytes += value.nbytes
            if self._bytes > _MAX_BYTES:
                raise _NotPlainError("arrays of more than a MiB are no config")
        try:
            encode_value(value, where)
        except InvalidInputError:
            raise _NotPlainError(f"a {kind_of(value)} is not a plain value") from None
        return value

    def _path(self, value: Global) -> str:
        path = todays_path(str(value))
        module, _, name = path.partition(":")
        if not all(part.isidentifier() for part in [*module.split("."), *name.split(".")]):
            raise _NotPlainError("a class or function that no other process can import by name")
        return path

    def _object(self, value: UnbuiltObject, where: str) -> Any:
        cls = value.cls
        name = cls.name.rpartition(".")[2] if isinstance(cls, Global) else ""
        path = class_path(value)
        if path is not None:
            return Tagged("import", path)
        if name in _BY_VALUE:
            raise _NotPlainError("a function that no other process can import by name")
        if isinstance(cls, Global) and cls.module.split(".")[0] in ("gymnasium", "gym"):
            try:
                return Tagged("space", described_space(value, where) or {})
            except FormatError as error:
                raise _NotPlainError(str(error)) from None
        if isinstance(cls, str):
            raise _NotPlainError(kind_of(value))
        kind = f"{cls.module}.{cls.name}" if isinstance(cls, Global) else "object"
        raise _NotPlainError(f"a {kind[:200]} is not a plain value")

    def _whole(self, value: Any, where: str, depth: int) -> Any:
        missing: dict[str, str] = {}
        plain = self._plain(value, where, missing, depth)
        if missing:
            raise _NotPlainError(next(iter(missing.values())))
        return plain

    def _mapping(
        self, value: Mapping[Any, Any], where: str, omitted: dict[str, str], depth: int
    ) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key, item in value.items():
            try:
                encode_value({key: None}, "key")
            except InvalidInputError:
                omitted[f"{where}, a key"] = f"a key of type {kind_of(key)} is not plain"
                continue
            place = f"{where}.{key}"
            if len(place) > _LONGEST:
                omitted[f"{place[:_SHOWN]}…"] = "a key that is longer than any of RLlib's"
                continue
            if key in BY_NAME and isinstance(item, str) and item:
                omitted[place] = (
                    f"{item[:80]!r}, a name under which a class was registered with RLlib in the "
                    "process that trained; the checkpoint does not say which class"
                )
                continue
            try:
                found[key] = self._plain(item, place, omitted, depth + 1)
            except _NotPlainError as why:
                omitted[place] = str(why)
        return found
