"""The machine that runs pickles as data: it imports and calls nothing.

Python's own unpicklers, given a table of allowed names, still call those with
arguments of the file's choosing, take memory for counts that the file merely states, and hash and
compare what it nests. Here every name is a :class:`~policystore.checkpoints.files.placeholders.Global`,
every call an :class:`~policystore.checkpoints.files.placeholders.Object`, except for a closed table of
calls whose meaning is plain data (:mod:`policystore.checkpoints.files.pickle_reader`).

Time and memory are bounded by the length of the file: an operation makes at most one value, whose
bytes stand in the file, and only scalars, names and short flat tuples of them are hashed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from policystore.checkpoints.files.placeholders import (
    Calls,
    Global,
    PendingValue,
    UnbuiltObject,
    kind_of,
    why_no_key,
)
from policystore.errors import FormatError

__all__ = ["MARK", "Machine"]

_MAX_LINE = 1 << 20  # bytes of a text argument of protocol 0
_MAX_NAME = 1024
_MADE = 500_000
_TUPLES = 10_000  # as keys: those of one hash can be made, and take time by their square
_COPIES = 8  # times the file that calls may copy
_ITEM = 16  # what an item of a list counts for
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


class _Mark:
    __slots__ = ()


MARK = _Mark()


class Machine:
    """Runs one pickle.

    Args:
        data: the file.
        what: how messages name it.
        calls: whose meaning is data.
        persistent: what a persistent id stands for; None: for a stand-in.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        what: str,
        calls: Calls,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._bytes = data if isinstance(data, bytes) else bytes(data)
        self.data = memoryview(self._bytes)
        self._what = what
        self._calls = calls
        self._persistent = persistent
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        # Calls may copy what they are given, and a file can give one thing to many.
        self._to_copy = _COPIES * len(self._bytes) + _MAX_LINE
        self._tuples = self._made = 0

    def fail(self, why: str) -> NoReturn:
        """Raise FormatError, with the place."""
        raise FormatError(
            f"{self._what} is not a pickle that can be read: {why} (at byte {self.at} of "
            f"{len(self.data)}). It is damaged, cut short, or no pickle at all."
        )

    # Arguments

    def take(self, count: int) -> memoryview:
        """The next bytes of the file."""
        start = self.at
        if count < 0 or count > len(self.data) - start:
            self.fail(f"{count} bytes belong here and the file ends before")
        self.at = start + count
        return self.data[start : self.at]

    def number(self, form: str) -> int:
        """The next number of a struct format."""
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def line(self) -> bytes:
        """The next line, without its end."""
        start = self.at
        found = self._bytes.find(b"\n", start, start + _MAX_LINE)
        if found < 0:
            self.fail("a line without end")
        self.at = found + 1
        return self._bytes[start:found]

    def text(self, raw: bytes | memoryview, codec: str = "utf-8") -> str:
        """Bytes as text."""
        try:
            return str(bytes(raw), codec, "surrogatepass" if codec == "utf-8" else "strict")
        except UnicodeDecodeError:
            self.fail("a text that is none")

    # The stack

    def pop(self) -> Any:
        """Take the topmost value."""
        if not self.stack or self.stack[-1] is MARK:
            self.fail("an operation has nothing to work on")
        return self.stack.pop()

    def top(self) -> Any:
        """The topmost value, which stays."""
        if not self.stack or self.stack[-1] is MARK:
            self.fail("an operation has nothing to work on")
        return self.stack[-1]

    def to_mark(self) -> list[Any]:
        """Take all values down to the last mark, and the mark."""
        stack = self.stack
        index = len(stack) - 1
        while index >= 0 and stack[index] is not MARK:
            index -= 1
        if index < 0:
            self.fail("an operation has no mark to go back to")
        found = stack[index + 1 :]
        del stack[index:]
        return found

    def push(self, value: Any) -> None:
        """Put a value on top."""
        self.stack.append(value)

    # What may be hashed

    def key(self, key: Any) -> Any:
        """A value that is about to be hashed, if it may be."""
        unfit = why_no_key(key)
        if unfit is not None:
            self.fail(unfit)
        return key

    def put_items(self, into: Any, items: list[Any]) -> None:
        """Put keys and values, one after the other, into a dict or what stands for one."""
        if len(items) % 2:
            self.fail("a key without a value")
        if isinstance(into, UnbuiltObject) and not isinstance(into.entries, dict):
            into.entries = {}
        target = into.entries if isinstance(into, UnbuiltObject) else into
        if not isinstance(target, dict):
            self.fail(f"entries are put into {kind_of(into)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value
            if isinstance(key, tuple):
                self._tuples += 1
                if self._tuples > _TUPLES:
                    self.fail(f"more than {_TUPLES:,} tuples as keys")

    def append(self, into: Any, items: list[Any]) -> None:
        """Append items to a list or what stands for one."""
        if isinstance(into, UnbuiltObject) and not isinstance(into.items, list):
            into.items = []
        target = into.items if isinstance(into, UnbuiltObject) else into
        if not isinstance(target, list):
            self.fail(f"items are appended to {kind_of(into)}")
        target.extend(items)

    def add(self, into: Any, items: list[Any]) -> None:
        """Add items to a set or what stands for one."""
        if isinstance(into, UnbuiltObject):
            self.append(into, items)
            return
        if not isinstance(into, set):
            self.fail(f"items are added to {kind_of(into)}")
        for item in items:
            into.add(self.key(item))

    # Calls

    def call(self, function: Any, args: Any, kwargs: Any = None) -> Any:
        """What a call gives: data where its meaning is known, else a stand-in."""
        if not isinstance(args, tuple):
            self.fail(f"{kind_of(args)} as the arguments of a call")
        if kwargs is not None and not isinstance(kwargs, dict):
            self.fail(f"{kind_of(kwargs)} as the named arguments of a call")
        if isinstance(function, Global) and not kwargs:
            meaning = self._calls.get((function.module, function.name))
            if meaning is not None:
                self._charge(args)
                try:
                    found = meaning(args)
                except FormatError as error:
                    self.fail(str(error))
                if found is not NotImplemented:
                    return found
        self.made()
        return UnbuiltObject(function, args, kwargs) if kwargs else UnbuiltObject(function, args)

    def _charge(self, args: tuple[Any, ...]) -> None:
        """Count what is about to be copied; an item of a container takes more than its byte."""
        for arg in args:
            if isinstance(arg, _SIZED):
                each = 1 if isinstance(arg, (str, bytes, bytearray)) else _ITEM
                self._to_copy -= each * len(arg)
        if self._to_copy < 0:
            self.fail("it copies the same data again and again")

    def build(self) -> None:
        """Give the value below the topmost one that as its state."""
        state = self.pop()
        target = self.top()
        if isinstance(target, PendingValue):
            self._charge(state if isinstance(state, tuple) else ())
            try:
                self.stack[-1] = target.built(state)
            except FormatError as error:
                self.fail(str(error))
        elif isinstance(target, UnbuiltObject):
            target.state = state
        elif not isinstance(target, (dict, list, set)):
            # Of those, attributes beside their contents say nothing here: torch notes versions so.
            self.fail(f"{kind_of(target)} is given a state")

    # Memo

    def remember(self, index: int) -> None:
        """Note the topmost value in the memo."""
        if index < 0:
            self.fail("a negative place to remember at")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Put a value of the memo on top."""
        if index not in self.memo:
            self.fail(f"place {index} is recalled and nothing was put there")
        found = self.memo[index]
        if isinstance(found, PendingValue) and found.value is not None:
            found = found.value
        self.push(found)

    # Names

    def made(self) -> None:
        """Count a container or stand-in: hundreds of bytes for one of the file."""
        self._made += 1
        if self._made > _MADE:
            self.fail(f"more than {_MADE:,} containers and objects")

    def named(self, module: Any, name: Any) -> Global:
        """A class or function by name."""
        if not isinstance(module, str) or not isinstance(name, str):
            self.fail("a name that is no text")
        if len(module) + len(name) > _MAX_NAME:
            self.fail("a name that is longer than any")
        return Global(module, name)

    def persist(self, identity: Any) -> None:
        """Put what a persistent id stands for on top."""
        if self._persistent is None:
            self.made()
            self.push(UnbuiltObject("a persistent id", (identity,)))
            return
        try:
            self.push(self._persistent(identity))
        except FormatError as error:
            self.fail(str(error))
