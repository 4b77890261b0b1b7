"""A push of NaN or infinite numbers is allowed, recorded, shown and warned of once."""

from __future__ import annotations

import json
import math
import secrets
from typing import Any

import numpy as np
import pytest

from policystore import FormatError, PolicyStore, Snapshot, Version, VersionList
from policystore._util import log
from policystore.format.keys import version_key

BAD = Snapshot(weights={"pi.bias": np.array([1.0, math.nan]), "pi.weight": np.ones(3)})
GOOD = Snapshot(weights={"pi.bias": np.array([1.0, 2.0])})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PolicyStore:
    monkeypatch.setattr(log, "_REMEMBERED", set())
    return PolicyStore(f"memory://{secrets.token_hex(8)}")


def record(store: PolicyStore, number: int) -> dict[str, Any]:
    return json.loads(bytes(store._backend.get(version_key("a", number))))  # type: ignore[no-any-return]


def test_the_record_names_what_is_not_finite(store: PolicyStore) -> None:
    version = store.push(BAD, "a", metrics={"loss": math.inf, "return": 1.0})

    assert version.nonfinite == ("weights.pi.bias", "metrics.loss")
    assert store.log("a")[0] == version
    assert record(store, 1)["nonfinite"] == ["weights.pi.bias", "metrics.loss"]
    assert store.verify().ok
    assert "NaN or infinite: weights, metrics" in str(version)
    assert "NaN or infinite: weights, metrics" in str(store.log("a"))
    assert "NaN or infinite: weights, metrics" in store.log("a")._repr_html_()
    assert "NaN or infinite: weights, metrics" in version._repr_html_()
    assert version.to_dict()["nonfinite"] == ["weights.pi.bias", "metrics.loss"]
    assert store.log("a").to_records()[0]["nonfinite"] == ["weights.pi.bias", "metrics.loss"]


def test_a_record_of_finite_numbers_has_no_such_field(store: PolicyStore) -> None:
    version = store.push(GOOD, "a", metrics={"return": 1.0})

    assert version.nonfinite == ()
    assert "nonfinite" not in record(store, 1)
    assert "infinite" not in str(store.log("a"))


def test_a_name_is_warned_of_once(store: PolicyStore, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        store.push(BAD, "a")
    store.push(GOOD, "b")
    store.push(BAD)

    said = [entry.getMessage() for entry in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("a@1 was pushed to memory://")
    assert (
        "NaN or infinite numbers in weights.pi.bias. The record of the version says so" in said[0]
    )
    assert said[1].startswith(str(BAD.digest))


def test_a_failed_push_warns_of_nothing(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="message"):
        store.push(BAD, "a", message="x" * 5_000)
    assert caplog.records == []


def test_searches_find_such_versions(store: PolicyStore) -> None:
    store.push(BAD, "a", metrics={"loss": math.nan})
    store.push(GOOD, "a", metrics={"loss": math.nan})
    store.push(GOOD, "a")

    def numbers(where: str) -> list[int | None]:
        return [version.number for version in store.versions("a", where=where)]

    assert numbers("nonfinite != null") == [2, 1]
    assert numbers("nonfinite == 'weights'") == [1]
    assert numbers("nonfinite contains 'metrics'") == [2, 1]
    assert numbers("not nonfinite != null") == [3]


def test_copies_keep_the_flag_also_under_another_number(store: PolicyStore) -> None:
    store.push(BAD, "a")
    same, other = (PolicyStore(f"memory://{secrets.token_hex(8)}") for _ in range(2))
    other.push(GOOD, "a")

    store.copy_to(same)
    store.copy_to(other)

    assert same.log("a") == store.log("a")
    assert [version.nonfinite for version in other.log("a")] == [("weights.pi.bias",), ()]


@pytest.mark.parametrize(
    "value",
    [[], ["weights.a"] * 13, ["weights." + "x" * 100], ["spec.a"], [3], "weights.a", {}, None],
)
def test_a_forged_flag_is_refused(store: PolicyStore, value: Any) -> None:
    store.push(BAD, "a")
    document = record(store, 1)
    document["nonfinite"] = value
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    with pytest.raises(FormatError, match="malformed version record"):
        Version.from_bytes(data, "it")


def test_a_hostile_name_is_shown_printable(store: PolicyStore) -> None:
    store.push(Snapshot(weights={"\x1b[2J": np.array([math.nan])}), "a")

    shown = str(store.log("a")[0]) + str(VersionList(store.log("a")))
    assert "\x1b" not in shown
