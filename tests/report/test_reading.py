"""What a report reads: which names, what is damaged, how many bytes and requests."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    Snapshot,
    StorageError,
)
from policystore._util.progress import Meter
from policystore.backends.memory import MemoryBackend
from policystore.report.reading import ContentReader
from tests.report.documents import document_of, small
from tests.support.report_store import MADE, Clock, written_at


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three names with two versions each, and tags on the first."""
    made = PolicyStore(tmp_path_factory.mktemp("template") / "store")
    with written_at(Clock()):
        for name in ("duo/p0", "duo/p1", "solo"):
            for step in range(2):
                made.push(small(step), name, metrics={"return": float(step)})
        made.tag("duo/p0@1", "best")
        made.tag("duo/p0@2", "best")
        made.untag("duo/p0", "best")
    return Path(made.url)


@pytest.fixture
def store(template: Path, tmp_path: Path) -> PolicyStore:
    """A copy of the template."""
    return PolicyStore(shutil.copytree(template, tmp_path / "store"))


def damage(store: PolicyStore, key: str, data: bytes | None = b"{") -> Path:
    path = Path(store.url) / key
    path.chmod(0o644)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, ["duo/p0", "duo/p1", "solo"]),
        ("", ["duo/p0", "duo/p1", "solo"]),
        ("solo", ["solo"]),
        ("duo/", ["duo/p0", "duo/p1"]),
        ("*", ["solo"]),
        ("**/*1", ["duo/p1"]),
        ("du?/**", ["duo/p0", "duo/p1"]),
        (["solo", "duo/*0"], ["duo/p0", "solo"]),
        ((name for name in ("solo", "solo")), ["solo"]),
    ],
)
def test_names_prefixes_and_patterns(store: PolicyStore, wanted: Any, names: list[str]):
    assert [each["name"] for each in document_of(store, names=wanted)["names"]] == names


@pytest.mark.parametrize("wanted", ["duo/p3", "sol/", "*p1", ["solo", "nobody"]])
def test_a_name_that_does_not_exist_is_an_error_that_names_near_ones(
    store: PolicyStore, tmp_path: Path, wanted: Any
):
    with pytest.raises(NotFoundError, match="no name fits"):
        store.report(tmp_path / "site", wanted)

    assert not (tmp_path / "site").exists()
    with pytest.raises(NotFoundError, match="duo/p0"):
        store.report(tmp_path / "site", "duo/p3")


@pytest.mark.parametrize("wanted", [3, [3], b"solo", "so lo", [None], "duo/[p]0"])
def test_names_of_a_wrong_form_are_refused(store: PolicyStore, tmp_path: Path, wanted: Any):
    with pytest.raises(InvalidInputError):
        store.report(tmp_path / "site", wanted)


def test_the_newest_versions_are_shown_where_there_are_more_than_the_limit(
    store: PolicyStore, tmp_path: Path
):
    summary = store.report(tmp_path / "site", limit=1)

    assert (summary.versions, summary.not_shown) == (3, 3)
    assert "3 older versions left out: raise limit=" in str(summary)
    assert [each["number"] for each in document_of(store, limit=1)["names"]] == [[2], [2], [2]]


def test_all_moves_of_a_tag_are_shown_also_when_it_was_removed(store: PolicyStore):
    ((tag, moves, count, _),) = document_of(store)["names"][0]["tags"]

    assert (tag, count) == ("best", 3)
    assert [target for target, _, _ in moves] == [1, 2, None]


def test_deleted_versions_are_not_shown_and_who_deleted_them_is(store: PolicyStore):
    store.delete("solo@1", message="broken env")

    (encoded,) = document_of(store, names="solo")["names"]

    assert (encoded["number"], encoded["standing"], encoded["newest"]) == ([2], 1, 2)
    assert encoded["deleted"][0][:3] == [1, 1, "delete"]
    assert encoded["deleted"][0][-1] == "broken env"


@pytest.mark.parametrize(
    ("key", "data", "place"),
    [
        ("names/solo/@versions/0000000001.json", b"{", "solo@1"),
        ("names/duo/p0/@versions/0000000001.json", None, "duo/p0@1"),
        ("names/duo/p0/@tags/best/0000000001.json", b"", "move 1 of the tag best of duo/p0"),
        ("names/duo/p0/@tags/best/0000000003.json", b"", "move 3 of the tag best of duo/p0"),
    ],
)
def test_a_damaged_record_is_named_and_everything_else_is_shown(
    store: PolicyStore, tmp_path: Path, key: str, data: bytes | None, place: str
):
    damage(store, key, data)

    summary = store.report(tmp_path / "site", time=MADE)

    assert [problem.place for problem in summary.problems] == [place]
    assert summary.problems[0].text
    assert summary.to_dict()["problems"][0]["place"] == place
    assert summary.names == 3
    assert summary.versions == (5 if "@versions" in key else 6)
    assert f"1 part could not be read; verify() says more:\n    {place}" in str(summary)


