"""Lists of versions: records for pandas and polars, slices, tables; ``to_dict`` of all reports."""

from __future__ import annotations

import copy
import datetime
import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas
import pytest

from policystore import Annotation, Digest, Mark, PolicyStore, Snapshot, Version, VersionList
from policystore.format.records import Span
from policystore.repository.mirror.report import CopyReport, NameCopy
from policystore.repository.upkeep.stats_report import StoreStats
from policystore.repository.verify.report import Fault, VerifyReport

D = [Digest(f"{index:064x}") for index in range(4)]
TIME = datetime.datetime(2026, 11, 21, 1, 25, 37, 123, tzinfo=datetime.timezone.utc)
MARK = Mark("soccer/main", 1, "delete", ((7, 7),), (Span(7, 7, 1),), None, TIME, "bob", "old")


def version(number: int = 7, **fields: Any) -> Version:
    return replace(
        Version(
            name="soccer/main",
            number=number,
            digest=D[0],
            weights_digest=D[1],
            acting_digest=D[2],
            state_digest=D[3],
            objects={D[0]: 1_000_000, D[1]: 200_000},
            previous=None if number == 1 else D[1],
            time=TIME,
            author="ann",
            message="beats v6",
            metrics={"return": 21.5},
        ),
        **fields,
    )


def test_log_returns_a_version_list_and_so_do_its_slices() -> None:
    store = PolicyStore("memory://version-list")
    for number in range(3):
        store.push(Snapshot(weights={}), "a", metrics={"n": number})

    versions = store.log("a")

    assert type(versions) is VersionList
    assert isinstance(versions, list)
    assert versions == [versions[0], versions[1], versions[2]]
    assert [each.number for each in versions] == [3, 2, 1]
    assert versions[0] == store.log("a", limit=1)[0]
    for part in (versions[1:], versions[::-1], versions.copy(), copy.deepcopy(versions)):
        assert type(part) is VersionList
    assert [each.number for each in versions[::-1]] == [1, 2, 3]
    again = pickle.loads(pickle.dumps(versions))
    assert type(again) is VersionList
    assert again == versions


def test_records_have_texts_for_digests_and_times() -> None:
    (record,) = VersionList([version(parents=(D[3],))]).to_records()

    assert record == {
        "ref": "soccer/main@7",
        "name": "soccer/main",
        "number": 7,
        "digest": str(D[0]),
        "time": "2026-11-21T01:25:37.000123+00:00",
        "author": "ann",
        "message": "beats v6",
        "nbytes": 1_200_000,
        "parents": [str(D[3])],
        "weights_digest": str(D[1]),
        "acting_digest": str(D[2]),
        "state_digest": str(D[3]),
        "deleted": None,
        "nonfinite": [],
        "tags": None,
        "notes": None,
        "metrics.return": 21.5,
    }


def test_all_records_have_the_same_keys_and_each_column_one_type_of_number() -> None:
    versions = VersionList(
        [
            version(3, metrics={"return": 21.5, "nested": {"deep": {"x": 1}}}, objects=None),
            version(2, metrics={"return": 20, "text": "a"}, source={"params": {"lr": 1e-3}}),
            version(1, metrics={"return": math.nan, 4: (1, 2)}, deleted=MARK),
        ]
    )

    records = versions.to_records()

    assert [list(record) for record in records] == [list(records[0])] * 3
    assert list(records[0])[16:] == [
        "metrics.return", "metrics.nested.deep.x", "metrics.text", "metrics.4", "source.params.lr",
    ]  # fmt: skip
    assert [type(record["metrics.return"]) for record in records] == [float] * 3
    assert math.isnan(records[2]["metrics.return"])
    assert [record["metrics.nested.deep.x"] for record in records] == [1, None, None]
    assert [record["metrics.4"] for record in records] == [None, None, [1, 2]]
    assert [record["nbytes"] for record in records] == [None, 1_200_000, 1_200_000]
    assert records[2]["deleted"] == "deleted by bob at 2026-11-21 01:25:37 UTC: old"


