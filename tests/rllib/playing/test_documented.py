"""The Python block of docs/serving.md, run for a policy with memory."""

from __future__ import annotations

from typing import Any

import pytest

from policystore.errors import InvalidInputError
from policystore.rllib import rebuild_player
from tests.support import exported
from tests.support.doc_blocks import DOCS, run_blocks


def test_the_block_about_sessions() -> None:
    cell = exported.cell("new:module-lstm-shared")
    player, other = (rebuild_player(cell.snap, **cell.arguments) for _ in range(2))
    observation = player.observation_space.sample()
    names: dict[str, Any] = {"player": player, "observation": observation}
    run_blocks("", names, DOCS / "serving.md")

    # The first session has played three steps of an episode, and the second one step.
    played = [other.act(observation) for _ in range(3)]
    assert list(names["actions"].values()) == [played[2], played[0]]
    assert names["action"] == played[1]
    with pytest.raises(InvalidInputError, match="closed"):
        names["first"].act(observation)
