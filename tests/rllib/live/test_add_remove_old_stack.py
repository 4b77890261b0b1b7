"""add_policy and remove_policy on the old API stack: everyone gets a policy, or nobody; nothing stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.examples._old_api_stack.policy.random_policy import RandomPolicy

import tests.support.added_policies as parts
from policystore.rllib import check_sync, snapshot
from policystore.rllib.live.policies import add_policy, remove_policy
from tests.support.added_policies import first, instead, made

NEW = "newcomer"


@pytest.fixture(scope="module")
def filtering(ray_session: None) -> Iterator[Any]:
    config = parts.configured(runners=2).environment(clip_rewards=0.5)
    config.env_runners(observation_filter="MeanStdFilter")
    with parts.built(config) as algo:
        algo.train()
        yield algo


@pytest.mark.parametrize(
    ("agent", "of"),
    [
        ("wide", {"seed": 1}),
        ("wide", {"seed": 2, "lstm": True}),
        pytest.param("dict", {"seed": 3}, marks=pytest.mark.long),
        ("box", {"seed": 4, "by_hand": True}),
        pytest.param("reach", {"seed": 5}, marks=pytest.mark.long),
    ],
    ids=["other net", "lstm", "dict", "by hand", "sac"],
)
def test_a_policy_comes_plays_and_goes(crowd: Any, agent: str, of: dict[str, Any]) -> None:
    snap = made(agent, **of)
    before = parts.ask(crowd, parts.functions)
    report = add_policy(
        crowd, NEW, snap, policy_mapping_fn=instead(agent, NEW), policies_to_train=["p_box"]
    )
    parts.assert_proven(report, crowd, NEW, snap)
    parts.assert_held(crowd, {NEW: snap})
    by_hand = not snap.spec.connectors
    for found in parts.ask(crowd, parts.facts, NEW).values():
        assert (found["index"], found["fragment"]) == (0, 0)
        assert found["timestep"] == (500 if agent == "reach" else 0)
        assert found["normalize_actions"] is not by_hand
        assert ("NormalizeActionsConnector" in found["pieces"]) is not by_hand
    now = snapshot(crowd, NEW)
    assert now.replace(spec=snap.spec) == snap
    assert now.spec.config == snap.spec.config
    assert now.spec.connectors == snap.spec.connectors or by_hand
    # Episodes that have begun keep their mapping.
    parts.until(
        lambda: crowd.train() and all(parts.at_play(crowd, NEW)), "episodes of the new mapping"
    )
    parts.ask(crowd, parts.forget)
    for _ in range(2):
        assert NEW not in parts.learned(crowd.train())
    parts.assert_played(crowd, agent, NEW, snap)
    parts.assert_held(crowd, {NEW: snap})
    assert snapshot(crowd, NEW).weights_digest == snap.weights_digest
    # Mid-episode.
    assert any(parts.ask(crowd, parts.playing, NEW).values())
    report = remove_policy(crowd, NEW, policy_mapping_fn=first)
    assert report.ok, str(report)
    assert {row.policy for row in report} == {f"p_{agent}" for agent in parts.SPACES}
    parts.assert_gone(crowd, NEW)
    for _ in range(2):
        assert "p_box" in parts.learned(crowd.train())
    assert parts.healthy(crowd)
    assert {name: found[1] for name, found in parts.ask(crowd, parts.functions).items()} == {
        name: found[1] for name, found in before.items()
    }


def playing_or_idle(algo: Any, pid: str) -> list[bool]:
    """Whether all train workers are in an episode that plays a policy."""
    found = parts.ask(algo, parts.playing, pid)
    return [
        each for name, each in found.items() if name.startswith("train ") and "local" not in name
    ]


@pytest.mark.long
def test_training_by_a_function(crowd: Any) -> None:
    snap = made("wide", 6, lstm=True)

    def both(pid: str, batch: Any = None) -> bool:
        return pid in ("p_box", NEW)

    add_policy(crowd, NEW, snap, policy_mapping_fn=instead("wide", NEW), policies_to_train=both)
    parts.until(lambda: NEW in parts.learned(crowd.train()), "an update")
    found = {each[NEW] for each in parts.prints(crowd).values()}
    assert len(found - {parts.print_for(snap)}) == len(found) == 1
    # The function that is left would train it: what is under way of it must not be.
    remove_policy(crowd, NEW, policy_mapping_fn=first)
    assert not any(parts.ask(crowd, parts.trains, NEW).values())
    parts.assert_gone(crowd, NEW)
    assert parts.learned(crowd.train()) == {"p_box"}
    # Once it is back, the same function counts again.
    add_policy(crowd, NEW, snap, policy_mapping_fn=instead("wide", NEW))
    parts.assert_held(crowd, {NEW: snap})
    assert all(parts.ask(crowd, parts.trains, NEW).values())
    parts.until(lambda: NEW in parts.learned(crowd.train()), "an update")
    remove_policy(crowd, NEW, policy_mapping_fn=first, policies_to_train=["p_box"])
    parts.assert_gone(crowd, NEW)


@pytest.mark.long
def test_workers_that_restart(crowd: Any) -> None:
    """One dies before, one each after: they come back with all, and then without."""
    snaps = {"n_wide": made("wide", 7, lstm=True), "n_dict": made("dict", 8)}
    snaps["n_reach"] = made("reach", 9)
    train, evals = (
        group._worker_manager.actors()
        for group in (crowd.env_runner_group, crowd.eval_env_runner_group)
    )
    ray.kill(train[2], no_restart=False)
    for pid, snap in snaps.items():
        report = add_policy(crowd, pid, snap, policies_to_train=["p_box"], timeout=30.0)
        assert {row.worker for row in report.bad} <= {"train 2"}
    mapping = lambda agent, *_, **__: f"n_{agent}" if f"n_{agent}" in snaps else f"p_{agent}"  # noqa: E731
    more = made("box", 10)
    add_policy(crowd, "n_box", more, policy_mapping_fn=mapping)
    ray.kill(train[1], no_restart=False)
    ray.kill(evals[1], no_restart=False)
    parts.until(lambda: crowd.train() and parts.healthy(crowd), "all workers are back")
    crowd.train()
    parts.assert_held(crowd, {**snaps, "n_box": more})
    parts.until(lambda: crowd.train() and all(parts.at_play(crowd, "n_dict")), "new episodes")
    parts.ask(crowd, parts.forget)
    crowd.train()
    for agent in ("wide", "dict", "reach"):
        parts.assert_played(crowd, agent, f"n_{agent}", snaps[f"n_{agent}"])
    assert check_sync(crowd, list(snaps)).ok
    for pid in (*snaps, "n_box"):
        remove_policy(crowd, pid, policy_mapping_fn=first)
        parts.assert_gone(crowd, pid)
    ray.kill(train[1], no_restart=False)
    parts.until(lambda: crowd.train() and parts.healthy(crowd), "it is back")
    for pid in snaps:
        parts.assert_gone(crowd, pid)
    assert "p_box" in parts.learned(crowd.train())


def test_a_checkpoint(lone: Any, tmp_path: Path) -> None:
    snaps = {"lstm": made("wide", 11, lstm=True), "sac": made("reach", 12)}
    for pid, snap in snaps.items():
        add_policy(lone, pid, snap)
    add_policy(lone, NEW, made("box", 13), policies_to_train=lambda pid, batch=None: pid[0] in "pn")
    remove_policy(lone, NEW)
    # One without a network.
    chance = snapshot(RandomPolicy(*parts.SPACES["box"], lone.config.to_dict()))
    add_policy(lone, "chance", chance, policy_mapping_fn=instead("box", "chance"))
    parts.ask(lone, parts.forget)
    lone.train()
    lone.train()
    assert {"chance"} <= {pid for _, pid, _ in parts.read(lone.env_runner)["played"]}
    add_policy(lone, "plain", made("wide", 14), policy_mapping_fn=instead("wide", "plain"))
    again = Algorithm.from_checkpoint(lone.save(str(tmp_path / "kept")).checkpoint)
    try:
        parts.assert_held(again, {**snaps, "plain": made("wide", 14)})
        parts.assert_gone(again, NEW)
        assert parts.learned(again.train()) >= {"p_box"}
    finally:
        again.stop()
    for pid in (*snaps, "chance", "plain"):
        remove_policy(lone, pid, policy_mapping_fn=first, policies_to_train=["p_box"])


# Filters -----------------------------------------------------------------------------------------


@pytest.mark.long
def test_filters_with_and_without(filtering: Any) -> None:
    """Statistics come along and grow together; without any, training does not miss them."""
    snap = made("wide", 15, observation_filter="MeanStdFilter")
    report = add_policy(filtering, NEW, snap, policy_mapping_fn=instead("wide", NEW))
    assert set(parts.ask(filtering, parts.counts, NEW).values()) == {(50, True)}
    assert {row.filters for row in report} == {50}
    assert report.notes == ()
    # Its config asks for the filter that it was taken without.
    bare = made("box", 16, observation_filter="MeanStdFilter", omit=["MeanStdFilter"])
    add_policy(filtering, "bare", bare)
    # How rewards are clipped is the Algorithm's, not the snapshot's.
    for pid, name in ((NEW, "MeanStdFilter"), ("bare", "NoFilter")):
        for found in parts.ask(filtering, parts.facts, pid).values():
            assert found["pieces"][0] == "ClipRewardAgentConnector"
            assert found["observation_filter"] == name
    for _ in range(3):
        filtering.train()
    ((count, linked),) = set(parts.ask(filtering, parts.counts, NEW).values())
    assert linked
    assert count > 60
    parts.assert_held(filtering, {NEW: snap, "bare": bare})
    assert set(parts.ask(filtering, parts.counts, "bare").values()) == {(-1, True)}
    actors = filtering.env_runner_group._worker_manager.actors()
    ray.kill(actors[1], no_restart=False)
    parts.until(lambda: filtering.train() and parts.healthy(filtering), "it is back")
    parts.assert_held(filtering, {NEW: snap, "bare": bare})
    for pid in (NEW, "bare"):
        remove_policy(filtering, pid, policy_mapping_fn=first)
        parts.assert_gone(filtering, pid)
    ray.kill(actors[2], no_restart=False)
    parts.until(lambda: filtering.train() and parts.healthy(filtering), "it is back")
    assert parts.learned(filtering.train()) == {"p_box"}
    assert {pid for each in parts.prints(filtering).values() for pid in each} == {"p_box", "p_wide"}


def test_a_filter_that_nobody_merges(lone: Any) -> None:
    snap = made("wide", 17, observation_filter="MeanStdFilter", clip_rewards=True)
    report = add_policy(lone, NEW, snap, policy_mapping_fn=instead("wide", NEW))
    assert "drift apart" in report.notes[0]
    assert parts.ask(lone, parts.counts, NEW) == {"train local": (50, True)}
    assert "ClipRewardAgentConnector" not in parts.facts(lone.env_runner, NEW)["pieces"]
    lone.train()
    parts.assert_held(lone, {NEW: snap})
    remove_policy(lone, NEW, policy_mapping_fn=first)
    parts.assert_gone(lone, NEW)


# Other Algorithms --------------------------------------------------------------------------------


# RLlib's metrics, before the first update.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:(Mean of empty slice|Degrees of freedom):RuntimeWarning")
def test_impala(ray_session: None) -> None:
    with parts.built(parts.configured(IMPALAConfig, runners=2)) as algo:
        algo.train()
        thread = algo._learner_thread
        snap = made("wide", 18)
        impala = snapshot(algo, "p_wide")
        for given, to_train in ((snap, ["p_box"]), (impala, ["p_box", NEW])):
            report = add_policy(
                algo, NEW, given, policy_mapping_fn=instead("wide", NEW), policies_to_train=to_train
            )
            parts.assert_proven(report, algo, NEW, given)
            parts.assert_held(algo, {NEW: given})
            parts.ask(algo, parts.forget)
            parts.until(lambda: algo.train() and NEW in played(algo), "it plays")
            if NEW in to_train:
                parts.until(lambda: NEW in parts.learned(algo.train()), "an update")
            else:
                parts.assert_held(algo, {NEW: given})
            remove_policy(algo, NEW, policy_mapping_fn=first)
            parts.assert_gone(algo, NEW)
            enough = thread.num_steps + 4
            parts.until(lambda n=enough: algo.train() and thread.num_steps >= n, "updates")
            assert thread.is_alive()
            assert parts.healthy(algo)
            parts.assert_gone(algo, NEW)


def played(algo: Any) -> set[str]:
    return {pid for each in parts.ask(algo, parts.read).values() for _, pid, _ in each["played"]}


@pytest.mark.long
def test_sac_trains_it_and_forgets_its_samples(ray_session: None) -> None:
    with parts.built(parts.configured(SACConfig, agents=("box", "reach"))) as algo:
        algo.train()
        snap = made("reach", 19)
        report = add_policy(
            algo,
            NEW,
            snap,
            policy_mapping_fn=instead("reach", NEW),
            policies_to_train=["p_box", NEW],
        )
        assert len({row.targets for row in report}) == 1
        model, target = algo.get_policy(NEW).model, algo.get_policy(NEW).target_model
        for name, value in target.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), model.state_dict()[name].numpy())
        parts.until(lambda: NEW in parts.learned(algo.train()), "an update")
        assert parts.prints(algo)["train local"][NEW] != parts.print_for(snap)
        remove_policy(algo, NEW, policy_mapping_fn=first)
        assert NEW not in algo.local_replay_buffer.replay_buffers
        assert "p_box" in parts.learned(algo.train())
        # Its old samples would not fit these spaces.
        add_policy(
            algo,
            NEW,
            snapshot(algo, "p_box"),
            policy_mapping_fn=instead("box", NEW),
            policies_to_train=[NEW],
        )
        parts.until(lambda: NEW in parts.learned(algo.train()), "an update")


@pytest.mark.long
def test_more_policies_than_a_worker_keeps(ray_session: None) -> None:
    config = parts.configured(runners=1, policy_map_capacity=2)
    with parts.built(config) as algo:
        algo.train()
        snaps = {
            "n1": made("wide", 20, lstm=True),
            "n2": made("wide", 21, observation_filter="MeanStdFilter"),
            "n3": made("box", 22),
        }
        for pid, snap in snaps.items():
            parts.assert_proven(add_policy(algo, pid, snap), algo, pid, snap)
        algo.train()
        parts.assert_held(algo, snaps)
        assert check_sync(algo, list(snaps)).ok
        for pid in snaps:
            remove_policy(algo, pid)
            parts.assert_gone(algo, pid)
        assert parts.learned(algo.train()) == {"p_box"}