def annotated(number: int = 7) -> Version:
    """Return a version with two tags, and with two annotations."""
    fields: dict[str, Any] = {"name": "soccer/main", "number": number, "digest": D[0]}
    older = Annotation(**fields, time=TIME, author="arena", metrics={"elo": 1180.0}, note="first")
    newer = Annotation(**fields, time=TIME, author="arena", metrics={"elo": 1204.0}, note="bad env")
    return version(number, tags=("best", "champion"), annotations=(older, newer))


def test_records_and_tables_have_tags_notes_and_metrics_of_annotations() -> None:
    versions = VersionList([annotated(), version(6, tags=(), annotations=())])

    first, second = versions.to_records()

    assert (first["tags"], first["notes"]) == (["best", "champion"], ["first", "bad env"])
    assert (first["metrics.elo"], first["metrics.return"]) == (1204.0, 21.5)
    assert (second["tags"], second["notes"], second["metrics.elo"]) == ([], [], None)
    head, row, other = str(versions).splitlines()
    assert head.split()[:2] == ["ref", "tags"]
    assert "best, champion" in row
    assert "1204" in row
    assert row.endswith("beats v6 [bad env]")
    assert other.endswith("beats v6")
    assert annotated().to_dict()["annotations"][1]["metrics"] == {"elo": 1204.0}


def test_a_notebook_shows_tags_and_notes_only_where_there_are_some() -> None:
    assert ">tags</th>" in VersionList([annotated()])._repr_html_()
    assert "bad env" in VersionList([annotated()])._repr_html_()
    assert ">tags</th>" not in VersionList([version()])._repr_html_()


def test_pandas_takes_the_records_as_they_are() -> None:
    versions = VersionList(
        [version(2, metrics={"return": 21.5, "n": 1}), version(1, metrics={"n": 2})]
    )

    frame = pandas.DataFrame(versions.to_records())

    assert frame["metrics.return"].dtype == "float64"
    assert frame["metrics.n"].tolist() == [1, 2]
    assert frame.loc[frame["metrics.return"] > 20, "ref"].tolist() == ["soccer/main@2"]
    times = pandas.to_datetime(frame["time"])
    assert str(times.dtype).endswith("UTC]")
    assert pandas.DataFrame(VersionList().to_records()).empty


def test_a_table_fits_on_one_screen_and_names_the_zone() -> None:
    versions = VersionList(
        version(number, metrics={f"m{index}": number for index in range(9)})
        for number in range(300, 0, -1)
    )

    lines = str(versions).splitlines()

    assert len(lines) == 22
    assert lines[0].split("  ")[0] == "ref"
    assert "time (UTC)" in lines[0]
    assert [name for name in lines[0].split() if name.startswith("m")][:4] == [
        "m0", "m1", "m2", "m3",
    ]  # fmt: skip
    assert "2026-11-21 01:25" in lines[1]
    assert lines[-1] == "and 280 versions more"
    assert max(map(len, lines)) < 140
    assert repr(versions) == "<VersionList: 300 versions, soccer/main@300 … soccer/main@1>"
    assert str(VersionList()) == "no versions"
    assert repr(VersionList()) == "<VersionList: no versions>"


def test_a_table_of_imports_shows_the_return_and_tells_the_trials_apart() -> None:
    names = [f"grid/PPO_env_{at:05d}_lr=0.1_2026-11-29_12-05-03/default_policy" for at in (0, 1)]
    metrics = [
        {"timers": {f"t{at:03}": n + at for at in range(90)}, "env_runners": {"return_mean": n}}
        for n in (1.0, 2.0)
    ]
    versions = VersionList(
        version(3, name=name, metrics=each) for name, each in zip(names, metrics, strict=True)
    )

    head, *rows = str(versions).splitlines()

    assert "..._runners.return_mean" in head or "return_mean" in head
    refs = [row.split()[0] for row in rows]
    assert len(set(refs)) == 2
    assert all(ref.startswith("grid/") and ref.endswith("default_policy@3") for ref in refs)


def test_a_table_shows_what_a_stranger_wrote_without_control_characters() -> None:
    hostile = "\x1b[2J\nx" + "y" * 500
    versions = VersionList(
        [version(author=hostile, message=hostile, metrics={hostile: 1.0, "t": hostile})]
    )

    text = str(versions)

    assert len(text.splitlines()) == 2
    assert "\x1b" not in text
    assert r"\x1b[2J\nx" in text
    assert max(map(len, text.splitlines())) < 200


