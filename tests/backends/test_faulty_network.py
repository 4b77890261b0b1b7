"""Calls of a store behind a network with faults of every kind: right results or typed errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from policystore import PolicyStore, Snapshot, StorageError
from policystore.backends import fsspec
from tests.support.fault_proxy import FAULTS, LIST_FAULTS, NOT_APPLIED, Fault, FaultProxy
from tests.support.s3_server import client

Make = Callable[..., Snapshot]

SHORT = {"read_timeout": 0.3, "connect_timeout": 2}  # seconds


@pytest.fixture(autouse=True)
def _pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        fsspec, "_FIRST_PAUSE", 0.01
    )  # together longer than connections are refused


@pytest.fixture
def faulty(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def remote(faulty: FaultProxy, s3_bucket: str) -> PolicyStore:
    return open_remote(faulty, s3_bucket)


def open_remote(faulty: FaultProxy, bucket: str) -> PolicyStore:
    options = {"endpoint_url": faulty.endpoint, "config_kwargs": SHORT}
    return PolicyStore(f"s3://{bucket}/p", storage_options=options, cache=False)


def stored_numbers(endpoint: str, bucket: str, name: str) -> list[int]:
    listed = client(endpoint).list_objects_v2(Bucket=bucket, Prefix=f"p/names/{name}/@versions/")
    return [int(entry["Key"][-15:-5]) for entry in listed.get("Contents", ())]


PASSING = [kind for kind in FAULTS if kind not in LIST_FAULTS]


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_of_each_request_of_a_push_makes_one_version(
    kind: Fault, remote: PolicyStore, faulty: FaultProxy, s3_bucket: str, s3_endpoint: str,
    make_snapshot: Make,
) -> None:  # fmt: skip
    rules = [
        faulty.script(kind, method="PUT", path=path)
        for path in ("policystore.json", "objects/", "@versions/", "@hint")
    ]
    reads = faulty.script(kind, method="GET", path="@versions/")
    remote.push(make_snapshot(1), "a")
    version = remote.push(make_snapshot(2), "a")
    assert version.number == 2
    assert [rule.made for rule in (*rules, reads)] == [1] * 5
    assert faulty.faults[kind] >= 5
    assert remote.pull("a") == make_snapshot(2)
    assert stored_numbers(s3_endpoint, s3_bucket, "a") == [1, 2]
    assert remote.verify().ok


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_never_ends_is_a_storage_error_and_nothing_is_half_visible(
    kind: Fault, remote: PolicyStore, faulty: FaultProxy, s3_bucket: str, s3_endpoint: str,
    make_snapshot: Make,
) -> None:  # fmt: skip
    remote.push(make_snapshot(1), "a")
    rule = faulty.script(kind, method="PUT", path="@versions/", times=-1)
    if kind == "delay":
        assert remote.push(make_snapshot(2), "a").number == 2
        return
    with pytest.raises(StorageError, match="may or may not have been applied"):
        remote.push(make_snapshot(2), "a")
    assert rule.made >= (1 if kind == "refuse" else 6)
    faulty.calm()
    applied = kind not in NOT_APPLIED
    assert stored_numbers(s3_endpoint, s3_bucket, "a") == ([1, 2] if applied else [1])
    assert remote.pull("a") == make_snapshot(2 if applied else 1)
    assert remote.verify().ok
