"""A prefix that no name begins with: the list is empty, and a warning names near ones."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from policystore import PolicyStore, Snapshot
from policystore._util import log

SNAP = Snapshot(weights={"w": np.zeros(1)})


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> PolicyStore:
    monkeypatch.setattr(log, "_REMEMBERED", set())
    store = PolicyStore(f"memory://{secrets.token_hex(8)}")
    for name in ("soccer/main", "soccer/foe", "duo"):
        store.push(SNAP, name)
    return store


TYPOS = {
    "socer/": "Did you mean 'soccer/",
    "soccer/mian": "Did you mean 'soccer/main'?",
    "/soccer": "A name has segments of ASCII letters",
    "zzz": "The names are: duo, soccer/",
    "a b": "A name has segments",
    "socer/main/": "Did you mean 'soccer/main'?",
}


@pytest.mark.parametrize("prefix", TYPOS)
def test_a_prefix_without_names_is_warned_of_once(
    store: PolicyStore, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.names(prefix) == store.names(prefix) == []

    (entry,) = caplog.records
    assert f"no name in {store.url} starts with {prefix!r}" in entry.getMessage()
    assert TYPOS[prefix] in entry.getMessage()


def test_a_star_that_finds_nothing_is_explained(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert list(store.versions("d*/main")) == list(store.versions("x/**")) == []
    star, stars = (entry.getMessage() for entry in caplog.records)
    assert "'d*/main'. A * stays within one segment; ** stands for any number of seg" in star
    assert "stays within" not in stars


def test_deleted_names_are_not_suggested(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.push(SNAP, "rugby/main")
    store.push(SNAP, "duo/extra")
    for name in ("soccer/foe", "rugby/main", "duo"):
        store.delete_name(name)

    assert list(store.versions("rugby/**")) == store.names("socer/") == store.names("zzz") == []

    deleted, near, far = (entry.getMessage() for entry in caplog.records)
    assert "no name" in deleted
    assert "rugby" not in deleted.replace("'rugby/**'", "")
    assert near.endswith("Did you mean 'soccer/main'?")
    assert far.endswith("The names are: duo/extra, soccer/main")


def test_prefixes_with_names_and_the_empty_one_are_not_warned_of(
    store: PolicyStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert store.names("soc") == ["soccer/foe", "soccer/main"]
    assert len(store.names()) == 3
    assert PolicyStore("memory://empty-of-names").names() == []
    assert caplog.records == []
