"""Give a block of code random numbers of its own, so that those of other threads stay as they are.

Torch has one generator of random numbers for all threads of a process. Code that copies the
generator's state and puts it back later (``torch.random.fork_rng``) takes other threads back, too:
they draw again the numbers that they drew meanwhile.

So each operation that draws is called with another generator. Torch chooses the code of an
operation by keys, and each thread may add a key to its own. One key of torch belongs to nobody, and
is for tests of torch. Here the operations that draw get code for this key; for all other
operations, torch skips the key, and they take as long as without it. A mode of torch
(``TorchDispatchMode``) would see each operation, and makes each one about ten times slower. A mode
is used only where the key cannot be.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _get_current_dispatch_mode,
    _pop_mode,
    _push_mode,
)

__all__ = ["own_random_numbers", "without_own_random_numbers"]

_CPU = torch.device("cpu")
_KEY_NAME = "TESTING_ONLY_GenericMode"
_C: Any = torch._C  # its private functions have no types
_LIBRARY: Any = torch.library.Library  # nor have the methods of this class

_OWN = threading.local()  # numbers: those of the block that this thread is in
_LIBRARIES: list[Any] = []  # torch forgets the code of a library that is freed


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Draw torch's random numbers on the CPU from a generator of this ``with`` block alone.

    Inside, the calling thread draws the numbers that torch's own generator would give now. Torch's
    own generator is neither advanced nor set back, whatever other threads do. Outside of this are:
    other devices than the CPU, threads that the block starts, calls with ``generator=``, the few
    operations that take no generator (such as ``torch.native_dropout``), and the generators of
    numpy and Python.

    A block that seeds torch (``torch.manual_seed``) seeds torch's own generator for the whole
    process, and then draws the numbers of that seed.
    """
    numbers = _Numbers()
    if _KEY is None:
        _push_mode(_OwnNumbers(numbers))  # "with mode:" would also set a mark for the whole process
        try:
            yield
        finally:
            _pop_mode(None)
        return
    outer = getattr(_OWN, "numbers", None)
    _OWN.numbers = numbers
    try:
        with _key_included(True):
            yield
    finally:
        _OWN.numbers = outer


@contextmanager
def without_own_random_numbers() -> Iterator[None]:
    """Leave :func:`own_random_numbers` for a ``with`` block inside of it that draws no numbers.

    Where a mode is used, own numbers make each operation of torch slower. Outside of
    ``own_random_numbers``, or inside of another mode, nothing changes.
    """
    mode = _get_current_dispatch_mode()
    if not isinstance(mode, _OwnNumbers):
        yield
        return
    _pop_mode(None)
    try:
        yield
    finally:
        _push_mode(mode)


class _Numbers:
    """Random numbers from a generator that begins as a copy of torch's own."""

    def __init__(self) -> None:
        self._generator = torch.Generator()
        self._copy_global()

    def _copy_global(self) -> None:
        state = torch.get_rng_state()
        self._seen = _bytes_of(state)
        self._seed = torch.initial_seed()
        self._generator.set_state(state)

    def call(self, func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        """Call an operation that has a form with ``generator=``, so that it draws from this one."""
        drawing = _taking_generator(func, args, given)
        if drawing is None:
            return func(*args, **given)
        if self._was_seeded():
            drawn = func(*args, **given)
            self._copy_global()  # it is no longer as after a seed, so that the next seed is noticed
            return drawn
        return drawing(*args, **{**given, "generator": self._generator})

    def _was_seeded(self) -> bool:
        """Return whether torch's own generator was seeded since the last draw."""
        state = _bytes_of(torch.get_rng_state())
        if state == self._seen:
            return False
        self._seen = state
        seed = torch.initial_seed()
        return seed != self._seed or state == _bytes_of(
            torch.Generator().manual_seed(seed).get_state()
        )


def _bytes_of(state: torch.Tensor) -> bytes:
    """Return the bytes of a state without an operation of torch, which a mode would see."""
    return ctypes.string_at(state.data_ptr(), state.numel())


class _OwnNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation of the thread in which it is active; a mode is not active inside itself.

    Args:
        numbers: what operations draw.
    """

    supports_higher_order_operators = True

    def __init__(self, numbers: _Numbers) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._numbers = numbers

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if _generator_place(func) is not None:
            return self._numbers.call(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


@contextmanager
def _key_included(wanted: bool) -> Iterator[None]:
    """Add the key to those of this thread for a ``with`` block, or take it away."""
    before = _C._dispatch_tls_is_dispatch_key_included(_KEY)
    _C._dispatch_tls_set_dispatch_key_included(_KEY, wanted)
    try:
        yield
    finally:
        _C._dispatch_tls_set_dispatch_key_included(_KEY, before)


def _code_for(func: Any) -> Callable[..., Any]:
    """Return the code that an operation that draws has for the key."""

    def call(*args: Any, **given: Any) -> Any:
        # Torch gives the keys of a thread to the threads that compute for it; they have no numbers.
        numbers: _Numbers | None = getattr(_OWN, "numbers", None)
        with _key_included(False):
            return func(*args, **given) if numbers is None else numbers.call(func, args, given)

    return call


def _intercept() -> Any:
    """Give the operations that draw their code for the key.

    Returns:
        The key. None if torch is too old for it, or if another package uses the key.
    """
    if not hasattr(_LIBRARY, "fallback"):
        return None  # an older torch
    others, drawing = _LIBRARY("_", "IMPL"), _LIBRARY("aten", "IMPL")
    try:
        others.fallback(torch.library.fallthrough_kernel, _KEY_NAME)
    except RuntimeError:
        return None  # another package uses the key
    for name in _C._dispatch_get_all_op_names():
        space, _, full = name.partition("::")
        packet, _, overload = full.partition(".")
        found = space == "aten" and _C._get_operation_overload(f"aten::{packet}", overload)
        if found and torch.Tag.nondeterministic_seeded in found[2]:
            func = getattr(getattr(torch.ops.aten, packet), overload or "default")
            # Others, such as dropout, call operations that take a generator.
            if _generator_place(func) is not None:
                drawing.impl(full, _code_for(func), _KEY_NAME)
    _LIBRARIES.extend([others, drawing])
    return _C._dispatch_key_parse(_KEY_NAME)


@cache
def _generator_place(func: Any) -> int | None:
    """Return the place of ``generator`` among the arguments of an operation that draws numbers.

    Returns:
        Negative if another form of the operation takes ``generator=``. None if no form does, or if
        the operation draws no numbers.
    """
    if torch.Tag.nondeterministic_seeded not in getattr(func, "tags", ()):
        return None
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return names.index("generator")
    # rand.default has the form rand.generator, randint.low the form randint.low_generator, ….
    return -1 if any("generator" in form for form in func.overloadpacket.overloads()) else None


def _taking_generator(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Return the form of a drawing operation that takes ``generator=``.

    Args:
        func: an operation that has such a form.
        args, given: its arguments.

    Returns:
        None if the operation was given a generator, or is not for the CPU.
    """
    device = given.get("device")
    if device is None:
        tensors = (each for each in (*args, given.get("out")) if isinstance(each, torch.Tensor))
        device = next((tensor.device for tensor in tensors), _CPU)
    if torch.device(device) != _CPU or given.get("generator") is not None:
        return None
    place = _generator_place(func)
    if place is None or place < 0:
        return func.overloadpacket
    return func if place >= len(args) else None


_KEY = _intercept()
