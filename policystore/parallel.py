"""Calls side by side, in threads that end with the call that needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["beside", "in_parallel"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def in_parallel(call: Callable[[_In], _Out], items: Iterable[_In], *, workers: int) -> list[_Out]:
    """Results in order; the first error is raised once the calls under way have ended."""
    listed = list(items)
    if len(listed) < 2 or workers < 2:
        return [call(item) for item in listed]
    # Imported late: it is a tenth of what importing this package takes.
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(workers, len(listed)), "policystore") as pool:
        futures = [pool.submit(call, item) for item in listed]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def beside(
    main: Callable[[], _In], other: Callable[[], _Out], *, at_once: bool
) -> tuple[_In, _Out]:
    """What two calls return, made at the same time or in this order.

    Both have ended when it returns or raises; an error of ``main`` goes before one of ``other``.
    """
    if not at_once:
        return main(), other()
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1, "policystore") as pool:
        future = pool.submit(other)
        return main(), future.result()
