"""Copies of deletions and restorations."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policystore import IntegrityError, PolicyStore
from policystore.format.keys import (
    deleted_key,
    hint_key,
    mark_key,
    object_key,
    tag_key,
    version_key,
)
from policystore.format.records import Hint, Mark, Span
from policystore.testing import make_snapshot
from tests.support.mirrors import (
    Watched,
    backend_of,
    content,
    faults,
    mark,
    over,
    version,
    versions,
)

MakeStore = Callable[[], PolicyStore]


@pytest.fixture
def ours(make_store: MakeStore) -> PolicyStore:
    """A store with four versions of a name, all different."""
    store = make_store()
    for seed in range(1, 5):
        store.push(make_snapshot(seed), "a")
    return store


def drop(store: PolicyStore, number: int) -> None:
    """Remove the object of a version, as a collector does."""
    backend_of(store).delete(object_key(version(store, "a", number).digest))


def marks_of(store: PolicyStore) -> list[Mark]:
    found: list[Mark] = []
    while backend_of(store).size(key := mark_key("a", len(found) + 1)) is not None:
        found.append(Mark.from_bytes(backend_of(store).get(key), key))
    return found


def test_marks_come_before_the_versions_that_they_delete(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    mark(ours, "a", "delete", (2, 3))
    watched = Watched(backend_of(theirs))
    report = ours.copy_to(over(watched))
    assert content(theirs) == content(ours)
    order = [key for key in watched.writes if key.startswith(("names/a/@v", "names/a/@m"))]
    assert order == [
        version_key("a", 1),
        mark_key("a", 1),
        *(version_key("a", n) for n in (2, 3, 4)),
    ]
    assert report.names["a"].marks == 1
    hint = Hint.from_bytes(backend_of(theirs).get(hint_key("a")), "")
    assert (hint.number, hint.marks, hint.stands) == (4, 1, 4)
    assert not ours.copy_to(theirs).changed


def test_a_name_that_was_deleted_is_deleted_in_the_copy(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs, fresh = make_store(), make_store()
    ours.copy_to(theirs)
    mark(ours, "a", "delete", (1, 4))
    for number in range(1, 5):
        drop(ours, number)
    watched = Watched(backend_of(theirs))
    ours.copy_to(over(watched))
    assert watched.writes[-3:] == [deleted_key("a"), mark_key("a", 1), hint_key("a")]
    report = ours.copy_to(fresh)
    for store in (theirs, fresh):
        assert content(store, "names/", "deleted/") == content(ours, "names/", "deleted/")
        assert not ours.copy_to(store).changed
    assert report.objects == 0
    hint = Hint.from_bytes(backend_of(theirs).get(hint_key("a")), "")
    assert (hint.number, hint.stands, hint.digest) == (4, 0, make_snapshot(4).digest)


def test_a_deleted_version_brings_its_objects_while_they_are_there(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    mark(ours, "a", "delete", (2, 3))
    drop(ours, 3)
    ours.copy_to(theirs)
    assert content(theirs) == content(ours)
    assert len(versions(theirs, "a")) == 4


def test_objects_come_before_the_mark_that_restores_them(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    mark(ours, "a", "delete", (2, 3))
    objects = content(ours, "objects/")
    drop(ours, 2), drop(ours, 3)
    ours.copy_to(theirs)
    for key, data in objects.items():
        backend_of(ours).replace(key, data)
    mark(ours, "a", "restore", (2, 2))
    watched = Watched(backend_of(theirs))
    ours.copy_to(over(watched))
    assert watched.writes.index(mark_key("a", 2)) > 0
    assert theirs.pull("a@2") == make_snapshot(2)
    assert marks_of(theirs)[-1].deleted == (Span(3, 3, 1),)
    # A restored version whose object is lost is not restored in the copy.
    mark(ours, "a", "restore", (3, 3))
    drop(ours, 3)
    with pytest.raises(IntegrityError, match=r"a@3 was restored in .* does not have the object"):
        ours.copy_to(theirs)
    assert len(marks_of(theirs)) == 2


def test_the_marks_of_the_target_alone_stay(ours: PolicyStore, make_store: MakeStore) -> None:
    """Whoever keeps a mirror may prune it."""
    theirs = make_store()
    ours.copy_to(theirs)
    mark(theirs, "a", "prune", (1, 2))
    ours.push(make_snapshot(5), "a")
    report = ours.copy_to(theirs)
    assert report.names["a"].copied == [5]
    assert report.complete
    assert len(marks_of(theirs)) == 1


def test_marks_on_both_sides_are_reported_and_new_deletions_come_along(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    ours.copy_to(theirs)
    mark(theirs, "a", "prune", (1, 1))
    mark(ours, "a", "delete", (2, 2))
    for seed in (5, 6):
        ours.push(make_snapshot(seed), "a")
    mark(ours, "a", "delete", (5, 5))
    drop(ours, 5)
    report = ours.copy_to(theirs)
    assert report.names["a"].copied == [5, 6]
    assert report.names["a"].conflicts == [
        "versions 2: deleted in the source only",
        "versions 1: deleted in the target only",
    ]
    # Version 5 has no objects, so it must not stand in the target.
    assert [(s.first, s.last) for s in marks_of(theirs)[-1].deleted] == [(1, 1), (5, 5)]
    assert content(theirs, "names/a/@versions") == content(ours, "names/a/@versions")
    assert not ours.copy_to(theirs).changed


def test_a_version_that_is_deleted_during_the_copy(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    """A version loses its objects after the copy has begun: the new mark is copied first."""
    theirs = make_store()

    def collect(count: int, key: str) -> None:
        if key == version_key("a", 1):
            mark(ours, "a", "delete", (3, 4))
            drop(ours, 3), drop(ours, 4)

    watched = Watched(backend_of(theirs), collect)
    report = ours.copy_to(over(watched))
    assert report.names["a"].copied == [1, 2, 3, 4]
    assert content(theirs) == content(ours)
    assert watched.writes.index(mark_key("a", 1)) < watched.writes.index(version_key("a", 2))


@pytest.mark.parametrize("when", [1, 2])
def test_a_push_to_the_target_survives_the_marks_of_the_source(
    ours: PolicyStore, make_store: MakeStore, when: int
) -> None:
    """Marks come first; another writer takes a number that they delete before the copy does."""
    theirs = make_store()
    mark(ours, "a", "delete", (2, 4))
    pushed = []

    def push(count: int, key: str) -> None:
        if key == version_key("a", when + 1) and not pushed:
            pushed.append(theirs.push(make_snapshot(50), "a"))

    report = ours.copy_to(over(Watched(backend_of(theirs), push)))
    assert pushed[0].number == when + 1
    deleted = marks_of(theirs)[-1].deleted
    assert all(span.last <= when for span in deleted)
    assert report.names["a"].marks == 2
    assert theirs.pull(f"a@{when + 1}") == make_snapshot(50)
    report = ours.copy_to(theirs)
    assert not report.changed
    assert faults(theirs) == []


def test_a_push_is_restored_by_the_next_copy_if_this_one_is_killed(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    mark(ours, "a", "delete", (2, 4))

    def die(count: int, key: str) -> None:
        if key == version_key("a", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours.copy_to(over(Watched(backend_of(theirs), die)))
    theirs.push(make_snapshot(50), "a")
    assert marks_of(theirs)[-1].deleted == (Span(2, 4, 1),)
    ours.copy_to(theirs)
    assert marks_of(theirs)[-1].deleted == ()
    assert theirs.pull("a@2") == make_snapshot(50)
    # Its own deletions stay.
    theirs.push(make_snapshot(51), "a")
    mark(theirs, "a", "delete", (3, 3))
    ours.copy_to(theirs)
    assert marks_of(theirs)[-1].deleted == (Span(3, 3, 3),)


def test_renumbered_versions_are_not_deleted_by_marks(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    ours.copy_to(theirs, ["a@1"])
    theirs.push(make_snapshot(50), "a")
    mark(ours, "a", "delete", (2, 2))
    ours.copy_to(theirs)
    assert [v.digest for v in versions(theirs, "a")[2:]] == [
        make_snapshot(3).digest, make_snapshot(4).digest,
    ]  # fmt: skip
    assert marks_of(theirs) == []


def test_marks_of_common_versions_reach_a_list_that_goes_on_differently(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    ours.copy_to(theirs)
    theirs.push(make_snapshot(50), "a")
    mark(ours, "a", "delete", (2, 2))
    report = ours.copy_to(theirs)
    assert report.names["a"].marks == 1
    assert marks_of(theirs)[-1].deleted == (Span(2, 2, 1),)
    assert not ours.copy_to(theirs).changed


def test_a_mark_of_the_target_comes_between(ours: PolicyStore, make_store: MakeStore) -> None:
    """Somebody deletes in the target while the copy writes its mark."""
    theirs, made = make_store(), []
    mark(ours, "a", "delete", (3, 3))
    drop(ours, 3)

    def delete(count: int, key: str) -> None:
        if key == mark_key("a", 1) and not made:
            made.append(mark(theirs, "a", "delete", (1, 1)))

    report = ours.copy_to(over(Watched(backend_of(theirs), delete)))
    assert report.names["a"].copied == [1, 2, 3, 4]
    assert [(s.first, s.last) for s in marks_of(theirs)[-1].deleted] == [(1, 1), (3, 3)]
    assert not ours.copy_to(theirs).changed


def test_a_version_alone_comes_without_marks(ours: PolicyStore, make_store: MakeStore) -> None:
    theirs = make_store()
    mark(ours, "a", "delete", (3, 3))
    ours.copy_to(theirs, ["a@1", "a@2"])
    assert marks_of(theirs) == []
    # Marks of an earlier copy, whose versions have not come yet, do not delete it.
    backend_of(theirs).create(mark_key("a", 1), content(ours)[mark_key("a", 1)])
    mark(ours, "a", "restore", (3, 3))
    ours.copy_to(theirs, "a@3")
    assert marks_of(theirs)[-1].deleted == ()


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_tag_on_a_version_that_the_target_has_deleted_is_reported(
    ours: PolicyStore, make_store: MakeStore, when: str
) -> None:
    theirs = make_store()
    ours.copy_to(theirs)
    ours.tag("a@2", "best")
    if when == "before":
        mark(theirs, "a", "prune", (2, 2))

    def prune(count: int, key: str) -> None:
        if when == "meanwhile" and key == tag_key("a", "best", 1):
            mark(theirs, "a", "prune", (2, 2))

    report = ours.copy_to(over(Watched(backend_of(theirs), prune)))
    assert report.names["a"].tags == ["best"]
    assert report.names["a"].conflicts == [
        "tag best: the tag is at version 2, which is deleted in the target"
    ]
