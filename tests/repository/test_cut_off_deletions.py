"""Tags on versions whose deletion was cut off: the next call that reads the tags restores them."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable

import pytest

from policystore import InvalidInputError, NotFoundError, PolicyStore, Snapshot
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import OBJECTS, TRASH, mark_key
from policystore.format.records import Mark
from policystore.testing.storage import Intercepted
from tests.support.faults import DiedError

Make = Callable[..., Snapshot]


def refused(store: PolicyStore) -> None:
    with pytest.raises(InvalidInputError, match="'t'"):
        store.delete_name("a")


DELETIONS: dict[str, Callable[[PolicyStore], object]] = {
    "prune": lambda store: store.prune("a", keep_last=1, author="ann"),
    "delete": lambda store: store.delete("a@2", author="ann"),
    "delete_name": lambda store: store.delete_name("a", author="ann"),
}
LATER: dict[str, Callable[[PolicyStore], object]] = {
    "prune": lambda store: store.prune("a", keep_last=1, author="bob"),
    "delete": lambda store: store.delete("a@4", author="bob"),
    "delete_name": lambda store: refused(store),
    "collect_garbage": lambda store: store.collect_garbage(dry_run=False),
}


@pytest.fixture
def backend(make_snapshot: Make) -> MemoryBackend:
    backend = MemoryBackend(uuid.uuid4().hex)
    store = PolicyStore.over(backend, cache=False)
    for seed in range(4):
        store.push(make_snapshot(seed), "a")
    return backend


def cut_off(backend: MemoryBackend, deletion: str, *, tag: str = "a@2") -> PolicyStore:
    """Delete in a process that is killed after its mark; the tag comes just before the mark."""
    store = PolicyStore.over(backend, cache=False)
    dying = Intercepted(backend)

    def create(key: str, data: bytes) -> bool:
        if "@marks/" in key:
            store.tag(tag, "t")
            backend.create(key, data)
            raise DiedError
        return backend.create(key, data)

    dying.create = create
    with pytest.raises(DiedError):
        DELETIONS[deletion](PolicyStore.over(dying, cache=False))  # type: ignore[arg-type]
    return store


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("deletion", DELETIONS)
def test_a_version_that_got_a_tag_during_a_cut_off_deletion_is_restored(
    backend: MemoryBackend, deletion: str, later: str, make_snapshot: Make
) -> None:
    store = cut_off(backend, deletion)
    with pytest.raises(NotFoundError, match=r"'t' points to a deleted version: .* by ann"):
        store.pull("a@t")
    if (deletion, later) == ("delete_name", "delete"):
        store.push(make_snapshot(9), "a")
        store.delete("a@5")
    else:
        if deletion == "delete_name" and later == "delete_name":
            store.push(make_snapshot(9), "a")
        LATER[later](store)
    assert store.pull("a@t") == make_snapshot(1)
    assert 2 in [version.number for version in store.log("a")]
    assert store.verify().ok


@pytest.mark.parametrize("later", ["prune", "collect_garbage"])
def test_a_restored_version_says_why(backend: MemoryBackend, later: str) -> None:
    store = cut_off(backend, "prune")
    report = LATER[later](store)
    mark = Mark.from_bytes(backend.get(mark_key("a", 2)), "the mark")
    assert (mark.action, mark.changed) == ("restore", ((2, 2),))
    assert "its deletion was cut off" in mark.message or "the deletion was cut off" in mark.message
    if later == "prune":
        assert mark.author == "bob"
        assert report.kept[2] == ("tag 't'",)  # type: ignore[attr-defined]
    else:
        assert "a@2 was restored" in str(report)


def test_a_prune_of_a_name_of_which_nothing_stands_restores_first(backend: MemoryBackend) -> None:
    store = cut_off(backend, "delete_name")
    assert store.names() == []
    assert store.prune("a", keep_last=1).pruned == []
    assert [version.number for version in store.log("a")] == [2]


@pytest.mark.parametrize(
    "dry_run", [lambda s: s.prune("a", keep_last=1, dry_run=True), lambda s: s.collect_garbage()]
)
def test_a_dry_run_restores_nothing(
    backend: MemoryBackend, dry_run: Callable[[PolicyStore], object]
) -> None:
    store = cut_off(backend, "prune")
    before = dict(backend._space.data)
    dry_run(store)
    assert backend._space.data == before


@pytest.mark.parametrize("later", ["prune", "delete", "collect_garbage"])
@pytest.mark.parametrize(
    "forced",
    [
        lambda store: store.delete("a@2", force=True),
        lambda store: store.prune("a", keep_last=2, keep_tagged=False),
    ],
)
def test_what_was_deleted_with_force_stays_deleted(
    backend: MemoryBackend, forced: Callable[[PolicyStore], object], later: str
) -> None:
    store = PolicyStore.over(backend, cache=False)
    store.tag("a@2", "t")
    forced(store)
    LATER[later](store)
    with pytest.raises(NotFoundError, match="deleted version"):
        store.pull("a@t")


def test_what_another_writer_deletes_with_force_meanwhile_stays_deleted(
    backend: MemoryBackend,
) -> None:
    store = cut_off(backend, "prune")
    late = Intercepted(backend)
    done: list[str] = []

    def create(key: str, data: bytes) -> bool:
        if "@marks/" in key and not done:
            done.append(key)
            store.restore("a@2")
            store.delete("a@2", force=True)
        return backend.create(key, data)

    late.create = create
    PolicyStore.over(late, cache=False).prune("a", keep_last=1)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="deleted version"):
        store.pull("a@t")


def test_a_version_whose_bytes_are_gone_stays_deleted(
    backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    store = cut_off(backend, "prune")
    for prefix in (OBJECTS, TRASH):
        for key in list(backend.keys(prefix)):
            if store.log("a", deleted=True)[2].digest.hex in key:
                backend.delete(key)
    store.prune("a", keep_last=1)
    assert "a tag points to a@2, which is deleted" in caplog.text
    store.collect_garbage(datetime.timedelta(0), dry_run=False, exclusive=True)
    assert [version.number for version in store.log("a")] == [4]


def test_a_tag_that_moved_on_restores_nothing(backend: MemoryBackend) -> None:
    store = cut_off(backend, "prune")
    store.tag("a@4", "t")
    store.prune("a", keep_last=1)
    assert [version.number for version in store.log("a")] == [4]
