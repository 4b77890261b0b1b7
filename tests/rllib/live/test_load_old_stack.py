from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.policy.policy import PolicySpec

from policystore import InvalidInputError, MismatchError
from policystore.rllib import SyncReport, check_sync, load_into, snapshot
from tests.support.new_stack_algorithms import other
from tests.support.old_stack_algorithms import (
    ScaledPolicy,
    ask,
    assert_held,
    built,
    configured,
    read,
)

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def unsynced(ray_session: None) -> Iterator[tuple[Any, SyncReport]]:
    """Filters, two remote workers, a local one, and both kinds for evaluation.

    With what ``check_sync`` said after the first iteration, before any load.
    """
    with built(configured(runners=2, evals=1, observation_filter="MeanStdFilter")) as algo:
        algo.train()
        yield algo, check_sync(algo)


@pytest.fixture(scope="module")
def wide(unsynced: tuple[Any, SyncReport]) -> Any:
    return unsynced[0]


def test_everyone_holds_what_was_loaded_and_frozen_stays(wide: Any) -> None:
    snaps = {pid: other(snapshot(wide, pid), 1.0) for pid in ("main", "foe")}
    report = load_into(wide, snaps)
    assert report.ok
    assert {row.worker for row in report} == {
        "train local", "train 1", "train 2", "eval local", "eval 1",
    }  # fmt: skip
    assert all(row.digest == snaps[row.policy].acting_digest for row in report)
    assert_held(wide, snaps)
    for _ in range(3):
        wide.train()
    assert_held(wide, {"foe": snaps["foe"]})
    trained = ask(wide, read)["train local"]["main"]["weights"]
    assert any(
        array.tobytes() != snaps["main"].weights[name].tobytes() for name, array in trained.items()
    )
    wide.evaluate()
    assert check_sync(wide).ok


@pytest.mark.long
def test_frozen_policies_that_differ_are_seen_and_a_load_mends_them(
    unsynced: tuple[Any, SyncReport],
) -> None:
    """Workers start with other random weights each, and training never sends the frozen ones."""
    algo, first = unsynced
    found = {(row.worker, row.policy): row.status for row in first}
    assert found["train 1", "foe"] == found["train 2", "foe"] == "bad"
    assert found["train 1", "main"] == found["train local", "foe"] == "ok"
    snap = snapshot(algo, "foe")
    load_into(algo, {"foe": snap})
    assert check_sync(algo, ["foe"]).ok
    algo.train()
    assert_held(algo, {"foe": snap})


def test_alone_and_recurrent(ray_session: None) -> None:
    with built(configured(multi=False, model={"use_lstm": True, "lstm_cell_size": 4})) as algo:
        for _ in range(2):
            snap = other(snapshot(algo), 1.0)
            report = load_into(algo, {"default_policy": snap})
            assert [row.worker for row in report] == ["train local"]
            assert_held(algo, {"default_policy": snap})
            algo.train()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # RLlib's means of no episode
def test_impala(ray_session: None) -> None:
    with built(configured(IMPALAConfig, runners=2)) as algo:
        for _ in range(3):
            algo.train()
        snaps = {pid: other(snapshot(algo, pid), 1.0) for pid in ("main", "foe")}
        load_into(algo, snaps)
        assert_held(algo, snaps)
        for _ in range(4):
            algo.train()
        assert_held(algo, {"foe": snaps["foe"]})
        statuses = {row.status for row in check_sync(algo)}
        assert statuses <= {"ok", "behind"}


@pytest.mark.long
def test_sac_gets_new_targets(ray_session: None) -> None:
    with built(configured(SACConfig, runners=1, multi=False)) as algo:
        for _ in range(3):
            algo.train()
        snap = other(snapshot(algo), 1.0)
        report = load_into(algo, {"default_policy": snap})
        assert_held(algo, {"default_policy": snap})
        targets = {row.targets for row in report}
        assert len(targets) == 1
        assert None not in targets
        for found in ask(algo, read).values():
            (target,) = found["default_policy"]["targets"]
            for name, array in target.items():
                assert array.tobytes() == snap.weights[name].tobytes(), name
        algo.train()


def test_filters_come_along_and_are_merged_again(wide: Any) -> None:
    wide.train()
    snap = snapshot(wide, "main")
    loaded = ask(wide, read)["train local"]["main"]["count"]
    assert loaded > 0
    for _ in range(2):
        wide.train()
    load_into(wide, {"main": snap})
    for name, found in ask(wide, read).items():
        assert found["main"]["count"] == loaded, name
    before = ask(wide, read)["train local"]["foe"]["count"]
    wide.train()
    after = ask(wide, read)
    sampled = after["train local"]["foe"]["count"] - before
    assert sampled > 0
    for name in ("train local", "train 1", "train 2"):
        assert after[name]["main"]["count"] == loaded + sampled, name


def test_a_snapshot_without_the_filter_is_refused_and_so_is_one_with_it_elsewhere(
    wide: Any,
) -> None:
    snap = snapshot(wide, "main")
    with pytest.raises(MismatchError, match="without an observation filter"):
        load_into(wide, {"main": snap.replace(state={})})
    with pytest.raises(InvalidInputError, match="new API stack"):
        load_into(wide, {"main": snap}, agent_ids=["a"])
    with built(configured()) as plain, pytest.raises(MismatchError, match="has none"):
        load_into(plain, {"main": snap})


@pytest.mark.long
def test_more_policies_than_are_kept_in_memory(ray_session: None) -> None:
    """Swapped-out ones as well; a policy that is held goes stale as soon as others are used."""
    ids = ["main", "foe", "p2", "p3", "p4"]
    with built(configured(runners=1, evals=1, policies=ids, policy_map_capacity=2)) as algo:
        algo.train()
        snaps = {pid: other(snapshot(algo, pid), float(n + 1)) for n, pid in enumerate(ids)}
        report = load_into(algo, snaps)
        assert report.ok
        assert_held(algo, snaps)
        for _ in range(2):
            algo.train()
        assert_held(algo, {pid: snaps[pid] for pid in ids[1:]})
        frozen = check_sync(algo, ids[1:])
        assert {row.status for row in frozen} == {"ok"}


@pytest.mark.long
def test_a_policy_with_weights_of_its_own_form(ray_session: None) -> None:
    policies = {"main": PolicySpec(), "foe": PolicySpec(policy_class=ScaledPolicy)}
    with built(configured(runners=1, policies=policies)) as algo:
        snap = other(snapshot(algo, "foe"), 1.0)
        assert all(name.startswith("own/") for name in snap.weights)
        report = load_into(algo, {"foe": snap})
        assert report.ok
        for found in ask(algo, read).values():
            for name, array in found["foe"]["weights"].items():
                np.testing.assert_array_equal(array, snap.weights[f"own/{name}"] / 2)
