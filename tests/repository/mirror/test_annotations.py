"""Copies of annotations: under the number that the version has in the target, and only once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from policystore import Annotation, FormatError, PolicyStore
from policystore.format.keys import annotation_key, annotations_prefix
from policystore.testing import make_snapshot
from policystore.testing.storage import Intercepted
from tests.support.mirrors import Killed, Watched, backend_of, content, faults, over

MakeStore = Callable[[], PolicyStore]


@pytest.fixture
def ours(make_store: MakeStore) -> PolicyStore:
    """Return a store with three versions and annotations of two of them."""
    store = make_store()
    for seed in range(3):
        store.push(make_snapshot(seed), "a")
    store.annotate("a@1", note="first")
    store.annotate("a@3", metrics={"elo": 1000.0}, author="ann")
    store.annotate("a@3", metrics={"elo": 1200.0}, author="bob")
    return store


@pytest.fixture
def theirs(make_store: MakeStore) -> PolicyStore:
    """Return a store that has a version of its own under the same name."""
    store = make_store()
    store.push(make_snapshot(9), "a")
    store.annotate("a@1", note="their own")
    return store


def notes(store: PolicyStore) -> dict[str, list[str]]:
    """Return the nonces of the annotations of each version, by the digest of the policy."""
    return {
        str(version.digest): [each.nonce for each in version.annotations or ()]
        for version in store.log("a", annotations=True)
    }


def test_a_renumbered_version_keeps_its_annotations(ours: PolicyStore, theirs: PolicyStore) -> None:
    report = ours.copy_to(theirs).names["a"]
    assert report.renumbered == {1: 2, 2: 3, 3: 4}
    assert (report.notes, report.skipped) == (3, [])
    assert notes(theirs).items() > notes(ours).items()
    copied = theirs.annotations("a@4")
    assert copied == [replace(each, number=4) for each in ours.annotations("a@3")]
    assert [each.note for each in theirs.annotations("a@1")] == ["their own"]
    assert faults(theirs) == []
    before = content(theirs)
    again = ours.copy_to(theirs)
    assert not again.changed
    assert content(theirs) == before


def test_both_directions_end_with_the_same_annotations(
    ours: PolicyStore, theirs: PolicyStore
) -> None:
    for source, target in ((ours, theirs), (theirs, ours)) * 2:
        source.copy_to(target)
    ours.annotate("a@2", note="later")
    theirs.annotate("a@4", note="later, too")
    for source, target in ((ours, theirs), (theirs, ours)):
        assert source.copy_to(target).names["a"].notes == 1
    assert notes(ours) == notes(theirs)
    assert sum(map(len, notes(ours).values())) == 6
    for source, target in ((ours, theirs), (theirs, ours)):
        assert not source.copy_to(target).changed
    assert faults(ours) == faults(theirs) == []


@pytest.mark.parametrize("apart", [False, True])
def test_only_new_annotations_are_read(
    ours: PolicyStore, make_store: MakeStore, apart: bool
) -> None:
    theirs = make_store()
    if apart:
        theirs.push(make_snapshot(9), "a")
    ours.copy_to(theirs)
    mine = theirs.annotate("a@2", note="of the mirror")
    new = ours.annotate("a@1", note="new")
    reading = Intercepted(backend_of(ours))
    reads: list[str] = []

    def get(key: str, **options: object) -> bytes | memoryview:
        reads.append(key)
        return backend_of(ours).get(key, **options)  # type: ignore[arg-type]

    reading.get = get
    assert over(reading).copy_to(theirs).names["a"].notes == 1
    assert [key for key in reads if "@notes" in key] == [annotation_key("a", 1, new.nonce)]
    assert mine in theirs.annotations("a@2")


@pytest.mark.parametrize("apart", [False, True])
def test_a_copy_that_is_killed_at_any_write_is_resumed(
    ours: PolicyStore, make_store: MakeStore, apart: bool
) -> None:
    for at in range(1, 40):
        theirs = make_store()
        if apart:
            theirs.push(make_snapshot(9), "a")

        def before(count: int, key: str, at: int = at) -> None:
            if count == at:
                raise Killed

        watched = Watched(backend_of(theirs), before)
        try:
            ours.copy_to(over(watched))
        except Killed:
            assert faults(theirs) == [] if backend_of(theirs).size("policystore.json") else True
            ours.copy_to(theirs)
        else:
            break
        assert notes(ours).items() <= notes(theirs).items()
        assert faults(theirs) == []
    assert len([key for key in watched.writes if "@notes" in key]) == 3
    assert 8 < at < 40


def test_one_version_takes_its_annotations_along(ours: PolicyStore, make_store: MakeStore) -> None:
    theirs = make_store()
    report = ours.copy_to(theirs, "a@3").names["a"]
    assert (report.renumbered, report.notes, report.skipped) == ({3: 1}, 2, [])
    assert [each.metrics["elo"] for each in theirs.annotations("a@1")] == [1000.0, 1200.0]
    assert not ours.copy_to(theirs, "a@3").changed
    assert ours.copy_to(theirs, "a@1").names["a"].notes == 1


def test_a_source_that_cannot_be_listed_says_so(ours: PolicyStore, make_store: MakeStore) -> None:
    blind = Intercepted(backend_of(ours))
    blind.prefixes = lambda *args, **options: iter(())  # type: ignore[attr-defined]
    report = over(blind).copy_to(make_store(), "a@3")
    assert report.names["a"].skipped == ["annotations: the source cannot be listed"]
    assert not report.complete


def test_annotations_of_versions_that_are_not_there_are_reported(
    ours: PolicyStore, theirs: PolicyStore
) -> None:
    ours.delete("a@3")
    report = ours.copy_to(theirs).names["a"]
    assert report.notes == 1
    assert report.skipped[1:] == ["2 annotations of versions that the target does not have"]
    ours.restore("a@3")
    assert ours.copy_to(theirs).names["a"].notes == 2
    assert notes(ours).items() < notes(theirs).items()


def test_annotations_of_deleted_versions_come_along_where_numbers_are_the_same(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    ours.delete("a@3")
    assert ours.copy_to(theirs).names["a"].notes == 3
    theirs.restore("a@3")
    assert len(theirs.annotations("a@3")) == 2


@pytest.mark.parametrize("apart", [False, True])
def test_a_damaged_annotation_stops_no_other(
    ours: PolicyStore, make_store: MakeStore, apart: bool
) -> None:
    theirs = make_store()
    if apart:
        theirs.push(make_snapshot(9), "a")
    ours.push(make_snapshot(5), "b")
    good = ours.annotations("a@1")[0]
    backend_of(ours).replace(annotation_key("a", 1, "0" * 32), b"{}")
    backend_of(ours).replace(annotation_key("a", 1, "1" * 32), good.to_bytes())
    with pytest.raises(FormatError, match=r"0{32}.*and 1 more annotations"):
        ours.copy_to(theirs)
    assert notes(ours_without_damage(ours)).items() <= notes(theirs).items()
    assert theirs.pull("b") == make_snapshot(5)
    assert faults(theirs) == []


def ours_without_damage(store: PolicyStore) -> PolicyStore:
    for nonce in ("0" * 32, "1" * 32):
        backend_of(store).delete(annotation_key("a", 1, nonce))
    return store


def test_a_version_that_is_pushed_during_the_copy_waits_for_the_next_one(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()

    def before(count: int, key: str) -> None:
        if key.startswith("names/") and len(ours.log("a")) == 3:
            ours.push(make_snapshot(7), "a")
            ours.annotate("a@4", note="new")

    report = ours.copy_to(over(Watched(backend_of(theirs), before))).names["a"]
    assert (report.copied, report.notes, report.skipped) == ([1, 2, 3], 3, [])
    report = ours.copy_to(theirs).names["a"]
    assert (report.copied, report.notes) == ([4], 1)


def test_a_dry_run_counts_and_writes_nothing(ours: PolicyStore, theirs: PolicyStore) -> None:
    before = content(theirs)
    dry = ours.copy_to(theirs, dry_run=True).names["a"]
    assert content(theirs) == before
    assert dry.notes == 3
    assert ours.copy_to(theirs).names["a"] == dry


def test_an_annotation_of_another_version_is_not_copied(
    ours: PolicyStore, make_store: MakeStore
) -> None:
    theirs = make_store()
    made: Annotation = ours.annotations("a@1")[0]
    backend_of(ours).replace(annotation_key("a", 9, made.nonce), made.to_bytes())
    ours.copy_to(theirs)
    assert list(backend_of(theirs).keys(annotations_prefix("a", 9))) == []
    assert faults(theirs) == []
