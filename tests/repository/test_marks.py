"""Marks that are damaged or of others, prunes of long names, names that were deleted, mistypings."""

from __future__ import annotations

import datetime
import itertools
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from policystore import (
    AmbiguousError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    Snapshot,
)
from policystore.backends.memory import MemoryBackend
from policystore.format.keys import kept_key, mark_key, version_key
from policystore.format.records import Kept, Mark, Span
from policystore.repository.deletion import kept, restore
from policystore.repository.freshness import MAX_DELAY, Freshness
from policystore.testing.storage import Intercepted

Make = Callable[..., Snapshot]
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(uuid.uuid4().hex)


@pytest.fixture
def store(backend: MemoryBackend, make_snapshot: Make) -> PolicyStore:
    store = PolicyStore.over(backend)
    for seed in range(4):
        store.push(make_snapshot(seed), "a")
    return store


def mark(**changes: Any) -> Mark:
    fields = {
        "name": "a", "number": 1, "action": "delete", "changed": ((2, 2),),
        "deleted": (Span(2, 2, 1),), "previous": None, "time": NOW, "author": "ann",
        "message": "", "nonce": "0" * 32,
    }  # fmt: skip
    return Mark(**(fields | changes))


def counted(backend: MemoryBackend) -> tuple[PolicyStore, list[str]]:
    """Return a store over a backend, and the keys that it reads or lists."""
    wrapped, asked = Intercepted(backend), []

    def count(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(key: str, *args: Any, **kwargs: Any) -> Any:
            asked.append(key)
            return call(key, *args, **kwargs)

        return counting

    for name in ("get", "keys", "prefixes"):
        setattr(wrapped, name, count(getattr(backend, name)))
    return PolicyStore.over(wrapped), asked  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        mark(name="b").to_bytes(),
        mark(number=2, previous=Snapshot(weights={}).digest).to_bytes(),
        mark().to_bytes() + b" ",
        b"x" * ((1 << 20) + 1),
    ],
    ids=["empty", "no-fields", "other-name", "other-number", "not-canonical", "too-long"],
)
def test_a_mark_that_is_none_of_the_name_is_a_format_error(
    store: PolicyStore, backend: MemoryBackend, data: bytes
) -> None:
    backend.replace(mark_key("a", 1), data)
    calls: list[Callable[[], Any]] = [
        lambda: store.pull("a"),
        lambda: store.pull("a@1"),
        lambda: store.log("a"),
        lambda: store.tags("a"),
        lambda: store.delete("a"),
        lambda: store.delete_name("a"),
        lambda: store.restore("a@1"),
        lambda: store.prune("a", keep_last=1),
    ]
    for call in calls:
        with pytest.raises(FormatError, match=r"@marks/0000000001\.json"):
            call()
    assert list(backend.keys("names/a/@marks/")) == [mark_key("a", 1)]


def test_a_mark_may_name_versions_that_do_not_exist_yet(
    store: PolicyStore, backend: MemoryBackend, make_snapshot: Make
) -> None:
    spans = (Span(3, 9_999_999_999, 1),)
    backend.replace(mark_key("a", 1), mark(changed=((3, 9),), deleted=spans).to_bytes())
    assert store.pull("a").ref == "a@2"
    assert [version.number for version in store.log("a")] == [2, 1]
    store.push(make_snapshot(9), "a")
    assert store.pull("a").ref == "a@2"
    assert [version.number for version in store.log("a", deleted=True)] == [5, 4, 3, 2, 1]
    store.delete_name("a")
    assert [version.number for version in store.restore("a")] == [2, 1]


def test_a_lost_mark_is_named(store: PolicyStore, backend: MemoryBackend) -> None:
    store.delete("a@1")
    store.delete("a@2")
    backend.delete(mark_key("a", 1))
    assert store.pull("a").ref == "a@4"
    for call in (lambda: store.pull("a@1"), lambda: store.log("a", deleted=True)):
        with pytest.raises(IntegrityError, match="mark 1 of 'a' .* is missing"):
            call()


