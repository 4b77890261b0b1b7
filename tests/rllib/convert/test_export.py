"""Converted policies are exported as the players that they make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from policystore.play import load_player
from policystore.rllib import export, rebuild_player, to_new_stack
from tests.support.conversions import OLD, observations, old_snapshot


@pytest.mark.long
@pytest.mark.parametrize("name", ["sac", "ppo-conv", "ppo-nested", "ppo-lstm"])
def test_an_exported_file_plays_as_the_original_did(name: str, tmp_path: Path) -> None:
    original = old_snapshot(name)
    file = tmp_path / "main.onnx"

    export(to_new_stack(original), file, contents="player")

    players = [rebuild_player(original), load_player(file)]
    for obs in observations(OLD[name].obs, 24)[4:]:
        mine, yours = (player.act(obs) for player in players)
        for one, other in zip(np.atleast_1d(_flat(mine)), np.atleast_1d(_flat(yours)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def _flat(action: object) -> object:
    """Return an action as an array; the parts of a Dict one after the other."""
    if not isinstance(action, dict):
        return action
    return np.concatenate([np.ravel(np.asarray(action[key])) for key in sorted(action)])
