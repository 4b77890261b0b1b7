"""Deletions, prunes, tags, pushes and restores at the same time: one of two sees the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from policystore import InvalidInputError, NotFoundError, PolicyStore, PolicyStoreError, Snapshot
from policystore.backends.memory import MemoryBackend
from policystore.format.records import Mark
from policystore.testing.storage import Intercepted

Make = Callable[..., Snapshot]


class Stage:
    """A store in which a test may do something before or after one request of another process.

    Attributes:
        other: the store of the other process.
    """

    def __init__(self) -> None:
        inner = MemoryBackend(uuid.uuid4().hex)
        self.other = PolicyStore.over(inner, cache=False)
        self.backend = Intercepted(inner)
        self.store = PolicyStore.over(self.backend, cache=False)  # type: ignore[arg-type]

    def before(self, call: str, part: str, act: Callable[[], Any], *, after: bool = False) -> None:
        """Act once, before or after the next request whose key has ``part``."""
        inner, done = getattr(self.backend.inner, call), []

        def intercepted(key: str, *args: Any, **kwargs: Any) -> Any:
            due = part in key and not done
            if due:
                done.append(key)
                if not after:
                    act()
            result = inner(key, *args, **kwargs)
            if due and after:
                act()
            return result

        setattr(self.backend, call, intercepted)


@pytest.fixture
def stage(make_snapshot: Make) -> Stage:
    stage = Stage()
    for seed in range(5):
        stage.other.push(make_snapshot(seed), "a")
    return stage


def numbers(store: PolicyStore) -> list[int | None]:
    return [version.number for version in store.log("a")]


# A tag against a deletion ------------------------------------------------------------------------


def test_a_tag_whose_version_is_deleted_first_is_moved_back(stage: Stage) -> None:
    stage.other.tag("a@1", "t")
    stage.before("create", "@tags/t/", lambda: stage.other.delete("a@3", author="ann"))
    with pytest.raises(NotFoundError, match=r"'t' now points to a@1: version 3 .* by ann"):
        stage.store.tag("a@3", "t")
    assert stage.other.tags("a")["t"].number == 1
    assert [move.target for move in stage.other.tag_history("a", "t")] == [1, 3, 1]


def test_a_first_tag_whose_version_is_deleted_first_is_removed(stage: Stage) -> None:
    stage.before("create", "@tags/t/", lambda: stage.other.prune("a", keep_last=1))
    with pytest.raises(NotFoundError, match="now points to no version"):
        stage.store.tag("a@3", "t")
    assert stage.other.tags("a") == {}


def test_a_tag_is_not_moved_back_to_a_version_that_was_deleted_too(stage: Stage) -> None:
    stage.other.tag("a@1", "t")

    def delete_both() -> None:
        for number in (3, 1):
            stage.other.delete(f"a@{number}", force=True)

    stage.before("create", "@tags/t/", delete_both)
    with pytest.raises(NotFoundError, match="now points to no version"):
        stage.store.tag("a@3", "t")
    assert [move.target for move in stage.other.tag_history("a", "t")] == [None, 3, 1]


def test_a_version_that_is_deleted_while_the_tag_moves_back_to_it_gets_no_tag(
    stage: Stage,
) -> None:
    stage.other.tag("a@1", "t")
    numbers_to_delete = [3, 1]

    def create(key: str, data: bytes) -> bool:
        if "@tags/t/" in key and numbers_to_delete:
            number = numbers_to_delete.pop(0)
            stage.other.delete(f"a@{number}", force=True)
        return stage.backend.inner.create(key, data)

    stage.backend.create = create
    with pytest.raises(NotFoundError, match="now points to no version"):
        stage.store.tag("a@3", "t")
    assert [move.target for move in stage.other.tag_history("a", "t")] == [None, 1, 3, 1]


def test_a_tag_that_another_writer_moved_on_is_not_moved_back(stage: Stage) -> None:
    def act() -> None:
        stage.other.delete("a@3", force=True)
        stage.other.tag("a@4", "t")

    stage.before("create", "@tags/t/", act, after=True)
    with pytest.raises(NotFoundError, match="another writer"):
        stage.store.tag("a@3", "t")
    assert stage.other.tags("a")["t"].number == 4


@pytest.mark.parametrize("call", ["delete", "delete_name"])
def test_a_deletion_that_a_tag_overtakes_is_taken_back(stage: Stage, call: str) -> None:
    stage.before("create", "@marks/", lambda: stage.other.tag("a@3", "t"))
    with pytest.raises(InvalidInputError, match=r"'t' \(version 3\)"):
        stage.store.delete("a@3") if call == "delete" else stage.store.delete_name("a")
    assert stage.other.tags("a")["t"].number == 3
    assert 3 in numbers(stage.other)


def test_a_refused_delete_name_deletes_nothing_at_all(stage: Stage) -> None:
    stage.other.delete("a@2")
    stage.before("create", "@marks/", lambda: stage.other.tag("a@3", "t"))
    with pytest.raises(InvalidInputError, match="Nothing was deleted"):
        stage.store.delete_name("a")
    assert numbers(stage.other) == [5, 4, 3, 1]


def test_a_prune_restores_what_a_tag_reached_in_between(stage: Stage) -> None:
    stage.before("create", "@marks/", lambda: stage.other.tag("a@2", "t"))
    report = stage.store.prune("a", keep_last=1)
    assert (report.pruned, list(report.kept)) == ([4, 3, 1], [5, 2])
    assert report.kept[2] == ("tag 't'",)
    assert numbers(stage.other) == [5, 2]
    assert stage.other.pull("a@t").ref == "a@2"


@pytest.mark.parametrize("tagging", ["before", "after"])
def test_of_a_tag_and_a_prune_at_the_same_time_one_sees_the_other(
    stage: Stage, tagging: str
) -> None:
    """Let the prune run between the record of the tag and the look at the marks, or before both."""
    stage.before(
        "create", "@tags/t/", lambda: stage.other.prune("a", keep_last=1), after=tagging == "before"
    )
    try:
        stage.store.tag("a@2", "t")
    except NotFoundError:
        assert stage.other.tags("a") == {}
    else:
        assert stage.other.pull("a@t").ref == "a@2"


# Deletions against deletions and pushes ----------------------------------------------------------


def test_two_deletions_of_one_version_delete_it_once(stage: Stage) -> None:
    stage.before("create", "@marks/", lambda: stage.other.delete("a", author="bob"))
    with pytest.raises(NotFoundError, match=r"version 5 .* by bob"):
        stage.store.delete("a")
    assert numbers(stage.other) == [4, 3, 2, 1]


def test_two_deletions_of_the_last_two_versions_hide_the_name(stage: Stage) -> None:
    stage.other.prune("a", keep_last=2)
    stage.before("create", "@marks/", lambda: stage.other.delete("a@4"))
    stage.store.delete("a@5")
    assert stage.other.names() == []
    with pytest.raises(NotFoundError, match="no version of 'a'"):
        stage.other.pull("a")


def test_a_prune_never_deletes_the_newest_version_that_stands(stage: Stage) -> None:
    def delete_newest() -> None:
        for _ in range(2):
            stage.other.delete("a")

    stage.before("create", "@marks/", delete_newest)
    report = stage.store.prune("a", keep_last=2)
    assert (report.pruned, list(report.kept)) == ([1], [3, 2])
    assert numbers(stage.other) == [3, 2]


def test_a_version_that_is_pushed_during_delete_name_stands(
    stage: Stage, make_snapshot: Make
) -> None:
    stage.before("create", "@marks/", lambda: stage.other.push(make_snapshot(7), "a"))
    assert stage.store.delete_name("a") == 5
    assert stage.other.pull("a") == make_snapshot(7)
    assert stage.other.names() == ["a"]


class Wide(MemoryBackend):
    """A backend with many parallel calls."""

    @property
    def parallel(self) -> int:
        return 64


def test_a_pull_sees_a_state_that_the_name_had(make_snapshot: Make) -> None:
    """Push version 6 and then delete version 5, between the looks at versions and at marks."""
    inner = Wide("a-state-that-the-name-had")
    other = PolicyStore.over(inner, cache=False)
    for seed in range(5):
        other.push(make_snapshot(seed), "a")
    backend, changed = Intercepted(inner), threading.Event()

    def get(key: str, **kwargs: Any) -> Any:
        if "@marks/" in key:
            assert changed.wait(20)
        try:
            return inner.get(key, **kwargs)
        finally:
            if key.endswith("@versions/0000000006.json") and not changed.is_set():
                other.push(make_snapshot(9), "a")
                other.delete("a@5")
                changed.set()

    backend.get = get
    pulled = PolicyStore.over(backend, cache=False).pull("a")  # type: ignore[arg-type]
    assert pulled.ref == "a@6"  # and not version 4, which was never the newest that stands


def test_a_lost_answer_does_not_make_two_marks(stage: Stage) -> None:
    def create(key: str, data: bytes) -> bool:
        stage.backend.inner.create(key, data)
        return False

    stage.backend.create = create
    stage.store.delete("a@2")
    stage.store.prune("a", keep_last=1)
    assert len(list(stage.backend.inner.keys("names/a/@marks/"))) == 2
    assert numbers(stage.other) == [5]


def test_the_pointer_comes_before_the_mark_and_the_hint_after(stage: Stage) -> None:
    written: list[str] = []

    def noted(call: Callable[..., Any]) -> Callable[..., Any]:
        def note(key: str, data: bytes) -> Any:
            written.append(key)
            return call(key, data)

        return note

    stage.backend.create = noted(stage.backend.inner.create)
    stage.backend.replace = noted(stage.backend.inner.replace)  # type: ignore[attr-defined]
    stage.store.delete_name("a")
    assert written == ["deleted/a/@mark", "names/a/@marks/0000000001.json", "names/a/@hint"]


def test_many_writers_of_one_name_lose_nothing(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "s")
    for seed in range(20):
        store.push(make_snapshot(seed), "a")
    failures: list[BaseException] = []

    def run(index: int) -> None:
        mine = PolicyStore(tmp_path / "s")
        try:
            for step in range(6):
                act(mine, index, step)
        except BaseException as error:
            failures.append(error)

    def act(mine: PolicyStore, index: int, step: int) -> None:
        number = 1 + (index * 6 + step) % 20
        calls: list[Callable[[], Any]] = [
            lambda: mine.push(make_snapshot(index * 10 + step), "a"),
            lambda: mine.delete(f"a@{number}"),
            lambda: mine.tag(f"a@{number}", f"t{index % 2}"),
            lambda: mine.restore(f"a@{number}"),
            lambda: mine.prune("a", keep_last=12),
            lambda: mine.pull("a"),
        ]
        # Another writer may have deleted, restored or tagged the version.
        with contextlib.suppress(NotFoundError, InvalidInputError):
            calls[(index + step) % len(calls)]()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert failures == []
    check(store, pushes=20 + 8)


def check(store: PolicyStore, pushes: int) -> None:
    """Check that all versions are there, that the marks are a chain, and that tags stand."""
    log = store.log("a", deleted=True)
    assert [version.number for version in log] == list(range(pushes, 0, -1))
    backend = store._backend
    marks = [
        Mark.from_bytes(backend.get(key), key) for key in sorted(backend.keys("names/a/@marks/"))
    ]
    assert [mark.number for mark in marks] == list(range(1, len(marks) + 1))
    standing = {version.number for version in log}
    for mark in marks:
        changed = {n for first, last in mark.changed for n in range(first, last + 1)}
        assert changed <= standing if mark.action != "restore" else not changed & standing
        standing = standing | changed if mark.action == "restore" else standing - changed
    assert standing == {version.number for version in store.log("a")}
    for key in backend.prefixes("names/a/@tags/", "/"):
        move = store.tag_history("a", key.split("/")[-2])[0]
        assert move.target is None or move.target in standing


def _work(folder: str, index: int, count: int) -> None:
    """Push, delete, tag and prune in a process of its own."""
    from policystore.testing import make_snapshot as snapshot

    store = PolicyStore(folder)
    for step in range(count):
        store.push(snapshot(index * 100 + step), "a")
        with contextlib.suppress(NotFoundError, InvalidInputError):
            store.delete(f"a@{1 + (7 * step + index) % 30}", author=f"p{index}")
        with contextlib.suppress(NotFoundError, InvalidInputError):
            store.tag("a", f"t{index % 2}")
        with contextlib.suppress(NotFoundError):  # others may have deleted all versions
            store.prune("a", keep_last=15)


@pytest.mark.long
def test_many_processes_of_one_name_lose_nothing(tmp_path: Path, make_snapshot: Make) -> None:
    folder = str(tmp_path / "s")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_work, args=(folder, index, 10)) for index in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    check(PolicyStore(folder), pushes=40)


def test_readers_see_only_what_can_be_pulled(tmp_path: Path, make_snapshot: Make) -> None:
    """Keep a version standing at every moment, while others are pushed and deleted."""
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(0), "a")
    stop = threading.Event()
    failures: list[PolicyStoreError] = []

    def read() -> None:
        mine = PolicyStore(tmp_path / "s")
        while not stop.is_set():
            try:
                mine.pull("a")
                mine.log("a")
                assert mine.names() == ["a"]
            except PolicyStoreError as error:
                failures.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for seed in range(1, 15):
        store.push(make_snapshot(seed), "a")
        store.delete(f"a@{seed}")
    stop.set()
    for reader in readers:
        reader.join()
    assert failures == []
