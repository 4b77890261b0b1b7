"""Copies of a training that goes on from an earlier iteration, or begins anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStore, StorageError
from policystore.rllib.callbacks import upload_queue
from policystore.rllib.callbacks.upload_history import Copy
from tests.support.upload_faults import FOREVER, Faulty, best, copy, iterations, until, uploader_to


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_queue, "_FIRST_PAUSE", 0.001)


@pytest.fixture
def store(tmp_path: Path) -> PolicyStore:
    return PolicyStore(tmp_path / "store")


def trained(
    store: PolicyStore, *copies: Copy, restored: int | None = None, **given: Any
) -> dict[str, Any]:
    """A process that hands over copies and ends; what it said of them last."""
    uploader = uploader_to(store, **{"max_pending": 200, **given})
    if restored is not None:
        uploader.restored(restored)
    for each in copies:
        uploader.put(each)
    assert uploader.finish(FOREVER) == []
    return uploader.status()["main"]


def test_nothing_is_pushed_twice(store: PolicyStore) -> None:
    """A trial that was at iteration 4 and goes on from its checkpoint of iteration 2."""
    trained(store, *(copy(n, float(n)) for n in (1, 2, 3, 4)))
    trained(store, *(copy(n, 0.0, run="other") for n in (3, 4, 5)))
    values = {3: 2.5, 4: 3.5, 5: 1.0, 6: 8.0}
    anew = [copy(n, value, seed=100 + n) for n, value in values.items()]  # other weights
    status = trained(store, *anew, restored=2)
    assert iterations(store) == [1, 2, 3, 4, 3, 4, 5, 5, 6]
    assert best(store) == 8.0
    assert status["pushed"] == 9


def test_what_came_out_better_is_pushed(store: PolicyStore) -> None:
    trained(store, *(copy(n, float(n)) for n in (1, 2, 3)))
    trained(store, copy(2, 7.0, seed=50), copy(3, 3.0), restored=1)  # the latter the very same
    assert iterations(store) == [1, 2, 3, 2]
    assert best(store) == 7.0


def test_without_a_best_nothing_comes_out_better(store: PolicyStore) -> None:
    """There is a metric to keep, and no tag."""
    trained(store, *(copy(n, float(n)) for n in (1, 2, 3)), metric=None)
    trained(store, copy(2, 7.0, seed=50), copy(3, 9.0, seed=51), restored=1, metric=None)
    assert iterations(store) == [1, 2, 3]
    assert store.tags("a") == {}


def test_a_run_that_begins_anew_pushes_nothing_twice(store: PolicyStore) -> None:
    """It crashed before its first checkpoint; others have pushed under this name as well."""
    trained(store, *(copy(n, run="other") for n in (1, 2, 3)))
    trained(store, *(copy(n) for n in (1, 2)))
    trained(store, *(copy(n, run="other") for n in (4, 5, 6)))
    status = trained(store, *(copy(n, seed=50 + n) for n in (1, 2, 3)), resumes=True)
    assert iterations(store) == [1, 2, 3, 1, 2, 4, 5, 6, 3]
    assert status["pushed"] == 9
    status = trained(store, copy(2, seed=70), resumes=True)
    assert status["pushed"] == 5  # what stands of it
    status = trained(store, copy(4), copy(2, seed=70), resumes=True)
    assert status["pushed"] == 10


def test_the_best_survives_a_restart(store: PolicyStore) -> None:
    trained(store, copy(1, 9.0))
    trained(store, copy(2, 4.0))
    assert best(store) == 9.0


@pytest.mark.parametrize("restored", [1, 3])
@pytest.mark.parametrize("lowest", [False, True])
def test_a_process_that_ended_before_the_tag(
    store: PolicyStore, restored: int, lowest: bool
) -> None:
    """One of the versions that it pushed is the best, and nobody has tagged it yet."""
    sign = -1.0 if lowest else 1.0
    values = (1.0, 9.0, 5.0) if restored == 1 else (1.0, 5.0, 9.0)
    trained(store, copy(1, sign), lowest=lowest)
    trained(store, *(copy(n, sign * values[n - 1]) for n in (2, 3)), metric=None)
    assert best(store) == sign
    trained(store, copy(4, 4 * sign), restored=restored, lowest=lowest)
    assert iterations(store) == [1, 2, 3, 4]
    assert best(store) == 9 * sign


def test_a_tag_that_failed_is_made_up_for(store: PolicyStore) -> None:
    trained(store, copy(1, 1.0))
    faulty = Faulty(store)
    faulty.fail = lambda call, key: StorageError("away") if "@tags" in key else None
    uploader = uploader_to(store)
    uploader.put(copy(2, 9.0))
    until(lambda: not uploader.waiting())
    faulty.fail = lambda call, key: None
    uploader.put(copy(3, 5.0))
    (lost,) = uploader.finish(FOREVER)
    assert "iteration 2" in lost
    assert iterations(store) == [1, 2, 3]
    assert best(store) == 9.0


def test_the_log_is_read_back_only_as_far_as_needed(store: PolicyStore) -> None:
    trained(store, *(copy(n, run="long ago") for n in range(1, 151)))
    trained(store, *(copy(n) for n in range(1, 41)))
    faulty = Faulty(store)

    def read() -> int:
        found = {key for call, key in faulty.calls if call == "get" and "@versions" in key}
        faulty.calls.clear()
        return len(found)

    trained(store, *(copy(n, seed=500) for n in (39, 40, 41)), restored=38)
    assert 3 < read() < 40
    assert [version.metrics["iteration"] for version in store.log("a", limit=3)] == [41, 40, 39]
    faulty.calls.clear()
    trained(store, copy(1, run="a third"))
    assert read() < 4
    trained(store, copy(1, run="a fourth"), resumes=True)
    assert read() < 140
    faulty.after = lambda call, key: _once(faulty) if "@versions" in key else None
    trained(store, copy(1, run="a fifth"))
    assert read() < 10
    assert len(store.log("a")) == 194


def _once(faulty: Faulty) -> StorageError | None:
    if faulty.calls[-1][0] != "create":
        return None
    faulty.after = lambda call, key: None
    return StorageError("connection reset")


def test_a_restore_while_a_push_is_under_way(store: PolicyStore) -> None:
    trained(store, copy(5, 5.0), copy(6, 6.0), copy(7, 7.0))
    faulty = Faulty(store)
    uploader = uploader_to(store)
    faulty.gate.clear()
    uploader.put(copy(8, 1.0))
    until(lambda: faulty.calls)
    uploader.restored(5)
    faulty.gate.set()
    uploader.put(copy(6, 2.0, seed=50))
    uploader.put(copy(7, 2.0, seed=51))
    assert uploader.finish(FOREVER) == []
    assert iterations(store) == [5, 6, 7, 8]
