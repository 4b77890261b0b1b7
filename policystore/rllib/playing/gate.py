"""Keep a player's policy from being changed while a block of code plays it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from policystore.errors import InvalidInputError

__all__ = ["Gate"]


class _State:
    """Hold who is in a gate, in one process."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.blocks = 0
        self.is_changing = False
        self.own = threading.local()  # depth: how many blocks this thread is in


class Gate:
    """Blocks that may run at the same time, and changes that run alone.

    A change waits until all blocks have ended. A block that begins meanwhile waits for the change,
    so blocks that follow each other closely do not hold up a change for ever. A forked process
    begins with a free gate: blocks and changes that the parent process had begun do not count in
    it, also where the child itself leaves them.
    """

    def __init__(self) -> None:
        self._states = {os.getpid(): _State()}

    def _in_this_process(self) -> _State:
        process = os.getpid()
        state = self._states.get(process)
        # In a forked process, several threads may come here at once; setdefault takes one of them.
        return state or self._states.setdefault(process, _State())

    @contextmanager
    def block(self) -> Iterator[None]:
        """Let no change happen until the ``with`` block ends. Blocks may be nested."""
        state = self._in_this_process()
        depth = getattr(state.own, "depth", 0)
        with state.condition:
            while state.is_changing and not depth:
                state.condition.wait()
            state.blocks += 1
        state.own.depth = depth + 1
        try:
            yield
        finally:
            if state is self._in_this_process():
                state.own.depth = depth
                with state.condition:
                    state.blocks -= 1
                    state.condition.notify_all()

    @contextmanager
    def change(self) -> Iterator[None]:
        """Run a ``with`` block alone.

        Raises:
            InvalidInputError: this thread is in a block. The change would wait for itself.
        """
        state = self._in_this_process()
        if getattr(state.own, "depth", 0):
            raise InvalidInputError(
                "the policy of a player cannot be changed inside of `with player.pinned()`: call "
                "follow() outside of the block"
            )
        with state.condition:
            while state.is_changing:
                state.condition.wait()
            state.is_changing = True
            try:
                while state.blocks:
                    state.condition.wait()
                yield
            finally:
                state.is_changing = False
                state.condition.notify_all()
