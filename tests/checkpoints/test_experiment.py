"""import_experiment, as a call and as a command: a version for each checkpoint, once."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    InvalidInputError,
    MissingPackageError,
    NotFoundError,
    PolicyStore,
    ReadOnlyError,
    StorageError,
)
from policystore.checkpoints import (
    ImportProgress,
    import_experiment,
    list_checkpoints,
    read_checkpoint,
)
from policystore.rllib_schema.trials import name_part
from tests.support import ROOT
from tests.support.checkpoint_corpus import Given, experiments, named, write_trial
from tests.support.command import Command

VERSIONS = ["2.4.0", "2.10.0", "2.60.0"]


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Two trials of three checkpoints with three policies."""
    for trial in ("PPO_a,lr=0.1", "PPO_b"):
        write_trial(tmp_path / "soccer" / trial, VERSIONS)
    return tmp_path / "soccer"


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def damage(experiment: Path) -> Path:
    """Make one checkpoint unreadable."""
    checkpoint = experiment / "PPO_b" / "checkpoint_000001"
    (checkpoint / "policies" / "p1" / "policy_state.pkl").write_bytes(b"\x80")
    return checkpoint


def command(experiment: Path, store: Path | str, *options: Any) -> list[str]:
    words = ["-s", store, "import", experiment, *options]
    return [sys.executable, "-m", "policystore", *map(str, words)]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


# The call


@pytest.mark.parametrize("workers", [1, 2])
def test_every_checkpoint_becomes_a_version_and_only_once(
    experiment: Path, store: PolicyStore, workers: int
) -> None:
    told: list[ImportProgress] = []
    report = import_experiment(experiment, store, workers=workers, progress=told.append)
    assert (report.added, report.present, report.ok) == (18, 0, True)
    assert str(report) == "18 versions added, 0 there already"
    assert store.names() == [
        f"soccer/{trial}/p{i}" for trial in ("PPO_a_lr_0_1", "PPO_b") for i in range(3)
    ]
    assert [(each.done, each.total, each.added, each.error) for each in told] == [
        (number, 6, 3, None) for number in range(1, 7)
    ]
    for trial in ("PPO_a,lr=0.1", "PPO_b"):
        names = [each.checkpoint for each in told if each.trial == trial]
        assert names == [f"checkpoint_{number:06}" for number in range(3)]

    again = import_experiment(experiment, store)
    assert (again.added, again.present) == (0, 18)
    assert store.verify().ok


def test_a_version_records_where_it_comes_from(experiment: Path, store: PolicyStore) -> None:
    import_experiment(experiment, store)
    log = store.log("soccer/PPO_a_lr_0_1/p1")
    assert [version.number for version in log] == [3, 2, 1]
    for version, ray in zip(reversed(log), VERSIONS, strict=True):
        (found,) = [
            one for one in list_checkpoints(experiment)
            if (one.trial, one.name) == (version.source["trial"], version.source["checkpoint"])
        ]  # fmt: skip
        assert found.trial == "PPO_a,lr=0.1"
        assert store.pull(version) == read_checkpoint(Given(ray, "ppo_old_multi").path)["p1"]
        assert version.metrics == {
            "env_runners/episode_return_mean": found.number,
            "training_iteration": 10 * found.number,
        }
        assert version.source["iteration"] == 10 * found.number
        assert version.source["experiment"] == str(experiment)


@pytest.mark.parametrize("one", experiments(), ids=named)
def test_a_version_records_what_tune_has_chosen(one: Given, store: PolicyStore) -> None:
    import_experiment(one.path, store, name="cartpole")
    found = {name: store.log(name)[0].source["params"] for name in store.names()}
    assert sorted(each["lr"] for each in found.values()) == [0.001, 0.003]
    assert all(set(params) == {"lr"} for params in found.values())
    for name, params in found.items():
        assert f"lr_{params['lr']:.4f}".replace(".", "_") in name
    assert len(store.versions(where="source.params.lr < 0.002")) == 2


def test_a_trial_without_its_experiment_has_the_values_of_its_name(
    experiment: Path, store: PolicyStore
) -> None:
    config = {"lr": 0.1, "model": {"depth": 2, "lr": 7}, "gamma": 0.9}
    (experiment / "PPO_a,lr=0.1").rename(experiment / "PPO_0_depth=2,lr=0.1000_2026")
    trial = experiment / "PPO_0_depth=2,lr=0.1000_2026"
    (trial / "params.json").write_text(json.dumps(config))
    import_experiment(trial, store, name="alone", policy_ids=["p0"])
    assert store.log("alone/p0")[0].source["params"] == {"lr": 0.1, "model/depth": 2}


