"""Collections on disk and in a bucket, in other processes' way, and what a bucket keeps."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policystore import NotFoundError, PolicyStore, StorageError
from policystore.backends.base import KeepsUploads, UnfinishedUpload
from policystore.backends.factory import open_backend
from policystore.backends.local import LocalBackend
from policystore.backends.memory import MemoryBackend
from policystore.backends.options import StorageOptions
from policystore.format.keys import object_key, trash_key
from policystore.testing import make_snapshot
from tests.support import s3_server
from tests.support.collecting import DAY, GRACE, TimedStore, policy, write_mark


def later(backend: Any, days: float) -> None:
    """Let the clock of a storage go ahead: its files and objects keep their times."""
    ask = type(backend).server_time
    backend.server_time = lambda: ask(backend) + days * DAY


def test_a_folder_is_collected_and_read_from_the_trash(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    store = PolicyStore.over(backend, cache=False)
    for seed in range(3):
        store.push(make_snapshot(seed, large=True), "a")
    kept = store.push(make_snapshot(8))
    gone = store.push(make_snapshot(9), "b")
    write_mark(backend, "a", "delete", [(1, 2)])
    write_mark(backend, "b", "delete", [(1, 1)])
    assert store.collect_garbage(GRACE, dry_run=False).moved.count == 0
    later(backend, 8)
    assert store.collect_garbage(GRACE, dry_run=False).moved.count == 5
    for ref in (gone.digest, f"blake3:{gone.digest.hex[:12]}"):
        assert store.pull(ref) == make_snapshot(9)
    assert store.pull("a@3") == make_snapshot(2, large=True)
    assert store.pull(kept.digest) == make_snapshot(8)
    later(backend, 16)
    assert store.collect_garbage(GRACE, dry_run=False).purged.count == 5
    with pytest.raises(NotFoundError):
        store.pull(gone.digest)
    assert not list((tmp_path / "trash").rglob("*.safetensors"))
    assert store.pull("a@3") == make_snapshot(2, large=True)


def test_old_unfinished_uploads_of_the_store_are_aborted_and_no_others(
    s3_endpoint: str, s3_bucket: str
) -> None:
    client = s3_server.client(s3_endpoint)
    backend = open_backend(f"s3://{s3_bucket}/p", StorageOptions({"endpoint_url": s3_endpoint}))
    store = PolicyStore.over(backend, cache=False)
    digest = store.push(policy(1), "a").digest
    own = [f"p/{object_key(digest)}", f"p/{trash_key(digest, '0' * 32)}"]
    others = ["p/other", f"q/{object_key(digest)}", f"p-too/{object_key(digest)}"]
    for key in own + others:
        client.create_multipart_upload(Bucket=s3_bucket, Key=key)

    def left() -> list[str]:
        answer = client.list_multipart_uploads(Bucket=s3_bucket)
        return sorted(upload["Key"] for upload in answer.get("Uploads", ()))

    later(backend, 8)
    assert store.collect_garbage(GRACE).swept.count == 2
    assert store.collect_garbage(GRACE, dry_run=False).swept.count == 2
    assert left() == sorted(others)


def test_a_bucket_that_keeps_versions_is_told_of(s3_endpoint: str, s3_bucket: str) -> None:
    s3_server.client(s3_endpoint).put_bucket_versioning(
        Bucket=s3_bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    store = PolicyStore(
        f"s3://{s3_bucket}/p", storage_options={"endpoint_url": s3_endpoint}, cache=False
    )
    store.push(policy(1), "a")
    report = store.collect_garbage()
    assert "NoncurrentVersionExpiration" in str(report)


class Uploading(MemoryBackend):
    """A backend with two unfinished uploads, an old one and a young one."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.uploads = [UnfinishedUpload("a", "old", 0.0), UnfinishedUpload("b", "untimed", None)]

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        return iter(list(self.uploads))

    def abort_upload(self, upload: UnfinishedUpload) -> None:
        self.uploads.remove(upload)

    def deletion_limits(self) -> list[str]:
        return ["nothing is ever deleted"]


