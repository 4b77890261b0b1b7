"""Small files made to cost much, or to be taken for what they are not: a typed error, in bounds."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest

from policystore import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStore,
    PolicyStoreError,
    Snapshot,
    Spec,
    StorageError,
)
from policystore.format.values import Tagged

Make = Callable[..., Snapshot]


def file_of(
    meta: dict[str, Any], entries: dict[str, Any] | None = None, data: bytes = b""
) -> bytes:
    """A file with a header in canonical form, whatever stands in it."""
    text = json.dumps(meta, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    header = {"__metadata__": {"policystore": text}, **(entries or {})}
    raw = json.dumps(header, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + data


def policy(spec: dict[str, Any], **more: Any) -> bytes:
    return file_of({"format": 1, "kind": "policy", "spec": spec, **more})


def tuples(count: int) -> list[Any]:
    """Keys that are different and have one hash, in the order of their texts."""
    made = []
    for number in range(count):
        bits = [-1 - ((number >> bit) & 1) for bit in range(14)]
        made.append([{"~tuple": bits}, 0])
    return sorted(made, key=lambda pair: json.dumps(pair[0], separators=(",", ":")))


# Each of these took from seconds to minutes, or gigabytes, when only the obvious was checked.
COSTLY: dict[str, Callable[[], bytes]] = {
    "a long key over a long list": lambda: policy({"config": {"A" * 500_000: [0] * 500_000}}),
    "the same in the state": lambda: policy({}, state={"A" * 500_000: [0] * 500_000}),
    "a shape of very many dimensions": lambda: policy(
        {"config": {"x": {"~array": {"dtype": "U8", "shape": [2**62] * 90_000, "data": ""}}}}
    ),
    "keys that share a hash": lambda: policy({"config": {"~map": tuples(16_000)}}),
    "specs in specs": lambda: policy(
        {"modules": {"a": {"modules": {"a": {"modules": {"a": {"config": {"x": [0] * 90_000}}}}}}}}
    ),
    "very many empty objects": lambda: policy({"config": {"x": [{}] * 650_000}, "stack": "x"}),
    "one integer of a million digits": lambda: policy({"config": {"x": 1}}).replace(
        b'{\\"x\\":1}', b'{\\"x\\":' + b"1" * 1_000_000 + b"}"
    ),
    "an empty tensor of exabytes": lambda: file_of(
        {"format": 1, "kind": "policy", "spec": {}},
        {"w": {"data_offsets": [0, 0], "dtype": "F64", "shape": [0, 2**62, 2**62]}},
    ),
    "very many dimensions of nothing": lambda: file_of(
        {"format": 1, "kind": "policy", "spec": {}},
        {"w": {"data_offsets": [0, 0], "dtype": "F64", "shape": [0] * 60}},
    ),
}


@pytest.mark.parametrize("case", COSTLY)
def test_small_files_cost_little_and_are_refused(case: str, tmp_path: Path) -> None:
    """In a process with 1.5 GiB and a minute, which it does not need a tenth of."""
    file = tmp_path / "evil"
    file.write_bytes(COSTLY[case]())
    program = (
        "import resource, sys, policystore\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))\n"
        "try: print(policystore.Snapshot.load(sys.argv[1]))\n"
        "except policystore.FormatError as error: print('refused', len(str(error)) < 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if case.startswith(("a long key", "the same")):
        assert done.stdout.startswith("<Snapshot")  # a silly policy, but one
    else:
        assert done.stdout.split() == ["refused", "True"]


SAME_BUT_OTHERWISE_WRITTEN: dict[str, dict[str, Any]] = {
    "a map of plain strings": {"config": {"x": {"~map": [["a", 1]]}}},
    "a map out of order": {"config": {"x": {"~map": [[2, 1], [1, 1]]}}},
    "pairs as texts": {"config": {"x": {"~map": ["ab", "cd"]}}},
    "a shape as an object": {
        "config": {"x": {"~array": {"dtype": "U8", "shape": {}, "data": "00"}}}
    },
    "config is a tuple": {"config": {"~tuple": []}},
    "config is a class": {"config": {"~import": "a:b"}},
    "connectors are an array": {
        "connectors": {"~array": {"dtype": "U8", "shape": [], "data": "00"}}
    },
    "a key of bytes": {"config": {"x": {"~map": [[{"~bytes": "00"}, 1]]}}},
    "a key of a class": {"config": {"x": {"~map": [[{"~import": "a:b"}, 1]]}}},
    "a key that is NaN": {"config": {"x": {"~map": [[{"~float": "nan"}, 1]]}}},
    "a boolean of two": {"config": {"x": {"~array": {"dtype": "BOOL", "shape": [], "data": "02"}}}},
}


@pytest.mark.parametrize("case", SAME_BUT_OTHERWISE_WRITTEN)
def test_no_policy_has_two_texts(case: str) -> None:
    with pytest.raises(FormatError):
        Snapshot.from_bytes(policy(SAME_BUT_OTHERWISE_WRITTEN[case]))


def test_state_that_is_no_dict_is_refused() -> None:
    for state in ({"~tuple": []}, {"~import": "a:b"}, {"~map": [["a", 1]]}):
        with pytest.raises(FormatError):
            Snapshot.from_bytes(policy({}, state=state))


def test_booleans_are_zero_or_one_on_both_sides() -> None:
    odd = np.frombuffer(b"\x02\x00\xff", np.bool_)
    snap = Snapshot(weights={"w": odd})
    assert snap.weights["w"].tobytes() == b"\x01\x00\x01"
    assert snap == Snapshot(weights={"w": np.array([True, False, True])})
    data = b"".join(snap.encode(inline=True).policy.chunks)
    with pytest.raises(FormatError, match="booleans"):
        Snapshot.from_bytes(data[:-1] + b"\x02")


def test_acting_names_weights_and_not_the_arrays_of_the_state() -> None:
    data = file_of(
        {"format": 1, "kind": "policy", "spec": {"acting": ["__state__/0"]},
         "state": {"f": {"~array": 0}}},
        {"__state__/0": {"data_offsets": [0, 1], "dtype": "U8", "shape": [1]}},
        b"\x00",
    )  # fmt: skip
    with pytest.raises(FormatError, match="acting"):
        Snapshot.from_bytes(data)


def test_what_is_handed_out_cannot_change_the_snapshot() -> None:
    space = {"type": "Box", "n": [1]}
    snap = Snapshot(weights={"w": np.ones(6)}, state={"a": np.ones(4), "s": Tagged("space", space)})
    before = snap.digest
    for array in (snap.weights["w"], snap.state["a"], snap.state_arrays["__state__/0"]):
        array.shape = (2, -1)
        array.dtype = np.int64
    space["n"].append(2)
    snap.state["s"].value["n"].append(3)
    for name in ("digest", "weights", "_weights", "other"):
        with pytest.raises(AttributeError):
            setattr(snap, name, 1)
    assert snap.encode().policy.digest == before
    assert snap.weights["w"].shape == (6,)
    data = bytearray(b"".join(snap.encode(inline=True).policy.chunks))
    again = Snapshot.from_bytes(memoryview(data).toreadonly())
    data[-8:] = bytes(8)
    assert again.encode().policy.digest == before


def test_text_is_text_whatever_its_class() -> None:
    snap = Snapshot(weights={np.str_("w"): np.ones(1)})
    assert snap == Snapshot(weights={"w": np.ones(1)})
    assert type(next(iter(snap.weights))) is str


@pytest.mark.parametrize(
    "state",
    [{"n": 2**63}, {"t": "\ud800"}, {"k": {float("nan"): 1}}, {"x": [[[]]] * 1 + [{"\udfff": 1}]}],
    ids=ascii,
)
def test_state_that_could_not_be_written_is_refused_when_it_is_given(state: Any) -> None:
    with pytest.raises(InvalidInputError, match="state"):
        Snapshot(weights={}, state=state)


def test_a_file_is_read_as_far_as_its_header_promises(tmp_path: Path, make_snapshot: Make) -> None:
    file = tmp_path / "x"
    make_snapshot().save(file)
    with file.open("r+b") as opened:
        opened.truncate(8 << 40)
    with pytest.raises(FormatError, match="8796093022208 bytes"):
        Snapshot.load(file)


@pytest.mark.parametrize("path", [None, 5, "", "a\0b", b"x", "\ud800"], ids=ascii)
def test_what_is_no_path(path: Any, make_snapshot: Make) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: Snapshot.load(path),
        lambda: make_snapshot().save(path),
        lambda: PolicyStore(path),
    ]
    for call in calls:
        with pytest.raises(InvalidInputError, match="expected a path"):
            call()


def test_urls_of_folders_with_odd_characters(tmp_path: Path, make_snapshot: Make) -> None:
    for folder in ("q?b", "h#b", "t\tb", "p%41"):
        url = f"file://{tmp_path}/{folder}".replace("%", "%25")
        PolicyStore(url).push(make_snapshot())
        assert (tmp_path / folder / "policystore.json").is_file()
    for url in ("file:///%00", "file://[::1/x", "~no-such-user-here/x"):
        with pytest.raises(InvalidInputError):
            PolicyStore(url)


def test_save_writes_through_a_link_and_takes_long_names(
    tmp_path: Path, make_snapshot: Make
) -> None:
    target, link = tmp_path / ("n" * 250), tmp_path / "link"
    make_snapshot(1).save(target)
    link.symlink_to(target)
    make_snapshot(2).save(link)
    assert link.is_symlink()
    assert Snapshot.load(target) == make_snapshot(2)


# Stores


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_verify_needs_no_quiet_store(root: Path, make_snapshot: Make) -> None:
    for url in (str(root), "memory://verify-while-pushing"):
        PolicyStore(url).push(make_snapshot(), "a")
        stop = threading.Event()

        def push(url: str = url, stop: threading.Event = stop) -> None:
            store, seed = PolicyStore(url), 0
            while not stop.is_set():
                seed += 1
                store.push(make_snapshot(seed % 50), f"a/{seed % 3}")
                store.tag(f"a/{seed % 3}", f"t{seed % 2}")

        threads = [threading.Thread(target=push) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            reports = [PolicyStore(url).verify() for _ in range(12)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert [str(report) for report in reports if not report.ok] == []


def test_a_lost_newest_record_is_a_fault(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    for seed in range(3):
        store.push(make_snapshot(seed), "a")
    (root / "names/a/@versions/0000000003.json").unlink()
    assert "the hint names this version" in str(store.verify())


def test_a_lost_record_in_the_middle_says_so(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    for seed in range(4):
        store.push(make_snapshot(seed), "a")
    (root / "names/a/@versions/0000000002.json").unlink()
    with pytest.raises(IntegrityError, match="version 2 .* lost"):
        store.pull("a@2")
    with pytest.raises(IntegrityError, match="lost"):
        store.log("a")


def test_a_number_far_away(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    good = (root / "names/a/@versions/0000000001.json").read_bytes()
    (root / "names/a/@versions/9999999999.json").write_bytes(good)
    report = store.verify()
    assert len(report.faults) == 2
    assert "2 to 9999999998" in str(report)
    (root / "names/a/@hint").unlink()
    (root / "names/a/@hint").write_text(
        '{"digest":"blake3:%s","format":1,"kind":"hint","number":9999999999}' % ("0" * 64)
    )
    with pytest.raises(PolicyStoreError):
        store.log("a")
    with pytest.raises(StorageError, match="no numbers are left"):
        store.push(make_snapshot(), "a")


def test_a_folder_in_the_place_of_the_next_record(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    (root / "names/a/@versions/0000000002.json").mkdir()
    assert store.pull("a") == make_snapshot()
    with pytest.raises(StorageError):
        store.push(make_snapshot(1), "a")
    assert "0000000002.json" in str(store.verify())


@pytest.mark.parametrize("kind", ["folder", "circle"])
def test_a_hint_that_is_no_file_costs_probes_and_nothing_else(
    root: Path, make_snapshot: Make, kind: str
) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    hint = root / "names/a/@hint"
    hint.unlink()
    hint.mkdir() if kind == "folder" else hint.symlink_to(hint)
    assert store.pull("a") == make_snapshot()
    assert not store.verify().ok


def test_what_cannot_be_walked_is_reported(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    (root / "circle").symlink_to(root / "circle")
    (root / "all").symlink_to("/")
    deep = root / "names"
    for _ in range(300):
        deep = deep / "d"
        deep.mkdir()
    (root / "bytes\udcff").write_bytes(b"")
    report = store.verify()
    assert {fault.key for fault in report.faults} == {"circle", "all", "bytes\\udcff"}
    str(report).encode()
    assert store.names() == ["a"]


def test_one_object_under_many_names_is_read_once(root: Path, make_snapshot: Make) -> None:
    tensor = np.zeros(1 << 20, np.float32)
    snap = Snapshot(weights={f"w{index}": tensor for index in range(300)})
    store = PolicyStore(root)
    pulled = store.pull(store.push(snap))
    pointers = {pulled.weights[name].__array_interface__["data"][0] for name in pulled.weights}
    assert len(pointers) == 1
    assert pulled == snap


def test_a_version_of_another_store_is_not_mistaken(tmp_path: Path, make_snapshot: Make) -> None:
    one, other = PolicyStore(tmp_path / "1"), PolicyStore(tmp_path / "2")
    version = one.push(make_snapshot(1), "a")
    other.push(make_snapshot(2), "a")
    with pytest.raises(NotFoundError, match=version.digest.hex):
        other.pull(version)
    with pytest.raises(NotFoundError, match="another policy"):
        other.tag(version, "t")
    other.push(make_snapshot(1))
    assert other.pull(version) == make_snapshot(1)


def test_what_only_a_version_can_hold_needs_a_name(root: Path, make_snapshot: Make) -> None:
    for more in ({"message": "m"}, {"metrics": {"a": 1}}, {"source": {"a": 1}}, {"parents": ["a"]}):
        with pytest.raises(InvalidInputError, match="with a name"):
            PolicyStore(root).push(make_snapshot(), **more)


@pytest.mark.parametrize(
    "more",
    [{"metrics": 5}, {"metrics": "abc"}, {"metrics": [1]}, {"source": [1]}, {"parents": None},
     {"parents": "a/b"}, {"parents": 5}, {"parents": [[]]}],
    ids=str,
)  # fmt: skip
def test_arguments_of_other_kinds(root: Path, make_snapshot: Make, more: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        PolicyStore(root).push(make_snapshot(), "a", **more)
    for refs in (None, 5, [["a"]]):
        with pytest.raises(InvalidInputError):
            PolicyStore(root).pull_many(refs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [{"acting": 5}, {"acting": [1, "a"]}, {"acting": "abc"}, {"modules": 5}, {"modules": {"a": 5}},
     {"left_out": 5}, {"config": []}, {"config": 0}, {"stack": np.ones(2)}, {"weights": np.ones(2)}],
    ids=str,
)  # fmt: skip
def test_specs_of_other_kinds(spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=f"spec.{next(iter(spec))}"):
        Spec(**spec)


def test_a_file_where_the_folder_should_be(tmp_path: Path, make_snapshot: Make) -> None:
    (tmp_path / "f").write_text("x")
    calls: list[Callable[[], Any]] = [
        lambda: PolicyStore(tmp_path / "f").names(),
        lambda: PolicyStore(tmp_path / "f").pull("a"),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="is a file"):
            call()


def test_messages_of_strangers_are_short_and_printable(root: Path, make_snapshot: Make) -> None:
    key = "\x1b[2J" * 100_000
    for data in (policy({key: 1}), policy({"config": {key: 1, "~x": 2}})):
        with pytest.raises(FormatError) as caught:
            Snapshot.from_bytes(data)
        assert len(str(caught.value)) < 1000
        assert "\x1b" not in str(caught.value)
    version = PolicyStore(root).push(make_snapshot(), "a", message="\x1b[2Jm", author="x\ny")
    assert "\x1b" not in str(version)
    assert "\n" not in str(version)
    assert repr(version) == f"<Version {version}>"


def test_a_bare_digest_is_told_its_prefix(root: Path, make_snapshot: Make) -> None:
    store = PolicyStore(root)
    digest = store.push(make_snapshot()).digest
    with pytest.raises(NotFoundError, match=f"'blake3:{digest.hex}'"):
        store.pull(digest.hex)


def test_digests_of_what_is_no_policy_at_all_stay_typed_everywhere(
    root: Path, make_snapshot: Make
) -> None:
    store = PolicyStore(root)
    store.push(make_snapshot(), "a")
    for data in [make() for make in COSTLY.values()] + [b"", b"x" * 100]:
        hexadecimal = blake3.blake3(data).hexdigest()
        path = root / "objects" / hexadecimal[:2] / f"{hexadecimal}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        try:
            store.pull(f"blake3:{hexadecimal[:16]}")
        except PolicyStoreError as error:
            assert hexadecimal[:12] in str(error)
    assert not store.verify().ok
