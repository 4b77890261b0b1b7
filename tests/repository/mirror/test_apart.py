"""Copies to lists that differ: new numbers, tags that move forward only, cursors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from policystore import PolicyStore
from policystore.digest import digest_of
from policystore.format.keys import copied_key, version_key
from policystore.format.records import Copied, Version
from policystore.repository.mirror.sides import Record
from policystore.repository.mirror.version_list import _made_anew
from policystore.repository.stamp import now
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
def apart(make_store: MakeStore) -> tuple[PolicyStore, PolicyStore]:
    """Two stores that share versions 1 and 2 of a name, and go on with a version of their own."""
    ours, theirs = make_store(), make_store()
    for seed in (1, 2):
        ours.push(make_snapshot(seed), "a", message=f"m{seed}", metrics={"return": seed / 3})
    ours.copy_to(theirs)
    theirs.push(make_snapshot(30), "a")
    ours.push(make_snapshot(3), "a", message="m3", parents=["a@1"], author="ann")
    return ours, theirs


def test_a_version_gets_the_next_number_and_an_origin(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    report = ours.copy_to(theirs)
    source, copy = version(ours, "a", 3), version(theirs, "a", 4)
    assert copy.origin is not None
    assert (copy.origin.name, copy.origin.number) == ("a", 3)
    assert copy.origin.record == digest_of(content(ours)[version_key("a", 3)])
    for field in ("digest", "nonce", "time", "author", "message", "metrics", "parents", "objects"):
        assert getattr(copy, field) == getattr(source, field), field
    assert version(theirs, "a", 3).digest == make_snapshot(30).digest
    assert report.names["a"].renumbered == {3: 4}
    assert report.names["a"].present == 2
    assert "renumbered 3 -> 4; 2 already there" in str(report)
    assert faults(theirs) == []


def test_a_second_copy_adds_nothing_with_and_without_the_cursor(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    ours.copy_to(theirs)
    before = content(theirs)
    key = copied_key("a", version(ours, "a", 1).nonce)
    assert Copied.from_bytes(backend_of(theirs).get(key), key).number == 3
    for disturb in (
        lambda: None,
        lambda: backend_of(theirs).delete(key),
        lambda: backend_of(theirs).replace(key, b"{}"),
        lambda: backend_of(theirs).replace(
            key, Copied(2, make_snapshot(1).digest, 0, 4).to_bytes()
        ),
    ):
        disturb()
        report = ours.copy_to(theirs)
        assert not report.changed
        assert report.names["a"].present == 3
        assert content(theirs) == before


def test_the_cursor_of_another_source_skips_nothing(
    apart: tuple[PolicyStore, PolicyStore], make_store: MakeStore
) -> None:
    """Two sources whose lists begin with the same version have a cursor in common."""
    ours, theirs = apart
    other = make_store()
    ours.copy_to(other, ["a"])
    other.push(make_snapshot(40), "a")
    ours.push(make_snapshot(4), "a")
    ours.push(make_snapshot(5), "a")
    ours.copy_to(theirs)
    report = other.copy_to(theirs)
    assert report.names["a"].renumbered == {4: 7}
    assert version(theirs, "a", 7).digest == make_snapshot(40).digest
    assert not ours.copy_to(theirs).changed
    assert not other.copy_to(theirs).changed


def test_a_mirror_is_kept_up_without_reading_everything_again(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    for seed in range(50, 80):
        theirs.push(make_snapshot(seed % 3), "a")
        ours.push(make_snapshot(seed % 3), "a")
    ours.copy_to(theirs)
    ours.copy_to(theirs)
    reads: list[str] = []
    backend = Watched(backend_of(ours))
    get = backend_of(ours).get

    def counted(key: str, **kwargs: object) -> object:
        reads.append(key)
        return get(key, **kwargs)  # type: ignore[arg-type]

    backend.get = counted  # type: ignore[attr-defined]
    ours.push(make_snapshot(99), "a")
    report = over(backend).copy_to(theirs)
    assert report.versions == 1
    assert len([key for key in reads if "/@versions/" in key]) < 12
    assert faults(theirs) == []


def test_deleted_versions_are_skipped_and_follow_when_they_are_restored(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    ours.push(make_snapshot(4), "a")
    mark(ours, "a", "delete", (3, 3))
    report = ours.copy_to(theirs)
    assert report.names["a"].renumbered == {4: 4}
    assert report.names["a"].skipped == [
        "versions 3: deleted in the source, and the target has other versions under these numbers"
    ]
    assert not ours.copy_to(theirs).changed
    mark(ours, "a", "restore", (3, 3))
    assert ours.copy_to(theirs).names["a"].renumbered == {3: 5}
    assert not ours.copy_to(theirs).changed


def test_both_directions_end_with_the_same_versions(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    ours.copy_to(theirs)
    report = theirs.copy_to(ours)
    assert report.names["a"].renumbered == {3: 4}
    assert {v.nonce for v in versions(ours, "a")} == {v.nonce for v in versions(theirs, "a")}
    assert not ours.copy_to(theirs).changed
    assert not theirs.copy_to(ours).changed


def test_a_source_that_is_behind_changes_nothing(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    ours.push(make_snapshot(1), "a")
    ours.tag("a@1", "best")
    ours.copy_to(theirs)
    theirs.push(make_snapshot(2), "a")
    theirs.tag("a@2", "best")
    before = content(theirs)
    report = ours.copy_to(theirs)
    assert content(theirs) == before
    assert report.complete
    assert not report.changed


def test_tags_move_forward(apart: tuple[PolicyStore, PolicyStore]) -> None:
    ours, theirs = apart
    ours.tag("a@1", "best")
    ours.tag("a@3", "best")
    ours.tag("a@2", "old")
    ours.untag("a", "old")
    report = ours.copy_to(theirs)
    assert report.names["a"].tags == ["best", "old"]
    assert theirs.tags("a").keys() == {"best"}
    assert theirs.tags("a")["best"].digest == make_snapshot(3).digest
    assert theirs.tags("a")["best"].number == 4
    assert not ours.copy_to(theirs).changed
    # A later move goes on from there, to a version that an earlier copy has brought.
    ours.tag("a@1", "best")
    ours.tag("a@3", "again")
    report = ours.copy_to(theirs)
    assert report.names["a"].tags == ["again", "best"]
    assert {tag: v.number for tag, v in theirs.tags("a").items()} == {"again": 4, "best": 1}
    assert faults(theirs) == []


@pytest.mark.parametrize("lists", ["same", "apart"])
def test_a_tag_that_was_moved_on_both_sides_stays(make_store: MakeStore, lists: str) -> None:
    ours, theirs = make_store(), make_store()
    for seed in (1, 2):
        ours.push(make_snapshot(seed), "a")
    ours.tag("a@1", "best")
    ours.copy_to(theirs)
    if lists == "apart":
        theirs.push(make_snapshot(3), "a")
        ours.push(make_snapshot(4), "a")
    theirs.tag("a@2", "best")
    ours.tag("a@2", "best")
    ours.tag("a@1", "best")
    before = content(theirs, "names/a/@tags")
    report = ours.copy_to(theirs)
    assert content(theirs, "names/a/@tags") == before
    assert report.names["a"].conflicts == ["tag best: the tag was moved on both sides"]
    assert not report.complete
    assert "conflict: tag best" in str(report)


def test_a_tag_on_a_version_that_is_not_there_is_reported(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    ours.tag("a@3", "best")
    mark(ours, "a", "delete", (3, 3))
    report = ours.copy_to(theirs)
    assert theirs.tags("a") == {}
    assert report.names["a"].conflicts == [
        "tag best: the tag is at version 3 in the source, which is not in the target"
    ]


def test_a_record_that_has_no_room_for_its_origin_is_skipped(
    apart: tuple[PolicyStore, PolicyStore],
) -> None:
    ours, theirs = apart
    pushed = fill_up(ours)
    ours.push(make_snapshot(10), "a")
    report = ours.copy_to(theirs)
    assert list(report.names["a"].renumbered) == [3, 4, 6]
    (skipped,) = report.names["a"].skipped
    assert f"version {pushed.number}: its record has no room" in skipped
    assert not ours.copy_to(theirs).changed
    assert faults(theirs) == []


def fill_up(store: PolicyStore) -> Version:
    """Push a version whose record is almost as long as a record may be."""
    snap = make_snapshot(9)
    parent = make_snapshot(1).digest
    parents = [parent] * 700
    spare = 65_515 - len(store.push(snap, "a", parents=parents).to_bytes())
    more, rest = divmod(spare, 74)
    return store.push(snap, "a", parents=parents + [parent] * more, message="m" * rest)


def test_a_list_of_objects_gives_way_to_the_origin() -> None:
    objects = {digest_of(bytes([n])): n for n in range(256)}
    snap = make_snapshot(1)
    record = Version(
        name="n", number=7, digest=digest_of(b"\0"), weights_digest=snap.digest,
        acting_digest=snap.digest, state_digest=snap.digest, objects=objects,
        previous=snap.digest, time=now(), author="", message="", nonce="0" * 32,
        source={"x": ""},
    )  # fmt: skip
    parents = (65_530 - len(record.to_bytes())) // 74
    record = replace(record, parents=(snap.digest,) * parents)
    data = _made_anew(Record(record, record.to_bytes()), 9, snap.digest)
    copy = Version.from_bytes(data, "the copy")
    assert copy.objects is None
    assert copy.parents == record.parents
    assert copy.origin is not None


def test_a_copy_of_another_source_is_found_behind_the_cursor(
    apart: tuple[PolicyStore, PolicyStore], make_store: MakeStore
) -> None:
    """Two sources begin with the same versions. The copy of one of them is killed, and the other
    one writes a cursor that fits both."""
    ours, theirs = apart
    other = make_store()
    ours.copy_to(other)
    other.push(make_snapshot(40), "a")

    def die(count: int, key: str) -> None:
        if "/@copied/" in key:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        other.copy_to(over(Watched(backend_of(theirs), die)))
    theirs.push(make_snapshot(41), "a")
    ours.copy_to(theirs)
    before = content(theirs)
    assert not other.copy_to(theirs).changed
    assert content(theirs) == before
