"""Write observation and action spaces as JSON and read them back.

Importing this package does not import gymnasium; reading a space does.
"""

from __future__ import annotations

from policystore.spaces.composite import space_from_json, space_to_json

__all__ = ["space_from_json", "space_to_json"]
