"""A policy on a machine, pulled and rebuilt, and its bytes, against RLlib's own checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.rllib.policy.policy import Policy

from policystore import PolicyStore
from policystore.rllib import rebuild_module, rebuild_policy, snapshot, snapshot_all
from scripts.benchmarks.lines.harness.networks import algorithm, cluster
from scripts.benchmarks.lines.harness.policies import bytes_below
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import in_turn

__all__ = ["measure"]

_FASTER = 1 / 50  # than an Algorithm that restores one of its policies


def measure(settings: Settings, report: Report) -> None:
    league = 3 if settings.quick else 100
    with cluster(4), settings.folder() as folder:
        _module(settings, report, folder)
        _policy(settings, report, folder, league)


def _module(settings: Settings, report: Report, folder: Path) -> None:
    """Measure a module of the new API stack, and the bytes that a store needs for the module."""
    algo = algorithm("new", 1)
    try:
        algo.train()
        store = PolicyStore(folder / "new")
        snap = snapshot(algo, "p0")
        digest = store.push(snap, "bench/main").digest
        path = folder / "module"
        algo.get_module("p0").save_to_path(path)
        algo.save_to_path(folder / "checkpoint")
    finally:
        algo.stop()
    stored = bytes_below(folder / "new")
    report.check(stored > snap.nbytes, "the store has fewer bytes than the weights")
    what = "bytes of a trained PPO policy, with all records"
    report.count(what, "RLlib's checkpoint", stored, bytes_below(folder / "checkpoint"), "B",
                 limit=1 / 3)  # fmt: skip
    report.count(what, "RLModule.save_to_path", stored, bytes_below(path), "B",
                 note="RLlib's folder has no filters, connectors and history")  # fmt: skip

    def ours() -> Any:
        return rebuild_module(store.pull(digest))

    def theirs() -> Any:
        return RLModule.from_checkpoint(path)

    batch = {"obs": torch.ones(3, 4)}
    key = "action_dist_inputs"
    with torch.inference_mode():
        same = torch.equal(ours()._forward_inference(batch)[key],
                           theirs()._forward_inference(batch)[key])  # fmt: skip
    report.check(same, "the modules compute different outputs")
    times = in_turn({"ours": ours, "theirs": theirs}, settings.rounds(40), warm_up=2)
    report.compare(
        "pull and rebuild_module", "RLModule.from_checkpoint", times["ours"], times["theirs"],
        limit=1.0,
    )  # fmt: skip


def _policy(settings: Settings, report: Report, folder: Path, league: int) -> None:
    """Measure a policy of the old API stack, alone and out of a league."""
    algo = algorithm("old", league)
    try:
        algo.train()
        store = PolicyStore(folder / "old")
        digests = {pid: store.push(snap, f"league/{pid}").digest
                   for pid, snap in snapshot_all(algo).items()}  # fmt: skip
        checkpoint = algo.save(str(folder / "algorithm")).checkpoint.path
    finally:
        algo.stop()
    path = Path(checkpoint) / "policies" / "p0"

    def ours() -> Any:
        return rebuild_policy(store.pull(digests["p0"]))

    def theirs() -> Any:
        return Policy.from_checkpoint(str(path))

    rows = np.ones((3, 4), np.float32)
    mine, other = (
        made.compute_actions(rows, explore=False)[2]["action_dist_inputs"]
        for made in (ours(), theirs())
    )
    report.check(np.array_equal(mine, other), "the policies compute different outputs")
    times = in_turn({"ours": ours, "theirs": theirs}, settings.rounds(20), warm_up=2)
    report.compare(
        "pull and rebuild_policy", "Policy.from_checkpoint", times["ours"], times["theirs"],
        limit=1.0,
    )  # fmt: skip

    last = f"p{league - 1}"

    def restore() -> None:
        restored = Algorithm.from_checkpoint(checkpoint, policy_ids=[last])
        report.check(restored.get_policy(last) is not None, "the Algorithm lacks the policy")
        restored.stop()

    times = in_turn(
        {"ours": lambda: rebuild_policy(store.pull(f"league/{last}")), "theirs": restore},
        settings.rounds(5) if not settings.quick else 1,
    )
    report.compare(
        f"one policy of {league} onto a machine", "Algorithm.from_checkpoint(policy_ids=[…])",
        times["ours"], times["theirs"], limit=_FASTER,
        note="old API stack, no remote env runner",
    )  # fmt: skip
