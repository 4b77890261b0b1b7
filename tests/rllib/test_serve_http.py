"""scripts/examples/serve_http.py: answers, sessions, batches, errors, and a change under load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore import InvalidInputError, PolicyStore
from policystore.rllib import rebuild_player
from policystore.rllib.common.player import Player
from tests.support import ROOT
from tests.support.constant_policies import TWO, constant_policy
from tests.support.player_pairs import OBS, VECTOR, module
from tests.support.waiting import until

pytest.importorskip("fastapi", reason="the example needs fastapi")
testclient = pytest.importorskip("starlette.testclient", reason="its test client needs httpx")

EXAMPLES = ROOT / "scripts" / "examples"
LSTM = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}


@pytest.fixture(scope="module")
def examples() -> Iterator[Any]:
    """The modules of the example."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        import serve_http
        import serving

        yield serve_http, serving
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def lstm_player() -> Player:
    actions = gym.spaces.Discrete(500)
    return rebuild_player(module(VECTOR, actions, **LSTM), env_spaces=(VECTOR, actions))


def body(**more: Any) -> dict[str, Any]:
    return {"observation": OBS.tolist(), **more}


def test_an_action_comes_with_the_policy_that_chose_it_and_follows_the_tag(examples: Any) -> None:
    server, _ = examples
    store = PolicyStore(f"memory://{uuid.uuid4().hex}")
    versions = [store.push(constant_policy("new", action), "a") for action in (0, 1)]
    store.tag("a@1", "t")
    player = rebuild_player(store.pull("a@t"), env_spaces=(VECTOR, TWO))
    changes: list[Any] = []
    with (
        player.follow(store, "a@t", interval=0.005, on_change=changes.append),
        testclient.TestClient(server.make_app(player)) as client,
    ):
        answer = client.post("/act", json=body()).json()
        assert answer == {"action": 0, "policy": str(versions[0].digest), "ref": "a@1", "batch": 0}
        store.tag("a@2", "t")
        until(lambda: changes)
        answer = client.post("/act", json=body()).json()
        assert (answer["action"], answer["ref"]) == (1, "a@2")
        assert client.get("/policy").json()["policy"] == str(versions[1].digest)
        assert client.get("/health").json()["follows"] == "a@t"
        player.unfollow()
        assert client.get("/health").status_code == 503


def test_wrong_requests_are_told_and_harm_no_other(examples: Any, lstm_player: Player) -> None:
    server, _ = examples
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"observation": [0.0] * 3}, "shape"),
        ({"observation": ["a"] * 4}, "shape (4,), found 'a'"),
        ({"observation": None}, "shape (4,), found None"),
        ({"observation": [0.0, 0.0, None, 0.5]}, "shape (4,), found None"),
        ({"observation": [[0.0], [0.0, 1.0]]}, "numbers"),
        ({}, "Field required"),
        (body(sesion="ann"), "Extra inputs"),
        (body(session=7), "valid string"),
    ]
    with (
        testclient.TestClient(server.make_app(lstm_player, max_delay=0.2)) as client,
        ThreadPoolExecutor(10) as pool,
    ):
        good = [pool.submit(client.post, "/act", json=body(session=str(i))) for i in range(2)]
        bad = [(pool.submit(client.post, "/act", json=each), text) for each, text in wrong]
        for answer, text in bad:
            assert answer.result().status_code == 422
            assert text in answer.result().text
        assert [each.result().status_code for each in good] == [200, 200]
        assert client.post("/act", content=b"{").status_code == 422
        as_json = {"Content-Type": "application/json"}
        nan = client.post("/act", content=b'{"observation": [NaN, 0, 0, 0]}', headers=as_json)
        assert nan.status_code == 422
        assert nan.json()["message"].endswith("(4,), found nan")
    assert server.make_app(lstm_player).title == "policystore"


