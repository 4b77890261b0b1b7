"""Test what is deleted, pruned and restored."""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from policystore.digest import Digest
from policystore.errors import InvalidInputError, NotFoundError, ReadOnlyError
from policystore.format.keys import kept_key, object_key, trash_key
from policystore.format.records import Hint, Kept
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import StoreTests

__all__ = ["DeletionTests"]


class DeletionTests(StoreTests):
    """Test what is deleted, pruned and restored."""

    def _push(self, store: PolicyStore, count: int, name: str = "a") -> None:
        for seed in range(count):
            store.push(make_snapshot(seed), name)

    def test_a_deleted_version_is_not_pulled_and_the_error_says_why(
        self, store: PolicyStore
    ) -> None:
        self._push(store, 3)
        deleted = store.delete("a@2", message="trained on a broken env", author="ann")
        assert deleted is not None
        assert deleted.ref == "a@2"
        said = r"version 2 of 'a' .* deleted by ann at \d{4}-.*: trained on a broken env.*restore"
        for call in (store.pull, store.resolve, store.delete, lambda ref: store.tag(ref, "t")):
            with pytest.raises(NotFoundError, match=said):
                call("a@2")
        assert store.pull("a") == make_snapshot(2)
        assert [version.number for version in store.log("a")] == [3, 1]
        assert [version.number for version in store.log("a", limit=1)] == [3]
        assert store.pull(make_snapshot(1).digest) == make_snapshot(1)  # a digest is no name
        assert store.push(make_snapshot(9), "a").number == 4
        assert store.find_acting(make_snapshot(0).acting_digest)[0].ref == "a@1"
        with pytest.raises(NotFoundError):
            store.find_acting(make_snapshot(1).acting_digest)

    def test_the_newest_version_is_the_newest_that_stands(self, store: PolicyStore) -> None:
        self._push(store, 4)
        for number in (4, 3):
            assert store.delete("a").number == number  # type: ignore[union-attr]
            assert store.pull("a") == make_snapshot(number - 2)
            assert store.log("a", limit=1)[0].number == number - 1
        assert store.push(make_snapshot(7), "a").number == 5
        assert store.pull("a") == make_snapshot(7)
        assert [version.number for version in store.log("a")] == [5, 2, 1]

    def test_the_log_shows_deleted_versions_if_asked(self, store: PolicyStore) -> None:
        self._push(store, 3)
        before = store.log("a")
        store.delete("a@1", message="first", author="ann")
        store.delete("a@3", message="second", author="bob")
        log = store.log("a", deleted=True)
        assert log == before  # the records are as they were
        assert [version.number for version in log] == [3, 2, 1]
        marks = [version.deleted for version in log]
        assert [mark and (mark.author, mark.message) for mark in marks] == [
            ("bob", "second"),
            None,
            ("ann", "first"),
        ]
        assert "deleted by bob" in str(log[0])
        assert [version.number for version in store.log("a", 2, deleted=True)] == [3, 2]

    def test_a_name_of_which_nothing_stands_is_not_listed(self, store: PolicyStore) -> None:
        self._push(store, 3)
        self._push(store, 1, "b/c")
        assert store.delete_name("a", message="old", author="ann") == 3
        assert store.names() == ["b/c"]
        assert store.names("a") == []
        for call in (store.pull, store.log, store.tags, store.resolve, store.delete):
            with pytest.raises(NotFoundError, match=r"no version of 'a'.* by ann at .*: old"):
                call("a")
        with pytest.raises(NotFoundError, match="by ann"):
            store.delete_name("a")
        assert len(store.log("a", deleted=True)) == 3
        assert store.push(make_snapshot(5), "a").number == 4
        assert store.names() == ["a", "b/c"]
        assert store.pull("a") == make_snapshot(5)
        store.delete("a@4")  # one after the other leaves nothing, too
        assert store.names("a") == []

    def test_deleting_what_does_not_exist_is_refused(self, store: PolicyStore) -> None:
        with pytest.raises(NotFoundError, match="first push"):
            store.delete("a")
        assert self.raw_keys() == set()
        self._push(store, 1)
        before = self.raw_keys()
        calls: list[Callable[[], Any]] = [
            lambda: store.delete("b"),
            lambda: store.delete("a@2"),
            lambda: store.delete("a@t"),
            lambda: store.delete("blake3:" + "0" * 64),
            lambda: store.delete_name("b"),
            lambda: store.restore("b"),
            lambda: store.restore("a@2"),
            lambda: store.prune("b", keep_last=1),
        ]
        for call in calls:
            with pytest.raises(NotFoundError):
                call()
        for call in (
            lambda: store.restore("a"),
            lambda: store.restore("a@1"),
            lambda: store.prune("a"),
            lambda: store.prune("a", keep_last=0),
            lambda: store.prune("a", keep_best=("r", "most", 1)),
            lambda: store.prune("a", older_than=3),  # type: ignore[arg-type]
            lambda: store.delete("a", message="m" * 10_000),
        ):
            with pytest.raises(InvalidInputError):
                call()
        reader = self.open_store(read_only=True)
        for refused in (reader.delete, reader.restore, reader.delete_name):
            with pytest.raises(ReadOnlyError):
                refused("a")
        with pytest.raises(ReadOnlyError):
            reader.prune("a", keep_last=1)
        assert self.raw_keys() == before

    def test_a_tag_protects_a_version(self, store: PolicyStore) -> None:
        self._push(store, 2)
        store.tag("a@1", "champion")
        said = r"'champion' \(version 1\).*Nothing was deleted.*store.tag.*store.untag.*force=True"
        with pytest.raises(InvalidInputError, match=said):
            store.delete("a@champion")
        with pytest.raises(InvalidInputError, match=said):
            store.delete_name("a")
        assert len(store.log("a")) == 2
        assert not [key for key in self.raw_keys() if "@marks/" in key or "deleted/" in key]
        store.tag("a@2", "champion")
        store.delete("a@1")
        store.delete("a@2", force=True, author="ann")
        with pytest.raises(NotFoundError, match=r"'champion' points to .*version 2 .* by ann"):
            store.pull("a@champion")
        store.push(make_snapshot(5), "a")
        assert store.tags("a") == {}
        store.tag("a", "champion", when=lambda now: now is None)
        assert store.pull("a@champion") == make_snapshot(5)

    def test_a_restored_version_stands_again(self, store: PolicyStore) -> None:
        self._push(store, 3)
        store.tag("a@3", "best")
        store.delete("a@3", force=True)
        assert [version.ref for version in store.restore("a@best", message="was good")] == ["a@3"]
        assert store.pull("a") == store.pull("a@best") == make_snapshot(2)
        store.untag("a", "best")
        store.prune("a", keep_last=2)
        store.delete_name("a")
        assert [version.number for version in store.restore("a")] == [3, 2]  # and not the pruned
        assert [version.number for version in store.log("a")] == [3, 2]
        assert store.names() == ["a"]
        assert store.restore(store.log("a", deleted=True)[-1])[0].number == 1
        assert len(store.log("a")) == 3

    def test_objects_of_a_restored_version_come_back_from_the_trash(
        self, store: PolicyStore
    ) -> None:
        version = store.push(make_snapshot(1, large=True), "a")
        store.push(make_snapshot(2), "a")
        store.delete("a@1")
        before = self.raw_keys()
        keys = [object_key(digest) for digest in version.objects or ()]
        data = {key: self.raw_read(key) for key in keys}
        for digest in version.objects or ():
            key = object_key(digest)
            self.raw_write(trash_key(digest, secrets.token_hex(16)), data[key])
            self.raw_delete(key)
        store.restore("a@1")
        assert self.open_cold().pull("a@1") == make_snapshot(1, large=True)
        store.delete("a@1")
        for key in self.raw_keys() - before:
            if key.startswith("trash/"):
                self.raw_delete(key)
        self.raw_delete(keys[-1])
        before = self.raw_keys()
        with pytest.raises(NotFoundError, match=r"1 of 3 objects .*Nothing was written"):
            store.restore("a@1")
        assert self.raw_keys() == before
        self.raw_write(keys[-1], data[keys[-1]][:-1])  # an object that was cut off is none
        with pytest.raises(NotFoundError, match="1 of 3 objects"):
            store.restore("a@1")

    def test_prune_keeps_what_any_criterion_keeps(self, store: PolicyStore) -> None:
        for seed in range(10):
            store.push(make_snapshot(seed), "a", metrics={"r": (seed * 7) % 10})
        store.tag("a@2", "champion")
        planned = store.prune("a", keep_last=2, keep_best=("r", "max", 2), dry_run=True)
        assert len(store.log("a")) == 10
        report = store.prune("a", keep_last=2, keep_best=("r", "max", 2), message="tidy")
        assert (report.ranges, report.kept) == (planned.ranges, planned.kept)
        assert list(report.kept) == [10, 9, 8, 5, 2]
        assert report.kept[10][0] == "the newest"
        assert report.kept[2] == ("tag 'champion'",)
        assert report.pruned == [7, 6, 4, 3, 1]
        assert [version.number for version in store.log("a")] == [10, 9, 8, 5, 2]
        with pytest.raises(NotFoundError, match=r"version 7 .* pruned by .*: tidy"):
            store.pull("a@7")
        assert len([key for key in self.raw_keys() if "@marks/" in key]) == 1
        assert store.prune("a", keep_last=5).pruned == []  # and no second mark
        assert len([key for key in self.raw_keys() if "@marks/" in key]) == 1
        assert list(store.prune("a", keep=lambda v: v.number == 5, keep_tagged=False).kept) == [
            10,
            5,
        ]
        store.push(make_snapshot(20), "a")
        day = datetime.timedelta(days=1)
        assert store.prune("a", older_than=day).pruned == []
        assert store.prune("a", older_than=-day).pruned == [10, 5]

    def test_a_policy_without_a_name_is_deleted_and_restored(self, store: PolicyStore) -> None:
        snap = make_snapshot(1)
        store.push(snap)
        store.push(make_snapshot(2), "a")
        kept = [key for key in self.raw_keys() if key.startswith("kept/")]
        if not kept:
            key = kept_key(snap.digest, "0" * 32)
            time = datetime.datetime.now(datetime.timezone.utc)
            self.raw_write(key, Kept(snap.digest, None, time, "ann", "0" * 32).to_bytes())
        with pytest.raises(InvalidInputError, match="kept without a name"):
            store.restore(snap.digest)
        assert store.delete(f"blake3:{snap.digest.hex[:12]}") is None
        assert not [key for key in self.raw_keys() if key.startswith("kept/")]
        with pytest.raises(NotFoundError, match="pushed without a name"):
            store.delete(snap.digest)
        with pytest.raises(NotFoundError, match=r"store\.delete\('a@1'\)"):
            store.delete(make_snapshot(2).digest)
        assert store.restore(str(snap.digest)[:20]) == []
        (key,) = (key for key in self.raw_keys() if key.startswith("kept/"))
        record = Kept.from_bytes(self.raw_read(key), key)
        assert (record.digest, set(record.objects or ())) == (snap.digest, {snap.digest})
        with pytest.raises(NotFoundError):
            store.restore(Digest("0" * 64))

    def test_a_wrong_hint_tells_nothing_wrong_about_deletions(self, store: PolicyStore) -> None:
        self._push(store, 6)
        for number in (2, 6, 5):
            store.delete(f"a@{number}")
        digest = make_snapshot(3).digest
        hints = [
            b"junk",
            Hint(6, make_snapshot(5).digest).to_bytes(),
            Hint(6, digest, 3, 6).to_bytes(),
            Hint(6, digest, 3, 0).to_bytes(),
            Hint(6, digest, 3, 2).to_bytes(),
            Hint(2, digest, 1, 2).to_bytes(),
            Hint(6, digest, 9, 4).to_bytes(),
            Hint(900, digest, 900, 900).to_bytes(),
        ]
        for hint in hints:
            self.raw_write("names/a/@hint", hint)
            assert store.pull("a") == make_snapshot(3)
            assert store.pull("a@1") == make_snapshot(0)
            with pytest.raises(NotFoundError, match=r"version 6 .*deleted"):
                store.pull("a@6")
        self.raw_delete("names/a/@hint")
        assert store.pull("a") == make_snapshot(3)
        assert store.push(make_snapshot(9), "a").number == 7
        assert store.pull("a") == make_snapshot(9)

    def test_the_history_of_a_tag_is_told(self, store: PolicyStore) -> None:
        self._push(store, 3)
        store.tag("a@1", "t", author="ann")
        store.tag("a@3", "t", author="bob")
        store.untag("a", "t", author="cy")
        store.tag("a@2", "other")
        history = store.tag_history("a", "t")
        assert [(move.number, move.target, move.author) for move in history] == [
            (3, None, "cy"),
            (2, 3, "bob"),
            (1, 1, "ann"),
        ]
        assert history[1].digest == make_snapshot(2).digest
        with pytest.raises(NotFoundError, match="no tag 'T'"):
            store.tag_history("a", "T")
        with pytest.raises(NotFoundError, match="no name"):
            store.tag_history("b", "t")

    def test_a_wrong_hint_of_a_tag_changes_nothing(self, store: PolicyStore) -> None:
        self._push(store, 3)
        for number in (1, 2, 3, 2):
            store.tag(f"a@{number}", "t")
        key = "names/a/@tags/t/@hint"
        good = self.raw_read(key)
        assert b'"number":4' in good
        third = good.replace(b'"target":2', b'"target":3')
        for data in (b"", good.replace(b":4", b":1"), good.replace(b":4", b":77"), third):
            self.raw_write(key, data)
            assert store.pull("a@t") == make_snapshot(1)
            assert store.tags("a")["t"].number == 2
        self.raw_delete(key)
        assert store.pull("a@t") == make_snapshot(1)
        store.tag("a@1", "t")
        assert store.pull("a@t") == make_snapshot(0)
        assert len(store.tag_history("a", "t")) == 5
