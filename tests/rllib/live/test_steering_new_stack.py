"""set_mapping and set_policies on the new API stack, and what a mapping function may be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.added_modules as join
import tests.support.new_stack_algorithms as parts
import tests.support.steering as steering
from policystore import PolicyStore
from policystore.errors import InvalidInputError, NotFoundError, SyncError
from policystore.rllib import (
    add_policy,
    check_sync,
    load_into,
    remove_policy,
    set_mapping,
    set_policies,
    snapshot,
)
from tests.support.added_modules import NEW, by
from tests.support.cells import sampled

CELLS: dict[str, dict[str, Any]] = {
    "PPO": {"runners": 2, "evals": 1},
    "PPO, no remote runner": {},
    "IMPALA": {"kind": IMPALAConfig, "runners": 1, "learners": 1},
}


@pytest.fixture(scope="module", params=sampled(CELLS, "PPO", wide=["PPO, no remote runner"]))
def algo(request: Any, ray_session: None) -> Iterator[Any]:
    with parts.built(join.configured(**CELLS[request.param])) as made:
        parts.train_until_seq(made, 3)
        yield made


@pytest.fixture(autouse=True)
def mapped_as_before(algo: Any) -> Iterator[None]:
    yield
    left = [pid for pid in check_ids(algo) if pid not in ("main", "foe", "tiny")]
    set_policies(algo, remove=left, policy_mapping_fn=by(), policies_to_train=["main"])


def check_ids(algo: Any) -> list[str]:
    return sorted({row.policy for row in check_sync(algo)})


def test_a_mapping_is_set_everywhere_and_stays(algo: Any) -> None:
    wanted = by(a="foe", b="main")

    report = set_mapping(algo, wanted)

    assert report.ok, str(report)
    assert {row.policy for row in report} == {"main", "foe", "tiny"}
    assert set(map(tuple, steering.mappings(algo).values())) == {("foe", "main", "tiny")}
    assert algo.config.policy_mapping_fn is wanted
    parts.until(lambda: algo.train() and ("a", "foe") in join.acting_now(algo), "the new mapping")
    assert set(map(tuple, steering.mappings(algo).values())) == {("foe", "main", "tiny")}


def test_only_what_is_trained_is_set(algo: Any) -> None:
    before = steering.mappings(algo)

    set_mapping(algo, None, policies_to_train=["foe", "main"])

    assert steering.mappings(algo) == before
    for name, found in parts.ask(algo, join.state).items():
        assert found["to_train"] == ["foe", "main"], name
    frozen = parts.print_of(snapshot(algo, "foe").weights)
    parts.until(
        lambda: algo.train() and parts.print_of(snapshot(algo, "foe").weights) != frozen,
        "foe is trained",
    )


def test_all_at_once(algo: Any) -> None:
    """Two policies come, one gets other weights, one goes, and the mapping names the new ones."""
    add_policy(algo, "old", join.pretrained(algo, 3.0, agent="a"))
    loaded = parts.other(snapshot(algo, "foe"), 5.0)
    added = {
        NEW: join.pretrained(algo, 9.0),
        "late": join.pretrained(algo, 7.0, agent="b"),
    }

    report = set_policies(
        algo,
        load={"foe": loaded},
        add=added,
        remove=["old"],
        policy_mapping_fn=by(b="late", c=NEW),
        policies_to_train=["main"],
    )

    assert report.ok, str(report)
    assert {row.policy for row in report} == {"main", "foe", "tiny", "late", NEW}
    join.assert_gone(algo, "old")
    for pid, snap in added.items():
        join.assert_joined(algo, pid, snap)
    parts.assert_held(algo, {"foe": loaded}, targets=False)
    assert set(map(tuple, steering.mappings(algo).values())) == {("main", "late", NEW)}
    parts.until(lambda: algo.train() and ("c", NEW) in join.acting_now(algo), "the new policy acts")
    assert check_sync(algo).ok


def test_all_or_nothing(algo: Any) -> None:
    """The last step fails on one worker: also what came before it is undone, on all workers."""
    add_policy(algo, "old", join.pretrained(algo, 3.0, agent="a"))
    before = join.less_what_moves(join.everything(algo))
    runner = "train 1" if "train 1" in parts.workers(algo) else "train local"
    changes = {
        "load": {"foe": parts.other(snapshot(algo, "foe"), 5.0)},
        "add": {NEW: join.pretrained(algo, 9.0)},
        "remove": ["old"],
        "policy_mapping_fn": by(c=NEW),
    }

    with (
        join.planted(algo, runner, "module", "remove_module"),
        pytest.raises(SyncError, match="nothing was changed: it failed on 1 of"),
    ):
        set_policies(algo, **changes)

    after = join.less_what_moves(join.everything(algo))
    assert join.differing(before, after) == []
    assert set_policies(algo, **changes).ok


REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "nothing": (InvalidInputError, "nothing to change", {}),
    "a load of nobody": (NotFoundError, "no policy 'gone'", {"load": {"gone": "foe"}}),
    "a removal of nobody": (NotFoundError, "no policy 'gone'", {"remove": ["gone"]}),
    "one text": (InvalidInputError, r"remove=\['foe'\]", {"remove": "foe"}),
    "loaded and removed": (
        InvalidInputError,
        "loaded and removed",
        {"load": {"foe": "foe"}, "remove": ["foe"], "policy_mapping_fn": by(b="main")},
    ),
    "there already": (InvalidInputError, "'foe' already", {"add": {"foe": "foe"}}),
    "a mapping to nobody": (
        InvalidInputError,
        "policy_mapping_fn names 'gone' for agent 'b'",
        {"policy_mapping_fn": by(b="gone")},
    ),
    "a mapping to the removed": (
        InvalidInputError,
        "policy_mapping_fn names 'foe'",
        {"remove": ["foe"]},
    ),
    "other spaces": (
        InvalidInputError,
        "agent 'a' would come from 'main'",
        {"policy_mapping_fn": by(a="tiny")},
    ),
    "no function": (InvalidInputError, "is a function", {"policy_mapping_fn": "main"}),
    "nothing trained": (
        InvalidInputError,
        "nothing would be trained",
        {"remove": ["main"], "policy_mapping_fn": by(a="foe")},
    ),
    "trains nobody": (NotFoundError, "names \\['gone'\\]", {"policies_to_train": ["gone"]}),
    "overrides of nobody": (
        InvalidInputError,
        "config_overrides names 'foe'",
        {"config_overrides": {"foe": {"lr": 0.1}}, "policies_to_train": ["main"]},
    ),
    "agents of nobody": (
        InvalidInputError,
        "agent_ids names the policies \\['tiny'\\]",
        {"load": {"foe": "foe"}, "agent_ids": {"tiny": ["c"]}},
    ),
    "how to compare": (
        InvalidInputError,
        '"exact" or "shape"',
        {"load": {"foe": "foe"}, "spaces": "any"},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_and_nothing_changed(algo: Any, case: str) -> None:
    error, text, arguments = REFUSED[case]
    snap = snapshot(algo, "foe")
    given = {
        key: dict.fromkeys(value, snap) if key in ("load", "add") else value
        for key, value in arguments.items()
    }
    before = join.less_what_moves(join.everything(algo))

    with pytest.raises(error, match=text):
        set_policies(algo, **given)

    assert join.differing(before, join.less_what_moves(join.everything(algo))) == []


def test_forgotten_mappings_are_told(algo: Any) -> None:
    report = add_policy(algo, NEW, join.pretrained(algo, 9.0))
    assert any(f"no agent plays {NEW!r}" in note for note in report.notes), report.notes
    with pytest.raises(InvalidInputError, match="nothing to set"):
        set_mapping(algo, None)


def test_the_check_asks_little_and_leaves_the_generators(algo: Any) -> None:
    """A function that draws nothing is asked a few times, one that draws many times."""
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    asked: dict[str, int] = {"plain": 0, "draws": 0}

    def plain(agent: str, *_: Any, **__: Any) -> str:
        asked["plain"] += agent == "a"
        return by()(agent)

    def draws(agent: str, *_: Any, **__: Any) -> str:
        asked["draws"] += agent == "a"
        torch.rand(1)
        return random.choice(["main", "foe"]) if agent == "a" else by()(agent)

    local = steering.local_runner_with_env(algo)
    steering.check_on(local, plain)
    steering.check_on(local, draws)

    now = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert now == states
    assert 0 < asked["plain"] < 20 < 64 <= asked["draws"] < 100


def test_overrides_of_one_module(algo: Any) -> None:
    """The optimizer of the new module gets its own learning rate, the others keep theirs."""
    add_policy(
        algo,
        NEW,
        join.pretrained(algo, 9.0),
        policy_mapping_fn=by(c=NEW),
        policies_to_train=["main", NEW],
        config_overrides=PPOConfig.overrides(lr=0.03125),
    )

    rates = parts.ask(algo, steering.learning_rates)
    for name, found in rates.items():
        if name.startswith("learner"):
            assert found[NEW] == 0.03125
            assert found["main"] != 0.03125
    assert algo.config.algorithm_config_overrides_per_module[NEW] == {"lr": 0.03125}
    with pytest.raises(InvalidInputError, match="config_overrides of 'x' is a dict"):
        add_policy(algo, "x", snapshot(algo, "foe"), config_overrides=["lr"])


@pytest.mark.long
def test_an_id_comes_back_with_another_network(algo: Any) -> None:
    """States of the old network that are still on their way do not reach the new one."""
    small = join.pretrained(algo, 9.0)
    other = join.pretrained(algo, 5.0, model={"fcnet_hiddens": [5], "head_fcnet_hiddens": [7]})
    processes = parts.ask(algo, steering.process)
    for snap in (small, other, small):
        add_policy(algo, NEW, snap, policy_mapping_fn=by(c=NEW), policies_to_train=["main", NEW])
        parts.until(lambda: algo.train() and ("c", NEW) in join.acting_now(algo), "it acts")
        remove_policy(algo, NEW, policy_mapping_fn=by())
    for _ in range(3):
        algo.train()
    assert parts.ask(algo, steering.process) == processes
    assert check_sync(algo).ok


def test_reports_name_what_was_pulled(algo: Any, tmp_path: Any) -> None:
    store = PolicyStore(tmp_path / "store")
    store.push(parts.other(snapshot(algo, "foe"), 3.0), "league/main")
    snap = store.pull("league/main")
    assert snap.ref == "league/main@1"

    loaded = load_into(algo, {"foe": snap})
    added = add_policy(algo, NEW, snap)

    for report in (loaded, added, check_sync(algo, ["foe", NEW])):
        assert {row.ref for row in report} == {"league/main@1"}, str(report)
        assert "league/main@1" in str(report)
    assert {row.ref for row in check_sync(algo, ["main"])} == {None}
    load_into(algo, {"foe": snap.replace(spec=snap.spec)})
    assert snap.replace(spec=snap.spec).ref is None
