"""Test annotations of versions."""

from __future__ import annotations

import math

import pytest

from policystore.errors import InvalidInputError, NotFoundError, ReadOnlyError
from policystore.store import PolicyStore
from policystore.testing.snapshots import make_snapshot
from policystore.testing.storage import StoreTests

__all__ = ["AnnotationTests"]


class AnnotationTests(StoreTests):
    """Test annotations of versions."""

    def test_annotations_stand_beside_the_version(self, store: PolicyStore) -> None:
        for seed in range(3):
            store.push(make_snapshot(seed), "a/B", metrics={"return": seed, "elo": 1000.0})
        store.tag("a/B@2", "champion")
        before = {key: self.raw_read(key) for key in self.raw_keys()}
        first = store.annotate("a/B@2", metrics={"elo": 1100.0}, note="rated", author="ann")
        second = store.annotate("a/B@champion", metrics={"elo": 1200.0, "nan": math.nan})
        third = store.annotate(store.log("a/B")[-1], note="do not use")
        assert (first.ref, first.author, first.note) == ("a/B@2", "ann", "rated")
        assert first.digest == make_snapshot(1).digest
        assert (second.ref, third.ref) == ("a/B@2", "a/B@1")
        assert {key: self.raw_read(key) for key in before} == before  # nothing was overwritten
        assert len(self.raw_keys()) == len(before) + 3

        assert [each.nonce for each in store.annotations("a/B@2")] == [first.nonce, second.nonce]
        assert store.annotations("a/B@1") == [third]
        assert store.annotations("a/B") == []
        version = store.version("a/B@champion")
        assert version.tags == ("champion",)
        assert version.annotations is not None
        assert [each.nonce for each in version.annotations] == [first.nonce, second.nonce]
        assert version.metrics == {"return": 1, "elo": 1000.0}
        assert version.all_metrics["elo"] == 1200.0
        bare = store.version("a/B", tags=False, annotations=False)
        assert (bare.ref, bare.tags, bare.annotations) == ("a/B@3", None, None)
        newest = store.version("a/B")
        assert (newest.ref, newest.tags, newest.annotations) == ("a/B@3", (), ())

        log = store.log("a/B", tags=True, annotations=True)
        assert [each.tags for each in log] == [(), ("champion",), ()]
        assert [len(each.annotations or ()) for each in log] == [0, 2, 1]
        assert [each.annotations for each in store.log("a/B", limit=1)] == [None]
        assert (store.names(), store.tags("a/B")["champion"].number) == (["a/B"], 2)
        report = store.verify()
        assert report.ok, report
        assert report.annotations == 3
        stats = store.stats()
        assert (stats.annotations, stats.records, stats.versions) == (3, 7, 3)

    def test_what_cannot_be_annotated_is_refused(self, store: PolicyStore) -> None:
        for seed in range(2):
            store.push(make_snapshot(seed), "a")
        store.annotate("a@1", note="first")
        loose = store.push(make_snapshot(7))
        before = self.raw_keys()
        with pytest.raises(NotFoundError, match="versions are 1 to 2"):
            store.annotate("a@3", note="n")
        with pytest.raises(NotFoundError, match="no name 'b'"):
            store.annotate("b", note="n")
        for ref in (loose, loose.digest, f"blake3:{loose.digest.hex[:12]}"):
            with pytest.raises(InvalidInputError, match=r"has no name.*store\.annotate"):
                store.annotate(ref, note="n")
            with pytest.raises(InvalidInputError, match=r"has no name.*store\.version"):
                store.version(ref)
        with pytest.raises(InvalidInputError, match="metrics, a note, or both"):
            store.annotate("a@1")
        with pytest.raises(InvalidInputError, match="16384"):
            store.annotate("a@1", metrics={"x": "y" * 17_000})
        with pytest.raises(ReadOnlyError, match="read_only=True"):
            self.open_store(read_only=True).annotate("a@1", note="n")
        assert self.raw_keys() == before
        store.delete("a@1", author="ann", message="broken")
        for call in (lambda: store.annotate("a@1", note="n"), lambda: store.annotations("a@1")):
            with pytest.raises(NotFoundError, match=r"deleted by ann .* broken"):
                call()
        (deleted,) = store.log("a", deleted=True, annotations=True)[1:]
        assert [each.note for each in deleted.annotations or ()] == ["first"]
        store.restore("a@1")
        assert [each.note for each in store.annotations("a@1")] == ["first"]
