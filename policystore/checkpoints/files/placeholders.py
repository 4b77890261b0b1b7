"""What stands in a file of somebody else's for a class, a function or an object of one.

A pickle names classes and functions and says what to call them with. Nothing is ever imported or
called here: what is named becomes one of these, which only says what the file said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

__all__ = [
    "BAD_DATA_ERRORS",
    "Calls",
    "Global",
    "PendingValue",
    "UnbuiltObject",
    "class_path",
    "kind_of",
    "said",
    "why_no_key",
]

_KEY_BITS = 60
_MAX_NAME = 512
_MAX_KEY = 4  # items of a tuple that is a key, and
_MAX_KEY_TEXT = 256  # characters of one of them

_NONE: Mapping[Any, Any] = MappingProxyType({})

BAD_DATA_ERRORS = (
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    StopIteration,
)
"""What Python raises where data is not of the form that code takes it to be."""

Calls = dict[tuple[str, str], Callable[[tuple[Any, ...]], Any]]
"""What a call of a name with arguments means; NotImplemented where it is not plain data."""


@dataclass(frozen=True)
class Global:
    """A class or function by name.

    Attributes:
        module: such as ``ray.rllib.algorithms.ppo.ppo``.
        name: such as ``PPO``; dotted where it is inside a class.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


class UnbuiltObject:
    """An object that a file describes and nobody makes.

    Attributes:
        cls: what the file calls to make it: a :class:`Global`, or whatever stood there.
        args: what with.
        kwargs: what with, by name.
        state: what ``__setstate__`` would get, or the attributes; None if there is none.
        items: what a subclass of list or set would hold.
        entries: what a subclass of dict would hold.
    """

    __slots__ = ("args", "cls", "entries", "items", "kwargs", "state")

    def __init__(
        self, cls: Any, args: tuple[Any, ...] = (), kwargs: Mapping[Any, Any] = _NONE
    ) -> None:
        self.cls = cls
        self.args = args
        self.kwargs = kwargs
        self.state: Any = None
        # A file may hold one of these for each of its bytes: containers come when they are used.
        self.items: Sequence[Any] = ()
        self.entries: Mapping[Any, Any] = _NONE

    def __repr__(self) -> str:
        return f"<{self.cls if isinstance(self.cls, Global) else 'Object'} that was not made>"

    def attributes(self) -> dict[str, Any]:
        """What ``__dict__`` and slots would hold; ``{}`` where the state is of another kind."""
        return {name: value for name, value in self._named() if isinstance(name, str)}

    def _named(self) -> Iterator[tuple[Any, Any]]:
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        for part in parts:
            if isinstance(part, dict):
                yield from part.items()


class PendingValue:
    """What a call makes that gets its value by a state, as numpy's arrays do.

    Attributes:
        value: once it has one.
    """

    value: Any = None

    def built(self, state: Any) -> Any:
        """The value that a state gives it; FormatError if that is none for it."""
        raise NotImplementedError


def class_path(value: Any) -> str | None:
    """``module:Name`` of what stands for a class or function; None of anything else.

    A class of a script or notebook comes by value: cloudpickle describes how to make it anew
    (``_make_skeleton_class(metaclass, name, bases, {"__module__": …}, …)``), and says its name.
    """
    if isinstance(value, Global):
        return str(value)
    cls = value.cls if isinstance(value, UnbuiltObject) else None
    if not isinstance(cls, Global) or cls.name != "_make_skeleton_class" or len(value.args) < 4:
        return None
    name, given = value.args[1], value.args[3]
    module = given.get("__module__") if isinstance(given, dict) else None
    if not isinstance(module, str) or not isinstance(name, str) or not name.isidentifier():
        return None
    return f"{module[:_MAX_NAME]}:{name[:_MAX_NAME]}"


def why_no_key(key: Any) -> str | None:
    """Why a value is not hashed; None if it may be.

    Tuples in tuples take time that doubles with each level, and integers beyond 60 bits can be
    chosen so that all of them have one hash.
    """
    if isinstance(key, tuple):
        if len(key) > _MAX_KEY or any(isinstance(item, tuple) for item in key):
            return "a nested or long tuple as a key"
        if any(isinstance(item, (str, bytes)) and len(item) > _MAX_KEY_TEXT for item in key):
            return "a tuple with a long text as a key"
        return next(filter(None, map(why_no_key, key)), None)
    if type(key) is int:
        return None if key.bit_length() <= _KEY_BITS else "an integer of more than 60 bits as a key"
    if key is None or isinstance(key, (str, bytes, bool, float, Global, UnbuiltObject)):
        return None
    return f"{kind_of(key)} as a key"


def said(value: Any) -> str:
    """What a text or a name says, if it is one; else what kind of thing it is."""
    if isinstance(value, (str, Global)):
        return str(value)[:200]
    return kind_of(value)


def kind_of(value: Any) -> str:
    """What kind of thing a value is, in few words, for messages; never its ``repr``, which may be
    endless.
    """
    if isinstance(value, Global):
        return f"the name {value}"[:200]
    if isinstance(value, UnbuiltObject) and isinstance(value.cls, str):
        return value.cls[:200]
    if isinstance(value, UnbuiltObject):
        return f"an object of {value.cls}"[:200] if isinstance(value.cls, Global) else "an object"
    return type(value).__name__