def test_a_value_that_the_trial_had_at_the_checkpoint_counts(
    experiment: Path, store: PolicyStore
) -> None:
    """Population based training changes the config, and not the choice."""
    trials = [
        json.dumps({"relative_logdir": name, "evaluated_params": {"lr": lr, "size": 3}})
        for name, lr in (("PPO_a,lr=0.1", 9.0), ("PPO_b", 8.0))
    ]
    (experiment / "experiment_state-2026-11-28.json").write_text("{")  # cut short
    state = experiment / "experiment_state-2026-11-29.json"
    state.write_text(json.dumps({"trial_data": [[each, "{}"] for each in trials]}))
    results = experiment / "PPO_b" / "result.json"
    results.write_text(results.read_text().replace('"lr": 0.1', '"lr": "<object>"'))
    import_experiment(experiment, store, policy_ids=["p0"])
    assert store.log("soccer/PPO_a_lr_0_1/p0")[0].source["params"] == {"lr": 0.1, "size": 3}
    assert store.log("soccer/PPO_b/p0")[0].source["params"] == {"lr": 8.0, "size": 3}


def test_a_long_trial_has_the_name_that_publish_gives(tmp_path: Path, store: PolicyStore) -> None:
    trial = "PPO_Duo_79fa0_00000_0_" + "lr=0.0001," * 12
    write_trial(tmp_path / "soccer" / trial, VERSIONS[:1])
    import_experiment(tmp_path / "soccer", store, policy_ids=["p0"])
    assert store.names() == [f"soccer/{name_part(trial)}/p0"]


def test_nan_of_a_result_is_left_out(
    experiment: Path, store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    results = experiment / "PPO_b" / "result.json"
    lost = '"learners": {"__all_modules__": {"num": NaN, "loss": Infinity}}, "config"'
    results.write_text(results.read_text().replace('"config"', lost))
    with caplog.at_level(logging.WARNING):
        import_experiment(experiment / "PPO_b", store, name="b", policy_ids=["p0"])
    version = store.log("b/p0")[0]
    assert set(version.metrics) == {
        "env_runners/episode_return_mean", "training_iteration", "learners/__all_modules__/loss",
    }  # fmt: skip
    assert "loss" in caplog.text


def test_some_policies_of_one_trial(experiment: Path, store: PolicyStore) -> None:
    report = import_experiment(experiment / "PPO_b", store, name="league", policy_ids=["p0", "p2"])
    assert report.added == 6
    assert store.names() == ["league/p0", "league/p2"]


def test_what_progress_raises_ends_the_import_and_a_second_one_goes_on(
    experiment: Path, store: PolicyStore
) -> None:
    def interrupt(progress: ImportProgress) -> None:
        if progress.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_experiment(experiment, store, progress=interrupt)
    report = import_experiment(experiment, store)
    assert (report.added, report.present) == (12, 6)
    assert [len(store.log(name)) for name in store.names()] == [3] * 6


def test_a_checkpoint_that_cannot_be_read_is_reported_and_the_others_come(
    experiment: Path, store: PolicyStore
) -> None:
    checkpoint = damage(experiment)
    report = import_experiment(experiment, store)
    assert (report.added, report.ok) == (17, False)
    assert list(report.errors) == [str(checkpoint)]
    assert "policy_state.pkl" in report.errors[str(checkpoint)]
    assert "1 checkpoints not imported" in str(report)


def test_a_result_that_no_record_holds_is_reported(experiment: Path, store: PolicyStore) -> None:
    results = experiment / "PPO_b" / "result.json"
    results.write_text(results.read_text().replace("10,", f'"{"x" * 20_000}",'))
    report = import_experiment(experiment, store)
    assert report.added + 3 == 18
    assert "source" in report.errors[str(experiment / "PPO_b" / "checkpoint_000001")]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_store_ends_the_import(
    experiment: Path, tmp_path: Path, workers: int
) -> None:
    (tmp_path / "file").write_text("no store")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        import_experiment(experiment, PolicyStore(tmp_path / "file"), workers=workers)
    with pytest.raises(ReadOnlyError):
        closed = PolicyStore(tmp_path / "store", read_only=True)
        import_experiment(experiment, closed, workers=workers)


def test_memory_stays_in_its_process(experiment: Path) -> None:
    store = PolicyStore("memory://import-experiment")
    with pytest.raises(InvalidInputError, match="workers=1"):
        import_experiment(experiment, store, workers=2)
    assert import_experiment(experiment, store).added == 18


def test_wrong_arguments(experiment: Path, store: PolicyStore, tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"workers": 0}, {"workers": True}, {"policy_ids": "p0"}, {"name": ".."}, {"progress": 3},
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(InvalidInputError, match=next(iter(arguments))):
            import_experiment(experiment, store, **arguments)
    with pytest.raises(InvalidInputError, match="store is a PolicyStore, not str"):
        import_experiment(experiment, "store")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="no such folder"):
        import_experiment(tmp_path / "nothing", store)
    with pytest.raises(NotFoundError, match="no checkpoints of a Tune trial"):
        import_experiment(Given("2.60.0", "ppo_old_multi").path, store)
    assert not Path(store.url).exists()


