"""Runs pickles as data: imports and calls nothing.

A machine of our own for the pickle language (protocols 0 to 5; its reference is Python's
``pickletools``). Python's own unpicklers, given a table of allowed names, still call those with
arguments of the file's choosing, take memory for counts that the file merely states, and hash and
compare what it nests. Here every name is a :class:`~policystore.checkpoints.stand_ins.Global`,
every call an :class:`~policystore.checkpoints.stand_ins.Object`, except for a closed table of
calls whose meaning is plain data (:mod:`policystore.checkpoints.pickles`).

Time and memory are bounded by the length of the file: an operation makes at most one value, whose
bytes stand in the file, there are at most :data:`MAX_OPERATIONS`, and only scalars, names and
short flat tuples of them are hashed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn

from policystore.checkpoints.stand_ins import Calls, Global, Object, Shell, bare
from policystore.errors import FormatError

__all__ = ["MAX_OPERATIONS", "Machine"]

MAX_OPERATIONS = 5_000_000
_MAX_LINE = 1 << 20  # bytes of a text argument of protocol 0
_MAX_DIGITS = 4300  # of a decimal number: reading more takes time that grows with their square
_MAX_INT = 1 << 16  # bytes of a binary one
_KEY_BITS = 60  # integers beyond can be chosen so that all have one hash
_MAX_KEY = 16  # items of a tuple that is a key
_COPIES = 8  # times the file that calls may copy
_SIZED = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


class _Mark:
    __slots__ = ()


_MARK = _Mark()


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
        self._data = memoryview(self._bytes)
        self._what = what
        self._calls = calls
        self._persistent = persistent
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        # Calls may copy what they are given, and a file can give one thing to many.
        self._to_copy = _COPIES * len(self._bytes) + _MAX_LINE

    def fail(self, why: str) -> NoReturn:
        """Raise FormatError, with the place."""
        raise FormatError(
            f"{self._what} is not a pickle that can be read: {why} (at byte {self._at} of "
            f"{len(self._data)}). It is damaged, cut short, or no pickle at all."
        )

    def run(self) -> Any:
        """The value that stands at the end.

        Raises:
            FormatError: a pickle that is damaged or beyond the bounds.
        """
        data, table = self._data, _TABLE
        end = len(data)
        for _ in range(MAX_OPERATIONS):
            if self._at >= end:
                self.fail("it ends before its end mark")
            code = data[self._at]
            self._at += 1
            if code == _STOP:
                return self._pop()
            operation = table[code]
            if operation is None:
                self.fail(f"0x{code:02x} is no operation that is read here")
            operation(self)
        self.fail(f"more than {MAX_OPERATIONS:,} operations")

    # Arguments

    def _take(self, count: int) -> memoryview:
        start = self._at
        if count < 0 or count > len(self._data) - start:
            self.fail(f"{count} bytes belong here and the file ends before")
        self._at = start + count
        return self._data[start : self._at]

    def _number(self, form: str) -> int:
        return int(struct.unpack(form, self._take(struct.calcsize(form)))[0])

    def _line(self) -> bytes:
        start = self._at
        found = self._bytes.find(b"\n", start, start + _MAX_LINE)
        if found < 0:
            self.fail("a line without end")
        self._at = found + 1
        return self._bytes[start:found]

    def _text(self, raw: bytes | memoryview, codec: str = "utf-8") -> str:
        try:
            return str(bytes(raw), codec, "surrogatepass" if codec == "utf-8" else "strict")
        except UnicodeDecodeError:
            self.fail("a text that is none")

    # The stack

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self.fail("an operation has nothing to work on")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            self.fail("an operation has nothing to work on")
        return self._stack[-1]

    def _to_mark(self) -> list[Any]:
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                found = stack[index + 1 :]
                del stack[index:]
                return found
        self.fail("an operation has no mark to go back to")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    # What may be hashed

    def _key(self, key: Any) -> Any:
        if isinstance(key, tuple):
            if len(key) > _MAX_KEY or any(isinstance(item, tuple) for item in key):
                self.fail("a nested or long tuple as a key")
            for item in key:
                self._key(item)
        elif type(key) is int:
            if key.bit_length() > _KEY_BITS:
                self.fail("an integer of more than 60 bits as a key")
        elif key is not None and not isinstance(key, (str, bytes, bool, float, Global, Object)):
            self.fail(f"{bare(key)} as a key")
        return key

    def _put_items(self, into: Any, items: list[Any]) -> None:
        if len(items) % 2:
            self.fail("a key without a value")
        target = into.entries if isinstance(into, Object) else into
        if not isinstance(target, dict):
            self.fail(f"entries are put into {bare(into)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self._key(key)] = value

    def _append(self, into: Any, items: list[Any]) -> None:
        target = into.items if isinstance(into, Object) else into
        if not isinstance(target, list):
            self.fail(f"items are appended to {bare(into)}")
        target.extend(items)

    def _add(self, into: Any, items: list[Any]) -> None:
        if isinstance(into, Object):
            into.items.extend(items)
            return
        if not isinstance(into, set):
            self.fail(f"items are added to {bare(into)}")
        for item in items:
            into.add(self._key(item))

    # Calls

    def _call(self, function: Any, args: Any, kwargs: Any = None) -> Any:
        if not isinstance(args, tuple):
            self.fail(f"{bare(args)} as the arguments of a call")
        if kwargs is not None and not isinstance(kwargs, dict):
            self.fail(f"{bare(kwargs)} as the named arguments of a call")
        if isinstance(function, Global) and not kwargs:
            meaning = self._calls.get((function.module, function.name))
            if meaning is not None:
                self._to_copy -= sum(len(arg) for arg in args if isinstance(arg, _SIZED))
                if self._to_copy < 0:
                    self.fail("it copies the same data again and again")
                try:
                    found = meaning(args)
                except FormatError as error:
                    self.fail(str(error))
                if found is not NotImplemented:
                    return found
        return Object(function, args, kwargs or {})

    def _build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Shell):
            try:
                self._stack[-1] = target.built(state)
            except FormatError as error:
                self.fail(str(error))
        elif isinstance(target, Object):
            target.state = state
        elif not isinstance(target, (dict, list, set)):
            # Of those, attributes beside their contents say nothing here: torch notes versions so.
            self.fail(f"{bare(target)} is given a state")

    # Memo

    def _remember(self, index: int) -> None:
        if index < 0:
            self.fail("a negative place to remember at")
        self._memo[index] = self._top()

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            self.fail(f"place {index} is recalled and nothing was put there")
        found = self._memo[index]
        if isinstance(found, Shell) and found.value is not None:
            found = found.value
        self._push(found)

    # Names

    def _global(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            self.fail("a name that is no text")
        if len(module) + len(name) > _MAX_KEY * 64:
            self.fail("a name that is longer than any")
        return Global(module, name)

    def _persist(self, identity: Any) -> None:
        if self._persistent is None:
            self._push(Object("a persistent id", (identity,)))
            return
        try:
            self._push(self._persistent(identity))
        except FormatError as error:
            self.fail(str(error))


# The operations, by the names of Python's pickletools.

_STOP = ord(".")
_TABLE: list[Callable[[Machine], None] | None] = [None] * 256


def _operation(code: bytes) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    def note(function: Callable[[Machine], None]) -> Callable[[Machine], None]:
        _TABLE[code[0]] = function
        return function

    return note


def _constant(code: bytes, value: Any) -> None:
    _TABLE[code[0]] = lambda m: m._push(value)


def _fresh(code: bytes, make: Callable[[], Any]) -> None:
    _TABLE[code[0]] = lambda m: m._push(make())


_constant(b"N", None)
_constant(b"\x88", True)
_constant(b"\x89", False)
_constant(b")", ())
_constant(b"(", _MARK)
_fresh(b"]", list)
_fresh(b"}", dict)
_fresh(b"\x8f", set)


def _numbers(code: bytes, form: str) -> None:
    _TABLE[code[0]] = lambda m: m._push(m._number(form))


_numbers(b"J", "<i")
_numbers(b"K", "<B")
_numbers(b"M", "<H")


@_operation(b"\x80")
def _proto(m: Machine) -> None:
    version = m._number("<B")
    if version > 5:
        m.fail(f"it is of protocol {version}; 0 to 5 are known")


@_operation(b"\x95")
def _frame(m: Machine) -> None:
    if m._number("<Q") > len(m._data) - m._at:
        m.fail("a frame is longer than the file")


def _decimal(m: Machine, line: bytes) -> int:
    if len(line) > _MAX_DIGITS:
        m.fail("a number of too many digits")
    try:
        return int(line)
    except ValueError:
        m.fail("a number that is none")


@_operation(b"I")
def _int(m: Machine) -> None:
    line = m._line()
    m._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _decimal(m, line))


@_operation(b"L")
def _long(m: Machine) -> None:
    line = m._line()
    m._push(_decimal(m, line.removesuffix(b"L")))


@_operation(b"F")
def _float(m: Machine) -> None:
    try:
        m._push(float(m._line()[:_MAX_DIGITS]))
    except ValueError:
        m.fail("a number that is none")


@_operation(b"G")
def _binfloat(m: Machine) -> None:
    m._push(struct.unpack(">d", m._take(8))[0])


def _little(m: Machine, count: int) -> None:
    if count > _MAX_INT:
        m.fail("an integer of too many bytes")
    m._push(int.from_bytes(m._take(count), "little", signed=True))


_TABLE[0x8A] = lambda m: _little(m, m._number("<B"))
_TABLE[0x8B] = lambda m: _little(m, m._number("<i"))


def _lengths(codes: tuple[bytes, ...], push: Callable[[Machine, memoryview], None]) -> None:
    """Operations with the length of their argument before it, in one, four or eight bytes."""
    for code, form in zip(codes, ("<B", "<I", "<Q"), strict=False):
        _TABLE[code[0]] = lambda m, form=form: push(m, m._take(m._number(form)))  # type: ignore[misc]


_lengths((b"C", b"B", b"\x8e"), lambda m, raw: m._push(bytes(raw)))
_lengths((b"\x8c", b"X", b"\x8d"), lambda m, raw: m._push(m._text(raw)))
# A str of Python 2: bytes to those who want the bytes.
_lengths((b"U", b"T"), lambda m, raw: m._push(m._text(raw, "latin-1")))
_TABLE[0x96] = lambda m: m._push(bytearray(m._take(m._number("<Q"))))


@_operation(b"V")
def _unicode(m: Machine) -> None:
    m._push(m._text(m._line(), "raw-unicode-escape"))


@_operation(b"S")
def _string(m: Machine) -> None:
    line = m._line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        m.fail("a text without quotes")
    m._push(m._text(line[1:-1], "unicode-escape"))


# Containers

_TABLE[ord("a")] = lambda m: (lambda item: m._append(m._top(), [item]))(m._pop())
_TABLE[ord("e")] = lambda m: (lambda items: m._append(m._top(), items))(m._to_mark())
_TABLE[ord("l")] = lambda m: m._push(m._to_mark())
_TABLE[ord("t")] = lambda m: m._push(tuple(m._to_mark()))
_TABLE[0x90] = lambda m: (lambda items: m._add(m._top(), items))(m._to_mark())


def _tuples(code: bytes, count: int) -> None:
    def operation(m: Machine) -> None:
        items = [m._pop() for _ in range(count)]
        m._push(tuple(reversed(items)))

    _TABLE[code[0]] = operation


_tuples(b"\x85", 1)
_tuples(b"\x86", 2)
_tuples(b"\x87", 3)


@_operation(b"d")
def _dict(m: Machine) -> None:
    items = m._to_mark()
    m._push({})
    m._put_items(m._top(), items)


@_operation(b"s")
def _setitem(m: Machine) -> None:
    value, key = m._pop(), m._pop()
    m._put_items(m._top(), [key, value])


@_operation(b"u")
def _setitems(m: Machine) -> None:
    items = m._to_mark()
    m._put_items(m._top(), items)


@_operation(b"\x91")
def _frozenset(m: Machine) -> None:
    m._push(frozenset(m._key(item) for item in m._to_mark()))


# The stack itself


@_operation(b"0")
def _pop(m: Machine) -> None:
    if not m._stack:
        m.fail("an operation has nothing to work on")
    m._stack.pop()


_TABLE[ord("1")] = lambda m: m._to_mark() and None
_TABLE[ord("2")] = lambda m: m._push(m._top())

# Memo

_TABLE[ord("q")] = lambda m: m._remember(m._number("<B"))
_TABLE[ord("r")] = lambda m: m._remember(m._number("<I"))
_TABLE[ord("p")] = lambda m: m._remember(_decimal(m, m._line()))
_TABLE[0x94] = lambda m: m._remember(len(m._memo))
_TABLE[ord("h")] = lambda m: m._recall(m._number("<B"))
_TABLE[ord("j")] = lambda m: m._recall(m._number("<I"))
_TABLE[ord("g")] = lambda m: m._recall(_decimal(m, m._line()))

# Names, objects and calls


@_operation(b"c")
def _global(m: Machine) -> None:
    module, name = m._text(m._line()), m._text(m._line())
    m._push(m._global(module, name))


@_operation(b"\x93")
def _stack_global(m: Machine) -> None:
    name, module = m._pop(), m._pop()
    m._push(m._global(module, name))


@_operation(b"R")
def _reduce(m: Machine) -> None:
    args, function = m._pop(), m._pop()
    m._push(m._call(function, args))


@_operation(b"\x81")
def _newobj(m: Machine) -> None:
    args, cls = m._pop(), m._pop()
    m._push(m._call(cls, args))


@_operation(b"\x92")
def _newobj_ex(m: Machine) -> None:
    kwargs, args, cls = m._pop(), m._pop(), m._pop()
    m._push(m._call(cls, args, kwargs))


@_operation(b"o")
def _obj(m: Machine) -> None:
    items = m._to_mark()
    if not items:
        m.fail("an object of no class")
    m._push(m._call(items[0], tuple(items[1:])))


@_operation(b"i")
def _inst(m: Machine) -> None:
    module, name = m._text(m._line()), m._text(m._line())
    m._push(m._call(m._global(module, name), tuple(m._to_mark())))


_TABLE[ord("b")] = Machine._build
_TABLE[ord("P")] = lambda m: m._persist(m._text(m._line()))
_TABLE[ord("Q")] = lambda m: m._persist(m._pop())
