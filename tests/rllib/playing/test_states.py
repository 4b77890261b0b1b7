"""The recurrent states of several environments, kept as one batch while they step together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from policystore import InvalidInputError
from policystore.rllib.playing.nets import Row, States, states_of
from tests.rllib.new_stack.test_direct import CELLS as NEW
from tests.rllib.new_stack.test_direct import assert_same
from tests.rllib.old_stack.test_direct import CELLS as OLD

PLAYERS: dict[str, tuple[Callable[[], Any], str]] = {
    "new": (lambda: NEW["ppo-lstm-box"].player(), "_pipeline_engine"),
    "old": (lambda: OLD["ppo-lstm-box"]().player(), "_connector_engine"),
}
STACKS = pytest.mark.parametrize("stack", PLAYERS)


def batch(first: int, count: int) -> States:
    """States whose values begin with numbers of their own."""
    numbers = torch.arange(first, first + count, dtype=torch.float32)
    return States([numbers[:, None], numbers[:, None, None] * torch.ones(2, 3)], count)


def begun() -> list[torch.Tensor]:
    return [torch.full((1, 1), -1.0), torch.full((1, 2, 3), -1.0)]


def refused() -> list[torch.Tensor]:
    raise AssertionError("no episode begins")


def test_the_rows_of_one_batch_in_their_order_are_the_batch_itself() -> None:
    states = batch(0, 5)
    assert states_of(states.rows(), refused) is states.parts


ONE: list[Row | None] = [*batch(0, 4).rows()]
TWO: list[Row | None] = [*batch(10, 3).rows()]
MIXED: dict[str, tuple[list[Row | None], list[int]]] = {
    "all begin": ([None] * 3, [-1] * 3),
    "one begins": ([ONE[0], None, *ONE[2:]], [0, -1, 2, 3]),
    "the first begins": ([None, *ONE[1:]], [-1, 1, 2, 3]),
    "another order": (ONE[::-1], [3, 2, 1, 0]),
    "some": ([ONE[2], ONE[0]], [2, 0]),
    "one": ([ONE[2]], [2]),
    "several batches": ([TWO[2], ONE[1], None, TWO[0], ONE[3], None], [12, 1, -1, 10, 3, -1]),
    "as many of another batch": ([*TWO[:2], ONE[3]], [10, 11, 3]),
}


@pytest.mark.parametrize("case", MIXED)
def test_rows_of_any_batches_make_one_batch(case: str) -> None:
    memories, expected = MIXED[case]
    parts = states_of(memories, refused if None not in memories else begun)
    assert parts[0][:, 0].tolist() == expected
    assert parts[1].shape == (len(expected), 2, 3)
    assert parts[1][:, 1, 2].tolist() == expected


@STACKS
def test_episodes_that_part_and_join_act_as_through_rllib(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, slow = PLAYERS[stack]
    players = [make(), make()]
    players[1]._engine = getattr(players[1], slow)
    sessions = [[player.session() for _ in range(4)] for player in players]
    random = np.random.default_rng(0)

    def act(count: int, calls: int = 1) -> None:
        for _ in range(calls):
            rows = random.uniform(-1, 1, (count, 4)).astype(np.float32)
            assert_same(*(player.act_batch(rows) for player in players))

    def together(*chosen: int) -> None:
        rows = random.uniform(-1, 1, (len(chosen), 4)).astype(np.float32)
        results = [
            player.act_many({own[i]: row for i, row in zip(chosen, rows, strict=True)})
            for player, own in zip(players, sessions, strict=True)
        ]
        assert_same(*(list(result.values()) for result in results))

    act(6, calls=3)
    for player in players:
        player.reset(2)
    act(6, calls=2)
    together(0, 1, 2, 3)
    together(2, 0)
    for player in players:
        player.keep_rows([5, 0, 3])
    act(3, calls=2)
    together(3, 2, 1, 0)
    for own in sessions:
        own[1].reset()
    together(0, 1, 2)
    with monkeypatch.context() as patch:
        for player in players:
            patch.setattr(player._engine, "step", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                player.act_batch(np.zeros((3, 4), np.float32))
    for player in players:
        with pytest.raises(InvalidInputError, match="failed halfway"):
            player.act_batch(np.zeros((3, 4), np.float32))
    together(3, 1)
    for player in players:
        player.reset()
    act(4, calls=2)


@STACKS
def test_a_step_that_fails_halfway_leaves_other_episodes_as_they_were(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _ = PLAYERS[stack]
    player, control = make(), make()
    own = [each.session() for each in (player, player, control, control)]
    rows = np.random.default_rng(1).uniform(-1, 1, (4, 4)).astype(np.float32)
    for first, second in (own[:2], own[2:]):
        first._player.act_many({first: rows[0], second: rows[1]})
    with monkeypatch.context() as patch:
        # The network has computed the next states when the actions fail.
        patch.setattr(player._engine._writer, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            own[0].act(rows[2])
    assert_same(own[1].act(rows[3]), own[3].act(rows[3]))
    with pytest.raises(InvalidInputError, match="failed halfway"):
        own[0].act(rows[2])
    own[0].reset()
    own[2].reset()
    assert_same(own[0].act(rows[2]), own[2].act(rows[2]))
