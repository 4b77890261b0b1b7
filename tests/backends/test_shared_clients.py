"""Stores of one process share a client, if they were opened with the same options."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest

from policystore import PolicyStore, Snapshot
from policystore.backends import filesystems
from policystore.backends.fsspec import FsspecBackend
from policystore.backends.options import StorageOptions
from tests.support.fsspec_clouds import Attic
from tests.support.s3_server import KEY, SECRET

Make = Callable[..., Snapshot]
Open = Callable[..., Any]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Return a function that opens a filesystem as a store with the given options does."""
    fsspec.register_implementation("attic", Attic, clobber=True)

    def open_filesystem(url: str = "attic://shelf", **options: Any) -> Any:
        backend = FsspecBackend(url, StorageOptions(options))
        return backend._filesystem()

    yield open_filesystem
    filesystems._KEPT.clear()


def test_stores_out_of_pickles_use_one_client(
    s3_endpoint: str, s3_bucket: str, make_snapshot: Make
) -> None:
    options = {"endpoint_url": s3_endpoint}
    store = PolicyStore(f"s3://{s3_bucket}/p", storage_options=options, cache=False)
    store.push(make_snapshot(), "a")
    data, used = pickle.dumps(store), set()
    for _ in range(5):
        other = pickle.loads(data)
        assert other.pull("a") == make_snapshot()
        used.add(id(other._backend._filesystem()))
        del other
    assert used == {id(store._backend._filesystem())}  # type: ignore[attr-defined]
    assert [each.name for each in threading.enumerate()].count("fsspecIO") == 1
    another = PolicyStore(f"s3://{s3_bucket}/q", storage_options=options, cache=False)
    assert another.names() == []  # the prefix belongs to the store
    assert another._backend._filesystem() is store._backend._filesystem()  # type: ignore[attr-defined]


def test_threads_that_open_stores_at_the_same_time_make_one_client(opened: Open) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(map(id, pool.map(lambda _: opened(), range(64))))) == 1


def test_one_store_whose_options_cannot_be_compared_has_one_client(opened: Open) -> None:
    backend = FsspecBackend("attic://shelf", StorageOptions({"session": object()}))
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: backend._filesystem(), range(64)))
    assert len(set(map(id, found))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"key": "a"}, {"key": "b"}),
        ({"secret": SECRET}, {"secret": SECRET[:-1]}),
        ({"key": "a"}, {"secret": "a"}),
        ({"flag": True}, {"flag": 1}),
        ({"flag": 1}, {"flag": 1.0}),
        ({"flag": "None"}, {"flag": None}),
        ({"text": b"a"}, {"text": "a"}),
        ({"list": [1, 2]}, {"list": (1, 2)}),
        ({"list": ["a, b"]}, {"list": ["a", "b"]}),
        ({"client_kwargs": {"region_name": "a"}}, {"client_kwargs": {"region_name": "b"}}),
        ({"client_kwargs": {}}, {"config_kwargs": {}}),
        ({}, {"key": None}),
        ({"session": "x"}, {"session": object()}),
    ],
)
def test_stores_with_other_options_use_other_clients(
    one: dict[str, Any], other: dict[str, Any], opened: Open
) -> None:
    first, second = opened(**one), opened(**other)
    assert first is not second
    assert opened(**one) is first


def test_the_order_of_options_makes_no_difference(opened: Open) -> None:
    assert opened(a={"x": 1, "y": 2}, b=3) is opened(b=3, a={"y": 2, "x": 1})


def test_options_that_cannot_be_compared_are_not_shared(opened: Open) -> None:
    session = object()
    assert opened(session=session) is not opened(session=session)
    nested = {"config": [{"session": session}]}
    assert opened(**nested) is not opened(**nested)


def test_other_surroundings_mean_another_client(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [opened()]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    found.append(opened())
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    found.append(opened())
    credentials.write_text("[default]")
    found.append(opened())
    credentials.write_text("[default]\naws_access_key_id = a")
    found.append(opened())
    monkeypatch.setitem(fsspec.config.conf, "attic", {"default": 1})
    found.append(opened())
    assert len(set(map(id, found))) == len(found)
    assert opened() is found[-1]


def test_variables_that_a_cloud_does_not_read_make_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = list(filesystems.environment(all_variables=False))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert list(filesystems.environment(all_variables=False)) == before
    assert list(filesystems.environment(all_variables=True)) != before
    monkeypatch.setenv("https_proxy", "http://proxy")
    assert list(filesystems.environment(all_variables=False)) != before


def test_few_clients_stay_open_and_those_in_use_stay_open(opened: Open) -> None:
    backend = FsspecBackend("attic://shelf", StorageOptions({"number": -1}))
    kept = backend._filesystem()
    some = [weakref.ref(opened(number=number)) for number in range(40)]
    gc.collect()
    assert sum(each() is not None for each in some) == filesystems._MOST_KEPT
    assert some[-1]() is opened(number=39)
    assert opened(number=-1) is kept  # not made again, because a store uses it


def test_a_store_that_is_deleted_does_not_close_the_client_of_another(
    s3_endpoint: str, s3_bucket: str, make_snapshot: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "_MOST_KEPT", 0)
    options = {"endpoint_url": s3_endpoint}
    one, other = (
        PolicyStore(f"s3://{s3_bucket}/p", storage_options=options, cache=False) for _ in range(2)
    )
    one.push(make_snapshot(), "a")
    assert other.pull("a") == make_snapshot()
    del one
    gc.collect()
    assert other.pull("a") == make_snapshot()


def test_secrets_are_in_no_key_of_a_client(opened: Open) -> None:
    opened(key=KEY, secret=SECRET, token={"private_key": "HIDDEN"})
    shown = repr(list(filesystems._KEPT)) + repr(list(filesystems._USED))
    assert not [word for word in (KEY, SECRET, "HIDDEN", *os.environ.values()) if
                len(word) > 8 and word in shown]  # fmt: skip
