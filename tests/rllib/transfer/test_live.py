"""adapt to policies of running Algorithms, and load_into what came out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter

import tests.support.new_stack_algorithms as new
import tests.support.old_stack_algorithms as old
from policystore import InvalidInputError, NotFoundError, Snapshot
from policystore.rllib import adapt, load_into, snapshot
from tests.support.cells import sampled
from tests.support.transfer import same

PARTS: dict[str, Any] = {"new": new, "old": old}
HEADS = {"new": ["pi.", "vf."], "old": ["_logits.", "_value_branch."]}


CELLS = {"new": ("new", 0), "new, remote": ("new", 1), "old, remote": ("old", 1)}


@pytest.fixture(scope="module", params=sampled(CELLS, "new"))
def trained(request: Any, ray_session: None) -> Iterator[tuple[str, Any]]:
    """An Algorithm with two policies after one update, without or with a remote worker."""
    stack, runners = CELLS[request.param]
    with PARTS[stack].built(PARTS[stack].configured(PPOConfig, runners=runners)) as algo:
        algo.train()
        yield stack, algo


def test_every_worker_holds_what_was_adapted(trained: tuple[str, Any]) -> None:
    stack, algo = trained
    before = snapshot(algo, "main")
    snap = new.other(before, 3.0)

    result = adapt(snap, algo, "main", keep=HEADS[stack])
    report = load_into(algo, {"main": result.snapshot})

    assert result.report.target == "policy 'main' of PPO"
    assert report.ok
    assert {row.digest for row in report} == {result.snapshot.acting_digest}
    PARTS[stack].assert_held(algo, {"main": result.snapshot})
    held = snapshot(algo, "main")
    assert held.digest == result.snapshot.digest
    for name in held.weights:
        assert same(held, name, before if name.startswith(tuple(HEADS[stack])) else snap), name


def test_ids_of_policies(trained: tuple[str, Any]) -> None:
    _, algo = trained
    snap = snapshot(algo, "foe")
    with pytest.raises(NotFoundError, match="Did you mean 'main'"):
        adapt(snap, algo, "mian")
    with pytest.raises(InvalidInputError, match="pass its id"):
        adapt(snap, algo)


@pytest.mark.long
def test_a_policy_of_ppo_into_a_learner_of_appo(ray_session: None) -> None:
    """The target networks of a remote learner follow."""
    with new.built(new.configured(PPOConfig)) as algo:
        snap = new.other(snapshot(algo, "main"), 3.0)
    with new.built(new.configured(APPOConfig, runners=1, learners=1)) as algo:
        result = adapt(snap, algo, "main")
        assert result.report.counts["follows"] == len(
            [name for name in result.snapshot.weights if name.startswith("_old_")]
        )
        assert load_into(algo, {"main": result.snapshot}).ok
        new.assert_held(algo, {"main": result.snapshot})


def filtering() -> Any:
    return new.configured(PPOConfig, runners=1, multi=False).env_runners(
        env_to_module_connector=lambda *_, **__: MeanStdFilter()
    )


def mean_of(snap: Snapshot) -> Any:
    return snap.state["MeanStdFilter"][None]["running_stats"][0]["mean"]


@pytest.mark.long
def test_statistics_reach_the_runners(ray_session: None) -> None:
    with new.built(filtering()) as algo:
        algo.train()
        snap = snapshot(algo)
    assert np.any(mean_of(snap))
    with new.built(filtering()) as algo:
        result = adapt(snap, algo, only=["encoder."])
        assert load_into(algo, {"default_policy": result.snapshot}).ok
        assert np.array_equal(mean_of(snapshot(algo)), mean_of(snap))