def test_each_session_has_an_episode_of_its_own(examples: Any, lstm_player: Player) -> None:
    server, _ = examples
    expected = {}
    for name, sign in (("ann", 1.0), ("bob", -1.0)):
        with lstm_player.session() as session:
            expected[name] = [session.act(sign * OBS) for _ in range(4)]
    with testclient.TestClient(server.make_app(lstm_player)) as client:

        def act(name: str, sign: float) -> Any:
            request = {"observation": (sign * OBS).tolist(), "session": name}
            return client.post("/act", json=request).json()["action"]

        acted = [(act("ann", 1.0), act("bob", -1.0)) for _ in range(4)]
        assert [list(each) for each in zip(*acted, strict=True)] == [*expected.values()]
        assert client.delete("/sessions/ann").json() == {"ended": True}
        assert client.delete("/sessions/ann").status_code == 404
        assert act("ann", 1.0) == expected["ann"][0]
        alone = [client.post("/act", json=body()).json()["action"] for _ in range(2)]
        assert alone == [expected["ann"][0]] * 2
        assert client.get("/health").json() == {"status": "ok", "follows": None}


def test_requests_at_the_same_time_share_a_batch_and_those_of_a_session_do_not(
    examples: Any, lstm_player: Player
) -> None:
    server, _ = examples
    with lstm_player.session() as session:
        expected = [session.act(OBS) for _ in range(2)]
    with (
        testclient.TestClient(server.make_app(lstm_player, max_delay=1.0, max_batch=6)) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        names = ["ann", "ann", "bob", "cleo", "dan", None]
        futures = [pool.submit(client.post, "/act", json=body(session=name)) for name in names]
        answers = [future.result().json() for future in futures]
    assert sorted(answer["batch"] for answer in answers) == [0, 0, 0, 0, 0, 1]
    assert sorted(answer["action"] for answer in answers[:2]) == sorted(expected)


def test_unused_sessions_expire_and_there_are_not_too_many(
    examples: Any, lstm_player: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, serving = examples
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    sessions = serving.Sessions(lstm_player, ttl=10.0, most=2)
    first, second = sessions.get("ann"), sessions.get("bob")
    with pytest.raises(InvalidInputError, match="2 sessions"):
        sessions.get("cleo")
    clock[0] = 9.0
    assert sessions.get("ann") is first
    clock[0] = 12.0
    assert sessions.get("cleo") is not second
    assert len(sessions) == 2
    assert sessions.get("ann") is first
    assert sessions.get(None) is not sessions.get(None)


def test_json_becomes_an_observation_of_the_space(examples: Any) -> None:
    _, serving = examples
    space = gym.spaces.Dict(
        {
            "pixels": gym.spaces.Box(0, 255, (2, 2), np.uint8),
            "both": gym.spaces.Tuple([gym.spaces.Discrete(3), gym.spaces.MultiBinary(2)]),
        }
    )
    value = {"pixels": [[0, 255], [1, 2]], "both": [2, [0, 1]]}
    found = serving.decode(space, value)
    assert space.contains({**found, "both": (int(found["both"][0]), found["both"][1])})
    assert serving.encode({"a": (np.int64(1), np.ones(2))}) == {"a": [1, [1.0, 1.0]]}
    pixels = "observation['pixels']: expected numbers of the type uint8 and the shape (2, 2)"
    for wrong, message in (
        ({**value, "pixels": [[0, 256], [1, 2]]}, f"{pixels}, Python integer 256 out of bounds"),
        ({**value, "pixels": [[0, 0.5], [1, 2]]}, f"{pixels}, found 0.5"),
        ({**value, "pixels": [[0], [1, 2]]}, f"{pixels}, "),
        ({**value, "pixels": [0, 1]}, f"{pixels}, found the shape (2,)"),
        ({**value, "both": [2]}, "observation['both']: expected a list of 2 parts, found [2]"),
        ({**value, "both": [None, [0, 1]]}, "observation['both'][0]: expected numbers"),
        ({"pixels": value["pixels"]}, "observation: expected an object with the keys"),
        ([1], "observation: expected an object with the keys"),
    ):
        with pytest.raises(InvalidInputError) as found:
            serving.decode(space, wrong)
        assert str(found.value).startswith(message)


@pytest.mark.long
@pytest.mark.parametrize("options", [[], ["--recurrent"]], ids=["plain", "recurrent"])
def test_while_the_champion_changes_under_load_every_answer_is_right(options: list[str]) -> None:
    command = [sys.executable, EXAMPLES / "load_http.py", "--seconds", "4", "--clients", "6"]
    ended = subprocess.run(
        [*command, "--interval", "0.1", *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 failed requests, 0 wrong or mixed answers" in ended.stdout
