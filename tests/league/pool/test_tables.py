"""Members of a pool in the store, and the tables that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore, Snapshot
from policystore.errors import InvalidInputError, MismatchError, NotFoundError, StorageError
from policystore.league.pool import anchored, every, keep_all, keep_last, latest, uniform
from policystore.league.pool.driving.architecture import architecture_of, differences
from policystore.league.pool.driving.members import ARCHITECTURE, Members
from policystore.league.pool.driving.settings import Learner
from policystore.league.pool.driving.snapshots import Head
from policystore.league.pool.driving.tables import Tables
from policystore.league.pool.standings import Tally
from tests.support.pool_parts import match, player

Make = Callable[..., Snapshot]


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def pushed(store: PolicyStore, make: Make, count: int, name: str = "duo/main") -> None:
    for seed in range(count):
        snap = make(seed)
        store.push(snap, name, source={ARCHITECTURE: architecture_of(snap)})


def members_of(store: PolicyStore, slot: Snapshot, *fixed: str, **heuristics: str) -> Members:
    members = Members(store, {"main": "duo/main"}, fixed, heuristics, {"": slot})
    members.refresh()
    return members


def learner(**more: Any) -> Learner:
    settings = {"sampler": uniform(), "snapshot": every(1), "candidates": keep_all(), **more}
    return Learner(id="main", name="duo/main", **settings)


def tables_of(members: Members, *learners: Learner, tally: Any = None, seed: int = 0) -> Tables:
    tally = Tally() if tally is None else tally
    return Tables(learners, members, tally, seed=seed, decay=0.5, same_for_all=False)


def heads(**more: str) -> dict[str, Head]:
    return {pid: Head(each, 0, [each]) for pid, each in {"main": player(99), **more}.items()}


def refs(table: Any) -> list[str]:
    return [each.ref for each in table.candidates]


def test_an_anchor_may_be_a_snapshot_that_the_pool_has_yet_to_push(
    store: PolicyStore, make_snapshot: Make
) -> None:
    members = Members(store, {"main": "duo/main"}, ["duo/main@1"], {}, {"": make_snapshot(9)})
    members.refresh(before_first=True)
    assert members.of(None) == []
    pushed(store, make_snapshot, 2)
    members.refresh()
    assert [each.candidate.ref for each in members.of(None)] == ["duo/main@1", "duo/main@2"]

    absent = Members(store, {"main": "duo/main"}, ["duo/main@7"], {}, {"": make_snapshot(9)})
    absent.refresh(before_first=True)
    with pytest.raises(NotFoundError, match="opponent 'duo/main@7'"):
        absent.refresh()


def test_members_are_the_versions_of_the_name_oldest_first(
    store: PolicyStore, make_snapshot: Make
) -> None:
    pushed(store, make_snapshot, 3)
    members = members_of(store, make_snapshot(9), random="random_policy")

    assert [each.candidate.ref for each in members.of(None)] == [
        "heuristic:random", "duo/main@1", "duo/main@2", "duo/main@3"
    ]  # fmt: skip
    assert [each.candidate.policy_id for each in members.of(None)] == ["random_policy", "", "", ""]
    store.push(make_snapshot(1), "duo/main")  # equal to version 2
    store.push(make_snapshot(7), "duo/main")
    members.refresh()
    assert [each.candidate.ref for each in members.of(["main"])] == [
        "duo/main@1", "duo/main@3", "duo/main@4", "duo/main@5"
    ]  # fmt: skip


def test_a_deleted_version_leaves_and_a_restored_one_comes_back(
    store: PolicyStore, make_snapshot: Make
) -> None:
    pushed(store, make_snapshot, 3)
    store.push(make_snapshot(1), "duo/main")  # equal to version 2
    members = members_of(store, make_snapshot(9))
    second = str(store.resolve("duo/main@2"))

    def known() -> list[str]:
        members.refresh()
        return [each.candidate.ref for each in members.of(["main"])]

    assert known() == ["duo/main@1", "duo/main@3", "duo/main@4"]
    store.delete("duo/main@1")
    assert known() == ["duo/main@3", "duo/main@4"]
    store.delete("duo/main@4")  # version 2 is the same policy
    assert known() == ["duo/main@2", "duo/main@3"]
    assert members.has(second)
    store.delete_name("duo/main")
    assert known() == []
    assert not members.has(second)
    assert members.find("duo/main@3") is None
    store.restore("duo/main@3")
    store.push(make_snapshot(7), "duo/main")
    assert known() == ["duo/main@3", "duo/main@5"]


def test_a_store_that_ends_between_two_learners_changes_nothing(
    store: PolicyStore, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"main": "duo/main", "other": "duo/other"}
    for seed, name in enumerate(names.values()):
        store.push(make_snapshot(seed), name)

    def known() -> dict[str, list[str]]:
        found = {pid: [each.candidate.ref for each in members.of([pid])] for pid in names}
        found["all"] = [each.candidate.ref for each in members.of(None)]
        assert all(members.has(ref) for refs in found.values() for ref in refs)
        return found

    members = Members(store, names, (), {}, {"": make_snapshot(9)})
    members.refresh()
    store.push(make_snapshot(7), "duo/main")
    read = members._new_versions

    def fails(name: str, known: Any) -> Any:
        if name == "duo/other":
            raise StorageError("the store ended")
        return read(name, known)

    with monkeypatch.context() as patched:
        patched.setattr(members, "_new_versions", fails)
        with pytest.raises(StorageError):
            members.refresh()
    both = ["duo/main@1", "duo/other@1"]
    assert known() == {"main": both[:1], "other": both[1:], "all": both}
    assert not members.has("duo/main@2")
    members.refresh()
    assert known()["main"] == ["duo/main@1", "duo/main@2"]
    assert members.has("duo/main@2")


def test_a_version_that_was_deleted_at_the_start_can_be_restored(
    store: PolicyStore, make_snapshot: Make
) -> None:
    pushed(store, make_snapshot, 2)
    store.delete("duo/main@1")
    members = members_of(store, make_snapshot(9))
    assert [each.candidate.ref for each in members.of(None)] == ["duo/main@2"]

    store.restore("duo/main@1")
    members.refresh()

    assert [each.candidate.ref for each in members.of(None)] == ["duo/main@1", "duo/main@2"]


def test_a_learner_whose_opponents_were_all_deleted_keeps_the_last_ones(
    store: PolicyStore, make_snapshot: Make, caplog: pytest.LogCaptureFixture
) -> None:
    pushed(store, make_snapshot, 2)
    members = members_of(store, make_snapshot(9))
    tables = tables_of(members, learner())
    before = tables.draws(heads())
    store.delete_name("duo/main")
    members.refresh()

    after = tables.draws(heads())

    assert after.tables == before.tables
    assert after.round == before.round + 1
    assert "all opponents of 'main' were deleted" in caplog.text
    with pytest.raises(InvalidInputError, match="has no opponent"):
        tables_of(members, learner()).draws(heads())


def test_policies_that_fit_no_slot_are_listed_and_are_no_members(
    store: PolicyStore, make_snapshot: Make
) -> None:
    pushed(store, make_snapshot, 1)
    other = Snapshot(
        weights={**make_snapshot(1).weights, "more": make_snapshot(1).weights["steps"]}
    )
    store.push(other, "duo/main")

    members = members_of(store, make_snapshot(9))

    assert [each.candidate.ref for each in members.of(None)] == ["duo/main@1"]
    error = members.misfit_error()
    assert isinstance(error, MismatchError)
    assert "duo/main@2: more is" in str(error)
    assert differences(other, other) == []


def test_how_often_a_policy_acts_at_random_is_no_part_of_its_network(make_snapshot: Make) -> None:
    def of(**model: Any) -> Snapshot:
        snap = make_snapshot(1)
        return snap.replace(spec=snap.spec.replace(config={"model_config": model}))

    one, other = of(hiddens=[8], epsilon=1.0), of(hiddens=[8], epsilon=[[0, 1.0], [9, 0.1]])
    assert differences(one, other) == []
    assert architecture_of(one) == architecture_of(other)
    assert differences(one, of(hiddens=[4])) == ["model setting hiddens=[8], the slot has [4]"]
    assert architecture_of(one) != architecture_of(of(hiddens=[4]))


def test_kinds_of_slots_are_found_by_the_network(store: PolicyStore, make_snapshot: Make) -> None:
    small = make_snapshot(1)
    large = Snapshot(weights={**small.weights, "more": small.weights["steps"]})
    store.push(small, "duo/main")
    store.push(large, "duo/main")
    members = Members(store, {"main": "duo/main"}, [], {}, {"small": small, "large": large})
    members.refresh()

    assert [each.candidate.kind for each in members.of(None)] == ["small", "large"]


def test_fixed_opponents_and_anchors(store: PolicyStore, make_snapshot: Make) -> None:
    pushed(store, make_snapshot, 5)
    store.push(make_snapshot(20), "rules/old")
    members = members_of(store, make_snapshot(9), "rules/old@1", "duo/main@2", random="r")

    sampler = anchored(latest(), {"duo/main@2": 0.25, "heuristic:random": 0.25})
    tables = tables_of(members, learner(sampler=sampler, candidates=keep_last(2)))
    table = tables.draws(heads()).tables["main"]

    assert dict(zip(refs(table), table.weights, strict=True)) == {
        "heuristic:random": 0.25, "duo/main@2": 0.25, "duo/main@5": 0.5
    }  # fmt: skip
    with pytest.raises(NotFoundError, match="duo/main@77"):
        members_of(store, make_snapshot(9), "duo/main@77")
    with pytest.raises(InvalidInputError, match="heuristic:fixed"):
        members_of(store, make_snapshot(9), "heuristic:fixed")


def test_the_same_seed_and_league_give_the_same_tables(
    store: PolicyStore, make_snapshot: Make
) -> None:
    pushed(store, make_snapshot, 8)
    members = members_of(store, make_snapshot(9))

    def own(payoffs: Any, candidates: Any, rng: Any) -> Any:
        return candidates[int(rng.integers(len(candidates)))]

    def drawn(seed: int) -> list[Any]:
        tables = tables_of(members, learner(sampler=own), seed=seed)
        return [tables.draws(heads()).tables["main"].sequence for _ in range(3)]

    first = drawn(5)
    assert first == drawn(5)
    assert first != drawn(6)
    assert first[0] != first[1]
    assert len(first[0]) == 64
    assert set(first[0]) == set(range(8))


def test_a_learner_may_play_others_in_training(store: PolicyStore, make_snapshot: Make) -> None:
    pushed(store, make_snapshot, 1)
    members = members_of(store, make_snapshot(9))
    one = learner(live=("main", "other"), against=("main",))
    draws = tables_of(members, one).draws(heads(other=player(50)))

    table = draws.tables["main"]
    assert refs(table) == ["duo/main@1", "main in training", "other in training"]
    assert [each.policy_id for each in table.candidates] == ["", "main", "other"]
    assert [each.player for each in table.candidates][1:] == [player(99), player(50)]
    assert draws.players["main"] == player(99)
    assert (draws.round, dict(draws.shares)) == (1, {"main": 1.0})


def test_a_learner_without_opponents_is_an_error(store: PolicyStore, make_snapshot: Make) -> None:
    members = members_of(store, make_snapshot(9))
    with pytest.raises(InvalidInputError, match="'main' has no opponent"):
        tables_of(members, learner()).draws(heads())


def test_progress_counts_episodes_since_the_latest_snapshot(
    store: PolicyStore, make_snapshot: Make
) -> None:
    pushed(store, make_snapshot, 3)
    members = members_of(store, make_snapshot(9))
    foes = [each.candidate.player for each in members.of(None)]
    tally = Tally()
    tally.restart([])
    tally.add(match(player(99), foes[0], wins=9, losses=1))
    tally.add(match(player(99), foes[1], wins=1, draws=1))
    tally.add(match(player(98), foes[2], losses=50))  # of an earlier snapshot
    head = {"main": Head(player(99), 4, [player(99), player(98)])}

    progress = tables_of(members, learner(), tally=tally).progress(learner(), head, 9, {"x": 1})

    assert progress.win_rates == {"duo/main@1": 0.9, "duo/main@2": 0.75}
    assert progress.win_rate == pytest.approx((0.9 + 0.75) / 2)
    assert (progress.episodes, progress.since, progress.result) == (12, 5, {"x": 1})
