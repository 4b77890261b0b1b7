"""Files that were exported with Ray play as the live Algorithm did, over whole episodes.

``scripts/tools/make_play_data.py`` makes the files and the expected actions: what the Algorithm's
own environment got. These tests need neither Ray nor torch, and CI runs them without both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore.play import OnnxPlayer, load_player
from policystore.play.spaces import flatten, read_space, unflatten
from tests.support import DATA

FILES = sorted((DATA / "play").glob("*.onnx"))
FLOAT_ERROR = 1e-5  # relative to the largest number of an action


def episodes_of(path: Path, player: OnnxPlayer) -> list[tuple[list[Any], list[list[Any]]]]:
    """Return the observations of each episode, and the parts of the actions."""
    observations = read_space(player.observation_space_json)
    with np.load(path.with_suffix(".npz")) as arrays:
        return [
            (
                [
                    unflatten(observations, parts)
                    for parts in rows(arrays, number, player.metadata.inputs)
                ],
                list(rows(arrays, number, player.metadata.outputs)),
            )
            for number in sorted({int(name.partition("/")[0]) for name in arrays.files})
        ]


def rows(arrays: Any, number: int, tensors: Any) -> Iterator[list[Any]]:
    columns = [arrays[f"{number}/{tensor.name}"] for tensor in tensors]
    return map(list, zip(*columns, strict=True))


def assert_equal(action: Any, expected: list[Any], player: OnnxPlayer) -> None:
    found = flatten(read_space(player.action_space_json), action)
    for one, other in zip(found, expected, strict=True):
        if np.asarray(other).dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=0, atol=FLOAT_ERROR * np.abs(other).max())
        else:
            np.testing.assert_array_equal(one, other)


def test_there_are_files_of_both_stacks_and_of_recurrent_policies() -> None:
    metadata = [load_player(path).metadata for path in FILES]
    assert {one.stack for one in metadata} == {"old", "new"}
    assert {one.algorithm for one in metadata} >= {"PPO", "DQN", "SAC"}
    assert sum(bool(one.state) for one in metadata) == 2
    assert all(path.stat().st_size <= 30_000 for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_whole_episodes_are_played_as_the_live_algorithm_played_them(path: Path) -> None:
    player = load_player(path)
    episodes = episodes_of(path, player)
    assert len(episodes) == 3
    assert all(len(actions) >= 12 for _, actions in episodes)
    for observations, actions in episodes:
        player.reset()
        for obs, expected in zip(observations, actions, strict=True):
            assert_equal(player.act(obs), expected, player)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_episodes_side_by_side_do_not_mix(path: Path) -> None:
    """Rows leave as their episodes end; sessions are batched with others each time."""
    player = load_player(path)
    episodes = episodes_of(path, player)
    sessions = [player.session() for _ in episodes]
    rows_left = list(range(len(episodes)))
    for step in range(max(len(actions) for _, actions in episodes)):
        running = [row for row in rows_left if step < len(episodes[row][1])]
        if running != rows_left:
            player.keep_rows([rows_left.index(row) for row in running])
            rows_left = running
        batch = [episodes[row][0][step] for row in running]
        chosen = player.act_many({sessions[row]: episodes[row][0][step] for row in running})
        for row, action in zip(running, player.act_batch(batch), strict=True):
            assert_equal(action, episodes[row][1][step], player)
            assert_equal(chosen[sessions[row]], episodes[row][1][step], player)
