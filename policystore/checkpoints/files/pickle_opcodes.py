"""The operations of the pickle language, protocols 0 to 5; Python's ``pickletools`` says what each
means.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from policystore.checkpoints.files.pickle_machine import MARK, Machine

__all__ = ["MAX_OPERATIONS", "run"]

MAX_OPERATIONS = 5_000_000
_MAX_DIGITS = 4300  # of a decimal number: reading more takes time that grows with their square
_MAX_INT = 1 << 16  # bytes of a binary one


def run(machine: Machine) -> Any:
    """The value that stands at the end of a pickle.

    Raises:
        FormatError: a pickle that is damaged or beyond the bounds.
    """
    data, table = machine.data, _TABLE
    end, left = len(data), MAX_OPERATIONS
    while True:
        if machine.at >= end:
            machine.fail("it ends before its end mark")
        if not left:
            machine.fail(f"more than {MAX_OPERATIONS:,} operations")
        left -= 1
        code = data[machine.at]
        machine.at += 1
        if code == _STOP:
            return machine.pop()
        operation = table[code]
        if operation is None:
            machine.fail(f"0x{code:02x} is no operation that is read here")
        operation(machine)


_STOP = ord(".")
_TABLE: list[Callable[[Machine], None] | None] = [None] * 256


def _operation(code: bytes) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    def note(function: Callable[[Machine], None]) -> Callable[[Machine], None]:
        _TABLE[code[0]] = function
        return function

    return note


def _constant(code: bytes, value: Any) -> None:
    _TABLE[code[0]] = lambda m: m.push(value)


def _fresh(code: bytes, make: Callable[[], Any]) -> None:
    def operation(m: Machine) -> None:
        m.made()
        m.push(make())

    _TABLE[code[0]] = operation


_constant(b"N", None)
_constant(b"\x88", True)
_constant(b"\x89", False)
_constant(b")", ())
_constant(b"(", MARK)
_fresh(b"]", list)
_fresh(b"}", dict)
_fresh(b"\x8f", set)


def _numbers(code: bytes, form: str) -> None:
    _TABLE[code[0]] = lambda m: m.push(m.number(form))


_numbers(b"J", "<i")
_numbers(b"K", "<B")
_numbers(b"M", "<H")


@_operation(b"\x80")
def _proto(m: Machine) -> None:
    version = m.number("<B")
    if version > 5:
        m.fail(f"it is of protocol {version}; 0 to 5 are known")


@_operation(b"\x95")
def _frame(m: Machine) -> None:
    if m.number("<Q") > len(m.data) - m.at:
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
    line = m.line()
    m.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else _decimal(m, line))


@_operation(b"L")
def _long(m: Machine) -> None:
    line = m.line()
    m.push(_decimal(m, line.removesuffix(b"L")))


@_operation(b"F")
def _float(m: Machine) -> None:
    try:
        m.push(float(m.line()[:_MAX_DIGITS]))
    except ValueError:
        m.fail("a number that is none")


@_operation(b"G")
def _binfloat(m: Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


def _little(m: Machine, count: int) -> None:
    if count > _MAX_INT:
        m.fail("an integer of too many bytes")
    m.push(int.from_bytes(m.take(count), "little", signed=True))


_TABLE[0x8A] = lambda m: _little(m, m.number("<B"))
_TABLE[0x8B] = lambda m: _little(m, m.number("<i"))


def _lengths(codes: tuple[bytes, ...], push: Callable[[Machine, memoryview], None]) -> None:
    """Operations with the length of their argument before it, in one, four or eight bytes."""
    for code, form in zip(codes, ("<B", "<I", "<Q"), strict=False):
        _TABLE[code[0]] = lambda m, form=form: push(m, m.take(m.number(form)))  # type: ignore[misc]


_lengths((b"C", b"B", b"\x8e"), lambda m, raw: m.push(bytes(raw)))
_lengths((b"\x8c", b"X", b"\x8d"), lambda m, raw: m.push(m.text(raw)))
# A str of Python 2: bytes to those who want the bytes.
_lengths((b"U", b"T"), lambda m, raw: m.push(m.text(raw, "latin-1")))
_TABLE[0x96] = lambda m: m.push(bytearray(m.take(m.number("<Q"))))


@_operation(b"V")
def _unicode(m: Machine) -> None:
    m.push(m.text(m.line(), "raw-unicode-escape"))


@_operation(b"S")
def _string(m: Machine) -> None:
    line = m.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        m.fail("a text without quotes")
    m.push(m.text(line[1:-1], "unicode-escape"))


# Containers

_TABLE[ord("a")] = lambda m: (lambda item: m.append(m.top(), [item]))(m.pop())
_TABLE[ord("e")] = lambda m: (lambda items: m.append(m.top(), items))(m.to_mark())
_TABLE[ord("l")] = lambda m: m.push(m.to_mark())
_TABLE[ord("t")] = lambda m: m.push(tuple(m.to_mark()))
_TABLE[0x90] = lambda m: (lambda items: m.add(m.top(), items))(m.to_mark())


def _tuples(code: bytes, count: int) -> None:
    def operation(m: Machine) -> None:
        items = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(items)))

    _TABLE[code[0]] = operation


_tuples(b"\x85", 1)
_tuples(b"\x86", 2)
_tuples(b"\x87", 3)


@_operation(b"d")
def _dict(m: Machine) -> None:
    items = m.to_mark()
    m.push({})
    m.put_items(m.top(), items)


@_operation(b"s")
def _setitem(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.put_items(m.top(), [key, value])


@_operation(b"u")
def _setitems(m: Machine) -> None:
    items = m.to_mark()
    m.put_items(m.top(), items)


@_operation(b"\x91")
def _frozenset(m: Machine) -> None:
    m.push(frozenset(m.key(item) for item in m.to_mark()))


# The stack itself


@_operation(b"0")
def _pop(m: Machine) -> None:
    if not m.stack:
        m.fail("an operation has nothing to work on")
    m.stack.pop()


@_operation(b"1")
def _pop_mark(m: Machine) -> None:
    m.to_mark()


_TABLE[ord("2")] = lambda m: m.push(m.top())

# Memo

_TABLE[ord("q")] = lambda m: m.remember(m.number("<B"))
_TABLE[ord("r")] = lambda m: m.remember(m.number("<I"))
_TABLE[ord("p")] = lambda m: m.remember(_decimal(m, m.line()))
_TABLE[0x94] = lambda m: m.remember(len(m.memo))
_TABLE[ord("h")] = lambda m: m.recall(m.number("<B"))
_TABLE[ord("j")] = lambda m: m.recall(m.number("<I"))
_TABLE[ord("g")] = lambda m: m.recall(_decimal(m, m.line()))

# Names, objects and calls


@_operation(b"c")
def _global(m: Machine) -> None:
    module, name = m.text(m.line()), m.text(m.line())
    m.push(m.named(module, name))


@_operation(b"\x93")
def _stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    m.push(m.named(module, name))


@_operation(b"R")
def _reduce(m: Machine) -> None:
    args, function = m.pop(), m.pop()
    m.push(m.call(function, args))


@_operation(b"\x81")
def _newobj(m: Machine) -> None:
    args, cls = m.pop(), m.pop()
    m.push(m.call(cls, args))


@_operation(b"\x92")
def _newobj_ex(m: Machine) -> None:
    kwargs, args, cls = m.pop(), m.pop(), m.pop()
    m.push(m.call(cls, args, kwargs))


@_operation(b"o")
def _obj(m: Machine) -> None:
    items = m.to_mark()
    if not items:
        m.fail("an object of no class")
    m.push(m.call(items[0], tuple(items[1:])))


@_operation(b"i")
def _inst(m: Machine) -> None:
    module, name = m.text(m.line()), m.text(m.line())
    m.push(m.call(m.named(module, name), tuple(m.to_mark())))


_TABLE[ord("b")] = Machine.build
_TABLE[ord("P")] = lambda m: m.persist(m.text(m.line()))
_TABLE[ord("Q")] = lambda m: m.persist(m.pop())
