"""Test that a collection moves what nothing needs to the trash, and loses nothing else."""

from __future__ import annotations

import datetime

import pytest

from policystore.errors import FormatError, NotFoundError
from policystore.format.keys import KEPT, OBJECTS, TRASH, object_key, version_key
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import StoreTests

__all__ = ["CollectingTests"]

_NOW = datetime.timedelta(0)


class CollectingTests(StoreTests):
    """Test that a collection moves what nothing needs to the trash, and loses nothing else."""

    def _stored(self, prefix: str) -> set[str]:
        return {key for key in self.raw_keys() if key.startswith(prefix)}

    def test_what_nothing_needs_goes_to_the_trash_and_is_purged_later(
        self, store: PolicyStore
    ) -> None:
        named = store.push(make_snapshot(1), "a")
        lost = store.push(make_snapshot(2), "a")
        kept = store.push(make_snapshot(3))
        self.raw_delete(version_key("a", 2))
        before = self.raw_keys()
        assert store.collect_garbage(_NOW, exclusive=True).moved.count == 1
        assert self.raw_keys() == before
        report = store.collect_garbage(_NOW, dry_run=False, exclusive=True)
        assert (report.moved.count, report.needed.count) == (1, 2)
        assert len(self._stored(OBJECTS)) == 2
        assert len(self._stored(TRASH)) == 1
        reader = self.open_cold()
        assert reader.pull(lost.digest) == make_snapshot(2)
        assert reader.resolve(f"blake3:{lost.digest.hex[:16]}") == lost.digest
        report = store.collect_garbage(_NOW, dry_run=False, exclusive=True)
        assert (report.moved.count, report.purged.count) == (0, 1)
        assert not self._stored(TRASH)
        with pytest.raises(NotFoundError):
            self.open_cold().pull(lost.digest)
        assert self.open_cold().pull(named.digest) == make_snapshot(1)
        assert self.open_cold().pull(kept.digest) == make_snapshot(3)
        assert len(self._stored(KEPT)) == 1

    def test_a_young_object_stays(self, store: PolicyStore) -> None:
        store.push(make_snapshot(1), "a")
        self.raw_delete(version_key("a", 1))
        before = self.raw_keys()
        report = store.collect_garbage(dry_run=False)
        assert (report.moved.count, report.young.count) == (0, 1)
        assert self.raw_keys() == before

    def test_what_is_needed_and_in_the_trash_is_read_and_put_back(self, store: PolicyStore) -> None:
        version = store.push(make_snapshot(1), "a")
        record = self.raw_read(version_key("a", 1))
        self.raw_delete(version_key("a", 1))
        store.collect_garbage(_NOW, dry_run=False, exclusive=True)
        self.raw_write(version_key("a", 1), record)
        assert self.open_cold().pull("a") == make_snapshot(1)
        report = store.collect_garbage(_NOW, dry_run=False, exclusive=True)
        assert report.put_back.count == 1
        assert self._stored(OBJECTS) == {object_key(version.digest)}
        assert self.open_cold().pull("a") == make_snapshot(1)

    def test_an_unknown_key_stops_the_collection(self, store: PolicyStore) -> None:
        store.push(make_snapshot(1), "a")
        self.raw_delete(version_key("a", 1))
        self.raw_write("names/a/@future/1.json", b"{}")
        before = self.raw_keys()
        with pytest.raises(FormatError, match="@future"):
            store.collect_garbage(_NOW, dry_run=False, exclusive=True)
        assert self.raw_keys() == before
