"""Actions of RLlib's workers in the form in which players return actions."""

from __future__ import annotations

from typing import Any

import numpy as np
import tree


def as_played(action: Any) -> Any:
    """Return an env runner's action in the form of a player's: integers of one number as int."""
    return tree.map_structure(
        lambda part: int(part) if isinstance(part, np.integer) else part, action
    )
