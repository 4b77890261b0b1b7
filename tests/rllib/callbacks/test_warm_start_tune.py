"""Warm starts in Tune, on both stacks: the first sample, restarts, pauses, several trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune

import tests.support.tune_runs as parts
from policystore import PolicyStore
from policystore.rllib import snapshot_all
from policystore.rllib.callbacks.warm_start import warm_start
from tests.support.cells import sampled

CELLS = {
    "new, Tuner, no runners, a crash": ("new", "Tuner", 0, "crash"),
    "new, tune.run, two runners, a pause": ("new", "tune.run", 2, "pause"),
    "old, Tuner, a runner, a pause": ("old", "Tuner", 1, "pause"),
    "old, tune.run, no runners, a crash": ("old", "tune.run", 0, "crash"),
}


@pytest.mark.parametrize("cell", sampled(CELLS, wide=list(CELLS)[1:]))
def test_trials(cell: str, ray_session: None, tmp_path: Path) -> None:
    """Two trials at once begin with what was pushed, and go on with what they learned."""
    stack, by, runners, interruption = CELLS[cell]
    own = parts.PARTS[stack]
    store = PolicyStore(tmp_path / "store")
    with own.built(own.configured()) as algo:
        pushed = {
            pid: parts.new_stack_algorithms.other(snap, level)
            for (pid, snap), level in zip(snapshot_all(algo).items(), (2.0, 5.0), strict=True)
        }
    for pid, snap in pushed.items():
        store.push(snap, f"duo/{pid}")
    pages = tmp_path / "diary"
    beside = [parts.diary(pages)]
    if interruption == "crash":
        beside.append(parts.crash(tmp_path, 3))
    config = own.configured(runners=runners, evals=0)
    config.training(lr=tune.grid_search([0.01, 0.02]))
    config.callbacks(warm_start(store, {pid: f"duo/{pid}" for pid in pushed}, callbacks=beside))
    # The names move on: no trial may notice.
    for pid, snap in pushed.items():
        store.push(parts.new_stack_algorithms.other(snap, 9.0), f"duo/{pid}")
    results = parts.run(
        config,
        tmp_path / "tune",
        4,
        by=by,
        failures=1,
        scheduler=parts.PauseOnce(2) if interruption == "pause" else None,
    )
    assert [result.error for result in results] == [None, None]
    wanted = {pid: parts.expected(snap) for pid, snap in pushed.items()}
    for result in results:
        assert result.metrics["training_iteration"] == 4
        digests = {pid: str(snap.digest) for pid, snap in pushed.items()}
        assert result.metrics["policystore"]["warm_start"] == digests
    check_pages(pages, wanted, interruption, runners)


def check_pages(pages: Path, wanted: Any, interruption: str, runners: int) -> None:
    everything = [line for page in parts.notes(pages) for line in page]
    learned = {
        (line["trial"], line["iteration"]): line["prints"]
        for line in everything
        if line["kind"] == "result"
    }
    trials = {trial for trial, _ in learned}
    assert len(trials) == 2
    for prints in learned.values():
        assert prints["foe"] == wanted["foe"]  # frozen
        assert prints["main"] != wanted["main"]
    restored = [line for line in everything if line["kind"] == "restored"]
    assert len(restored) == (1 if interruption == "crash" else 2)
    assert all(line["iteration"] >= 2 for line in restored)
    fresh, resumed = 0, 0
    for page in parts.notes(pages):
        episodes = [line for line in page if line["kind"] == "episode"]
        if not episodes:
            continue
        first = episodes[0]["prints"]
        assert parts.within(first["foe"], wanted["foe"])
        if parts.within(first["main"], wanted["main"]):
            fresh += 1
            continue
        # It goes on with what was learned up to the checkpoint, not with the warm start.
        at = {(line["trial"], line["iteration"]) for line in restored}
        assert any(parts.within(first["main"], learned[each]["main"]) for each in at)
        resumed += 1
    each = max(runners, 1)
    assert (fresh, resumed) == (2 * each, len(restored) * each)