def test_ray_is_asked_for_only_by_its_address(
    experiment: Path, store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'policystore\[rllib\]'"):
        import_experiment(experiment, store, ray_address="auto")
    assert import_experiment(experiment, store).added == 18


# The command. The tests of the other commands are in tests/cli.


@pytest.mark.long
def test_the_command_imports_and_a_second_run_adds_nothing(
    experiment: Path, store: PolicyStore
) -> None:
    first = run(experiment, store.url, "--workers", 2)
    assert (first.returncode, first.stdout) == (0, "18 versions added, 0 there already\n")
    assert "[6/6] PPO_" in first.stderr
    assert run(experiment, store.url).stdout == "0 versions added, 18 there already\n"


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], store: PolicyStore) -> Command:
    return Command(capsys, store.url)


def test_the_command_takes_policies_and_a_name(
    experiment: Path, store: PolicyStore, shell: Command
) -> None:
    done = shell.run(
        "import", experiment / "PPO_b", "--policy", "p0", "--policy", "p2", "--name", "league"
    )
    assert done.out == "6 versions added, 0 there already\n"
    assert store.names() == ["league/p0", "league/p2"]


def test_the_command_fails_with_one_line_for_a_typed_error(tmp_path: Path, shell: Command) -> None:
    done = shell.run("import", tmp_path / "nothing")
    assert (done.code, done.out) == (3, "")
    assert done.error.startswith("error: ")
    assert done.error.endswith("there is no such folder, or it is empty")


def test_the_command_fails_after_a_checkpoint_that_it_cannot_read(
    experiment: Path, shell: Command
) -> None:
    damage(experiment)
    done = shell.run("import", experiment, "--workers", 1)
    assert done.code == 1
    assert done.out == "17 versions added, 0 there already, 1 checkpoints not imported\n"
    (line,) = (each for each in done.err.splitlines() if not each.startswith("["))
    assert line.startswith("not imported: PPO_b/checkpoint_000001: ")
    document = shell.json("import", experiment, "--workers", 1, code=1)
    assert (document["added"], document["present"], len(document["errors"])) == (0, 17, 1)


def start(experiment: Path, store: PolicyStore) -> subprocess.Popen[str]:
    """The command, which has imported at least one checkpoint, and has more to do."""
    process = subprocess.Popen(
        command(experiment, store.url, "--workers", "2"),
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
        # What a shell starts in the background ignores interrupts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[1/")
    return process


@pytest.mark.long
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_command_that_was_interrupted_goes_on(
    tmp_path: Path, store: PolicyStore, sent: signal.Signals, status: int
) -> None:
    experiment = tmp_path / "long"
    for trial in ("a", "b", "c"):
        write_trial(experiment / trial, ["2.60.0"] * 15)
    process = start(experiment, store)
    os.killpg(process.pid, sent)  # Ctrl-C in a terminal reaches all processes of a command, too
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    if sent == signal.SIGINT:
        assert stderr.splitlines()[-2:] == [
            "the same command goes on where this one ended",
            "interrupted; the store is valid",
        ]

    report = import_experiment(experiment, store)
    assert report.added > 0
    assert report.present > 0
    assert {name: len(store.log(name)) for name in store.names()} == dict.fromkeys(
        store.names(), 15
    )
    assert len(store.names()) == 9
    assert store.verify().ok
