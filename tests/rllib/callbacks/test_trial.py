"""What is known of a trial of Tune: its name, and the hyperparameters that Tune has chosen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyarrow.fs import LocalFileSystem

from policystore.rllib.callbacks import trial
from policystore.rllib.callbacks.trial import TrialParams

TRIAL = "PPO_Duo_79fa0_00001_1_lr=0.0010_2026-11-29_10-54-37"
CONFIG = SimpleNamespace(
    lr=1e-3, lambda_=0.75, gamma=0.9, env_config={"size": 3, "a/b": 4}, model={"fcnet_hiddens": [8]},
    callbacks_class=int, betas=(0.5, 0.75), steps=np.int64(7),
)  # fmt: skip


# Tune's file -------------------------------------------------------------------------------------


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [100.0]
    monkeypatch.setattr(trial.time, "monotonic", lambda: clock[0])
    return clock


def params_of(folder: Path) -> TrialParams:
    storage = SimpleNamespace(
        trial_dir_name=TRIAL, storage_filesystem=LocalFileSystem(), experiment_fs_path=str(folder)
    )
    algorithm: Any = SimpleNamespace(_storage=storage, config=CONFIG)
    return TrialParams(algorithm)


def write(folder: Path, time: str, chosen: dict[str, Any], *, pair: bool = True) -> None:
    """Write the state of an experiment of two trials, as Tune does."""
    trials = [
        json.dumps({"relative_logdir": name, "evaluated_params": each, "note": TRIAL})
        for name, each in (("another", {"lr": 9.0}), (TRIAL, chosen))
    ]
    state = {"trial_data": [[each, "{}"] if pair else each for each in trials], "stats": {}}
    (folder / f"experiment_state-{time}.json").write_text(json.dumps(state))


def test_the_values_of_the_config_count(tmp_path: Path) -> None:
    """PBT changes the config, and not what Tune's file says of the choice."""
    chosen = {"lr": 0.5, "lambda": 0.5, "env_config/size": 1, "env_config/a/b": 1,
              "model/fcnet_hiddens": [4], "betas": [0.1, 0.2], "steps": 1, "gone": 2.5,
              "env_config/gone": None}  # fmt: skip
    write(tmp_path, "2026", chosen)
    assert params_of(tmp_path).source() == {
        "params": {"lr": 1e-3, "lambda": 0.75, "env_config/size": 3, "env_config/a/b": 4,
                   "model/fcnet_hiddens": [8], "betas": (0.5, 0.75), "steps": 7, "gone": 2.5,
                   "env_config/gone": None}
    }  # fmt: skip


@pytest.mark.parametrize("pair", [True, False])
def test_the_choice_is_read_from_the_newest_state(tmp_path: Path, pair: bool) -> None:
    write(tmp_path, "2026-11-29_10-54-37", {"gamma": 1.0})
    write(tmp_path, "2026-11-29_11-00-00", {"gone": 2.0}, pair=pair)
    (tmp_path / "experiment_state-2027.json.tmp").write_text("{")
    assert params_of(tmp_path).source() == {"params": {"gone": 2.0}}


def test_outside_of_tune_there_is_no_choice() -> None:
    algorithm: Any = SimpleNamespace(config=CONFIG)
    assert TrialParams(algorithm).source() == {}


def test_a_state_that_comes_later_is_found(tmp_path: Path, now: list[float]) -> None:
    params = params_of(tmp_path)
    assert params.source() is None
    (tmp_path / "experiment_state-2026.json").write_text('{"trial_data": [')  # half of a file
    now[0] += 1.0
    assert params.source() is None
    write(tmp_path, "2026", {"lr": 1.0})
    assert params.source() is None  # not looked for so soon
    now[0] += 1.0
    assert params.source() == {"params": {"lr": 1e-3}}
    (tmp_path / "experiment_state-2026.json").unlink()
    assert params.source() == {"params": {"lr": 1e-3}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no file of the experiment names the trial"),
        ('{"trial_data": []}', "no file of the experiment names the trial"),
        ("[]", "TypeError"),
        ('{"trial_data": [[]]}', "IndexError"),
        ("\x00", "JSONDecodeError"),
    ],
)
def test_a_state_that_does_not_tell_is_given_up(
    tmp_path: Path, now: list[float], text: str | None, words: str, caplog: Any
) -> None:
    if text is not None:
        (tmp_path / "experiment_state-2026.json").write_text(text)
    params = params_of(tmp_path)
    while params.source() is None:
        assert not caplog.records
        now[0] += 1.0
    assert now[0] == 105.0
    assert params.source() == {}
    (line,) = caplog.records
    assert TRIAL in line.message
    assert words in line.message