def test_the_error_shows_texts_of_other_writers_short_and_printable(store: PolicyStore) -> None:
    store.delete("a@1", message="\x1b[2J" + "m" * 4000, author="x\ny")
    with pytest.raises(NotFoundError) as caught:
        store.pull("a@1")
    assert len(str(caught.value)) < 600
    assert str(caught.value).isprintable()


def test_a_prune_by_numbers_reads_no_records(store: PolicyStore, backend: MemoryBackend) -> None:
    """Pretend that the name has 100,000 versions: their records are not read."""
    record = bytes(backend.get(version_key("a", 4)))
    inner_size = backend.size

    class Long(MemoryBackend):
        def size(self, key: str) -> int | None:
            if "@versions/" in key:
                return 9 if int(key[-15:-5]) <= 100_000 else None
            return inner_size(key)

    long = Long(backend._name)
    for number in range(99_991, 100_001):
        changed = record.replace(b'"number":4', b'"number":%d' % number)
        backend.replace(version_key("a", number), changed)
    many, asked = counted(long)
    many.tag("a@3", "old")
    asked.clear()
    report = many.prune("a", keep_last=10)
    assert report.count == len(report.pruned) == 99_989
    assert list(report.kept) == [*range(100_000, 99_990, -1), 3]
    assert "pruned: @4 to @99990, @1 to @2" in str(report)
    assert [key for key in asked if "@versions/" in key] == [version_key("a", 100_000)]
    assert len(bytes(backend.get(mark_key("a", 1)))) < 1000
    asked.clear()
    assert many.resolve("a@100000")
    assert len(asked) <= 4


@pytest.mark.long
def test_a_mark_that_would_be_too_long_is_refused(
    store: PolicyStore, backend: MemoryBackend
) -> None:
    spans, left = [], (1 << 20) - 3000
    for n in itertools.count(5, 2):
        spans.append(Span(n, n, 1))
        left -= len(f"[{n},{n},1],")
        if left < 0:
            break
    full = mark(changed=(), deleted=tuple(spans))
    backend.replace(mark_key("a", 1), full.to_bytes())
    assert store.pull("a").ref == "a@4"
    with pytest.raises(InvalidInputError, match="at most 1048576"):
        store.delete("a@1", message="m" * 4000)
    assert len(store.log("a")) == 4
    store.delete_name("a")  # many ranges, but the mark is short enough
    assert store.names() == []


@pytest.mark.parametrize("prefix", ["../", "a/../b", "/", "a//", "x y", "@", "a@", ".", "a/.", "é"])
def test_a_prefix_that_no_name_has_lists_nothing(
    store: PolicyStore, backend: MemoryBackend, prefix: str
) -> None:
    listing, asked = counted(backend)
    assert listing.names(prefix) == []
    assert asked == ["policystore.json"]


def test_a_prefix_that_leads_out_of_the_store_is_not_followed(
    tmp_path: Path, make_snapshot: Make
) -> None:
    PolicyStore(tmp_path / "other").push(make_snapshot(), "a")
    store = PolicyStore(tmp_path / "s")
    store.push(make_snapshot(), "b")
    assert store.names("../../other/names/") == []


def test_names_of_a_store_that_is_not_there(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "s")
    assert store.names() == []  # the first push makes the store
    with pytest.raises(NotFoundError, match="no policy store at .*first push"):
        store.names("soccer/")
    store.push(make_snapshot(), "a")
    assert store.names("soccer/") == []


def test_names_lists_from_the_prefix_down(tmp_path: Path, make_snapshot: Make) -> None:
    store = PolicyStore(tmp_path / "s")
    for name in ("soccer", "soccer/main", "soccer/Main", "soccer-b", "soc/x", "a/soccer"):
        store.push(make_snapshot(), name)
    for prefix in ("", "s", "soccer", "soccer/", "soccer/m", "soccer/M", "soccer-", "a/s", "b"):
        expected = [name for name in store.names() if name.startswith(prefix)]
        assert store.names(prefix) == expected, prefix


