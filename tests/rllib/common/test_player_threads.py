"""A player belongs to one thread at a time and to one process, and says so."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ray import cloudpickle

from policystore import InvalidInputError
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support.player_pairs import OBS, pair

STACKS = pytest.mark.parametrize("stack", ["old", "new"])
CALLS: dict[str, Callable[[Player], Any]] = {
    "act": lambda player: player.act(OBS),
    "act_batch": lambda player: player.act_batch([OBS, OBS]),
    "reset": lambda player: player.reset(),
    "reset of a row": lambda player: player.reset(0),
    "keep_rows": lambda player: player.keep_rows([0]),
}


@STACKS
@pytest.mark.parametrize("kind", ["plain", "recurrent"])
def test_a_call_during_another_is_refused_and_disturbs_nothing(
    stack: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player, control = (pair(kind).player(stack) for _ in range(2))
    assert player.act(OBS) == control.act(OBS)
    begun, go_on, step = threading.Event(), threading.Event(), player._step

    def slow(*args: Any) -> Any:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(60)
        return step(*args)

    monkeypatch.setattr(player, "_step", slow)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(player.act, OBS)
        assert begun.wait(60)
        try:
            for call in CALLS.values():
                with pytest.raises(InvalidInputError, match=r"one thread.*rebuild_player\(snap\)"):
                    call(player)
        finally:
            go_on.set()
        assert running.result() == control.act(OBS)
    assert player.act(OBS) == control.act(OBS)


@STACKS
def test_threads_that_share_a_player_get_an_action_or_the_reason(stack: str) -> None:
    player = pair("recurrent").player(stack)
    outcomes: list[Any] = []

    def play(count: int) -> None:
        for _ in range(count):
            try:
                outcomes.append(int(player.act(OBS)))
            except InvalidInputError as error:
                outcomes.append("one thread at a time" in str(error))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(play, [25] * 4))
    assert len(outcomes) == 100
    assert set(outcomes) <= {0, 1, 2}
    player.act(OBS)


@STACKS
def test_threads_may_use_a_player_one_after_the_other(stack: str) -> None:
    player, control = (pair("recurrent").player(stack) for _ in range(2))
    expected = [int(control.act(OBS)) for _ in range(8)]
    actions = []
    for _ in range(8):
        with ThreadPoolExecutor(1) as pool:
            actions.append(int(pool.submit(player.act, OBS).result()))
    assert actions == expected


@STACKS
def test_a_player_is_free_again_after_a_call_that_failed(stack: str) -> None:
    player = pair("plain").player(stack)
    for wrong in (None, "text"):
        with pytest.raises(InvalidInputError, match="observation 0"):
            player.act(wrong)
    player.act(OBS)


COPIES: dict[str, Callable[[Player], Any]] = {
    "pickle": pickle.dumps,
    "an old protocol": lambda player: pickle.dumps(player, 0),
    "cloudpickle": cloudpickle.dumps,
    "a function that uses it": lambda player: cloudpickle.dumps(lambda: player.act(OBS)),
    "an argument": lambda player: cloudpickle.dumps(((player,), {"players": [player]})),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@STACKS
@pytest.mark.parametrize("case", COPIES)
def test_a_player_says_how_to_have_it_in_another_process(stack: str, case: str) -> None:
    player = pair("plain").player(stack)
    for builtin in (TypeError, InvalidInputError):
        with pytest.raises(builtin, match=r"send the snapshot, or a ref.*rebuild_player\(snap\)"):
            COPIES[case](player)
    player.act(OBS)


def test_the_snapshot_makes_an_equal_player_in_another_process() -> None:
    snap, arguments = pair("plain").snaps["new"], pair("plain").arguments["new"]
    again = rebuild_player(pickle.loads(pickle.dumps(snap)), **arguments)
    assert again.act(OBS) == rebuild_player(snap, **arguments).act(OBS)


def test_the_error_itself_comes_back_from_other_processes() -> None:
    with pytest.raises(InvalidInputError) as raised:
        pickle.dumps(pair("plain").player("new"))
    again = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(again, TypeError)
    assert str(again) == str(raised.value)