def test_young_uploads_and_those_without_a_time_stay() -> None:
    backend = Uploading("uploading")
    timed = TimedStore(backend)
    assert isinstance(backend, KeepsUploads)
    timed.store.push(policy(1), "a")
    young = UnfinishedUpload("c", "young", timed.now - 0.9 * DAY)
    backend.uploads.append(young)
    report = timed.collect(grace=datetime.timedelta(0), exclusive=True)
    assert report.swept.count == 1
    assert young in backend.uploads
    assert len(backend.uploads) == 2
    assert "nothing is ever deleted" in str(report)


def test_uploads_that_cannot_be_listed_are_told_of() -> None:
    class Refusing(Uploading):
        def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
            raise StorageError("listing the uploads: denied")

    timed = TimedStore(Refusing("refusing to list"))
    timed.store.push(policy(1), "a")
    assert "listing the uploads: denied" in str(timed.collect())


def test_a_damaged_copy_in_the_trash_is_passed_over_for_a_good_one() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    key = object_key(version.digest)
    timed.backend.copy(key, trash_key(version.digest, "1" * 32))
    timed.backend.replace(trash_key(version.digest, "0" * 32), b"damaged")
    timed.backend.delete(key)
    assert timed.store.pull("a") == policy(1)
    timed.backend.delete(trash_key(version.digest, "1" * 32))
    with pytest.raises(OSError, match="damaged"):
        timed.store.pull("a")


def test_objects_are_preferred_to_copies_in_the_trash_for_short_digests() -> None:
    timed = TimedStore()
    version = timed.store.push(policy(1), "a")
    for place in ("0" * 32, "1" * 32):
        timed.backend.copy(object_key(version.digest), trash_key(version.digest, place))
    assert timed.store.resolve(f"blake3:{version.digest.hex[:8]}") == version.digest
    timed.backend.delete(object_key(version.digest))
    assert timed.store.resolve(f"blake3:{version.digest.hex[:8]}") == version.digest
    assert timed.store.resolve(str(version.digest)) == version.digest


def test_a_collection_of_many_objects_in_parallel_moves_each_once() -> None:
    class Parallel(MemoryBackend):
        parallel = 16  # type: ignore[assignment]

    timed = TimedStore(Parallel("in parallel"))
    for seed in range(200):
        timed.store.push(policy(seed), "a")
    write_mark(timed.backend, "a", "delete", [(1, 150)])
    timed.wait(8)
    report = timed.collect()
    assert (report.moved.count, report.needed.count) == (150, 50)
    assert (len(timed.trash()), len(timed.objects())) == (150, 50)
    assert {key.rpartition("/")[0][-64:] for key in timed.trash()}.isdisjoint(
        key[-76:-12] for key in timed.objects()
    )


def test_a_collection_that_is_cut_off_anywhere_is_finished_by_the_next_one() -> None:
    class Dying(MemoryBackend):
        left = 100

        def _spend(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

        def copy(self, key: str, target: str) -> None:
            self._spend()
            super().copy(key, target)

        def delete(self, key: str) -> None:
            self._spend()
            super().delete(key)

    for left in range(6):
        backend = Dying(f"dying after {left} writes")
        timed = TimedStore(backend)
        snaps = [policy(seed) for seed in range(3)]
        digests = [timed.store.push(snap, "a").digest for snap in snaps]
        write_mark(backend, "a", "delete", [(1, 2)])
        timed.wait(8)
        backend.left = left
        try:
            timed.collect()
        except KeyboardInterrupt:
            assert left < 5
        assert [timed.store.pull(digest) for digest in digests] == snaps
        backend.left = 100
        timed.collect()
        assert timed.objects() == {object_key(digests[2])}
        assert [timed.store.pull(digest) for digest in digests] == snaps


def test_a_backend_remembers_a_bounded_number_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("policystore._util.folders._MOST_DURABLE", 20)
    backend = LocalBackend(tmp_path)
    for number in range(50):
        backend.replace(f"trash/ab/{number}/copy", b"")
        assert len(backend._folders._durable) <= 20
    assert len(list(backend.keys("trash/"))) == 50