def test_a_damaged_mark_hides_no_version(store: PolicyStore, tmp_path: Path):
    store.delete("solo@1")
    damage(store, "names/solo/@marks/0000000001.json")

    summary = store.report(tmp_path / "site")

    assert [problem.place for problem in summary.problems] == ["solo"]
    assert summary.versions == 6  # which of them stand is not known


def test_a_damaged_object_is_named_and_the_version_is_shown(store: PolicyStore, tmp_path: Path):
    hexed = store.resolve("solo@2").hex
    damage(store, f"objects/{hexed[:2]}/{hexed}.safetensors", b"junk")

    summary = store.report(tmp_path / "site")

    assert summary.versions == 6
    assert {problem.place for problem in summary.problems} == {
        f"the difference between {name}@1 and {name}@2" for name in ("duo/p0", "duo/p1", "solo")
    }


def test_damaged_and_foreign_annotations_are_named(store: PolicyStore, tmp_path: Path):
    good = store.annotate("solo@1", note="good")
    bad = store.annotate("solo@1", note="bad")
    folder = Path(store.url) / "names/solo/@notes/0000000001"
    damage(store, f"names/solo/@notes/0000000001/{bad.nonce}.json")

    summary = store.report(tmp_path / "site")
    document = document_of(store, names="solo")

    assert len(list(folder.iterdir())) == 2
    assert [problem.place for problem in summary.problems] == ["an annotation of solo@1"]
    ((place, _, _, text, _, _),) = document["names"][0]["notes"]
    assert (place, document["strings"][text]) == (0, good.note)


def test_an_annotation_of_another_policy_is_named(store: PolicyStore):
    note = store.annotate("solo@1", note="for this policy")
    key = f"names/solo/@notes/0000000001/{note.nonce}.json"
    record = (Path(store.url) / key).read_bytes()
    damage(store, key, record.replace(note.digest.hex.encode(), b"0" * 64))

    document = document_of(store, names="solo")

    assert document["names"][0]["notes"] == []
    assert "is of another policy" in document["problems"][0][1]


def test_a_storage_that_is_down_ends_the_report():
    class Failing(MemoryBackend):
        down = False

        def get(self, key: str, **arguments: Any) -> bytes | memoryview:
            if self.down and "@versions" in key:
                raise StorageError("the server does not answer")
            return super().get(key, **arguments)

    backend = Failing("report-down")
    store = PolicyStore.over(backend)
    for step in range(40):
        store.push(small(step % 3), "solo")
    backend.down = True

    with pytest.raises(StorageError, match="does not answer"):
        ContentReader(backend, 1000, Meter(None)).read(["solo"])


def test_progress_counts_records_and_pairs(store: PolicyStore, tmp_path: Path):
    steps: list[tuple[int, int]] = []

    store.report(tmp_path / "site", progress=lambda done, total: steps.append((done, total)))

    assert steps[-1] == (9, 9)  # six versions and three pairs
    assert steps == sorted(steps)


def test_a_read_only_store_can_be_shown_and_nothing_is_written(store: PolicyStore, tmp_path: Path):
    before = sorted(Path(store.url).rglob("*"))

    PolicyStore(store.url, read_only=True).report(tmp_path / "site")

    assert sorted(Path(store.url).rglob("*")) == before


def test_a_store_that_is_not_there_and_one_that_is_empty(tmp_path: Path):
    with pytest.raises(NotFoundError):
        PolicyStore(tmp_path / "nowhere").report(tmp_path / "site")
    empty = PolicyStore(tmp_path / "empty")
    empty.push(small(0))  # without a name

    summary = empty.report(tmp_path / "site")

    assert (summary.names, summary.versions) == (0, 0)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.long
def test_a_policy_of_very_many_objects_is_measured_by_its_header(tmp_path: Path):
    store = PolicyStore("memory://report-many-objects")
    large = {
        f"{at:03}": np.full((256, 256), at, np.float32) for at in range(300)
    }  # more objects than a record lists
    version = store.push(Snapshot(weights=large), "big")

    document = document_of(store)

    assert version.objects is None
    assert document["names"][0]["whole"][0] > 300 * 256 * 1024
