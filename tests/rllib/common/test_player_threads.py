"""Any number of threads may call a player, and a player goes to other processes by pickle and fork."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from ray import cloudpickle
from ray.rllib.connectors.connector_v2 import ConnectorV2

from policystore import InvalidInputError
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support.cells import sampled
from tests.support.player_pairs import FORCES, OBS, VECTOR, module, pair

STACKS = pytest.mark.parametrize("stack", ["old", "new"])


class Wait:
    """A step of a player that waits in its first call."""

    def __init__(self, player: Any, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self._step = player._engine.step
        patch.setattr(player._engine, "step", self)

    def __call__(self, *args: Any) -> Any:
        if not self.begun.is_set():
            self.begun.set()
            assert self.go_on.wait(60)
        return self._step(*args)


CALLS: dict[str, Callable[[Player], Any]] = {
    "act": lambda player: player.act(OBS),
    "act_batch": lambda player: player.act_batch([OBS]),
    "act_many": lambda player: player.act_many({player.session(): OBS}),
    "reset": lambda player: player.reset(),
    "keep_rows": lambda player: player.keep_rows([0]),
}


@STACKS
@pytest.mark.parametrize("call", sampled(CALLS, "act_many", "reset"))
def test_a_call_of_a_player_with_memory_waits_for_the_other_call(
    stack: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player, control = (pair("recurrent").player(stack) for _ in range(2))
    waiting = Wait(player, monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(player.act, OBS)
        assert waiting.begun.wait(60)
        second = pool.submit(CALLS[call], player)
        with pytest.raises(TimeoutError):
            second.result(0.02)
        waiting.go_on.set()
        assert first.result() == control.act(OBS)
        second.result()
    CALLS[call](control)
    assert player.act(OBS) == control.act(OBS)


@STACKS
@pytest.mark.parametrize("kind", sampled(["plain", "recurrent", "rewarded"], "plain", "recurrent"))
def test_threads_with_sessions_act_as_if_each_was_alone(stack: str, kind: str) -> None:
    player = pair(kind).player(stack)
    scales = [0.2, 0.4, 0.6, 0.8]

    def play(session: Any, scale: float) -> list[Any]:
        return [session.act(OBS * scale, reward=scale) for _ in range(8)]

    alone = [play(player.session(), scale) for scale in scales]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda scale: play(player.session(), scale), scales))
    assert together == alone


@STACKS
def test_threads_may_use_a_player_one_after_the_other(stack: str) -> None:
    player, control = (pair("recurrent").player(stack) for _ in range(2))
    expected = [control.act(OBS) for _ in range(4)]
    actions = []
    for _ in range(4):
        with ThreadPoolExecutor(1) as pool:
            actions.append(pool.submit(player.act, OBS).result())
    assert actions == expected


@STACKS
def test_a_call_from_inside_a_call_is_refused(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    player: Any = pair("recurrent").player(stack)
    step = player._engine.step
    with monkeypatch.context() as patch:
        patch.setattr(player._engine, "step", lambda *_: player.act(OBS))
        with pytest.raises(InvalidInputError, match="during another call of the same player"):
            player.act(OBS)
    player.reset()
    assert player._engine.step == step
    player.act(OBS)


@STACKS
def test_a_player_is_free_again_after_a_call_that_failed(stack: str) -> None:
    player = pair("plain").player(stack)
    for wrong in (None, "text"):
        with pytest.raises(InvalidInputError, match="observation 0"):
            player.act(wrong)
    player.act(OBS)


@STACKS
def test_a_process_that_is_forked_in_a_call_has_a_player_that_works(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player = pair("recurrent").player(stack)
    first = player.act(OBS)
    session = player.session()
    waiting = Wait(player, monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(player.act, OBS)
        assert waiting.begun.wait(60)
        child = os.fork()
        if child == 0:
            outcome = 1
            try:
                try:
                    player.act(OBS)
                except InvalidInputError as error:
                    whole = "failed halfway" in str(error)
                player.reset()
                outcome = 0 if whole and player.act(OBS) == first == session.act(OBS) else 2
            finally:
                os._exit(outcome)
        waiting.go_on.set()
        running.result()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


COPIES: dict[str, Callable[[Player], Player]] = {
    "pickle": lambda player: pickle.loads(pickle.dumps(player)),
    "an old protocol": lambda player: pickle.loads(pickle.dumps(player, 0)),
    "cloudpickle": lambda player: pickle.loads(cloudpickle.dumps(player)),
    "an argument": lambda player: pickle.loads(cloudpickle.dumps({"players": [player]}))["players"][
        0
    ],
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@STACKS
@pytest.mark.parametrize("case", sampled(COPIES, "pickle", "deepcopy"))
def test_a_copy_is_a_fresh_player_of_the_same_policy(stack: str, case: str) -> None:
    player = pair("recurrent").player(stack, nan="allow")
    expected = [player.act(OBS) for _ in range(3)]
    again: Any = COPIES[case](player)
    assert type(again) is type(player)
    assert again.digest == player.digest
    assert [again.act(OBS) for _ in range(3)] == expected  # begins its episodes anew
    assert again._given["nan"] == "allow"
    assert again._lock is not player._lock


@STACKS
def test_a_function_that_uses_a_player_can_be_sent(stack: str) -> None:
    player = pair("plain").player(stack)
    call = pickle.loads(cloudpickle.dumps(lambda: player.act(OBS)))
    assert call() == player.act(OBS)


def test_connectors_of_the_caller_are_copied_along() -> None:
    player: Any = pair("rewarded").player("new")
    player.act(OBS)
    for again in (copy.deepcopy(player), pickle.loads(pickle.dumps(player))):
        own = again._given["connectors"]["env_to_module"]
        theirs = player._given["connectors"]["env_to_module"]
        assert [type(piece) for piece in own] == [type(piece) for piece in theirs]
        assert not any(one is other for one in own for other in theirs)
        assert again.act(OBS) == pair("rewarded").player("new").act(OBS)


class Socket(ConnectorV2):
    """A connector that no copy can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __call__(self, *, batch: Any, **kwargs: Any) -> Any:
        return batch


@pytest.mark.parametrize("copies", [copy.deepcopy, pickle.dumps])
def test_a_connector_that_cannot_be_copied_is_named(copies: Callable[[Player], Any]) -> None:
    player = rebuild_player(
        module(VECTOR, FORCES),
        env_spaces=(VECTOR, FORCES),
        normalize_actions=False,
        connectors=[Socket()],
    )
    for kind in (TypeError, InvalidInputError):
        with pytest.raises(kind, match=r"connectors=.*cannot be copied.*rebuild_player"):
            copies(player)
    player.act(OBS)


@STACKS
@pytest.mark.parametrize("copies", [copy.copy, copy.deepcopy, pickle.dumps, cloudpickle.dumps])
def test_a_session_says_how_to_have_one_elsewhere(stack: str, copies: Callable[[Any], Any]) -> None:
    session = pair("plain").player(stack).session()
    for kind in (TypeError, InvalidInputError):
        with pytest.raises(kind, match=r"pickle the player, and call session\(\)"):
            copies(session)
    session.act(OBS)
