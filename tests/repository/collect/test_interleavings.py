"""Nothing is lost in any order of the steps of pushes, marks, readers and two collectors."""

from __future__ import annotations

import pytest

from tests.support.cells import sampled
from tests.support.collector_model import (
    broken_rules,
    broken_tag_rules,
    explore,
    explore_tags,
    scenarios,
    tag_scenarios,
)
from tests.support.interleavings import LostError

QUICK = {"push, one of two objects is there", "reader, put back"}
LONGER = {"push, its object is there", "push without a name", "slow push", "slow restore"}
QUICKLY_NOTICED = {
    "copies in the trash are removed while young",
    "all copies of an object have one key",
    "an object is deleted before it is copied",
    "a reader looks once",
}


@pytest.mark.parametrize(
    "name", sampled(scenarios(), *QUICK, wide=scenarios().keys() - QUICK - LONGER)
)
def test_nothing_is_lost_in_any_order(name: str) -> None:
    explorer = explore(scenarios()[name])
    print(f"{name}: {explorer.states} states, {explorer.schedules:.3g} schedules")
    assert explorer.states > 1000
    assert explorer.schedules > 100_000
    # A call may find its version deleted, or its tag moved, and say so.
    assert explorer.ends <= {"NoneType", "NotFoundError", "InvalidInputError"}


@pytest.mark.parametrize(
    "rule", sampled(broken_rules(), *QUICKLY_NOTICED, wide=broken_rules().keys() - QUICKLY_NOTICED)
)
def test_a_broken_rule_is_noticed(rule: str) -> None:
    scenario, broken = broken_rules()[rule]
    with broken, pytest.raises(LostError, match="lost"):
        explore(scenario)


@pytest.mark.parametrize("name", sampled(tag_scenarios(), "first tag, prune"))
def test_a_tag_and_a_deletion_see_each_other_whoever_dies(name: str) -> None:
    explorer = explore_tags(tag_scenarios()[name])
    print(f"{name}: {explorer.states} states, {explorer.schedules:.3g} schedules")
    assert explorer.states > 50
    assert explorer.ends <= {"NoneType", "NotFoundError", "InvalidInputError"}


@pytest.mark.parametrize("rule", broken_tag_rules())
def test_a_broken_rule_of_tags_is_noticed(rule: str) -> None:
    scenario, broken = broken_tag_rules()[rule]
    with broken, pytest.raises(LostError, match="lost"):
        explore_tags(scenario)
