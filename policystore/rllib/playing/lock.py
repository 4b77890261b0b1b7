"""The lock of a player, which also works in a process that was forked while a thread held it."""

from __future__ import annotations

import os
import threading

from policystore.errors import InvalidInputError

__all__ = ["CallLock"]

_PROCESS: object  # another object in each process
_RENEWAL: threading.Lock  # held while a lock is replaced, in the first call after a fork


def _reset_after_fork() -> None:
    # The thread that held a lock does not exist in a forked process.
    global _PROCESS, _RENEWAL
    _PROCESS = object()
    _RENEWAL = threading.Lock()


_reset_after_fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


class CallLock:
    """A context that one thread at a time is in; other threads wait.

    In a forked process the lock is free, also if a thread of the parent process held the lock.

    Args:
        label: how messages name the object that the lock belongs to.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._owner: int | None = None  # the thread that is in the context
        self._lock = threading.Lock()
        self._process = _PROCESS

    def __enter__(self) -> None:
        """Wait until no other thread is in the context.

        Raises:
            InvalidInputError: this thread is in the context already. Waiting would never end.
        """
        if self._process is not _PROCESS:
            self._renew()
        if not self._lock.acquire(blocking=False):
            if self._owner == threading.get_ident():
                raise InvalidInputError(
                    f"{self._label} was called during another call of the same player, by a "
                    "connector or a signal handler: call the player after the other call has "
                    "returned"
                )
            self._lock.acquire()
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = None
        self._lock.release()

    def _renew(self) -> None:
        """Replace the lock that was copied by a fork."""
        with _RENEWAL:
            if self._process is not _PROCESS:
                self._owner, self._lock = None, threading.Lock()
                self._process = _PROCESS
