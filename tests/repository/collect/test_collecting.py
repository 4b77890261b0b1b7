"""What a collection keeps, moves, purges and puts back."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Iterator
from dataclasses import replace

import pytest

from policystore import InvalidInputError, NotFoundError, PolicyStore, ReadOnlyError
from policystore.backends.base import Entry, Problems
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import MARKER, object_key, trash_key, version_key
from policystore.format.records import Version
from policystore.testing import make_snapshot
from tests.support.collecting import DAY, GRACE, TimedStore, policy, write_mark


def test_a_dry_run_changes_nothing_and_reports_what_a_real_run_does() -> None:
    timed = TimedStore()
    old, new = timed.store.push(policy(1), "a"), timed.store.push(policy(2), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    before = timed.everything()
    planned = timed.store.collect_garbage(grace=GRACE)
    assert timed.everything() == before
    done = timed.collect()
    for report in (planned, done):
        assert (report.moved.count, report.needed.count, report.young.count) == (1, 1, 0)
        assert report.moved.nbytes == sum((old.objects or {}).values())
    assert (planned.dry_run, done.dry_run) == (True, False)
    assert timed.objects() == {object_key(new.digest)}
    assert len(timed.trash()) == 1


def test_an_object_is_purged_when_its_copy_is_as_old_as_the_grace() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    assert timed.collect().moved.count == 1
    timed.wait(6.9)
    assert timed.collect().purged.count == 0
    assert timed.store.pull(version.digest) == policy(1)
    timed.wait(0.1)
    assert timed.collect().purged.count == 1
    assert not timed.trash()
    with pytest.raises(NotFoundError):
        timed.store.pull(version.digest)


def test_what_is_named_tagged_or_kept_stays_for_ever() -> None:
    timed = TimedStore()
    kept = [timed.store.push(policy(1), "a"), timed.store.push(policy(2))]
    kept.append(timed.store.push(make_snapshot(3, large=True), "b/c"))
    tagged = timed.store.push(policy(4), "b/c")
    timed.store.tag(tagged, "best")
    timed.store.push(policy(5), "b/c")
    timed.store.delete("b/c@2", force=True)
    before = timed.everything()
    for _ in range(3):
        timed.wait(100)
        report = timed.collect()
        assert report.moved.count == 0
        assert "needs each object" in report.reason
    assert timed.everything() == before
    for version in [*kept, tagged]:
        timed.store.pull(version.digest)


@pytest.mark.parametrize("action", ["delete", "prune"])
def test_a_deleted_version_is_needed_until_the_grace_is_over(action: str) -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    timed.wait(100)
    write_mark(timed.backend, "a", action, [(1, 1)])  # type: ignore[arg-type]
    timed.wait(6.9)
    assert timed.collect().moved.count == 0
    timed.wait(0.1)
    assert timed.collect().moved.count == 1


def test_later_marks_do_not_make_an_old_deletion_young() -> None:
    timed = TimedStore()
    versions = [timed.store.push(policy(seed), "a") for seed in range(3)]
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    write_mark(timed.backend, "a", "delete", [(3, 3)])
    assert timed.collect().moved.count == 1
    assert timed.objects() == {object_key(version.digest) for version in versions[1:]}


def test_the_target_that_a_tag_has_left_is_needed_until_the_grace_is_over() -> None:
    timed = TimedStore()
    left, now = timed.store.push(policy(1), "a"), timed.store.push(policy(2), "a")
    timed.store.tag(left, "best")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    timed.store.tag("a@2", "best")
    assert timed.collect().moved.count == 0
    timed.wait(8)
    assert timed.collect().moved.count == 1
    assert timed.objects() == {object_key(now.digest)}


def test_a_removed_tag_needs_nothing_after_the_grace() -> None:
    timed = TimedStore()
    timed.store.tag(timed.store.push(policy(1), "a"), "best")
    timed.store.untag("a", "best")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    assert timed.collect().moved.count == 0
    timed.wait(8)
    assert timed.collect().moved.count == 1


def test_parents_are_not_needed() -> None:
    timed = TimedStore()
    parent = timed.store.push(policy(1), "parent")
    timed.store.push(policy(2), "child", parents=[parent])
    write_mark(timed.backend, "parent", "delete", [(1, 1)])
    timed.wait(8)
    assert timed.collect().moved.count == 1
    assert timed.objects() == {object_key(timed.store.resolve("child"))}


def test_a_record_without_a_list_of_objects_needs_those_of_its_policy() -> None:
    timed = TimedStore()
    version = timed.store.push(make_snapshot(1, large=True), "a")
    unlisted = replace(version, objects=None).to_bytes()
    timed.backend.replace(version_key("a", 1), unlisted)
    assert Version.from_bytes(unlisted, "it").objects is None
    timed.wait(100)
    assert timed.collect().moved.count == 0
    assert timed.store.pull("a") == make_snapshot(1, large=True)


def test_objects_that_versions_share_stay_while_one_of_the_versions_stands() -> None:
    timed = TimedStore()
    timed.store.push(make_snapshot(1, large=True), "a")
    timed.store.push(make_snapshot(2, large=True), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    assert timed.collect().moved.count == 2  # the policy object and the tensor of its own
    assert timed.store.pull("a") == make_snapshot(2, large=True)


def test_bytes_that_nothing_refers_to_wait_for_the_grace() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    timed.backend.delete(version_key("a", 1))  # as if the push had been cut off
    timed.wait(6)
    report = timed.collect()
    assert (report.moved.count, report.young.count) == (0, 1)
    assert "2026-01-08 00:00" in report.reason
    timed.wait(1)
    assert timed.collect().moved.count == 1
    assert timed.objects() == set()
    assert timed.store.push(policy(1), "a").digest == version.digest
    assert timed.store.pull("a") == policy(1)


def test_a_push_renews_the_age_of_an_object() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(2, 2)])
    timed.wait(1)
    assert timed.collect(grace=datetime.timedelta(hours=2)).moved.count == 1
    assert timed.collect().moved.count == 0


def test_what_is_needed_again_is_put_back_and_the_copy_stays_for_the_grace() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    timed.collect()
    write_mark(timed.backend, "a", "restore", [(1, 1)])  # as if it had come during the collection
    assert timed.store.pull("a@1") == policy(1)
    timed.wait(1)
    report = timed.collect()
    assert (report.put_back.count, report.purged.count, report.in_trash.count) == (1, 0, 1)
    assert len(timed.objects()) == len(timed.trash()) == 1
    timed.wait(6)
    assert timed.collect().purged.count == 1  # of the copy, whose object is back
    assert timed.store.pull("a") == policy(1)


def test_an_old_copy_is_put_back_before_it_is_deleted() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    timed.backend.copy(object_key(version.digest), trash_key(version.digest, "0" * 32))
    timed.backend.delete(object_key(version.digest))
    timed.wait(100)
    report = timed.collect()
    assert (report.put_back.count, report.purged.count) == (1, 1)
    assert timed.store.pull("a") == policy(1)


def test_a_damaged_copy_is_not_put_back_while_there_is_a_good_one() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    timed.backend.copy(object_key(version.digest), trash_key(version.digest, "0" * 32))
    timed.wait(1)
    timed.backend.replace(trash_key(version.digest, "1" * 32), b"damaged")
    timed.backend.delete(object_key(version.digest))
    timed.wait(100)
    report = timed.collect()
    assert (report.put_back.count, report.purged.count) == (1, 2)
    assert timed.store.pull("a") == policy(1)


def test_copies_that_are_all_damaged_are_kept() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    for nonce in ("0" * 32, "1" * 32):
        timed.backend.replace(trash_key(version.digest, nonce), b"damaged")
    timed.backend.delete(object_key(version.digest))
    timed.wait(100)
    report = timed.collect()
    assert (report.put_back.count, report.purged.count) == (0, 0)
    assert len(timed.trash()) == 2


@pytest.mark.parametrize(
    "grace", [datetime.timedelta(minutes=119), datetime.timedelta(0), datetime.timedelta(-1), 7]
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_grace_that_is_too_short_is_refused(grace: datetime.timedelta, dry_run: bool) -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    with pytest.raises(InvalidInputError, match="grace"):
        timed.store.collect_garbage(grace=grace, dry_run=dry_run)


def test_an_exclusive_collection_needs_no_grace() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    timed.store.push(policy(2), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.now += 1
    nothing = datetime.timedelta(0)
    assert timed.collect(grace=nothing, exclusive=True).moved.count == 1
    assert timed.collect(grace=nothing, exclusive=True).purged.count == 1
    assert timed.store.pull("a@2") == policy(2)
    with pytest.raises(InvalidInputError, match="at least 0"):
        timed.collect(grace=datetime.timedelta(-1), exclusive=True)


class Untimed(MemoryBackend):
    """A backend that does not tell the times of keys below a prefix."""

    prefix = "names/a/@marks/"

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        for entry in super().entries(prefix, problems=problems):
            yield replace(entry, time=None) if entry.key.startswith(self.prefix) else entry


def test_a_mark_without_a_time_is_within_the_grace() -> None:
    timed = TimedStore(Untimed("untimed marks"))
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(100)
    assert timed.collect().moved.count == 0


def test_an_object_without_a_time_stays() -> None:
    backend = Untimed("untimed objects")
    backend.prefix = "objects/"
    timed = TimedStore(backend)
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(100)
    report = timed.collect()
    assert report.moved.count == 0
    assert "does not tell how old" in report.reason


def test_marks_and_versions_that_the_listing_lacks_are_found() -> None:
    """A listing may be older than the newest records: a push and a mark that came just then."""

    class Stale(MemoryBackend):
        stale = False

        def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
            for entry in super().entries(prefix, problems=problems):
                if not (self.stale and entry.key.endswith("0000000002.json")):
                    yield entry

    backend = Stale("stale")
    timed = TimedStore(backend)
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.store.push(policy(2), "a")
    write_mark(timed.backend, "a", "restore", [(1, 1)])
    timed.wait(8)
    backend.stale = True
    assert timed.collect().moved.count == 0


def test_other_files_below_objects_are_left_alone() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    for key in ("objects/readme.txt", "objects/ab/x", "trash/ab/y", "objects/ab/cd/e"):
        timed.backend.replace(key, b"foreign")
    before = timed.everything()
    timed.wait(100)
    timed.collect()
    assert timed.everything() == before


def test_old_temporary_files_are_swept_and_young_ones_stay() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    timed.backend.replace("tmp/old", b"12345")
    timed.wait(6.5)
    timed.backend.replace("tmp/young", b"1")
    timed.wait(0.5)
    report = timed.collect()
    assert (report.swept.count, report.swept.nbytes) == (1, 5)
    timed.now += 0.9 * DAY
    assert timed.collect(grace=datetime.timedelta(0), exclusive=True).swept.count == 1
    timed.backend.replace("tmp/writing", b"1")
    timed.now += 0.9 * DAY
    assert timed.collect(grace=datetime.timedelta(0), exclusive=True).swept.count == 0


def test_a_store_that_is_not_there_or_read_only_is_refused() -> None:
    with pytest.raises(NotFoundError, match="no policy store"):
        PolicyStore("memory://nothing to collect").collect_garbage()
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    reader = PolicyStore.over(timed.backend, cache=False, read_only=True)
    for dry_run in (True, False):
        with pytest.raises(ReadOnlyError, match="collect_garbage"):
            reader.collect_garbage(dry_run=dry_run)


def test_progress_ends_at_the_total_and_never_goes_back() -> None:
    timed = TimedStore()
    for seed in range(5):
        timed.store.push(policy(seed), f"a/{seed}")
    seen: list[tuple[int, int]] = []
    timed.collect(progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 5


def test_a_report_is_printed_and_pickled() -> None:
    timed = TimedStore()
    timed.store.push(policy(1), "a")
    write_mark(timed.backend, "a", "delete", [(1, 1)])
    timed.wait(8)
    report = timed.store.collect_garbage()
    assert "1 (" in str(report)
    assert "would be moved" in str(report)
    assert str(pickle.loads(pickle.dumps(report))) == str(report)
    assert timed.backend.size(MARKER) is not None
