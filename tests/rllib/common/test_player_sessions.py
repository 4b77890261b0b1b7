"""Sessions: an episode for each client of a player, batched together."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from policystore import InvalidInputError
from policystore.rllib.common.player import Player
from tests.support.cells import sampled
from tests.support.player_pairs import OBS, pair

STACKS = pytest.mark.parametrize("stack", ["old", "new"])
KINDS = pytest.mark.parametrize(
    "kind", sampled(["plain", "recurrent", "rewarded"], "recurrent", "rewarded")
)


@STACKS
@KINDS
def test_sessions_act_together_as_if_each_was_played_alone(stack: str, kind: str) -> None:
    player = pair(kind).player(stack)
    alone = [pair(kind).player(stack) for _ in range(3)]
    sessions = [player.session() for _ in range(3)]
    player.act_batch([OBS] * 4, rewards=[0.0] * 4)  # rows are episodes of their own
    random = np.random.default_rng(0)
    for step in range(6):
        chosen = random.permutation(3)[: 1 + step % 3]
        rows = {int(i): random.uniform(-1, 1, 4).astype(np.float32) for i in chosen}
        if step == 4:
            sessions[0].reset()
            alone[0].reset()
        actions = player.act_many(
            {sessions[i]: obs for i, obs in rows.items()},
            rewards={sessions[i]: 0.5 for i in rows},
        )
        assert list(actions) == [sessions[i] for i in rows]
        for i, obs in rows.items():
            assert actions[sessions[i]] == alone[i].act(obs, reward=0.5)
    obs = random.uniform(-1, 1, 4).astype(np.float32)
    assert sessions[1].act(obs, reward=1.0) == alone[1].act(obs, reward=1.0)


@STACKS
def test_one_forward_acts_for_all_sessions(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    player: Any = pair("recurrent").player(stack)
    calls: list[int] = []
    step = player._engine.step
    monkeypatch.setattr(
        player._engine, "step", lambda *args: calls.append(len(args[0])) or step(*args)
    )
    sessions = [player.session() for _ in range(5)]
    player.act_many(dict.fromkeys(sessions, OBS))
    assert calls == [5]


@STACKS
@KINDS
def test_what_a_session_remembers_is_freed_with_it(stack: str, kind: str) -> None:
    player: Any = pair(kind).player(stack)
    sessions = [player.session() for _ in range(4)]
    player.act_many(dict.fromkeys(sessions, OBS), rewards=dict.fromkeys(sessions, 0.0))
    gone = [weakref.ref(session) for session in sessions]
    sessions[3].close()
    del sessions
    gc.collect()
    assert [each() for each in gone] == [None] * 4
    player.session().act(OBS, reward=0.0)
    if stack == "old":
        for connector in player.policy.agent_connectors.connectors:
            for name in ("_states", "agent_collectors"):
                assert len(getattr(connector, name, ())) <= 1


@cache
def shared(stack: str) -> tuple[Player, Player]:
    """A player and a control, of which tests use sessions alone."""
    player, control = (pair("recurrent").player(stack) for _ in range(2))
    return player, control


BAD: dict[str, tuple[str, Callable[[Player], Any]]] = {
    "no mapping": ("a dict of sessions", lambda p: p.act_many([OBS])),  # type: ignore[arg-type]
    "another key": ("session\\(\\) did not make", lambda p: p.act_many({1: OBS})),  # type: ignore[dict-item]
    "a session of another player": (
        "belongs to another player",
        lambda p: p.act_many({pair("recurrent").player("new").session(): OBS}),
    ),
    "a wrong observation": ("observation 0: expected", lambda p: p.session().act(OBS[:2])),
    "explore by number": ("explore is", lambda p: p.session().act(OBS, 1)),  # type: ignore[arg-type]
    "rewards in a list": (
        "rewards is a dict",
        lambda p: p.act_many({p.session(): OBS}, rewards=[1.0]),  # type: ignore[arg-type]
    ),
    "a reward of another session": (
        "no observation of it",
        lambda p: p.act_many({p.session(): OBS}, rewards={p.session(): 1.0}),
    ),
    "a reward in words": (
        "the reward of session 0: expected a number",
        lambda p: p.session().act(OBS, reward="much"),  # type: ignore[arg-type]
    ),
}


@STACKS
@pytest.mark.parametrize("case", BAD)
def test_a_bad_call_is_refused_and_changes_nothing(stack: str, case: str) -> None:
    message, call = BAD[case]
    player, control = shared(stack)
    session, other = player.session(), control.session()
    for each in (session, other):
        each.act(OBS)
    with pytest.raises(InvalidInputError, match=message):
        call(player)
    assert session.act(OBS) == other.act(OBS)


@STACKS
def test_a_closed_session_is_refused(stack: str) -> None:
    player = pair("recurrent").player(stack)
    with player.session() as session:
        session.act(OBS)
    session.close()
    assert "closed session of <" in repr(session)
    for call in (lambda: session.act(OBS), session.reset):
        with pytest.raises(InvalidInputError, match=r"used after close\(\)"):
            call()


@STACKS
def test_a_session_gives_the_reward_in_each_step_but_the_first(stack: str) -> None:
    player = pair("rewarded").player(stack)
    running, fresh = player.session(), player.session()
    running.act(OBS)
    with pytest.raises(InvalidInputError, match=r"rewards=\{session: …\}"):
        running.act(OBS)
    with pytest.raises(InvalidInputError, match=r"rewards=\{session: …\}"):
        player.act_many({running: OBS, fresh: OBS})
    player.act_many({running: OBS, fresh: OBS}, rewards={running: 1.0})
    running.reset()
    running.act(OBS)


@STACKS
def test_a_session_whose_step_failed_asks_for_a_reset(
    stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    player: Any = pair("recurrent").player(stack)
    broken, whole = player.session(), player.session()
    first = whole.act(OBS)
    with monkeypatch.context() as patch:
        patch.setattr(player._engine, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            broken.act(OBS)
    with pytest.raises(InvalidInputError, match=r"failed halfway.*reset\(\)"):
        player.act_many({broken: OBS, whole: OBS})
    whole.act(OBS)
    broken.reset()
    assert broken.act(OBS) == first


@STACKS
def test_no_sessions_take_no_actions(stack: str) -> None:
    assert pair("recurrent").player(stack).act_many({}) == {}
