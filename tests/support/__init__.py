"""Helpers that several tests share, each module named for what it holds."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository. Fresh processes and Ray's workers import ``tests.support`` from it."""

DATA = ROOT / "tests" / "data"
