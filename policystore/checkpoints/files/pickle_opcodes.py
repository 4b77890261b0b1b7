"""The operations of the pickle language, protocols 0 to 5, by their codes.

The standard library's :mod:`pickletools` describes each operation; the comments here give its
names.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from policystore.checkpoints.files.pickle_machine import MARK, PickleMachine

__all__ = ["MAX_OPERATIONS", "run"]

MAX_OPERATIONS = 5_000_000
"""Operations of one pickle; a longer one is refused."""

_MAX_DIGITS = 4300  # of a decimal number: reading it takes time by the square of its length
_MAX_INT_BYTES = 1 << 16

_Operation: TypeAlias = Callable[[PickleMachine], None]


def run(machine: PickleMachine) -> object:
    """Carry out the operations of a pickle and return the value that it ends with.

    Raises:
        FormatError: the pickle is damaged or beyond the limits.
    """
    data, operations = machine.data, _OPERATIONS
    end, left = len(data), MAX_OPERATIONS
    while True:
        if machine.position >= end:
            machine.fail("it ends without a STOP operation")
        if not left:
            machine.fail(f"more than {MAX_OPERATIONS:,} operations")
        left -= 1
        code = data[machine.position]
        machine.position += 1
        if code == _STOP:
            return machine.pop()
        operation = operations[code]
        if operation is None:
            machine.fail(f"0x{code:02x} is not an operation that is supported here")
        operation(machine)


_STOP = ord(".")
_OPERATIONS: list[_Operation | None] = [None] * 256


def _operation(code: bytes) -> Callable[[_Operation], _Operation]:
    def register(function: _Operation) -> _Operation:
        _OPERATIONS[code[0]] = function
        return function

    return register


def _constant(code: bytes, value: object) -> None:
    _OPERATIONS[code[0]] = lambda m: m.push(value)


def _new_container(code: bytes, make: Callable[[], object]) -> None:
    def operation(m: PickleMachine) -> None:
        m.count_object()
        m.push(make())

    _OPERATIONS[code[0]] = operation


_constant(b"N", None)  # NONE
_constant(b"\x88", True)  # NEWTRUE
_constant(b"\x89", False)  # NEWFALSE
_constant(b")", ())  # EMPTY_TUPLE
_constant(b"(", MARK)  # MARK
_new_container(b"]", list)  # EMPTY_LIST
_new_container(b"}", dict)  # EMPTY_DICT
_new_container(b"\x8f", set)  # EMPTY_SET


# The head of the file, and frames


@_operation(b"\x80")
def _proto(m: PickleMachine) -> None:
    version = m.read_number("<B")
    if version > 5:
        m.fail(f"its protocol is {version}; 0 to 5 are supported")


@_operation(b"\x95")
def _frame(m: PickleMachine) -> None:
    if m.read_number("<Q") > len(m.data) - m.position:
        m.fail("a frame is longer than the rest of the file")


# Numbers


def _number(code: bytes, form: str) -> None:
    _OPERATIONS[code[0]] = lambda m: m.push(m.read_number(form))


_number(b"J", "<i")  # BININT
_number(b"K", "<B")  # BININT1
_number(b"M", "<H")  # BININT2


def _decimal(m: PickleMachine, line: bytes) -> int:
    if len(line) > _MAX_DIGITS:
        m.fail(f"an integer has more than {_MAX_DIGITS} digits")
    try:
        return int(line)
    except ValueError:
        m.fail("the text of an integer is not an integer")


@_operation(b"I")
def _int(m: PickleMachine) -> None:
    line = m.read_line()
    # Protocols 0 and 1 write booleans in this way.
    m.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _decimal(m, line))


@_operation(b"L")
def _long(m: PickleMachine) -> None:
    m.push(_decimal(m, m.read_line().removesuffix(b"L")))


@_operation(b"F")
def _float(m: PickleMachine) -> None:
    try:
        m.push(float(m.read_line()[:_MAX_DIGITS]))
    except ValueError:
        m.fail("the text of a float is not a number")


@_operation(b"G")
def _binfloat(m: PickleMachine) -> None:
    m.push(struct.unpack(">d", m.read_bytes(8))[0])


def _push_little_endian(m: PickleMachine, count: int) -> None:
    if count > _MAX_INT_BYTES:
        m.fail(f"an integer has more than {_MAX_INT_BYTES:,} bytes")
    m.push(int.from_bytes(m.read_bytes(count), "little", signed=True))


_OPERATIONS[0x8A] = lambda m: _push_little_endian(m, m.read_number("<B"))  # LONG1
_OPERATIONS[0x8B] = lambda m: _push_little_endian(m, m.read_number("<i"))  # LONG4


# Bytes and texts


def _prefixed(codes: tuple[bytes, ...], push: Callable[[PickleMachine, memoryview], None]) -> None:
    """Register operations whose argument has its length before it, in 1, 4 or 8 bytes."""
    for code, form in zip(codes, ("<B", "<I", "<Q"), strict=False):
        _OPERATIONS[code[0]] = _prefixed_operation(form, push)


def _prefixed_operation(form: str, push: Callable[[PickleMachine, memoryview], None]) -> _Operation:
    return lambda m: push(m, m.read_bytes(m.read_number(form)))


# SHORT_BINBYTES, BINBYTES, BINBYTES8
_prefixed((b"C", b"B", b"\x8e"), lambda m, raw: m.push(bytes(raw)))
# SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
_prefixed((b"\x8c", b"X", b"\x8d"), lambda m, raw: m.push(m.decode_text(raw)))
# SHORT_BINSTRING, BINSTRING: a str of Python 2. latin-1 keeps its bytes; numpy encodes them back.
_prefixed((b"U", b"T"), lambda m, raw: m.push(m.decode_text(raw, "latin-1")))


@_operation(b"\x96")
def _bytearray8(m: PickleMachine) -> None:
    m.push(bytearray(m.read_bytes(m.read_number("<Q"))))


@_operation(b"V")
def _unicode(m: PickleMachine) -> None:
    m.push(m.decode_text(m.read_line(), "raw-unicode-escape"))


@_operation(b"S")
def _string(m: PickleMachine) -> None:
    line = m.read_line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        m.fail("a text of protocol 0 has no quotes")
    m.push(m.decode_text(line[1:-1], "unicode-escape"))


# Containers


@_operation(b"a")
def _append(m: PickleMachine) -> None:
    item = m.pop()
    m.append_items(m.top(), [item])


@_operation(b"e")
def _appends(m: PickleMachine) -> None:
    items = m.pop_to_mark()
    m.append_items(m.top(), items)


@_operation(b"\x90")
def _additems(m: PickleMachine) -> None:
    items = m.pop_to_mark()
    m.add_items(m.top(), items)


@_operation(b"\x91")
def _frozenset(m: PickleMachine) -> None:
    m.push(frozenset(m.check_key(item) for item in m.pop_to_mark()))


_OPERATIONS[ord("l")] = lambda m: m.push(m.pop_to_mark())  # LIST
_OPERATIONS[ord("t")] = lambda m: m.push(tuple(m.pop_to_mark()))  # TUPLE


def _short_tuple(code: bytes, count: int) -> None:
    def operation(m: PickleMachine) -> None:
        items = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(items)))

    _OPERATIONS[code[0]] = operation


_short_tuple(b"\x85", 1)  # TUPLE1
_short_tuple(b"\x86", 2)  # TUPLE2
_short_tuple(b"\x87", 3)  # TUPLE3


@_operation(b"d")
def _dict(m: PickleMachine) -> None:
    items = m.pop_to_mark()
    m.push({})
    m.set_entries(m.top(), items)


@_operation(b"s")
def _setitem(m: PickleMachine) -> None:
    value, key = m.pop(), m.pop()
    m.set_entries(m.top(), [key, value])


@_operation(b"u")
def _setitems(m: PickleMachine) -> None:
    items = m.pop_to_mark()
    m.set_entries(m.top(), items)


# The stack and the memo


@_operation(b"0")
def _pop(m: PickleMachine) -> None:
    if not m.stack:  # this operation may also remove a mark
        m.fail("an operation finds no value on the stack")
    m.stack.pop()


@_operation(b"1")
def _pop_mark(m: PickleMachine) -> None:
    m.pop_to_mark()


_OPERATIONS[ord("2")] = lambda m: m.push(m.top())  # DUP
_OPERATIONS[ord("q")] = lambda m: m.memoize(m.read_number("<B"))  # BINPUT
_OPERATIONS[ord("r")] = lambda m: m.memoize(m.read_number("<I"))  # LONG_BINPUT
_OPERATIONS[ord("p")] = lambda m: m.memoize(_decimal(m, m.read_line()))  # PUT
_OPERATIONS[0x94] = lambda m: m.memoize(len(m.memo))  # MEMOIZE
_OPERATIONS[ord("h")] = lambda m: m.push_memoized(m.read_number("<B"))  # BINGET
_OPERATIONS[ord("j")] = lambda m: m.push_memoized(m.read_number("<I"))  # LONG_BINGET
_OPERATIONS[ord("g")] = lambda m: m.push_memoized(_decimal(m, m.read_line()))  # GET


# Names, objects and calls


@_operation(b"c")
def _global(m: PickleMachine) -> None:
    module, name = m.decode_text(m.read_line()), m.decode_text(m.read_line())
    m.push(m.make_global(module, name))


@_operation(b"\x93")
def _stack_global(m: PickleMachine) -> None:
    name, module = m.pop(), m.pop()
    m.push(m.make_global(module, name))


@_operation(b"R")
def _reduce(m: PickleMachine) -> None:
    args, function = m.pop(), m.pop()
    m.push(m.call(function, args))


@_operation(b"\x81")
def _newobj(m: PickleMachine) -> None:
    args, cls = m.pop(), m.pop()
    m.push(m.call(cls, args))


@_operation(b"\x92")
def _newobj_ex(m: PickleMachine) -> None:
    kwargs, args, cls = m.pop(), m.pop(), m.pop()
    m.push(m.call(cls, args, kwargs))


@_operation(b"o")
def _obj(m: PickleMachine) -> None:
    items = m.pop_to_mark()
    if not items:
        m.fail("an object has no class")
    m.push(m.call(items[0], tuple(items[1:])))


@_operation(b"i")
def _inst(m: PickleMachine) -> None:
    module, name = m.decode_text(m.read_line()), m.decode_text(m.read_line())
    m.push(m.call(m.make_global(module, name), tuple(m.pop_to_mark())))


_OPERATIONS[ord("b")] = PickleMachine.build  # BUILD
_OPERATIONS[ord("P")] = lambda m: m.push_persistent(m.decode_text(m.read_line()))  # PERSID
_OPERATIONS[ord("Q")] = lambda m: m.push_persistent(m.pop())  # BINPERSID
