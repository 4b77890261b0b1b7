"""Helpers that several tests share. The name of each module says what the module holds."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository, from which fresh processes and Ray's workers import tests.support."""

DATA = ROOT / "tests" / "data"