def test_only_what_is_below_a_prefix_is_listed(store: PolicyStore, backend: MemoryBackend) -> None:
    listing, asked = counted(backend)
    listing.names("soccer/M")
    listing.names("a")
    assert asked[:2] == ["names/soccer/!m", "deleted/soccer/!m"]
    # No name begins with soccer/M, so the first folders are listed once, for a warning.
    assert asked[2:4] == ["policystore.json", "names/"]
    assert "names/" not in asked[4:]
    asked.clear()
    listing.names("soccer/M")
    assert asked == ["names/soccer/!m", "deleted/soccer/!m", "policystore.json"]


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("soccer/mian", "Did you mean 'soccer/main'?"),
        ("socer/main", "Did you mean 'soccer/main'?"),
        ("socer/mian", "Did you mean 'soccer/main'?"),
        ("soccer", "Did you mean 'soccer/keeper' or 'soccer/main'?"),
        ("Soccer/main", "Did you mean 'soccer/main'?"),
        ("soccer/main/deep", "no name"),
        ("zzz", "The names are: duo/p/, soccer/keeper, soccer/main"),
        ("duo", "Did you mean 'duo/p/'?"),
        ("duo/p/1", "The names below duo/p/ are: duo/p/0"),
        ("soccer/main@champoin", "Did you mean 'champion'?"),
        ("soccer/main@zzz", "Its tags are: champion"),
        ("soccer/keeper@zzz", "It has no tags."),
    ],
)
def test_a_mistyped_ref_gets_close_ones(
    backend: MemoryBackend, make_snapshot: Make, ref: str, said: str
) -> None:
    store = PolicyStore.over(backend)
    for name in ("soccer/main", "soccer/keeper", "duo/p/0"):
        store.push(make_snapshot(), name)
    store.tag("soccer/main", "champion")
    store.tag("soccer/main", "champions")
    store.untag("soccer/main", "champions")
    with pytest.raises(NotFoundError) as caught:
        store.pull(ref)
    assert said in str(caught.value)


def test_a_digest_that_a_version_has_is_deleted_with_a_warning(
    store: PolicyStore,
    backend: MemoryBackend,
    make_snapshot: Make,
    caplog: pytest.LogCaptureFixture,
) -> None:
    snap = make_snapshot(1)
    for nonce in ("0" * 32, "1" * 32):
        record = Kept(snap.digest, None, NOW, "ann", nonce).to_bytes()
        backend.replace(kept_key(snap.digest, nonce), record)
    store.push(make_snapshot(7), "b")
    store.delete(snap.digest)
    assert list(backend.keys("kept/")) == []
    assert "stays in memory://" in caplog.text
    assert "because a@2 has it" in caplog.text
    assert store.pull("a@2") == snap


def test_a_short_digest_of_two_kept_policies_is_ambiguous(
    store: PolicyStore, backend: MemoryBackend
) -> None:
    for last in "01":
        backend.replace(f"kept/{'ab' * 31}a{last}/{'0' * 32}.json", b"")
    with pytest.raises(AmbiguousError, match="2 digests"):
        store.delete("blake3:abababab")
    assert len(list(backend.keys("kept/"))) == 2


