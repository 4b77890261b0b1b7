"""set_mapping and set_policies on the old API stack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tests.support.added_policies as parts
from policystore.errors import InvalidInputError, SyncError
from policystore.rllib import add_policy, check_sync, set_mapping, set_policies, snapshot
from tests.support.added_policies import first, instead, made
from tests.support.new_stack_algorithms import other

NEW = "newcomer"
pytestmark = pytest.mark.long


@pytest.fixture
def algo(crowd: Any) -> Iterator[Any]:
    yield crowd
    left = [pid for pid in ids(crowd) if not pid.startswith("p_")]
    set_policies(crowd, remove=left, policy_mapping_fn=first, policies_to_train=["p_box"])


def ids(algo: Any) -> list[str]:
    return sorted({row.policy for row in check_sync(algo)})


def mapped(worker: Any) -> list[str]:
    agents = ("box", "wide", "dict", "reach")
    return [worker.policy_mapping_fn(agent, None, worker=worker) for agent in agents]


def test_a_mapping_is_set_everywhere_and_stays(algo: Any) -> None:
    add_policy(algo, NEW, made("wide", 3))

    report = set_mapping(algo, instead("wide", NEW), policies_to_train=["p_box", "p_wide"])

    assert report.ok, str(report)
    assert {row.policy for row in report} == {*ids(algo)}
    for name, found in parts.ask(algo, mapped).items():
        assert found == ["p_box", NEW, "p_dict", "p_reach"], name
    for name, (_, trained) in parts.ask(algo, parts.functions).items():
        assert trained == ["p_box", "p_wide"], name
    parts.ask(algo, parts.forget)
    parts.until(lambda: algo.train() and any(parts.at_play(algo, NEW)), "the new policy plays")


def test_all_at_once_or_nothing(algo: Any) -> None:
    """A load, an addition, a removal and a mapping; first one worker refuses the last step."""
    add_policy(algo, "old", made("box", 3))
    loaded = other(snapshot(algo, "p_wide"), 4.0)
    changes: dict[str, Any] = {
        "load": {"p_wide": loaded},
        "remove": ["old"],
        "policy_mapping_fn": instead("wide", NEW),
    }
    before = parts.prints(algo), parts.ask(algo, mapped), parts.ask(algo, parts.functions)

    with pytest.raises(SyncError, match="nothing was changed"):
        set_policies(algo, **changes, add={NEW: made("wide", 5), "refused": made("wide", 6)})
    assert (parts.prints(algo), parts.ask(algo, mapped)) == before[:2]

    added = made("wide", 5)
    report = set_policies(algo, **changes, add={NEW: added})

    assert report.ok, str(report)
    assert {row.policy for row in report} == {NEW, "p_box", "p_wide", "p_dict", "p_reach"}
    parts.assert_gone(algo, "old")
    parts.assert_held(algo, {NEW: added, "p_wide": loaded})
    parts.ask(algo, parts.forget)
    parts.until(lambda: algo.train() and any(parts.at_play(algo, NEW)), "the new policy plays")
    assert check_sync(algo).ok


def test_forgotten_mappings_are_told(algo: Any) -> None:
    report = add_policy(algo, NEW, made("wide", 5))
    assert any(f"no agent plays {NEW!r}" in note for note in report.notes), report.notes


def test_overrides_of_one_policy(algo: Any) -> None:
    add_policy(algo, NEW, made("wide", 5), config_overrides={"lr": 0.03125})

    rates = parts.ask(algo, lambda worker: worker.policy_map[NEW].config["lr"])

    assert set(rates.values()) == {0.03125}
    with pytest.raises(InvalidInputError, match=r"has no \['no_such'\]"):
        add_policy(algo, "x", made("wide", 5), config_overrides={"no_such": 1})


def test_evaluation_keeps_its_own_mapping(ray_session: None) -> None:
    config = parts.configured(evals=1)
    config.evaluation(
        evaluation_config={
            "policy_mapping_fn": instead("wide", "p_wide"),
            "num_cpus_per_env_runner": 0.1,
        }
    )
    with parts.built(config) as algo:
        algo.train()
        before = parts.ask(algo, mapped)

        add_policy(algo, NEW, made("wide", 5), policy_mapping_fn=instead("wide", NEW))
        added = parts.ask(algo, mapped)
        set_mapping(algo, None, evaluation_policy_mapping_fn=instead("wide", NEW))
        own = parts.ask(algo, mapped)

        assert added["train local"][1] == NEW
        assert added["eval 1"] == before["eval 1"]
        assert own["eval 1"][1] == NEW
        algo.evaluate()
        assert snapshot(algo, NEW).acting_digest == made("wide", 5).acting_digest
