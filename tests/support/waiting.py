"""Wait until something has happened, without Ray and torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FOREVER = 60.0  # seconds


def until(condition: Callable[[], Any], seconds: float = FOREVER) -> None:
    """Wait until a condition holds; fail after a minute, or after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
