"""What notebooks show of records, policies and reports, with hostile texts in all of them."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from policystore import Fault, PolicyStore, Snapshot, Spec, VerifyReport
from policystore.format.spec_fields import DEFAULTS
from tests.support.html_page import HOSTILE, SHOWN, Page

SPEC = Spec(
    algorithm=HOSTILE,
    cls=f"module:{HOSTILE}",
    config={HOSTILE: HOSTILE, "model": {"fcnet_hiddens": [4, 4]}},
    connectors={HOSTILE: [{"name": HOSTILE}]},
    acting=["w/1"],
    omitted={HOSTILE: HOSTILE},
    observation_space={"space": HOSTILE},
)


@pytest.fixture(scope="module")
def store() -> PolicyStore:
    """Return a store with three versions of one name, and a name whose record is damaged."""
    store = PolicyStore("memory://shown")
    for number in range(3):
        weights = {"w/1": np.full((2, 3), number, np.float32), HOSTILE: np.zeros(2, np.float32)}
        snap = Snapshot(weights=weights, spec=SPEC, state={HOSTILE: {"count": 3}})
        store.push(
            snap, "a/b", message=HOSTILE, author=HOSTILE, metrics={HOSTILE: HOSTILE, "n": number}
        )
    store.tag("a/b@2", "best")
    store.push(Snapshot(weights={}), "broken")
    store._backend.delete("names/broken/@versions/0000000001.json")
    return store


def shown(value: Any) -> Page:
    page = Page(value._repr_html_())
    assert page.has_only_harmless_elements()
    return page


def test_a_store(store: PolicyStore):
    page = shown(store)

    assert "a/b@3" in page.texts
    assert "best @2" in page.texts
    assert any("broken" in text for text in page.texts)
    assert SHOWN[:27] in "".join(page.texts)


def test_a_store_that_cannot_be_read_says_why():
    page = shown(PolicyStore("memory://shown-none", read_only=True))

    assert "no policies under a name yet" in page.texts


def test_a_log_names_each_version_once(store: PolicyStore):
    page = shown(store.log("a/b"))

    assert page.texts.count("a/b@3") == 1
    assert len(store.log("a/b")._repr_html_()) < 20_000


def test_a_log_marks_the_highest_value_of_a_metric_of_which_more_is_better():
    store = PolicyStore("memory://shown-marks")
    for step in (1, 2):
        snap = Snapshot(weights={"w": np.array([step], np.float32)})
        store.push(snap, "a/b", metrics={"return": 2.0 * step, "lr": 0.1 * step})

    page = shown(store.log("a/b"))

    titles = [value for key, value in page.attributes if key == "title" and "highest" in value]
    assert titles == ["marked: the highest return of this list, where more is better"]


def test_a_version(store: PolicyStore):
    page = shown(store.log("a/b")[0])

    assert SHOWN in page.texts
    assert str(store.resolve("a/b")) in page.texts


def test_a_snapshot_and_a_spec(store: PolicyStore):
    snap = store.pull("a/b")

    for page in (shown(snap), shown(snap.spec)):
        assert SHOWN in page.texts
        assert "1 of the tensors" in page.texts
    assert "only for training" in shown(snap).texts
    assert f"state: {SHOWN} (3 observations)" in shown(snap).texts
    assert "1 of the tensors" in str(snap)
    assert all(line.isprintable() for line in str(snap).splitlines())


def test_every_field_of_a_spec_is_shown_or_is_known_to_be_left_out():
    words = str(SPEC.replace(normalize_actions=True, clip_actions=False, weights="inference-only"))

    assert set(DEFAULTS) == {
        "stack", "algorithm", "class", "observation_space", "action_space",
        "env_observation_space", "env_action_space", "config", "weights", "acting",
        "normalize_actions", "clip_actions", "connectors", "modules", "left_out",
    }, "a new field: show it in display/policy.py"  # fmt: skip
    for name in ("API stack", "settings", "connectors", "left out", "actions are clipped"):
        assert name in words


def test_a_diff_has_a_bar_for_each_changed_tensor(store: PolicyStore):
    diff = store.diff("a/b@2", "a/b@3")

    page = shown(diff)

    assert page.tags.count("span") == 1
    assert "1 tensors are equal" in page.texts
    assert diff.summary == "1 of 2 tensors changed, by a relative norm of at most 1"
    assert shown(store.diff("a/b@2", "a/b@2")).texts[0].endswith("equal, bit for bit")


def test_a_diff_counts_what_cannot_be_compared(store: PolicyStore):
    other = Snapshot(weights={"w/1": np.zeros((3, 2), np.float32)}, spec=SPEC)

    summary = store.diff("a/b@1", other).summary

    assert summary == ("1 of 2 tensors shape differs, 1 of 2 tensors only in a, 1 field differs")


def test_a_report_of_verify():
    faults = [Fault(HOSTILE, HOSTILE, "damaged") for _ in range(100)]

    page = shown(VerifyReport(HOSTILE, faults=faults, repaired=faults[:2], uncompared=3))

    assert SHOWN in page.texts
    assert "and 42 more" in page.texts


def test_a_list_of_many_versions_is_cut(store: PolicyStore):
    versions = store.log("a/b")
    versions.extend(versions * 40)

    assert f"and {len(versions) - 50} versions more" in shown(versions).texts


def test_a_version_of_the_future_has_no_negative_age(store: PolicyStore):
    version = store.log("a/b")[0]
    ahead = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=2)
    object.__setattr__(version, "time", ahead)

    assert any("(0s ago)" in text for text in shown(version).texts)
