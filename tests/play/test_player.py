"""Players of exported files act as the players of policystore.rllib do."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from policystore.errors import InvalidInputError, NotFoundError
from policystore.play import OnnxPlayer, load_player, read_metadata
from tests.support.onnx_files import counter, echo, linear, make_metadata

MIXED = gym.spaces.Dict(
    {
        "a/b": gym.spaces.Box(-1.0, 1.0, (3,), np.float64),
        "parts": gym.spaces.Tuple(
            [gym.spaces.Discrete(4, start=2), gym.spaces.MultiBinary(3), gym.spaces.Discrete(2)]
        ),
        "many": gym.spaces.MultiDiscrete([3, 5], start=[1, 0]),
        "image": gym.spaces.Box(0, 255, (2, 2, 3), np.uint8),
    }
)

SCALAR = gym.spaces.Box(-1.0, 1.0, (), np.float32)


@pytest.fixture(scope="module")
def fc() -> tuple[bytes, Any]:
    model, expected = linear()
    return model.SerializeToString(), expected


@pytest.fixture
def sums() -> OnnxPlayer:
    return load_player(counter().SerializeToString())


def observations(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4)).astype(np.float32)


def sum_of(action: Any) -> list[float]:
    return action[0].tolist()


def test_a_file_and_its_bytes_give_the_same_actions(fc: tuple[bytes, Any], tmp_path: Any) -> None:
    data, expected = fc
    path = tmp_path / "main.onnx"
    path.write_bytes(data)
    obs = observations(7)
    for source in (path, str(path), data, bytearray(data), memoryview(data)):
        player = load_player(source)
        assert player.act_batch(obs) == player.act_batch(list(obs)) == expected(obs)
        assert [player.act(row) for row in obs] == expected(obs)


def test_the_action_for_discrete_is_an_int_that_json_takes(fc: tuple[bytes, Any]) -> None:
    action = load_player(fc[0]).act(np.zeros(4, np.float32))
    assert type(action) is int
    json.dumps(action)


def test_a_float64_list_stands_for_a_float32_array(fc: tuple[bytes, Any]) -> None:
    data, expected = fc
    player = load_player(data)
    assert player.act([0.1, 0.2, 0.3, 0.4]) == expected([[0.1, 0.2, 0.3, 0.4]])[0]


@pytest.mark.parametrize("space", [MIXED, *MIXED.values(), SCALAR])
def test_observations_and_actions_of_every_space_keep_values_and_structure(space: Any) -> None:
    player = load_player(echo(space).SerializeToString())
    space.seed(3)
    rows = [space.sample() for _ in range(5)]
    for row, action in zip(rows, player.act_batch(rows), strict=True):
        assert space.contains(action), action
        assert_same(action, row)
        assert_same(player.act(row), row)
    # As vectorized environments give it: one array for each part.
    batched = gym.vector.utils.batch_space(space, 5)
    stacked = gym.vector.utils.concatenate(
        space, rows, gym.vector.utils.create_empty_array(space, 5)
    )
    assert batched.contains(stacked)
    for row, action in zip(rows, player.act_batch(stacked), strict=True):
        assert_same(action, row)


def assert_same(one: Any, other: Any) -> None:
    if isinstance(other, dict):
        assert list(one) == list(other)
        for key in other:
            assert_same(one[key], other[key])
    elif isinstance(other, tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        np.testing.assert_array_equal(one, other)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype


def test_rows_continue_their_episodes_until_they_are_reset(sums: OnnxPlayer) -> None:
    ones = [[1, 10], [2, 20], [3, 30]]
    sums.act_batch(ones)
    assert [sum_of(action) for action in sums.act_batch(ones)] == [[2, 20], [4, 40], [6, 60]]
    sums.reset(1)
    actions = sums.act_batch(ones)
    assert [sum_of(action) for action in actions] == [[3, 30], [2, 20], [9, 90]]
    assert [int(action[1]) for action in actions] == [3, 1, 3]
    sums.keep_rows([2, 0])
    assert [sum_of(action) for action in sums.act_batch(ones[:2])] == [[10, 100], [5, 50]]
    sums.reset()
    assert sum_of(sums.act([5, 5])) == [5, 5]
    assert sum_of(sums.act([5, 5])) == [10, 10]
    sums.keep_rows([])
    assert len(sums.act_batch(ones)) == 3


def test_another_number_of_rows_is_refused_and_changes_nothing(sums: OnnxPlayer) -> None:
    sums.act_batch([[1, 1], [2, 2]])
    with pytest.raises(InvalidInputError, match=r"1 observations for 2 .*keep_rows"):
        sums.act([1, 1])
    with pytest.raises(InvalidInputError, match=r"3 observations for 2 .*player\.session\(\)"):
        sums.act_batch([[1, 1]] * 3)
    with pytest.raises(InvalidInputError, match="observation 1: expected numbers of shape"):
        sums.act_batch([[1, 1], [1, 1, 1]])
    assert sums.act_batch([]) == []
    assert [sum_of(a) for a in sums.act_batch([[1, 1], [2, 2]])] == [[2, 2], [4, 4]]


def test_a_policy_without_state_takes_any_number_of_rows(fc: tuple[bytes, Any]) -> None:
    data, expected = fc
    player = load_player(data)
    for count in (3, 1, 8):
        assert player.act_batch(observations(count)) == expected(observations(count))
    assert player.act_batch(np.zeros((0, 4))) == []


def test_rows_that_are_not_there_are_refused(sums: OnnxPlayer) -> None:
    sums.act_batch([[1, 1], [2, 2]])
    for row in (2, -1, "1", True, 0.0):
        with pytest.raises(InvalidInputError, match="is no row"):
            sums.reset(row)
    with pytest.raises(InvalidInputError, match="name each row once"):
        sums.keep_rows([0, 0])
    for rows in (3, "01", np.array(1)):
        with pytest.raises(InvalidInputError, match="keep_rows takes a list of rows"):
            sums.keep_rows(rows)
    assert [sum_of(a) for a in sums.act_batch([[1, 1], [2, 2]])] == [[2, 2], [4, 4]]


def test_sessions_have_episodes_of_their_own(sums: OnnxPlayer) -> None:
    one, two = sums.session(), sums.session()
    sums.act_batch([[1, 1], [1, 1]])
    assert sum_of(one.act([1, 2])) == [1, 2]
    both = sums.act_many({two: [5, 5], one: [1, 2]})
    assert list(both) == [two, one]
    assert [sum_of(both[two]), sum_of(both[one])] == [[5, 5], [2, 4]]
    one.reset()
    assert sum_of(one.act([1, 2])) == [1, 2]
    assert sum_of(two.act([5, 5])) == [10, 10]
    assert [sum_of(action) for action in sums.act_batch([[1, 1], [1, 1]])] == [[2, 2], [2, 2]]
    assert sums.act_many({}) == {}


def test_what_is_no_open_session_of_the_player_is_refused(sums: OnnxPlayer) -> None:
    session = sums.session()
    stranger = load_player(counter().SerializeToString()).session()
    with pytest.raises(InvalidInputError, match="belongs to another player than <OnnxPlayer"):
        sums.act_many({session: [1, 1], stranger: [1, 1]})
    with pytest.raises(InvalidInputError, match=r"'one', which player.session\(\) did not make"):
        sums.act_many({session: [1, 1], "one": [1, 1]})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="a dict of sessions"):
        sums.act_many([[1, 1]])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="observation 0: NaN at index 0"):
        session.act([np.nan, 1])
    assert sum_of(session.act([1, 1], reward=1.0)) == [1, 1]
    with session as closed:
        assert closed is session
    for call in (lambda: session.act([1, 1]), session.reset):
        with pytest.raises(InvalidInputError, match="<closed session of .* is used after close"):
            call()
    session.close()
    for copied in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a session belongs to the player that made it"):
            copied(stranger)


def test_many_threads_act_with_one_player(fc: tuple[bytes, Any], sums: OnnxPlayer) -> None:
    data, expected = fc
    player = load_player(data)

    def play(seed: int) -> bool:
        obs = observations(20, seed)
        session = sums.session()
        totals = [sum_of(session.act(row[:2])) for row in obs]
        exact = np.cumsum(obs[:, :2], axis=0, dtype=np.float32)
        return player.act_batch(obs) == expected(obs) and np.allclose(totals, exact, atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(play, range(32)))


def test_threads_that_share_an_episode_take_turns(
    sums: OnnxPlayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sums._graph.run

    def slowly(arrays: Any) -> Any:
        outputs = run(arrays)
        time.sleep(0.001)  # another thread would read the state of before
        return outputs

    monkeypatch.setattr(sums._graph, "run", slowly)
    session = sums.session()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: (session.act([1, 1]), sums.act([1, 1])), range(20)))
    assert sum_of(session.act([1, 1])) == sum_of(sums.act([1, 1])) == [21, 21]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_plays_on_though_a_thread_was_in_a_call(tmp_path: Path) -> None:
    path = tmp_path / "sums.onnx"
    path.write_bytes(counter().SerializeToString())
    program = (
        "import os, sys, threading\n"
        "from policystore.play import load_player\n"
        f"player = load_player({str(path)!r})\n"
        "player.act([1, 1])\n"
        "player._lock.acquire()\n"  # as a thread of the parent does in a call
        "if os.fork() == 0:\n"
        "    print(player.act([1, 1])[0].tolist(), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[2.0, 2.0]\n"), done.stderr


@pytest.mark.parametrize(
    "copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy, copy.copy]
)
def test_a_copy_is_a_fresh_player_with_the_same_arguments(sums: OnnxPlayer, copied: Any) -> None:
    sums.act_batch([[1, 1], [2, 2]])
    other = copied(sums)
    assert sum_of(other.act([5, 5])) == [5, 5]
    assert [sum_of(a) for a in sums.act_batch([[1, 1], [2, 2]])] == [[2, 2], [4, 4]]
    assert str(other).replace("on      1", "on      2") == str(sums)
    allowing = copied(load_player(counter().SerializeToString(), nan="allow"))
    assert np.isnan(allowing.act([np.nan, 1])[0][0])


def test_nan_is_an_error_unless_it_is_allowed(fc: tuple[bytes, Any]) -> None:
    broken = observations(3)
    broken[1, 2] = np.nan
    player = load_player(fc[0])
    for batch in (broken, list(broken)):
        with pytest.raises(
            InvalidInputError, match="observation 1: NaN at index 2.*nan='allow' to load_p"
        ):
            player.act_batch(batch)
    allowing = load_player(fc[0], nan="allow")
    assert len(allowing.act_batch(broken)) == 3
    assert type(allowing.act(broken[1])) is int


def test_an_observation_for_which_the_policy_computes_nan_changes_nothing(
    sums: OnnxPlayer,
) -> None:
    sums.act_batch([[1, 1], [np.inf, 2]])
    session = sums.session()
    session.act([np.inf, 1])
    with pytest.raises(InvalidInputError, match=r"^observation 1: the policy computes NaN"):
        sums.act_batch([[5, 5], [-np.inf, 2]])
    with pytest.raises(InvalidInputError, match="computes NaN"):
        session.act([-np.inf, 1])
    assert [sum_of(each) for each in sums.act_batch([[1, 1], [1, 1]])] == [[2, 2], [np.inf, 3]]
    assert sum_of(session.act([1, 1])) == [np.inf, 2]


def test_wrong_observations_say_what_was_expected() -> None:
    player = load_player(echo(MIXED).SerializeToString())
    good = MIXED.sample()
    wrong = [
        (
            {**good, "extra": 1},
            r"expected a dict with the keys \['a/b', 'image', 'many', 'parts'\], f.* \['extra'\] too many",
        ),
        ([good], "act takes a single observation, and these are several: act_batch"),
        ({**good, "parts": good["parts"][:2]}, r"\['parts'\]: expected a tuple of 3 .* tuple of 2"),
        (
            {**good, "a/b": [1.0, 2.0]},
            r"\['a/b'\]: expected numbers of shape \(3,\) \(dtype float64\), found list",
        ),
        ({**good, "a/b": ["1", "2", "3"]}, r"dtype <U1"),
        (
            {**good, "parts": (1, good["parts"][1], 0)},
            r"\['parts'\]\[0\]: expected an integer from 2 to 5, found 1",
        ),
        (
            {**good, "parts": (2.0, good["parts"][1], 0)},
            r"an integer from 2 to 5, found 2.0 of dtype f",
        ),
        ({**good, "many": [0, 0]}, r"\['many'\]: expected a value of MultiDiscrete"),
        (
            {**good, "image": good["image"] + 0.5},
            r"expected a value of Box.*found .* of dtype float",
        ),
        (
            {**good, "image": np.full((2, 2, 3), 256)},
            r"expected a value of Box.*found .* of dtype int",
        ),
    ]
    for value, message in wrong:
        with pytest.raises(InvalidInputError, match=message):
            player.act(value)
    for batch, message in [
        (good, "this is a single observation: act"),
        (3, "a batch is a list of observations.*found int"),
        ("abc", "found str"),
        ({**good, "a/b": np.zeros((2, 3))}, "a batch is a list of observations"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            player.act_batch(batch)


def test_exploration_is_refused(fc: tuple[bytes, Any]) -> None:
    player = load_player(fc[0])
    obs = np.zeros(4, np.float32)
    with pytest.raises(InvalidInputError, match="deterministic action alone.*rebuild_player"):
        player.act(obs, explore=True)
    with pytest.raises(InvalidInputError, match="True or False"):
        player.act(obs, explore="no")  # type: ignore[arg-type]
    assert player.act(obs, explore=False, reward=1.0) == player.act_batch([obs], rewards=[1.0])[0]


def test_what_a_player_shows_of_itself(fc: tuple[bytes, Any], sums: OnnxPlayer) -> None:
    player = load_player(fc[0])
    assert repr(player) == f"<OnnxPlayer of {player.digest.short}: PPO>"
    text = str(player)
    assert text.startswith(f"OnnxPlayer of {player.digest}\n")
    assert "Box(-1.0, 1.0, (4,), float32)" in text
    assert "remembers of an episode  nothing" in text
    sums.act_batch([[1, 1], [2, 2]])
    assert "episodes that go on      2" in str(sums)
    assert "Discrete(3)" in player._repr_html_()
    assert repr(sums.session()) == f"<session of {sums!r}>"
    assert player.contents == "player"
    assert player.metadata == read_metadata(fc[0])
    assert player.observation_space == gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    assert player.action_space == gym.spaces.Discrete(3)
    assert player.action_space_json == {"space": "Discrete", "dtype": "int64", "n": 3, "start": 0}


def test_arguments_are_checked(fc: tuple[bytes, Any], tmp_path: Any) -> None:
    data = fc[0]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"threads": 0}, "threads is from 1"),
        ({"threads": True}, "threads is an integer"),
        ({"providers": "CPUExecutionProvider"}, "providers is a list"),
        ({"providers": []}, "providers is a list"),
        ({"providers": [()]}, r"a pair \(name, options\), .*found \(\)$"),
        ({"providers": [None]}, "found None$"),
        ({"providers": [("CPUExecutionProvider", 3)]}, "found .*, 3"),
        ({"providers": ["NoSuchProvider"]}, "does not have 'NoSuchProvider'"),
        ({"nan": "ignore"}, "nan is 'error' or 'allow'"),
    ]
    for arguments, message in wrong:
        with pytest.raises(InvalidInputError, match=message):
            load_player(data, **arguments)
    assert load_player(data, threads=2, providers=[("CPUExecutionProvider", {})]).act([0] * 4) >= 0
    with pytest.raises(NotFoundError, match=r"^reading \S*missing\.onnx: no such file$"):
        load_player(tmp_path / "missing.onnx")
    with pytest.raises(InvalidInputError, match="expected a path"):
        load_player(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("algorithm", "end"), [("PPO", ": PPO>"), (None, ">")])
def test_a_repr_names_the_algorithm_if_it_is_known(algorithm: str | None, end: str) -> None:
    model, _ = linear(build=lambda *spaces: make_metadata(*spaces, algorithm=algorithm))
    player = load_player(model.SerializeToString())
    assert repr(player) == f"<OnnxPlayer of {player.digest.short}{end}"


def test_neither_torch_nor_ray_nor_gymnasium_is_imported(
    fc: tuple[bytes, Any], tmp_path: Any
) -> None:
    path = tmp_path / "main.onnx"
    path.write_bytes(fc[0])
    program = (
        "import sys\n"
        "from policystore.play import load_player\n"
        f"player = load_player({str(path)!r})\n"
        "player.act([0.1, 0.2, 0.3, 0.4]), str(player), player.session().act([0.0] * 4)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'ray', 'gymnasium', 'onnx', 'pandas', 'scipy'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
