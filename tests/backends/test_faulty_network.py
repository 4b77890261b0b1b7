"""Calls of a store behind a network with faults of every kind: right results or typed errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from policystore import PolicyStore, Snapshot, StorageError
from policystore.backends import fsspec
from tests.support.cells import sampled
from tests.support.fault_proxy import FAULTS, LIST_FAULTS, NOT_APPLIED, Fault, FaultProxy
from tests.support.s3_server import client

Make = Callable[..., Snapshot]

SHORT = {"read_timeout": 0.3, "connect_timeout": 2}  # seconds


@pytest.fixture(autouse=True)
def _pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    # Together longer than connections are refused.
    monkeypatch.setattr(fsspec, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(fsspec, "_LONGEST_PAUSE", 1.0)


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


@pytest.mark.parametrize("kind", sampled(PASSING, "lose-answer"))
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
    assert remote.push(make_snapshot(2), "a").number == 2
    assert [rule.made for rule in (*rules, reads)] == [1] * 5
    assert faulty.faults[kind] >= 5
    assert remote.pull("a") == make_snapshot(2)
    assert stored_numbers(s3_endpoint, s3_bucket, "a") == [1, 2]
    assert remote.verify().ok


@pytest.mark.parametrize("kind", sampled(PASSING))
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


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2))
def test_calls_with_faults_at_random(
    seed: int, remote: PolicyStore, faulty: FaultProxy, s3_bucket: str, s3_endpoint: str,
    make_snapshot: Make,
) -> None:  # fmt: skip
    """Compare calls with faults at random, in two threads, with a store without faults.

    A call gives the right result, or a StorageError. A version whose push returned is never lost,
    and stands once. A push that raised an error stands once or not at all.
    """
    calm = PolicyStore(remote.url, storage_options={"endpoint_url": s3_endpoint}, cache=False)
    calm.push(make_snapshot(0), "a", message="first")
    faulty.plan(seed, 0.25, PASSING)
    acknowledged: set[str] = {"first"}
    raised: list[str] = []

    def work(thread: int) -> None:
        store = open_remote(faulty, s3_bucket)
        for step in range(5):
            message = f"{thread}-{step}"
            snap = make_snapshot(10 * thread + step, large=step == 3)
            try:
                version = store.push(snap, "a", message=message)
                acknowledged.add(message)
                assert store.pull(version) == snap
                assert store.resolve(f"a@{version.number}") == snap.digest
                store.tag(f"a@{version.number}", f"t{thread}")
                assert store.tags("a")[f"t{thread}"].number == version.number
                assert message in [each.message for each in store.log("a")]
            except StorageError as error:
                raised.append(str(error))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    faults = sum(faulty.faults.values())
    faulty.calm()
    versions = calm.log("a")
    messages = [version.message for version in versions]
    assert faults > 10
    assert len(raised) < 10, raised
    assert len(set(messages)) == len(messages)
    assert acknowledged <= set(messages)
    assert sorted(v.number or 0 for v in versions) == list(range(1, len(versions) + 1))
    for version in versions:
        assert calm.pull(version).digest == version.digest
    assert calm.verify().ok


@pytest.mark.parametrize("kind", sampled(["shuffle-list", "repeat-list"], "shuffle-list"))
def test_untidy_listings_change_no_result(
    kind: Fault, remote: PolicyStore, faulty: FaultProxy, make_snapshot: Make
) -> None:
    for seed in range(4):
        remote.push(make_snapshot(seed), f"team/n{seed % 2}")
    remote.tag("team/n0@1", "t")
    rule = faulty.script(kind, method="GET", path="list-type=2", times=-1)
    assert remote.names() == ["team/n0", "team/n1"]
    assert list(remote.tags("team/n0")) == ["t"]
    report = remote.verify()
    assert (report.ok, report.versions, report.objects) == (True, 4, 4)
    assert rule.made >= 4  # two for the names, one for the tags, one for verify


@pytest.mark.long
def test_a_stale_listing_hides_a_name_and_loses_nothing(
    remote: PolicyStore, faulty: FaultProxy, make_snapshot: Make
) -> None:
    remote.push(make_snapshot(0), "a")
    assert remote.names() == ["a"]
    remote.push(make_snapshot(1), "b")
    rule = faulty.script("stale-list", path="list-type=2", times=-1)
    assert remote.names() == ["a"]
    assert remote.pull("b") == make_snapshot(1)
    assert remote.push(make_snapshot(2), "b").number == 2
    assert rule.made
    faulty.calm()
    assert remote.names() == ["a", "b"]
    assert remote.verify().ok
