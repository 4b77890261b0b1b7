"""Evaluations: the returns of a plain loop, an interval, metrics, films."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from imageio_ffmpeg import get_ffmpeg_exe
from scipy import stats  # type: ignore[import-untyped]

from policystore import PolicyStore, Snapshot
from policystore.errors import InvalidInputError, MatchError, MissingPackageError
from policystore.league.tournament.evaluation import evaluate
from policystore.rllib import rebuild_player
from tests.support import player_pairs
from tests.support.tournament import SEEN, Numbers

SPACES: Any = (
    gym.spaces.Box(-np.inf, np.inf, (4,), np.float32),
    gym.spaces.Discrete(2),
)
RECURRENT: dict[str, Any] = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}


def snapshots() -> dict[str, Snapshot]:
    torch.manual_seed(0)
    return {
        "new": player_pairs.module(*SPACES),
        "old": player_pairs.policy(*SPACES),
        "new-lstm": player_pairs.module(*SPACES, **RECURRENT),
        "old-lstm": player_pairs.policy(*SPACES, **RECURRENT),
    }


SNAPSHOTS = snapshots()


@pytest.mark.parametrize("kind", SNAPSHOTS)
def test_returns_are_those_of_a_plain_loop(kind: str) -> None:
    evaluation = evaluate(SNAPSHOTS[kind], "CartPole-v1", episodes=6, seed=3, max_steps=40)
    player = rebuild_player(SNAPSHOTS[kind], env_spaces=SPACES)
    env: Any = gym.make("CartPole-v1")
    returns, lengths = [], []
    for seed in evaluation.seeds:
        player.reset()
        observation, _ = env.reset(seed=seed)
        total, steps, over = 0.0, 0, False
        while not over and steps < 40:
            observation, reward, terminated, truncated, _ = env.step(player.act(observation))
            total, steps, over = total + reward, steps + 1, terminated or truncated
        returns.append(total)
        lengths.append(steps)
    assert evaluation.returns.tolist() == returns
    assert evaluation.lengths.tolist() == lengths


def test_all_policies_begin_with_the_same_episodes() -> None:
    one = evaluate(SNAPSHOTS["new"], "CartPole-v1", episodes=4, max_steps=5)
    other = evaluate("random", "CartPole-v1", episodes=9, max_steps=5)
    assert other.seeds[:4] == one.seeds
    assert evaluate("random", "CartPole-v1", 4, 1, max_steps=5).seeds != one.seeds


def test_mean_interval_and_metrics() -> None:
    evaluation = evaluate("random", "CartPole-v1", episodes=20)
    expected = stats.t.interval(0.95, 19, evaluation.returns.mean(), stats.sem(evaluation.returns))
    assert evaluation.interval == pytest.approx(expected, rel=1e-9)
    assert evaluation.mean == pytest.approx(evaluation.returns.mean())
    metrics = evaluation.to_metrics()
    assert metrics["eval_return"] == evaluation.mean
    assert metrics["eval_episodes"] == 20
    assert "eval_return_low" not in evaluate("random", "CartPole-v1", 1).to_metrics()
    assert "CartPole-v1" in str(evaluation)
    assert "CartPole-v1" in evaluation._repr_html_()
    assert len(evaluation.to_records()) == 20


def test_a_version_is_annotated_with_the_metrics(tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    version = store.push(SNAPSHOTS["new"], "pole")
    evaluation = evaluate("pole", "CartPole-v1", 3, store=store)
    assert evaluation.player == str(version.digest)
    store.annotate("pole", metrics=evaluation.to_metrics())
    (annotated,) = store.log("pole", annotations=True)
    assert annotated.all_metrics["eval_return"] == evaluation.mean
    with pytest.raises(InvalidInputError, match="store="):
        evaluate("pole", "CartPole-v1", 3)


def test_a_policy_among_others() -> None:
    snap = player_pairs.module(SEEN, gym.spaces.Discrete(3))
    alone = evaluate(snap, Numbers, 5, roles="p0", others="random")
    assert alone.returns.tolist() == alone.role_returns["p0"].tolist()
    both = evaluate(snap, Numbers, 5)
    total = both.role_returns["p0"] + both.role_returns["p1"]
    assert both.returns.tolist() == total.tolist()
    with pytest.raises(InvalidInputError, match="others"):
        evaluate(snap, Numbers, 5, roles="p0")
    with pytest.raises(InvalidInputError, match="roles"):
        evaluate(snap, Numbers, 5, roles="p7")


def test_a_player_that_raises_is_named() -> None:
    def broken(seen: Any) -> int:
        raise ValueError("out of ideas")

    with pytest.raises(
        MatchError, match=r"player broken raised: ValueError\('out of ideas'\)"
    ) as e:
        evaluate(broken, "CartPole-v1", 3, seed=5)
    assert e.value.seeds == evaluate("random", "CartPole-v1", 3, 5, max_steps=1).seeds


@pytest.mark.long
def pictures(film: Path) -> Any:
    """Return the pictures of CartPole ``[steps, 400, 600, 3]``, as ffmpeg decodes the file."""
    command = [get_ffmpeg_exe(), "-loglevel", "error", "-i", str(film), "-fps_mode", "passthrough"]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
                          capture_output=True, check=True, timeout=60)  # fmt: skip
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, 400, 600, 3)


def test_a_film_has_a_picture_for_each_step(tmp_path: Path) -> None:
    for name in ("run.gif", "run.mp4"):
        path = tmp_path / name
        filmed = evaluate("random", "CartPole-v1", 2, video=path, max_steps=12)
        plain = evaluate("random", "CartPole-v1", 2, max_steps=12)
        assert filmed.returns.tolist() == plain.returns.tolist()
        frames = pictures(path)
        # A GIF has no second picture of the same sight; it shows the first one longer.
        steps = int(filmed.lengths[0]) + 1
        assert len(frames) == steps if name == "run.mp4" else 1 < len(frames) <= steps
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run.gif", "run.mp4"]


def test_what_makes_no_film_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((InvalidInputError, MatchError), match="render"):
        evaluate("random", Numbers, 1, video=tmp_path / "run.gif")
    with pytest.raises(InvalidInputError, match="mp4"):
        evaluate("random", "CartPole-v1", 1, video=tmp_path / "run.avi")
    with pytest.raises(InvalidInputError, match="folder"):
        evaluate("random", "CartPole-v1", 1, video=tmp_path / "no" / "run.gif")

    monkeypatch.setitem(sys.modules, "imageio.v2", None)
    with pytest.raises(MissingPackageError, match=r"policystore\[video\]"):
        evaluate("random", "CartPole-v1", 1, video=tmp_path / "run.gif")
    assert list(tmp_path.iterdir()) == []
