"""The way from a result to the versions of its run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Result

from policystore import InvalidInputError, NotFoundError, PolicyStore
from policystore.rllib import published
from policystore.testing import make_snapshot

RUN = "soccer/PPO_Duo_79fa0_00000"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PolicyStore:
    """Two runs that push to one name, and a version that a person has pushed."""
    store = PolicyStore(tmp_path_factory.mktemp("store"))
    for iteration in (1, 2, 3):
        for run in (RUN, f"{RUN}1"):
            for name in ("main", "foe"):
                source = {"run": run, "policy": name, "iteration": iteration}
                store.push(make_snapshot(iteration), f"duo/{name}", source=source)
    store.push(make_snapshot(), "duo/main")
    return store


def shown(store: PolicyStore, run: str = RUN, **names: str) -> dict[str, Any]:
    """A training result with what ``publish`` adds to it."""
    return {
        "policystore": {
            "publish": {pid: {"name": name, "store": store.url, "run": run}
                        for pid, name in names.items()}
        }
    }  # fmt: skip


BOTH = {"main": "duo/main", "foe": "duo/foe"}


def result_of(metrics: dict[str, Any] | None) -> Result:
    return Result(metrics=metrics, checkpoint=None, error=None, path="/gone")


@pytest.mark.parametrize("form", ["a dict", "a result of Tune"])
@pytest.mark.parametrize("given", [True, False])
def test_versions_of_one_run_the_newest_first(store: PolicyStore, form: str, given: bool) -> None:
    result: Any = shown(store, **BOTH)
    if form != "a dict":
        result = result_of(result)
    versions = published(result, store=store if given else None)
    told = [(each.name, each.source["iteration"], each.source["run"]) for each in versions]
    assert told == [(f"duo/{name}", n, RUN) for n in (3, 2, 1) for name in ("foe", "main")]
    assert [each.ref for each in published(result, "main")] == [
        "duo/main@5", "duo/main@3", "duo/main@1",
    ]  # fmt: skip


def test_a_policy_that_was_not_published(store: PolicyStore) -> None:
    with pytest.raises(
        NotFoundError, match=r"no policy 'mian'.*'foe', 'main'\. Did you mean 'main'"
    ):
        published(shown(store, **BOTH), "mian")


def test_a_run_that_has_pushed_nothing_so_far(store: PolicyStore) -> None:
    assert published(shown(store, run="another", **BOTH)) == []
    assert published(shown(store, main="duo/nobody")) == []


@pytest.mark.parametrize("metrics", [None, {}, {"policystore": {"warm_start": {"main": "1"}}}])
def test_a_result_without_publish(metrics: Any) -> None:
    with pytest.raises(NotFoundError, match="expected entries of publish"):
        published(result_of(metrics))


@pytest.mark.parametrize("wrong", ["duo/main", 3, SimpleNamespace(metrics=3)])
def test_what_is_no_result(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match="published takes a result of Tune"):
        published(wrong)
