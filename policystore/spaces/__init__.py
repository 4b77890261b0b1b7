"""Observation and action spaces as JSON, without gymnasium until a space is built."""

from __future__ import annotations

from policystore.spaces.composite import space_from_json, space_to_json

__all__ = ["space_from_json", "space_to_json"]
