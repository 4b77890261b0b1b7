"""Mapping functions and modules of special kinds in a running Algorithm, new API stack."""

from __future__ import annotations

import pytest
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.added_modules as join
import tests.support.new_stack_algorithms as parts
import tests.support.steering as steering
from policystore.errors import InvalidInputError
from policystore.rllib import (
    add_policy,
    check_sync,
    load_into,
    remove_policy,
    set_mapping,
    snapshot,
)
from tests.support.added_modules import NEW, by


def test_a_function_that_reads_the_episode(ray_session: None) -> None:
    """It raises for an episode without the user's data: a note, and the change goes on."""
    config = parts.configured(PPOConfig).callbacks(steering.DrawsOpponent)
    config.multi_agent(policy_mapping_fn=steering.by_episode)
    config.training(train_batch_size_per_learner=25)  # so that an episode is under way
    with parts.built(config) as algo:
        algo.train()
        snap = snapshot(algo, "foe")

        added = add_policy(algo, NEW, snap, policy_mapping_fn=steering.by_episode)
        removed = remove_policy(algo, "foe")
        after = algo.train()

        assert after["training_iteration"] == 2
        for report in (added, removed):
            assert any("KeyError: 'opponent'" in note for note in report.notes), report.notes
        join.assert_gone(algo, "foe")
        with pytest.raises(InvalidInputError, match="ZeroDivisionError.*all episodes under way"):
            set_mapping(algo, lambda *_, **__: 1 // 0)
        with pytest.raises(InvalidInputError, match="check_mapping=False"):
            set_mapping(algo, by(b="foe"))
        assert set_mapping(algo, by(b="foe"), check_mapping=False).ok
        set_mapping(algo, by(b=NEW))


@pytest.mark.long
def test_evaluation_keeps_its_own_mapping(ray_session: None) -> None:
    config = join.configured(evals=1)
    config.evaluation(
        evaluation_config={
            "policy_mapping_fn": by(a="foe", b="main"),
            "num_cpus_per_env_runner": 0.1,
        }
    )
    with parts.built(config) as algo:
        algo.train()
        snap = snapshot(algo, "foe")

        add_policy(algo, NEW, snap, policy_mapping_fn=by(b=NEW))

        found = steering.mappings(algo)
        assert found.pop("train local") == ["main", NEW, "tiny"]
        assert set(map(tuple, found.values())) == {("foe", "main", "tiny")}

        with pytest.raises(InvalidInputError, match="names 'foe'"):
            remove_policy(algo, "foe", policy_mapping_fn=by(b=NEW))
        remove_policy(
            algo,
            "foe",
            policy_mapping_fn=by(b=NEW),
            evaluation_policy_mapping_fn=by(a=NEW, b="main"),
        )

        found = steering.mappings(algo)
        assert found.pop("train local") == ["main", NEW, "tiny"]
        assert set(map(tuple, found.values())) == {(NEW, "main", "tiny")}
        assert algo.config.evaluation_config["policy_mapping_fn"]("a") == NEW
        algo.evaluate()


@pytest.mark.long
def test_a_frozen_policy_of_the_config_is_behind_until_evaluate(ray_session: None) -> None:
    """Evaluation workers hold other weights of it until then; check_sync does not call it bad."""
    with parts.built(join.configured(evals=1)) as algo:
        fresh = check_sync(algo)
        algo.train()
        trained = check_sync(algo)

        for report in (fresh, trained):
            assert report.ok, str(report)
            statuses = {row.policy: row.status for row in report if row.worker == "eval 1"}
            assert statuses["foe"] == "behind"
        algo.evaluate()
        assert {row.status for row in check_sync(algo)} == {"ok"}


@pytest.mark.long
def test_a_module_of_learners_alone(ray_session: None) -> None:
    """RLlib builds a ``learner_only`` module on no runner, so a report has no such row."""
    with parts.built(steering.with_curiosity()) as algo:
        algo.train()
        curious = snapshot(algo, steering.CURIOSITY)
        acting = snapshot(algo, "default_policy")

        checked = check_sync(algo)
        report = load_into(
            algo,
            {
                steering.CURIOSITY: parts.other(curious, 3.0),
                "default_policy": parts.other(acting, 5.0),
            },
        )

        assert checked.ok, str(checked)
        assert report.ok, str(report)
        rows = {(row.worker, row.policy) for row in report}
        assert ("learner local", steering.CURIOSITY) in rows
        assert ("train 1", steering.CURIOSITY) not in rows
        assert ("train 1", "default_policy") in rows
        held = parts.ask(algo, parts.read)["learner local"]["arrays"][steering.CURIOSITY]
        assert parts.print_of(held) == parts.print_of(dict(parts.other(curious, 3.0).weights))
        algo.train()
