"""The pickle machine: stack, memo and limits; it imports nothing and calls nothing.

Python's own unpicklers are not safe, even with a table of allowed names. They still call the
allowed names with arguments that the file chooses. They allocate memory for lengths that the file
only states. They hash and compare keys that are nested without limit. Here every name becomes a
:class:`~policystore.checkpoints.files.placeholders.Global` and every call an
:class:`~policystore.checkpoints.files.placeholders.UnbuiltObject`. The exceptions are the calls of
a closed table, whose results are plain data (:mod:`policystore.checkpoints.files.pickle_reader`).

Time and memory are bounded by the length of the file. An operation makes at most one value, and the
bytes of the value are in the file. Only scalars, names, and short flat tuples of scalars and names
are hashed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NoReturn

from policystore.checkpoints.files.placeholders import (
    CallTable,
    Global,
    PendingValue,
    UnbuiltObject,
    kind_of,
    unhashable_reason,
)
from policystore.errors import FormatError

__all__ = ["MARK", "PickleMachine"]

_MAX_LINE = 1 << 20  # bytes of a text argument of protocol 0
_MAX_NAME = 1024
_MAX_OBJECTS = 500_000
_MAX_TUPLE_KEYS = 10_000  # a file can have tuples of equal hash: they take time by the square
_MAX_COPIES = 8  # times the length of the file, which the known calls may copy in all
_ITEM_BYTES = 16  # what one item of a copied container counts for
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


class _Mark:
    __slots__ = ()


MARK = _Mark()
"""The marker that the operation MARK puts on the stack."""


class PickleMachine:
    """State of one pickle while it is read, and the steps that its operations consist of.

    Args:
        data: the file.
        label: names the file in error messages.
        known_calls: the calls whose results are plain data.
        persistent: returns the value of a persistent id; without it, each persistent id becomes a
            placeholder.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        label: str,
        known_calls: CallTable,
        persistent: Callable[[object], object] | None = None,
    ) -> None:
        self._bytes = data if isinstance(data, bytes) else bytes(data)
        self.data = memoryview(self._bytes)
        self._label = label
        self._known_calls = known_calls
        self._persistent = persistent
        self.position = 0
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        # A known call may copy its arguments, and a file can pass the same argument to many calls.
        self._copies_left = _MAX_COPIES * len(self._bytes) + _MAX_LINE
        self._tuple_keys = self._objects = 0

    def fail(self, reason: str) -> NoReturn:
        """Raise FormatError with a reason and the position in the file."""
        raise FormatError(
            f"{self._label} cannot be read as a pickle: {reason} (at byte {self.position} of "
            f"{len(self.data)}). The file is damaged, cut short, or not a pickle."
        )

    # Arguments of operations

    def read_bytes(self, count: int) -> memoryview:
        """Read the next ``count`` bytes of the file."""
        start = self.position
        if count < 0 or count > len(self.data) - start:
            self.fail(f"{count} bytes are announced, and the file ends before")
        self.position = start + count
        return self.data[start : self.position]

    def read_number(self, form: str) -> int:
        """Read the next integer, given its format in :mod:`struct`."""
        return int(struct.unpack(form, self.read_bytes(struct.calcsize(form)))[0])

    def read_line(self) -> bytes:
        """Read up to the next newline; return the line without it."""
        start = self.position
        end = self._bytes.find(b"\n", start, start + _MAX_LINE)
        if end < 0:
            self.fail("a line has no end")
        self.position = end + 1
        return self._bytes[start:end]

    def decode_text(self, raw: bytes | memoryview, codec: str = "utf-8") -> str:
        """Decode bytes as text; lone surrogates are kept, as pickle keeps them."""
        try:
            return str(bytes(raw), codec, "surrogatepass" if codec == "utf-8" else "strict")
        except UnicodeDecodeError:
            self.fail(f"a text is not valid {codec}")

    # The stack

    def push(self, value: object) -> None:
        """Put a value on top of the stack."""
        self.stack.append(value)

    def pop(self) -> object:
        """Take the topmost value off the stack; fail at a mark."""
        if not self.stack or self.stack[-1] is MARK:
            self.fail("an operation finds no value on the stack")
        return self.stack.pop()

    def top(self) -> object:
        """Return the topmost value and leave it on the stack; fail at a mark."""
        if not self.stack or self.stack[-1] is MARK:
            self.fail("an operation finds no value on the stack")
        return self.stack[-1]

    def pop_to_mark(self) -> list[object]:
        """Take the last mark and all values above it off the stack; return the values in order."""
        stack = self.stack
        index = len(stack) - 1
        while index >= 0 and stack[index] is not MARK:
            index -= 1
        if index < 0:
            self.fail("an operation finds no mark on the stack")
        values = stack[index + 1 :]
        del stack[index:]
        return values

    # Containers

    def check_key(self, key: object) -> object:
        """Return a value that is about to be hashed, or fail if it must not be hashed."""
        reason = unhashable_reason(key)
        if reason is not None:
            self.fail(reason)
        return key

    def set_entries(self, target: object, items: list[object]) -> None:
        """Set entries of a dict, or of a placeholder for an object that derives from dict.

        Args:
            target: the dict or placeholder.
            items: keys and values in turn.
        """
        if len(items) % 2:
            self.fail("a key has no value")
        if isinstance(target, UnbuiltObject) and not isinstance(target.entries, dict):
            target.entries = {}
        entries = target.entries if isinstance(target, UnbuiltObject) else target
        if not isinstance(entries, dict):
            self.fail(f"entries are set in {kind_of(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[self.check_key(key)] = value
            if isinstance(key, tuple):
                self._tuple_keys += 1
                if self._tuple_keys > _MAX_TUPLE_KEYS:
                    self.fail(f"more than {_MAX_TUPLE_KEYS:,} tuples as keys")

    def append_items(self, target: object, items: list[object]) -> None:
        """Append items to a list, or to a placeholder for an object that derives from list."""
        if isinstance(target, UnbuiltObject) and not isinstance(target.items, list):
            target.items = []
        values = target.items if isinstance(target, UnbuiltObject) else target
        if not isinstance(values, list):
            self.fail(f"items are appended to {kind_of(target)}")
        values.extend(items)

    def add_items(self, target: object, items: list[object]) -> None:
        """Add items to a set, or to a placeholder for an object that derives from set."""
        if isinstance(target, UnbuiltObject):
            self.append_items(target, items)
            return
        if not isinstance(target, set):
            self.fail(f"items are added to {kind_of(target)}")
        for item in items:
            target.add(self.check_key(item))

    # Names, calls and states

    def count_object(self) -> None:
        """Count one more container or placeholder; fail beyond the limit.

        Such an object takes hundreds of bytes of memory and may take one byte of the file.
        """
        self._objects += 1
        if self._objects > _MAX_OBJECTS:
            self.fail(f"more than {_MAX_OBJECTS:,} containers and objects")

    def make_global(self, module: object, name: object) -> Global:
        """Return the placeholder for a class or function that the file names."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.fail("the name of a class or function is not a text")
        if len(module) + len(name) > _MAX_NAME:
            self.fail(f"the name of a class or function has more than {_MAX_NAME} characters")
        return Global(module, name)

    def call(self, function: object, args: object, kwargs: object = None) -> object:
        """Return the result of a call that the file asks for.

        Args:
            function: what the file calls.
            args: the positional arguments; a tuple in an honest file.
            kwargs: the named arguments; a dict in an honest file, or None.

        Returns:
            Plain data for a known call, else an UnbuiltObject; nothing of the file is called.
        """
        if not isinstance(args, tuple):
            self.fail(f"the arguments of a call are {kind_of(args)}, not a tuple")
        if kwargs is not None and not isinstance(kwargs, dict):
            self.fail(f"the named arguments of a call are {kind_of(kwargs)}, not a dict")
        if isinstance(function, Global) and not kwargs:
            known_call = self._known_calls.get((function.module, function.name))
            if known_call is not None:
                self._count_copies(args)
                try:
                    result = known_call(args)
                except FormatError as error:
                    self.fail(str(error))
                if result is not NotImplemented:
                    return result
        self.count_object()
        return UnbuiltObject(function, args, kwargs) if kwargs else UnbuiltObject(function, args)

    def _count_copies(self, args: tuple[object, ...]) -> None:
        """Count the bytes that a known call is about to copy; fail beyond the limit."""
        for arg in args:
            if isinstance(arg, _SIZED):
                each = 1 if isinstance(arg, (str, bytes, bytearray)) else _ITEM_BYTES
                self._copies_left -= each * len(arg)
        if self._copies_left < 0:
            self.fail("its calls copy the same data again and again")

    def build(self) -> None:
        """Carry out BUILD: take the state off the stack and set it on the value below.

        A placeholder keeps the state as its attribute; a :class:`PendingValue` is replaced by the
        value that it builds from the state.
        """
        state = self.pop()
        target = self.top()
        if isinstance(target, PendingValue):
            self._count_copies(state if isinstance(state, tuple) else ())
            try:
                self.stack[-1] = target.build(state)
            except FormatError as error:
                self.fail(str(error))
        elif isinstance(target, UnbuiltObject):
            target.state = state
        elif not isinstance(target, (dict, list, set)):
            # The state of a container is ignored: torch sets attributes of an OrderedDict, which
            # say nothing about the weights (``_metadata``, the versions of modules).
            self.fail(f"a state is set on {kind_of(target)}")

    def push_persistent(self, identity: object) -> None:
        """Push the value of a persistent id."""
        if self._persistent is None:
            self.count_object()
            self.push(UnbuiltObject("a persistent id", (identity,)))
            return
        try:
            self.push(self._persistent(identity))
        except FormatError as error:
            self.fail(str(error))

    # The memo

    def memoize(self, index: int) -> None:
        """Store the topmost value in the memo."""
        if index < 0:
            self.fail("an index of the memo is negative")
        self.memo[index] = self.top()

    def push_memoized(self, index: int) -> None:
        """Push a value of the memo."""
        if index not in self.memo:
            self.fail(f"entry {index} of the memo is read before it is stored")
        value = self.memo[index]
        if isinstance(value, PendingValue) and value.value is not None:
            value = value.value
        self.push(value)
