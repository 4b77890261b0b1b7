"""publish(keep_last=…): its names are pruned now and then, and no training fails for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policystore import InvalidInputError, PolicyStore, Snapshot, StorageError
from policystore.rllib import publish
from policystore.rllib.callbacks.upload_queue import Uploader
from policystore.rllib.callbacks.upload_versions import PRUNED_AFTER
from tests.support.upload_faults import FOREVER, Faulty, best, copy, uploader_to

COUNT = 2 * PRUNED_AFTER + 3


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def push_all(uploader: Uploader, values: Callable[[int], float]) -> None:
    for iteration in range(1, COUNT + 1):
        uploader.put(copy(iteration, values(iteration)))
        if iteration % 4 == 0:
            assert uploader.finish(FOREVER) == []
    assert uploader.finish(FOREVER) == []


def numbers(store: PolicyStore, name: str = "a") -> list[int | None]:
    return [version.number for version in store.log(name)]


def test_old_versions_without_a_tag_are_pruned(
    store: PolicyStore, make_snapshot: Callable[..., Snapshot]
) -> None:
    for seed in range(5):
        store.push(make_snapshot(seed), "other")
    store.push(make_snapshot(), "a")
    store.tag("a@1", "mine")
    push_all(uploader_to(store, keep_last=3), lambda iteration: -abs(iteration - 5.0))
    pruned_at = 1 + 2 * PRUNED_AFTER
    assert numbers(store) == [*range(COUNT + 1, pruned_at - 3, -1), 6, 1]
    assert best(store) == 0.0
    assert numbers(store, "other") == [5, 4, 3, 2, 1]
    mark = store.log("a", deleted=True)[-2].deleted
    assert mark is not None
    assert (mark.action, mark.message) == ("prune", "publish(keep_last=3)")


def test_without_a_number_nothing_is_pruned(store: PolicyStore) -> None:
    push_all(uploader_to(store), float)
    assert len(store.log("a")) == COUNT


def test_a_prune_that_fails_is_logged_and_no_copy_is_lost(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(store)

    def fail(call: str, key: str) -> Exception | None:
        return StorageError("no marks today") if "@marks/" in key and call == "create" else None

    faulty.fail = fail
    uploader = uploader_to(store, keep_last=1)
    push_all(uploader, float)
    uploader.raise_fatal()
    assert uploader.status()["main"]["failed"] == 0
    assert len(store.log("a")) == COUNT
    assert caplog.text.count("could not prune a: no marks today") == 2


def test_a_version_that_others_pruned_before_it_got_its_tag_is_no_error(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = Faulty(store)
    other = PolicyStore(store.url)

    def fail(call: str, key: str) -> Exception | None:
        if call == "get" and key.endswith("@tags/best/@hint") and len(other.log("a")) == 1:
            other.delete("a", author="bob")
        return None

    uploader = uploader_to(store)
    faulty.fail = fail
    uploader.put(copy(1, 1.0))
    assert uploader.finish(FOREVER) == []
    uploader.raise_fatal()
    assert "publish does not tag a@1 'best'" in caplog.text
    faulty.fail = lambda call, key: None
    uploader.put(copy(2, 0.5))
    assert uploader.finish(FOREVER) == []
    assert best(store) == 0.5


@pytest.mark.parametrize("number", [0, -1, True, 2.0, "3"])
def test_a_number_that_is_none_is_refused(store: PolicyStore, number: object) -> None:
    with pytest.raises(InvalidInputError, match="keep_last"):
        publish(store, {"main": "a"}, keep_last=number)  # type: ignore[arg-type]
