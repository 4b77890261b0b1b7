"""Renew locks, and forget what belongs to the parent process, in a process that was forked."""

from __future__ import annotations

from os import register_at_fork
from weakref import WeakSet

__all__ = ["RenewedAfterFork"]


class RenewedAfterFork:
    """The base of objects that begin anew in a forked process.

    Another thread of the parent may have held a lock, or may have been in the middle of a change.
    """

    def __init__(self) -> None:
        self._renew()
        _ALL.add(self)

    def _renew(self) -> None:
        """Make new locks, and forget what is remembered."""
        raise NotImplementedError


_ALL: WeakSet[RenewedAfterFork] = WeakSet()


def _renew_all() -> None:
    for each in list(_ALL):
        each._renew()


register_at_fork(after_in_child=_renew_all)
