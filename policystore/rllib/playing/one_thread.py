"""Let torch compute on one thread during a call, for the calling thread alone.

torch divides an operation among threads, which costs a small network more than it gains: on a
busy machine a call may wait for hundreds of milliseconds until the other threads get their turn.
``torch.set_num_threads`` sets the number for the calling thread, and also the number that threads
begin with which first use torch later. A thread that begins during a call would keep the number. So
the number is set by the functions of OpenMP and MKL that torch uses itself, which act on the
calling thread alone.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["MOST_OPERATIONS", "limit_threads", "restore_threads"]

MOST_OPERATIONS = 1 << 26
"""A call of up to this number of multiplications computes on one thread: some milliseconds."""

_LIBRARIES = {"linux": "libtorch_cpu.so", "darwin": "libtorch_cpu.dylib"}


def _setters() -> tuple[Callable[[int], object] | None, Callable[[int], int] | None]:
    """Return the functions of OpenMP and of MKL in the library of torch; None for each missing."""
    name = _LIBRARIES.get(sys.platform)
    if name is None:
        return None, None
    try:
        # PyDLL keeps the interpreter's lock, because giving it away takes longer than the function.
        library = ctypes.PyDLL(str(Path(torch.__file__).parent / "lib" / name))
        openmp = library.omp_set_num_threads
    except (OSError, AttributeError):
        return None, None
    openmp.argtypes, openmp.restype = [ctypes.c_int], None
    mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)  # not in torch for ARM
    if mkl is not None:
        mkl.argtypes, mkl.restype = [ctypes.c_int], ctypes.c_int
    return openmp, mkl


_SET_OPENMP, _SET_MKL = _setters()


def limit_threads() -> tuple[int, int]:
    """Let torch use one thread for operations of the calling thread.

    Where torch has another library than OpenMP for its threads, nothing changes.

    Returns:
        What to give to :func:`restore_threads`.
    """
    count = torch.get_num_threads()  # also lets torch set up a thread that first uses torch
    if count < 2 or _SET_OPENMP is None:
        return 1, 0
    _SET_OPENMP(1)
    # A number of MKL's own, which torch.set_num_threads sets, outweighs that of OpenMP.
    return count, 0 if _SET_MKL is None else _SET_MKL(1)


def restore_threads(before: tuple[int, int]) -> None:
    """Undo :func:`limit_threads`, in the same thread."""
    count, own = before
    if count > 1 and _SET_OPENMP is not None:
        _SET_OPENMP(count)
        if _SET_MKL is not None:
            _SET_MKL(own)
