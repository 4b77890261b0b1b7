"""Show how many episodes of a tournament are played."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError

__all__ = ["EpisodeCounter", "ShowProgress"]

ShowProgress: TypeAlias = bool | Callable[[int, int], None]
"""True for a line on the standard error of a terminal; or a function of two numbers."""

_PAUSE = 0.2  # seconds between two lines


class EpisodeCounter:
    """Counts episodes, and tells the caller.

    Args:
        show: True, False, or a function of the number of episodes that are played and of all that
            will be played, as far as it is known. If the function raises, the tournament ends.
        label: how the line begins.

    Raises:
        InvalidInputError: another value of ``show``.
    """

    def __init__(self, show: ShowProgress, label: str) -> None:
        if not isinstance(show, bool) and not callable(show):
            raise InvalidInputError(
                "progress is True, False, or a function of two numbers, the episodes played and "
                f"all episodes; found {brief(show)}"
            )
        self._call = show if callable(show) else None
        self._file = sys.stderr if show is True and sys.stderr.isatty() else None
        self._label = label
        self._done = self._total = 0
        self._began = time.monotonic()
        self._shown = 0.0

    def expect(self, episodes: int) -> None:
        """Add episodes to those that will be played."""
        self._total += episodes

    def add(self, episodes: int) -> None:
        """Count episodes that were played."""
        self._done += episodes
        if self._call is not None:
            self._call(self._done, self._total)
        now = time.monotonic()
        if self._file is not None and (now - self._shown > _PAUSE or self._done == self._total):
            self._shown = now
            rate = self._done / max(now - self._began, 1e-9)
            numbers = f"{self._done:,} of {self._total:,} episodes, {rate:,.0f} a second"
            self._file.write(f"\r\x1b[K{self._label}: {numbers}")
            self._file.flush()

    def close(self) -> None:
        """End the line."""
        if self._file is not None and self._shown:
            self._file.write("\r\x1b[K")
            self._file.flush()
