"""Give a block of code random numbers of its own, so that those of other threads stay as they are.

Torch has one generator of random numbers for all threads of a process. Code that copies the
generator's state and puts it back later (``torch.random.fork_rng``) takes other threads back, too:
they draw again the numbers that they drew meanwhile.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
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
    mode = _OwnNumbers()
    _push_mode(mode)  # "with mode:" would also set a mark for the whole process
    try:
        yield
    finally:
        _pop_mode(None)


@contextmanager
def without_own_random_numbers() -> Iterator[None]:
    """Leave :func:`own_random_numbers` for a ``with`` block inside of it that draws no numbers.

    Own numbers make each operation of torch slower. Outside of ``own_random_numbers``, or inside
    of another mode, nothing changes.
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


class _OwnNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees each operation of the thread in which it is active; a mode is not active inside itself.

    The generator begins as a copy of torch's own.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator()
        self._copy_global()

    def _copy_global(self) -> None:
        state = torch.get_rng_state()
        self._seen = _bytes_of(state)
        self._seed = torch.initial_seed()
        self._generator.set_state(state)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given: dict[str, Any] = kwargs or {}
        if not _draws(func):
            return func(*args, **given)
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
    """Return the bytes of a state without an operation of torch, which other modes would see."""
    return ctypes.string_at(state.data_ptr(), state.numel())


@cache
def _draws(func: Any) -> bool:
    """Return whether an operation draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


def _taking_generator(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Return the form of a drawing operation that takes ``generator=``.

    Returns:
        None if the operation was given a generator, or is not for the CPU, or has no such form.
    """
    device = given.get("device")
    if device is None:
        tensors = (each for each in (*args, given.get("out")) if isinstance(each, torch.Tensor))
        device = next((tensor.device for tensor in tensors), _CPU)
    if torch.device(device) != _CPU or given.get("generator") is not None:
        return None
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func if names.index("generator") >= len(args) else None
    # rand.default has the form rand.generator, randint.low the form randint.low_generator, ….
    forms = func.overloadpacket
    return forms if any("generator" in name for name in forms.overloads()) else None
