"""Which modules of a checkpoint a restore brings back: stale folders, and ``only=``."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.algorithm import Algorithm

import tests.support.new_stack_algorithms as new
import tests.support.old_stack_algorithms as old
from policystore import InvalidInputError, MismatchError, NotFoundError
from policystore.rllib import (
    add_policy,
    check_sync,
    load_into,
    remove_policy,
    restore_added_policies,
    snapshot,
    snapshot_all,
)
from tests.support.cells import sampled

STACKS = {"new": new, "old": old}
both = pytest.mark.parametrize("stack", sampled(["new", "old"], "new"), scope="module")


def first(agent: str, *_: Any, **__: Any) -> str:
    return "main" if agent == "a" else "foe"


def second(agent: str, *_: Any, **__: Any) -> str:
    return "main" if agent == "a" else "p2"


class League:
    """A checkpoint with the added policies ``p2`` and ``p3``.

    In the checkpoint ``late``, the mapping function names ``p2``. On the new stack, a second
    checkpoint ``stale`` was written where one with ``p4`` and ``foe`` had been.
    """

    def __init__(self, stack: str, folder: Path) -> None:
        self.stack, self.own = stack, STACKS[stack]
        self.late, self.stale = str(folder / "late"), str(folder / "stale")
        with self.own.built(self.own.configured()) as algo:
            foe = snapshot(algo, "foe")
            load_into(algo, {"foe": new.other(foe, 1.0)})  # not as in another Algorithm
            for pid, level in (("p2", 3.0), ("p3", 5.0)):
                mapping = second if pid == "p2" else None
                add_policy(algo, pid, new.other(foe, level), policy_mapping_fn=mapping)
            algo.train()
            algo.save(self.late)
            self.held = snapshot_all(algo)
            if stack == "old":
                return
            add_policy(algo, "p4", new.other(foe, 9.0), policy_mapping_fn=second)
            algo.save(self.stale)
            remove_policy(algo, "p4", policy_mapping_fn=second)
            remove_policy(algo, "foe", policy_mapping_fn=second)
            algo.save(self.stale)


@pytest.fixture(scope="module")
def league(stack: str, ray_session: None, tmp_path_factory: Any) -> League:
    return League(stack, tmp_path_factory.mktemp(f"league-{stack}"))


@contextlib.contextmanager
def restoring(league: League, only: Any) -> Iterator[Any]:
    """Build an Algorithm whose restores add some policies; only the new stack takes functions."""
    callback = functools.partial(restore_added_policies, only=only)
    config = league.own.configured()
    if league.stack == "new":
        config.callbacks(on_algorithm_init=callback)
    with league.own.built(config) as algo:
        if league.stack == "old":
            callback(algorithm=algo, metrics_logger=None)
        yield algo


@both
def test_only_what_is_named_comes_back(league: League, caplog: Any) -> None:
    with restoring(league, ["main", "p2"]) as algo:
        restore_added_policies(algo)  # as warm_start and publish do; it keeps the choice
        algo.restore(league.late)
        held = {pid: league.held[pid] for pid in ("main", "foe", "p2")}
        assert snapshot_all(algo).keys() == held.keys()
        league.own.assert_held(algo, held)
        assert "also has 'p3', left out because only= does not name them" in caplog.text
        algo.train()
        assert check_sync(algo).ok


@pytest.mark.long
@both
def test_only_must_name_what_the_checkpoint_has(league: League) -> None:
    with restoring(league, ["p2", "p7", "p8"]) as algo:
        was = snapshot_all(algo)
        with pytest.raises(NotFoundError, match="names 'p7', 'p8', and .* 'foe', 'main', 'p2'"):
            algo.restore(league.late)
        assert snapshot_all(algo) == was
        for wrong in ("main", [3], 7):
            with pytest.raises(InvalidInputError, match="list of ids"):
                restore_added_policies(algo, only=wrong)  # type: ignore[arg-type]
        algo.train()


@pytest.mark.long
@both
def test_the_mapping_must_not_name_what_is_left_out(league: League) -> None:
    with restoring(league, ["p3"]) as algo:
        was = snapshot_all(algo)
        with pytest.raises(
            MismatchError, match=r"mapping function .*'p2', which only= .*Nothing was"
        ):
            algo.restore(league.late)
        assert snapshot_all(algo) == was
        assert algo.iteration == 0
        algo.train()


@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_a_stale_folder_is_no_module(league: League, caplog: Any) -> None:
    """RLlib deletes no folder when it saves to the same path again."""
    folder = Path(league.stale) / "learner_group" / "learner" / "rl_module"
    assert {each.name for each in folder.iterdir() if each.is_dir()} >= {"p4", "foe"}
    config = league.own.configured()
    with league.own.built(config.callbacks(on_algorithm_init=restore_added_policies)) as algo:
        present = snapshot(algo, "foe")
        assert present.weights_digest != league.held["foe"].weights_digest
        algo.restore(league.stale)
        held = {pid: league.held[pid] for pid in ("main", "p2", "p3")}
        # The config has foe, which the run had removed: it is as before the restore.
        assert snapshot_all(algo).keys() == {*held, "foe"}
        league.own.assert_held(algo, {**held, "foe": present})
    assert "has no module 'foe', 'p4': folders of an earlier checkpoint" in caplog.text


@pytest.mark.long
@pytest.mark.parametrize("stack", ["new"], scope="module")
def test_nothing_is_restored_if_modules_cannot_be_added(league: League, monkeypatch: Any) -> None:
    import policystore.rllib.callbacks.restore_modules as restore_modules

    def refuse(*_: Any, **__: Any) -> Any:
        raise InvalidInputError("no p3")

    monkeypatch.setattr(restore_modules, "set_policies", refuse)
    with league.own.built(league.own.configured()) as algo:
        restore_added_policies(algo)
        was = snapshot_all(algo)
        with pytest.raises(MismatchError, match="could not be added: 'p2', 'p3' .*no p3"):
            algo.restore(league.late)
        assert snapshot_all(algo) == was
        assert algo.config.policies_to_train == ["main"]
        algo.train()


def evaluating(agent: str, *_: Any, **__: Any) -> str:
    return "foe"


def mapped(algo: Any, group: Any) -> list[str]:
    """Return which policies the local runner of a group uses for the agents."""
    runner = group.local_env_runner
    if algo.config.enable_rl_module_and_learner:
        return [runner.config.policy_mapping_fn(agent, None) for agent in "ab"]
    return [runner.policy_mapping_fn(agent, None) for agent in "ab"]


@pytest.mark.long
@both
def test_one_checkpoint_restores_to_one_evaluation(
    stack: str, ray_session: None, tmp_path: Path
) -> None:
    """An evaluation mapping of its own stays, whichever call restores the checkpoint."""
    own = STACKS[stack]
    config = own.configured(evals=0)
    config.evaluation(evaluation_config=config.overrides(policy_mapping_fn=evaluating))
    with own.built(config) as algo:
        foe = snapshot(algo, "foe")
        add_policy(algo, "p2", new.other(foe, 3.0), policy_mapping_fn=second)
        assert mapped(algo, algo.eval_env_runner_group) == ["foe", "foe"]
        algo.save(str(tmp_path))
    with own.built(config) as algo:
        restore_added_policies(algo)
        algo.restore(str(tmp_path))
        found = [mapped(algo, each) for each in (algo.env_runner_group, algo.eval_env_runner_group)]
    again = Algorithm.from_checkpoint(str(tmp_path))
    try:
        groups = (again.env_runner_group, again.eval_env_runner_group)
        assert [mapped(again, each) for each in groups] == found
    finally:
        again.stop()
    assert found == [["main", "p2"], ["foe", "foe"]]
