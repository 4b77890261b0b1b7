"""Every test of opponent pools computes with one thread, whether it needs a running Ray or not."""

from __future__ import annotations

from tests.support import ray_session as _settings  # noqa: F401
