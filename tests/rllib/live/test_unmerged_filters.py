"""Filters that RLlib does not merge, and filters that a snapshot leaves out; both API stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter

import tests.support.added_policies as old_parts
import tests.support.new_stack_algorithms as parts
from policystore import PolicyStore
from policystore.errors import InvalidInputError, MismatchError, NotFoundError
from policystore.rllib import add_policy, check_sync, load_into, snapshot, snapshot_all, warm_start

ONE = "default_policy"


def new_config(*, multi: bool = False, merge: Any = "training_only") -> Any:
    return parts.configured(PPOConfig, runners=2, multi=multi).env_runners(
        env_to_module_connector=lambda *_, **__: MeanStdFilter(multi_agent=multi),
        merge_env_runner_states=merge,
    )


def old_config(**runners: Any) -> Any:
    return old_parts.configured(runners=2).env_runners(
        observation_filter="MeanStdFilter", **runners
    )


def _counts(algo: Any) -> list[int]:
    """Return how many observations the filter of each remote env runner has seen."""
    held = parts.ask(algo, parts.counts)
    return [held[name][None][0] if held[name] else 0 for name in ("train 1", "train 2")]


@pytest.mark.long
def test_new_stack_each_runner_has_its_own(ray_session: None) -> None:
    with parts.built(new_config(merge=False)) as algo:
        # On a busy machine RLlib goes on without an env runner that answers late.
        parts.until(lambda: algo.train() and all(_counts(algo)), "observations in both runners")
        held = parts.ask(algo, parts.counts)
        assert held["train local"] == {} or held["train local"][None][0] == 0

        with pytest.raises(InvalidInputError, match=r"from_runner=1.*omit=\['MeanStdFilter'\]"):
            snapshot(algo)
        for number in (1, 2):
            taken = snapshot(algo, from_runner=number).state["MeanStdFilter"][None]
            stats = taken["running_stats"][0]
            count, mean = held[f"train {number}"][None]
            assert stats["num_pushes"] == count > 0
            np.testing.assert_array_equal(stats["mean"], mean)
        with pytest.raises(NotFoundError, match=r"no remote env runner 3; it has \[1, 2\]"):
            snapshot_all(algo, from_runner=3)
        with pytest.raises(InvalidInputError, match="number of an env runner"):
            snapshot(algo, from_runner="1")  # type: ignore[arg-type]

        report = check_sync(algo)
        assert any("merge_env_runner_states=False" in note for note in report.notes)
        differ = {row.worker: row.filters_differ for row in report}
        assert differ["train 1"] or differ["train 2"]
        assert " differ" in str(report)


@pytest.mark.long
def test_new_stack_merged_filters_do_not_differ(ray_session: None) -> None:
    with parts.built(new_config(merge=True)) as algo:
        algo.train()
        report = check_sync(algo)
        assert report.notes == ()
        assert not any(row.filters_differ for row in report), str(report)


@pytest.mark.long
def test_old_stack_each_worker_has_its_own(ray_session: None) -> None:
    config = old_config(use_worker_filter_stats=False, update_worker_filter_stats=False)
    with old_parts.built(config) as algo:
        algo.train()
        held = {
            name: count
            for name, (count, _) in old_parts.ask(algo, old_parts.counts, "p_box").items()
        }
        assert held["train local"] == 0 < min(held["train 1"], held["train 2"])

        with pytest.raises(InvalidInputError, match="use_worker_filter_stats=False.*from_runner=1"):
            snapshot(algo, "p_box")
        snap = snapshot(algo, "p_box", from_runner=2)
        (state,) = (
            each for each in snap.state["connectors"]["agent"].values() if "running_stats" in each
        )
        assert state["running_stats"][0]["count"] == held["train 2"]
        assert any("use_worker_filter_stats" in note for note in check_sync(algo).notes)
        assert snapshot(algo, "p_box", omit=["MeanStdFilter"]).state.get("connectors") is None


@pytest.mark.long
def test_new_stack_what_is_left_out_is_noted(ray_session: None, tmp_path: Any) -> None:
    """Statistics of another policy stay in the filters: never without a word."""
    with parts.built(new_config(multi=True)) as algo:
        algo.train()
        snap = snapshot(algo, "main", omit=["MeanStdFilter"])
        before = parts.ask(algo, parts.counts)

        loaded = load_into(algo, {"main": snap})
        added = add_policy(algo, "late", snap)

        for report in (loaded, added):
            assert any("leaves out MeanStdFilter" in note for note in report.notes), report.notes
        with pytest.raises(
            MismatchError, match="has no statistics of MeanStdFilter, which it leav"
        ):
            load_into(algo, {"main": snap}, agent_ids={"main": ["a"]})
        with pytest.raises(MismatchError, match="agent_ids="):
            add_policy(algo, "later", snap, agent_ids=["a"])
        after = parts.ask(algo, parts.counts)
        assert {n: c and c["a"][0] for n, c in after.items()} == {
            n: c and c["a"][0] for n, c in before.items()
        }
        store = PolicyStore(tmp_path / "store")
        store.push(snap, "main")
    told = warm_start(store, {"main": "main"}, agent_ids={"main": ["a"]})
    with pytest.raises(MismatchError, match="has no statistics"):
        new_config(multi=True).callbacks(told).build_algo()


@pytest.mark.long
def test_old_stack_what_is_left_out_is_noted(ray_session: None) -> None:
    with old_parts.built(old_config()) as algo:
        algo.train()
        snap = snapshot(algo, "p_box", omit=["MeanStdFilter"])
        report = load_into(algo, {"p_box": snap})
        assert report.ok
        assert any("leaves out the observation filter" in note for note in report.notes)


def test_agents_without_a_filter(ray_session: None) -> None:
    with parts.built(parts.configured(PPOConfig)) as algo:
        snap = snapshot(algo, "main")
        with pytest.raises(InvalidInputError, match="no observation filters.*Leave agent_ids= out"):
            load_into(algo, {"main": snap}, agent_ids={"main": ["a"]})
        assert load_into(algo, {"main": snap}, agent_ids={"main": []}).ok