def test_every_call_takes_its_author_from_the_environment(
    store: PolicyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYSTORE_AUTHOR", "eve")
    store.tag("a@1", "t")
    store.untag("a", "t")
    assert [move.author for move in store.tag_history("a", "t")] == ["eve", "eve"]
    store.delete("a@1")
    store.prune("a", keep_last=2)
    store.delete_name("a", author="bob")
    authors = [
        version.deleted and version.deleted.author for version in store.log("a", deleted=True)
    ]
    assert authors == ["bob", "bob", "eve", "eve"]


def test_versions_of_other_stores_are_not_deleted(store: PolicyStore, make_snapshot: Make) -> None:
    other = PolicyStore.over(MemoryBackend("another-store-with-a"))
    foreign = other.push(make_snapshot(77), "a")
    for call in (store.delete, store.restore):
        with pytest.raises(NotFoundError, match="another policy"):
            call(foreign)
    assert len(store.log("a")) == 4


def test_a_version_without_its_list_of_objects_is_restored(
    store: PolicyStore, backend: MemoryBackend, make_snapshot: Make
) -> None:
    version = store.push(make_snapshot(1, large=True), "b")
    key = version_key("b", 1)
    data = bytes(backend.get(key))
    start = data.index(b'"objects":{')
    end = data.index(b"}", start) + 1
    backend.replace(key, data[:start] + b'"objects":null' + data[end:])
    store.delete("b")
    (tensor, *_) = [d for d in version.objects or () if d != version.digest]
    kept = bytes(backend.get(f"objects/{tensor.hex[:2]}/{tensor.hex}.safetensors"))
    backend.delete(f"objects/{tensor.hex[:2]}/{tensor.hex}.safetensors")
    with pytest.raises(NotFoundError, match="1 of 3 objects"):
        store.restore("b")
    backend.replace(f"trash/{tensor.hex[:2]}/{tensor.hex}/{'0' * 32}.safetensors", kept)
    store.restore("b")
    assert store.pull("b") == make_snapshot(1, large=True)


@pytest.mark.parametrize("call", ["pull", "resolve", "log", "tags"])
def test_errors_of_deletions_survive_no_store(tmp_path: Path, call: str) -> None:
    with pytest.raises(PolicyStoreError, match="first push"):
        getattr(PolicyStore(tmp_path / "s"), call)("a")
    with pytest.raises(InvalidInputError):
        PolicyStore(tmp_path / "s").delete_name("a@3")


def test_a_forged_number_costs_no_memory(store: PolicyStore, backend: MemoryBackend) -> None:
    """Forge ten billion versions: what does not need their records takes them as ranges."""

    class Forged(MemoryBackend):
        def size(self, key: str) -> int | None:
            return 9 if "@versions/" in key else super().size(key)

    record = bytes(backend.get(version_key("a", 4)))
    newest = 9_999_999_999
    backend.replace(
        version_key("a", newest), record.replace(b'"number":4', b'"number":%d' % newest)
    )
    forged = PolicyStore.over(Forged(backend._name))
    assert forged.prune("a", keep_last=3, dry_run=True).count == newest - 3
    assert "9999999997" in str(forged.prune("a", keep_last=3))
    assert forged.delete_name("a") == 3
    for call in (lambda: forged.restore("a"), lambda: forged.log("a", deleted=True)):
        with pytest.raises(PolicyStoreError):
            call()


@pytest.mark.parametrize(("delay", "checks"), [(MAX_DELAY - 1, 1), (MAX_DELAY + 1, 2)])
@pytest.mark.parametrize("kind", ["version", "digest"])
def test_a_late_restore_checks_the_objects_again(
    store: PolicyStore,
    backend: MemoryBackend,
    make_snapshot: Make,
    monkeypatch: pytest.MonkeyPatch,
    delay: float,
    checks: int,
    kind: str,
) -> None:
    store.delete("a@1")
    digest = make_snapshot(0).digest
    now, looks = [0.0], list[str]()
    fresh = partial(Freshness, clock=lambda: now[0])
    monkeypatch.setattr(restore if kind == "version" else kept, "Freshness", fresh)
    size = backend.size

    def slow(key: str) -> int | None:
        if key.startswith("objects/"):
            looks.append(key)
            now[0] += delay if len(looks) == 1 else 0
        return size(key)

    monkeypatch.setattr(backend, "size", slow)
    store.restore("a@1" if kind == "version" else digest)
    assert len(looks) == checks
    assert store.pull("a@1" if kind == "version" else digest) == make_snapshot(0)
