"""Copies of whole stores between storages: the same bytes, and a second copy adds nothing."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

import policystore.format.arrays
from policystore import (
    CopyReport,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    ReadOnlyError,
    Snapshot,
    StorageError,
)
from policystore.format.keys import kept_key, object_key, version_key
from policystore.format.records import Kept
from policystore.testing import make_snapshot
from tests.support import fsspec_clouds
from tests.support.fsspec_clouds import Attic
from tests.support.league_store import write_lists
from tests.support.mirrors import Watched, backend_of, content, faults, over, version

MakeStore = Callable[[], PolicyStore]
SLOW = pytest.mark.long
KINDS = ("folder", "memory", "s3", "gs", "file")


@pytest.fixture
def make(
    tmp_path: Path, s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], PolicyStore]:
    """Make an empty store of a kind of storage."""
    fsspec_clouds.install(monkeypatch)

    def make(kind: str, name: str) -> PolicyStore:
        url = {
            "folder": str(tmp_path / name),
            "file": f"file://{tmp_path}/file-{name}",
            "memory": f"memory://{tmp_path}/{name}",
            "s3": f"s3://{s3_bucket}/{name}",
            "gs": f"gs://bucket/{name}",
        }[kind]
        options = {"endpoint_url": s3_endpoint} if kind == "s3" else None
        return PolicyStore(url, storage_options=options, cache=False)

    return make


def fill(store: PolicyStore) -> None:
    """Push a few names, tags and policies without a name."""
    for seed in range(3):
        store.push(make_snapshot(seed, large=seed == 1), "soccer/Main", metrics={"return": seed})
    store.push(make_snapshot(7), "duo/p0", message="first", author="ann")
    store.push(make_snapshot(8))
    store.tag("soccer/Main@1", "champion")
    store.tag("soccer/Main@2", "champion")
    store.tag("duo/p0@1", "Best")
    store.untag("duo/p0", "Best")
    store.annotate("soccer/Main@2", metrics={"elo": 1200.0}, author="ann")
    store.annotate("soccer/Main@2", note="rated", author="bob")
    store.protect("soccer/Main", "champion", ["ann"])
    write_lists(backend_of(store))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *(pytest.param(k, k, marks=SLOW if k == "s3" else ()) for k in KINDS),
        ("folder", "s3"),
        pytest.param("s3", "folder", marks=SLOW),
        ("memory", "gs"),
        ("gs", "memory"),
        pytest.param("file", "s3", marks=SLOW),
    ],
)
def test_a_copy_has_the_same_bytes(
    make: Callable[[str, str], PolicyStore], source: str, target: str
) -> None:
    ours, theirs = make(source, "ours"), make(target, "theirs")
    fill(ours)
    report = ours.copy_to(theirs)
    assert content(theirs) == content(ours)
    assert faults(theirs) == []
    assert theirs.pull("soccer/Main@champion") == make_snapshot(1, large=True)
    assert (report.versions, report.kept, report.objects, report.complete) == (4, 1, 7, True)
    assert report.names["soccer/Main"].notes == 2
    assert len(theirs.annotations("soccer/Main@2")) == 2
    assert theirs.tag_history("soccer/Main", "champion")[0].protected is not None
    assert report.nbytes == sum(
        len(data) for key, data in content(theirs).items() if key.startswith("objects/")
    )
    again = ours.copy_to(theirs)
    assert not again.changed
    assert again.versions == again.objects == 0
    assert "nothing new" in str(again)


def test_a_filesystem_that_can_only_be_read_is_a_source(
    tmp_path: Path, make_store: MakeStore
) -> None:
    ours, theirs = PolicyStore(tmp_path), make_store()
    fill(ours)
    fsspec.register_implementation("attic", Attic, clobber=True)
    for key, data in content(ours).items():
        Attic().pipe_file(f"/shelf/{key}", data)
    attic = PolicyStore("attic://shelf", cache=False)
    report = attic.copy_to(theirs)
    assert content(theirs) == content(ours)
    assert report.complete
    with pytest.raises(ReadOnlyError, match="only reads from attic"):
        theirs.copy_to(attic)
    Attic.store.clear()


@pytest.mark.parametrize("lists", [False, True])
def test_a_website_gives_the_versions_of_names(
    tmp_path: Path, make_store: MakeStore, lists: bool
) -> None:
    ours, theirs = PolicyStore(tmp_path / "store"), make_store()
    fill(ours)
    pushed = make_snapshot(8).digest
    with website(tmp_path / "store", lists=lists) as url:
        source = PolicyStore(url, cache=False)
        report = source.copy_to(theirs, ["soccer/Main", pushed])  # type: ignore[list-item]
        # The server has no listing that policystore reads: nothing is left out in silence.
        with pytest.raises(StorageError, match=r"cannot be listed.* Say which names to copy"):
            source.copy_to(theirs)
    for number in (1, 2, 3):
        assert version(theirs, "soccer/Main", number) == version(ours, "soccer/Main", number)
    assert theirs.pull("soccer/Main") == make_snapshot(2)
    assert report.names["soccer/Main"].skipped == [
        "tags and annotations: the source cannot be listed"
    ]
    assert theirs.pull(pushed) == make_snapshot(8)


class website:
    """Serve a folder on loopback; without ``lists`` the server lists no folders."""

    def __init__(self, folder: Path, *, lists: bool = True) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def list_directory(self, path: object) -> None:
                if lists:
                    return super().list_directory(path)  # type: ignore[arg-type, return-value]
                self.send_error(404)
                return None

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *args: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def test_names_choose_what_is_copied(make_store: MakeStore) -> None:
    ours = make_store()
    fill(ours)

    def copied(names: object) -> PolicyStore:
        theirs = make_store()
        ours.copy_to(theirs, names)  # type: ignore[arg-type]
        assert faults(theirs) == []
        return theirs

    assert copied("soccer/").names() == ["soccer/Main"]
    assert copied("duo/p0").names() == ["duo/p0"]
    assert copied(["soccer/", "duo/"]).names() == ["duo/p0", "soccer/Main"]
    assert copied("soccer/Main").tags("soccer/Main").keys() == {"champion"}
    theirs = copied(["soccer/Main@1", "duo/p0@1"])
    assert [v.ref for v in theirs.log("soccer/Main")] == ["soccer/Main@1"]
    assert theirs.tags("soccer/Main") == {}
    assert len(content(theirs, "objects/")) == 2
    theirs = copied(ours.log("duo/p0"))
    assert theirs.pull("duo/p0@1") == make_snapshot(7)


def test_a_tag_stands_for_its_version_alone(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    report = ours.copy_to(theirs, "soccer/Main@champion")
    (copy,) = theirs.log("soccer/Main")
    # Number 2 cannot be the first one, so the version is the first of a list of its own.
    assert copy.digest == version(ours, "soccer/Main", 2).digest
    assert copy.origin is not None
    assert (copy.origin.name, copy.origin.number) == ("soccer/Main", 2)
    assert report.names["soccer/Main"].renumbered == {2: 1}
    assert not ours.copy_to(theirs, "soccer/Main@2").changed
    # The whole list follows later: what is there is not copied again.
    report = ours.copy_to(theirs)
    assert report.names["soccer/Main"].renumbered == {1: 2, 3: 3}
    assert theirs.resolve("soccer/Main@champion") == copy.digest
    assert faults(theirs) == []
    assert not ours.copy_to(theirs).changed


def test_a_digest_is_copied_as_a_push_without_a_name(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    pushed, named = make_snapshot(8).digest, make_snapshot(1, large=True).digest
    report = ours.copy_to(theirs, [pushed, f"blake3:{named.hex[:12]}"])  # type: ignore[list-item]
    assert report.kept == 2
    assert theirs.pull(named) == make_snapshot(1, large=True)
    assert theirs.names() == []
    # The record of the push is copied; of a policy that has only a name, a record is made.
    assert content(theirs, f"kept/{pushed.hex}") == content(ours, f"kept/{pushed.hex}")
    key = kept_key(named, named.hex[:32])
    kept = Kept.from_bytes(content(theirs)[key], key)
    assert dict(kept.objects or {}) == dict(version(ours, "soccer/Main", 2).objects or {})
    assert not ours.copy_to(theirs, [named]).changed  # type: ignore[list-item]


def test_what_cannot_be_copied_is_told_before_anything_is_written(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    for names, error, text in (
        ("soccer", NotFoundError, "no name 'soccer'"),
        (["duo/", "chess/"], NotFoundError, "no names that begin with 'chess/'"),
        ("soccer/Main@9", NotFoundError, "versions are 1 to 3"),
        ("soccer/Main@best", NotFoundError, "no tag 'best'"),
        ("../x/", InvalidInputError, "'../x/' is not a prefix such as 'soccer/'"),
        (7, InvalidInputError, "names is a list of refs, not 7"),
        ([7], InvalidInputError, "a ref is a string"),
        ("blake3:0123456789", NotFoundError, "no policy"),
    ):
        with pytest.raises(error, match=text):
            ours.copy_to(theirs, names)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="both the source and the target"):
        ours.copy_to(PolicyStore(ours.url))
    with pytest.raises(InvalidInputError, match="takes a PolicyStore to copy to, not str"):
        ours.copy_to("s3://bucket")  # type: ignore[arg-type]
    with pytest.raises(ReadOnlyError, match="copy_to: .* was opened read-only"):
        ours.copy_to(PolicyStore(theirs.url, read_only=True))
    with pytest.raises(NotFoundError, match="no policy store"):
        make_store().copy_to(theirs)
    assert content(theirs) == {}


def test_a_dry_run_writes_nothing_and_says_the_same(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    watched = Watched(backend_of(theirs))
    dry = ours.copy_to(over(watched), dry_run=True)
    assert watched.writes == []
    real = ours.copy_to(theirs)
    assert str(dry).replace("would copy", "copied") == str(real)
    # The same with lists that differ.
    ours.push(make_snapshot(20), "duo/p0")
    theirs.push(make_snapshot(21), "duo/p0")
    ours.tag("duo/p0@2", "Best")
    dry = ours.copy_to(PolicyStore(theirs.url, read_only=True), dry_run=True)
    real = ours.copy_to(theirs)
    assert str(dry).replace("would copy", "copied") == str(real)
    assert real.names["duo/p0"].renumbered == {2: 3}


def test_no_array_is_built(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    ours.push(many_tensors(), "wide")

    def forbidden(*args: object) -> object:
        raise AssertionError("an array was built")

    for module in ("arrays", "safetensors", "policy"):
        monkeypatch.setattr(f"policystore.format.{module}.view", forbidden, raising=False)
    assert policystore.format.arrays.view is forbidden
    ours.copy_to(theirs)
    monkeypatch.undo()
    assert content(theirs) == content(ours)


def many_tensors() -> Snapshot:
    """A policy with more objects than a record lists."""
    weights = {f"w{i:03}": np.full(1 << 16, i, np.float32) for i in range(258)}
    return Snapshot(weights=weights)


def test_a_policy_of_very_many_objects(make_store: MakeStore) -> None:
    ours, theirs, dry = make_store(), make_store(), make_store()
    pushed = ours.push(many_tensors(), "wide")
    assert version(ours, "wide", 1).objects is None
    assert ours.copy_to(dry, dry_run=True).objects == 259
    report = ours.copy_to(theirs, ["wide@1", pushed.digest])  # type: ignore[list-item]
    assert (report.objects, report.kept) == (259, 1)
    assert faults(theirs) == []


def test_progress_ends_at_all_bytes(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    steps: list[tuple[int, int]] = []
    report = ours.copy_to(theirs, progress=lambda moved, known: steps.append((moved, known)))
    assert steps == sorted(steps)
    assert all(moved <= known for moved, known in steps)
    assert steps[-1] == (report.nbytes, report.nbytes)

    def full(moved: int, known: int) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        ours.copy_to(make_store(), progress=full)


def test_a_damaged_object_stops_its_name_alone(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    digest = version(ours, "soccer/Main", 3).digest
    key = object_key(digest)
    whole = content(ours)[key]
    backend_of(ours).replace(key, whole[:-1] + b"x")
    with pytest.raises(IntegrityError, match=rf"(?s)1 parts .*{digest.hex}.* is damaged"):
        ours.copy_to(theirs)
    assert theirs.names() == ["duo/p0", "soccer/Main"]
    assert [v.number for v in theirs.log("soccer/Main")] == [2, 1]
    assert content(theirs, "kept/") == content(ours, "kept/")
    assert faults(theirs) == []
    backend_of(ours).delete(key)
    with pytest.raises(IntegrityError, match=r"soccer/Main@3 needs: the store has lost it"):
        ours.copy_to(theirs)
    backend_of(ours).replace(key, whole)
    ours.copy_to(theirs)
    assert content(theirs) == content(ours)


def test_a_damaged_copy_in_a_local_target_is_replaced(
    tmp_path: Path, make_store: MakeStore
) -> None:
    ours, theirs = make_store(), PolicyStore(tmp_path)
    fill(ours)
    key = object_key(version(ours, "duo/p0", 1).digest)
    theirs.push(make_snapshot(7))
    whole = content(theirs)[key]
    backend_of(theirs).replace(key, b"x" * len(whole))
    ours.copy_to(theirs)
    assert content(theirs)[key] == whole
    assert faults(theirs) == []


def test_a_changed_history_is_not_copied(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    records = content(ours)
    first = records[version_key("soccer/Main", 1)]
    backend_of(ours).replace(
        version_key("soccer/Main", 1), first.replace(b'"return":0', b'"return":9')
    )
    with pytest.raises(Exception, match="does not follow the record before it"):
        ours.copy_to(theirs, "soccer/Main")


def test_kinds_of_records_that_nobody_knows_are_named(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    extra = {
        "names/duo/p0/@signatures/0000000001.json": b"{}",
        "leagues/soccer/@odd/1.json": b"{}",
        "papers/x.json": b"{}",
        "leagues/soccer/@bodies/../../../x.json": b"{}",
        "names/duo/p0/@notes/0000000001/../../../../../x.json": b"{}",
        "names/Bad/@versions/0000000001.json": b"{}",
    }
    for key, data in extra.items():
        backend_of(ours).replace(key, data)
    report = ours.copy_to(theirs)
    assert report.unknown == [
        "leagues/soccer/@bodies/../../../", "leagues/soccer/@odd/", "names/Bad/@",
        "names/duo/p0/@notes/0000000001/../../../../../x.json", "names/duo/p0/@signatures/",
        "papers/",
    ]  # fmt: skip
    assert not report.complete
    assert "unknown, not copied: papers/" in str(report)
    assert not set(extra) & set(content(theirs))


def test_a_report_is_text(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    report = ours.copy_to(theirs)
    assert isinstance(report, CopyReport)
    assert repr(report) == str(report)
    lines = str(report).splitlines()
    assert lines[0].endswith(
        "copied 4 versions, 1 policies without a name, 6 records of leagues, 7 objects "
        f"({report.nbytes:,} bytes)"
    )
    assert lines[1:] == [
        "  duo/p0: copied 1; tags Best",
        "  soccer/Main: copied 1-3; tags champion; 2 annotations",
    ]


def test_a_lost_record_stops_its_name_alone(make_store: MakeStore) -> None:
    ours, theirs = make_store(), make_store()
    fill(ours)
    backend_of(ours).delete(version_key("soccer/Main", 2))
    with pytest.raises(IntegrityError, match="is missing, though later records exist"):
        ours.copy_to(theirs)
    assert theirs.names() == ["duo/p0", "soccer/Main"]
    assert content(theirs, "kept/") == content(ours, "kept/")


def test_a_copy_of_a_bucket_to_itself_does_nothing(
    make: Callable[[str, str], PolicyStore],
) -> None:
    """The buckets of two servers may have the same URL, so that equal URLs are no error."""
    ours = make("gs", "same")
    fill(ours)
    assert not ours.copy_to(make("gs", "same")).changed


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path, make_store: MakeStore) -> None:
    ours = make_store()
    fill(ours)
    (tmp_path / "thesis.txt").write_text("chapter 1")
    for dry_run in (True, False):
        with pytest.raises(FormatError, match="is not a policy store"):
            ours.copy_to(PolicyStore(tmp_path), dry_run=dry_run)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_large_objects_that_a_bucket_has_are_not_sent_again(
    make: Callable[[str, str], PolicyStore],
) -> None:
    ours, theirs = make("memory", "ours"), make("gs", "theirs")
    theirs.push(make_snapshot(0, large=True), "other")
    ours.push(make_snapshot(1, large=True), "a")
    watched = Watched(backend_of(theirs))
    report = ours.copy_to(over(watched))
    objects = version(ours, "a", 1).objects or {}
    sent = {key for key in watched.writes if key.startswith("objects/")}
    # The tensor of 4 MiB is the same in both policies.
    assert sent == {object_key(d) for d, size in objects.items() if size < 1 << 20}
    assert report.objects == 2
    assert theirs.pull("a") == make_snapshot(1, large=True)


def test_a_bucket_that_does_not_create_exclusively_takes_no_names(
    make: Callable[[str, str], PolicyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = make("memory", "ours"), make("gs", "theirs")
    fill(ours)
    monkeypatch.setattr(fsspec_clouds.Cloud, "exclusive", False)
    with pytest.raises(StorageError, match="does not create exclusively"):
        ours.copy_to(theirs)
    assert list(backend_of(theirs).keys("names/")) == []
    ours.copy_to(theirs, [make_snapshot(8).digest])  # type: ignore[list-item]
    assert theirs.pull(make_snapshot(8).digest) == make_snapshot(8)
