"""Placeholders for the classes, functions and objects that a file of a checkpoint names.

A pickle names classes and functions, and the arguments to call them with. policystore imports and
calls none of these classes and functions. For each of them the readers make a placeholder, which
records what the file says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

__all__ = [
    "BAD_DATA_ERRORS",
    "CallTable",
    "Global",
    "PendingValue",
    "UnbuiltObject",
    "class_lineage",
    "class_path",
    "is_class_by_value",
    "is_text",
    "kind_of",
    "text_or_kind",
    "unhashable_reason",
]

_MAX_KEY_BITS = 60
_MAX_NAME = 512
_MAX_KEY_ITEMS = 4  # of a tuple that is a key
_MAX_KEY_TEXT = 256  # characters of a text in such a tuple
_MAX_LINEAGE = 100  # classes that are looked at
_MAX_SHOWN = 200  # characters of a value in a message

_NO_ENTRIES: Mapping[object, object] = MappingProxyType({})

BAD_DATA_ERRORS = (
    AttributeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    StopIteration,
)
"""Exceptions that Python raises where data does not have the form that the code expects."""

CallTable: TypeAlias = dict[tuple[str, str], Callable[[tuple[object, ...]], object]]
"""Functions of policystore that replace calls, by module and name of the called function.

Each takes the arguments of the call and returns plain data, or NotImplemented where these arguments
do not give plain data.
"""


@dataclass(frozen=True)
class Global:
    """A class or function that a file names; it is not imported.

    Attributes:
        module: its module, such as ``ray.rllib.algorithms.ppo.ppo``.
        name: its name in the module, such as ``PPO``; dotted for a class inside a class.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


class UnbuiltObject:
    """An object that a file describes and that policystore does not build.

    Attributes:
        cls: what the file calls to make the object: a :class:`Global` in an honest file; a text
            that describes the object where a reader made this placeholder by itself.
        args: positional arguments of the call.
        kwargs: named arguments of the call.
        state: the argument that ``__setstate__`` would get, or the ``__dict__``; None without one.
        items: the items of an object whose class derives from list or set.
        entries: the entries of an object whose class derives from dict.
    """

    __slots__ = ("args", "cls", "entries", "items", "kwargs", "state")

    def __init__(
        self,
        cls: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[object, object] = _NO_ENTRIES,
    ) -> None:
        self.cls = cls
        self.args = args
        self.kwargs = kwargs
        self.state: object = None
        # A file may describe one object with each of its bytes. So that an object stays small, a
        # list for its items and a dict for its entries are made only when they are needed.
        self.items: Sequence[object] = ()
        self.entries: Mapping[object, object] = _NO_ENTRIES

    def __repr__(self) -> str:
        return f"<unbuilt {self.cls if isinstance(self.cls, Global) else 'object'}>"

    def attributes(self) -> dict[str, Any]:
        """Return what ``__dict__`` and slots would hold; ``{}`` for a state of another kind."""
        return {name: value for name, value in self._state_entries() if isinstance(name, str)}

    def _state_entries(self) -> Iterator[tuple[object, object]]:
        # An object with slots has the state (__dict__, slots).
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        for part in parts:
            if isinstance(part, dict):
                yield from part.items()


class PendingValue:
    """A value that a pickle makes in two steps: a call without content, then a state (BUILD).

    numpy pickles its arrays and dtypes in this way.

    Attributes:
        value: the finished value; None before the second step.
    """

    value: object = None

    def build(self, state: object) -> object:
        """Finish the value with the state from the file, keep it, and return it.

        Raises:
            FormatError: the state does not have the form that this kind of value needs.
        """
        raise NotImplementedError


def class_path(value: object) -> str | None:
    """Return ``module:Name`` of a placeholder for a class or function; None for anything else.

    cloudpickle writes a class of a script or notebook by value: as a call that makes the class anew
    (``_make_skeleton_class(metaclass, name, bases, {"__module__": …}, …)``). The path of such a
    class is taken from the arguments of that call, or from the class's attributes, which follow:
    older versions of cloudpickle write ``__module__`` only there.
    """
    if isinstance(value, Global):
        return str(value) if is_text(str(value)) else None
    if not isinstance(value, UnbuiltObject) or not is_class_by_value(value):
        return None
    name, namespace = value.args[1], value.args[3]
    module = namespace.get("__module__") if isinstance(namespace, dict) else None
    if not isinstance(module, str):
        module = value.attributes().get("__module__")
    if not isinstance(module, str) or not isinstance(name, str) or not name.isidentifier():
        return None
    if not is_text(module + name):
        return None
    return f"{module[:_MAX_NAME]}:{name[:_MAX_NAME]}"


def is_class_by_value(value: UnbuiltObject) -> bool:
    """Return whether a placeholder stands for a class that cloudpickle wrote by value."""
    cls = value.cls
    return isinstance(cls, Global) and cls.name == "_make_skeleton_class" and len(value.args) >= 4


def class_lineage(value: object) -> Iterator[str]:
    """Yield the import paths of a class and of its bases, the class itself first.

    The bases are known only of classes that cloudpickle wrote by value: Tune and users derive such
    classes from RLlib's.
    """
    waiting = [value]
    for _ in range(_MAX_LINEAGE):
        if not waiting:
            return
        cls = waiting.pop(0)
        path = class_path(cls)
        if path is not None:
            yield path
        if isinstance(cls, UnbuiltObject) and is_class_by_value(cls):
            bases = cls.args[2]
            waiting.extend(bases if isinstance(bases, tuple) else ())


def unhashable_reason(key: object) -> str | None:
    """Return why policystore does not hash a value from a file; None if it may be hashed.

    Only short, flat keys are hashed: hashing tuples inside of tuples can take time that doubles
    with each level, and integers of more than 60 bits can be chosen so that all have the same hash.
    """
    if isinstance(key, tuple):
        if len(key) > _MAX_KEY_ITEMS or any(isinstance(item, tuple) for item in key):
            return "a nested or long tuple as a key"
        if any(isinstance(item, (str, bytes)) and len(item) > _MAX_KEY_TEXT for item in key):
            return "a tuple with a long text as a key"
        return next(filter(None, map(unhashable_reason, key)), None)
    if type(key) is int:
        if key.bit_length() <= _MAX_KEY_BITS:
            return None
        return f"an integer of more than {_MAX_KEY_BITS} bits as a key"
    if key is None or isinstance(key, (str, bytes, bool, float, Global, UnbuiltObject)):
        return None
    return f"{kind_of(key)} as a key"


def is_text(value: str) -> bool:
    """Return whether a text can be written as UTF-8: a pickle may hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_or_kind(value: object) -> str:
    """Return a text or the path of a :class:`Global`; for any other value, return its kind.

    At most 200 characters are returned.
    """
    if isinstance(value, (str, Global)):
        return _shown(str(value))
    return kind_of(value)


def _shown(text: str) -> str:
    """Return the beginning of a text, with question marks for halves of characters."""
    return text[:_MAX_SHOWN].encode(errors="replace").decode()


def kind_of(value: object) -> str:
    """Return the kind of a value in few words, for messages.

    The ``repr`` of a value from a file is never shown: it may be endless.
    """
    if isinstance(value, Global):
        return _shown(f"the name {value}")
    if isinstance(value, UnbuiltObject) and isinstance(value.cls, str):
        return value.cls[:_MAX_SHOWN]
    if isinstance(value, UnbuiltObject):
        is_named = isinstance(value.cls, Global)
        return _shown(f"an object of {value.cls}") if is_named else "an object"
    return type(value).__name__