def test_columns_line_up_and_empty_ones_are_left_out() -> None:
    versions = VersionList(
        [
            version(10, author="李雷", message="", metrics={"return": -1.0}),
            version(9, author="bob", message="", metrics={"return": 1234.5678}),
        ]
    )

    lines = str(versions).splitlines()

    assert "message" not in lines[0]
    assert lines[1].endswith("      -1")
    assert lines[2].endswith("    1235")
    assert len(lines[1]) == len(lines[2]) - 2  # two characters that are twice as wide as others
    assert "1.2 MB" in lines[1]


def test_a_version_as_nested_plain_values() -> None:
    made = version(metrics={"return": math.nan, "nested": {3: (1,)}}, deleted=MARK)

    told = made.to_dict()

    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["ref"] == "soccer/main@7"
    assert told["time"] == "2026-11-21T01:25:37.000123+00:00"
    assert told["metrics"] == {"return": "nan", "nested": {"3": [1]}}
    assert told["objects"] == {str(D[0]): 1_000_000, str(D[1]): 200_000}
    assert told["nbytes"] == 1_200_000
    assert told["deleted"]["deleted"] == [{"first": 7, "last": 7, "mark": 1}]
    assert version().to_dict()["deleted"] is None


@pytest.fixture(scope="module")
def store() -> PolicyStore:
    """Return a store with two policies that differ, a deletion and a tag that moved."""
    store = PolicyStore("memory://to-dict")
    for value in (1.0, math.inf):
        store.push(Snapshot(weights={"w": np.array([value])}), "a")
    store.push(Snapshot(weights={"w": np.array([3.0])}), "a")
    store.tag("a@1", "best")
    store.delete("a@2")
    return store


TOLD: dict[str, tuple[Callable[[PolicyStore], Any], dict[str, Any]]] = {
    "Mark": (lambda s: s.log("a", deleted=True)[1].deleted, {"action": "delete"}),
    "TagMove": (lambda s: s.tag_history("a", "best")[0], {"target": 1, "tag": "best"}),
    "Diff": (lambda s: s.diff("a@1", "a@3"), {"equal": False}),
    "VerifyReport": (lambda s: s.verify(), {"ok": True, "objects": 3, "faults": []}),
    "StoreStats": (lambda s: s.stats(details=True), {"versions": 3, "standing": 2}),
    "PruneReport": (
        lambda s: s.prune("a", keep_last=1, keep_tagged=False, dry_run=True),
        {"count": 1, "kept": {"3": ["the newest", "of the last 1"]}, "ranges": [[1, 1]]},
    ),
    "GarbageReport": (
        lambda s: s.collect_garbage(),
        {"dry_run": True, "grace": 7 * 86_400.0, "moved": {"count": 0, "nbytes": 0}},
    ),
    "CopyReport": (
        lambda s: s.copy_to(PolicyStore("memory://to-dict-target"), dry_run=True),
        {"versions": 3, "complete": True, "changed": True},
    ),
}


@pytest.mark.parametrize("kind", TOLD)
def test_every_report_becomes_a_dict_for_json(store: PolicyStore, kind: str) -> None:
    make, parts = TOLD[kind]
    report = make(store)

    told = report.to_dict()

    assert type(report).__name__ == kind
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert {key: told[key] for key in parts} == parts
    assert set(report.__dataclass_fields__) <= set(told)


def test_reports_with_all_their_parts_become_dicts() -> None:
    fault = Fault("names/a", "odd", "foreign")
    bad = VerifyReport("memory://x", faults=[fault]).to_dict()
    copied = CopyReport("a", "b", names={"n": NameCopy("n", [1, 2], renumbered={3: 4})}).to_dict()

    assert (bad["ok"], bad["faults"]) == (False, [fault.to_dict()])
    assert fault.to_dict() == {"key": "names/a", "problem": "odd", "kind": "foreign"}
    assert copied["names"]["n"]["copied"] == [1, 2]
    assert copied["names"]["n"]["renumbered"] == {"3": 4}
    assert copied["versions"] == 3
    assert StoreStats("memory://x").to_dict()["shared_nbytes"] is None
