"""Stores with records, keys or files that no push writes, and wrong arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest

from policystore import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    Snapshot,
    Spec,
    StorageError,
)
from tests.support.hostile_policies import COSTLY, policy

Make = Callable[..., Snapshot]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.mark.long
def test_verify_works_while_others_push(root: Path, make_snapshot: Make) -> None:
    for url in (str(root), "memory://verify-while-pushing"):
        PolicyStore(url).push(make_snapshot(), "a")
        stop = threading.Event()

        def push(url: str = url, stop: threading.Event = stop) -> None:
            store, seed = PolicyStore(url), 0
            while not stop.is_set():
                seed += 1
                store.push(make_snapshot(seed % 50), f"a/{seed % 3}")
                store.tag(f"a/{seed % 3}", f"t{seed % 2}")

        threads = [threading.Thread(target=push) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            reports = [PolicyStore(url).verify() for _ in range(12)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [str(report) for report in reports if not report.ok] == []


def test_a_lost_newest_record_is_a_fault(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    for seed in range(3):
        store.push(make_snapshot(seed), "a")
    (root / "names/a/@versions/0000000003.json").unlink()
    assert "the hint names this version" in str(store.verify())


def test_pulling_a_lost_record_in_the_middle_names_it_as_lost(
    root: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(root)
    for seed in range(4):
        store.push(make_snapshot(seed), "a")
    (root / "names/a/@versions/0000000002.json").unlink()
    with pytest.raises(IntegrityError, match="version 2 .* lost"):
        store.pull("a@2")
    with pytest.raises(IntegrityError, match="lost"):
        store.log("a")


def test_a_number_far_away(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    good = (root / "names/a/@versions/0000000001.json").read_bytes()
    (root / "names/a/@versions/9999999999.json").write_bytes(good)
    report = store.verify()
    assert len(report.faults) == 2
    assert "2 to 9999999998" in str(report)
    (root / "names/a/@hint").unlink()
    (root / "names/a/@hint").write_text(
        '{"digest":"blake3:%s","format":1,"kind":"hint","number":9999999999}' % ("0" * 64)
    )
    with pytest.raises(PolicyStoreError):
        store.log("a")
    with pytest.raises(StorageError, match="no numbers are left"):
        store.push(make_snapshot(), "a")


def test_a_folder_in_the_place_of_the_next_record(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    (root / "names/a/@versions/0000000002.json").mkdir()
    assert store.pull("a") == make_snapshot()
    with pytest.raises(StorageError):
        store.push(make_snapshot(1), "a")
    assert "0000000002.json" in str(store.verify())


@pytest.mark.parametrize("kind", ["folder", "circle"])
def test_a_hint_that_is_not_a_file_only_costs_probes(
    root: Path, make_snapshot: Make, kind: str
) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    hint = root / "names/a/@hint"
    hint.unlink()
    hint.mkdir() if kind == "folder" else hint.symlink_to(hint)
    assert store.pull("a") == make_snapshot()
    assert not store.verify().ok


def test_verify_reports_a_folder_that_cannot_be_listed(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    (root / "circle").symlink_to(root / "circle")
    (root / "all").symlink_to("/")
    deep = root / "names"
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    (root / "bytes\udcff").write_bytes(b"")
    report = store.verify()
    assert {fault.key for fault in report.faults} == {"circle", "all", "bytes\\udcff"}
    str(report).encode()
    assert store.names() == ["a"]


def test_one_object_under_many_names_is_read_once(root: Path, make_snapshot: Make) -> None:
    tensor = np.zeros(1 << 20, np.float32)
    snap = Snapshot(weights={f"w{index}": tensor for index in range(300)})
    store = PolicyStore(root)
    pulled = store.pull(store.push(snap))
    pointers = {pulled.weights[name].__array_interface__["data"][0] for name in pulled.weights}
    assert len(pointers) == 1
    assert pulled == snap


def test_a_version_of_another_store_is_not_mixed_up(tmp_path: Path, make_snapshot: Make) -> None:
    one, other = PolicyStore(tmp_path / "1"), PolicyStore(tmp_path / "2")
    version = one.push(make_snapshot(1), "a")
    other.push(make_snapshot(2), "a")
    with pytest.raises(NotFoundError, match=version.digest.hex):
        other.pull(version)
    with pytest.raises(NotFoundError, match="another policy"):
        other.tag(version, "t")
    other.push(make_snapshot(1))
    assert other.pull(version) == make_snapshot(1)


def test_notes_of_a_push_need_a_name(root: Path, make_snapshot: Make) -> None:
    for more in ({"message": "m"}, {"metrics": {"a": 1}}, {"source": {"a": 1}}, {"parents": ["a"]}):
        with pytest.raises(InvalidInputError, match="with a name"):
            PolicyStore(root).push(make_snapshot(), **more)


@pytest.mark.parametrize(
    "more",
    [{"metrics": 5}, {"metrics": "abc"}, {"metrics": [1]}, {"source": [1]}, {"parents": None},
     {"parents": "a/b"}, {"parents": 5}, {"parents": [[]]}],
    ids=str,
)  # fmt: skip
def test_arguments_of_other_kinds(root: Path, make_snapshot: Make, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        PolicyStore(root).push(make_snapshot(), "a", **more)
    for refs in (None, 5, [["a"]]):
        with pytest.raises(InvalidInputError):
            PolicyStore(root).pull_many(refs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [{"acting": 5}, {"acting": [1, "a"]}, {"acting": "abc"}, {"modules": 5}, {"modules": {"a": 5}},
     {"omitted": 5}, {"config": []}, {"config": 0}, {"stack": np.ones(2)}, {"weights": np.ones(2)}],
    ids=str,
)  # fmt: skip
def test_specs_of_other_kinds(spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"spec.{next(iter(spec))}"):
        Spec(**spec)


def test_a_file_where_the_folder_should_be(tmp_path: Path, make_snapshot: Make) -> None:
    (tmp_path / "f").write_text("x")
    calls: list[Callable[[], Any]] = [
        lambda: PolicyStore(tmp_path / "f").names(),
        lambda: PolicyStore(tmp_path / "f").pull("a"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="is a file"):
            call()


def test_texts_of_other_writers_are_shown_short_and_printable(
    root: Path, make_snapshot: Make
) -> None:
    key = "\x1b[2J" * 100_000
    for data in (policy({key: 1}), policy({"config": {key: 1, "~x": 2}})):
        with pytest.raises(FormatError) as caught:
            Snapshot.from_bytes(data)
        assert len(str(caught.value)) < 1000
        assert "\x1b" not in str(caught.value)
    version = PolicyStore(root).push(make_snapshot(), "a", message="\x1b[2Jm", author="x\ny")
    assert "\x1b" not in str(version)
    assert "\n" not in str(version)
    assert repr(version) == f"<Version {version}>"


def test_an_error_for_a_bare_digest_names_the_prefix(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    digest = store.push(make_snapshot()).digest
    with pytest.raises(NotFoundError, match=f"'blake3:{digest.hex}'"):
        store.pull(digest.hex)


@pytest.mark.long
def test_digests_of_objects_that_are_not_policies_give_typed_errors(
    root: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    for data in [make() for make in COSTLY.values()] + [b"", b"x" * 100]:
        hexadecimal = blake3.blake3(data).hexdigest()
        path = root / "objects" / hexadecimal[:2] / f"{hexadecimal}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        try:
            store.pull(f"blake3:{hexadecimal[:16]}")
        except PolicyStoreError as error:
            assert hexadecimal[:12] in str(error)
    assert not store.verify().ok
