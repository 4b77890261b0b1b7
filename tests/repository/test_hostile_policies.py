"""Small files that would cost much or look like something else give a typed error at low cost."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policystore import (
    FormatError,
    InvalidInputError,
    PolicyStore,
    Snapshot,
)
from policystore.format.values import Tagged
from tests.support.hostile_policies import COSTLY, file_of, policy

Make = Callable[..., Snapshot]


@pytest.mark.parametrize("case", COSTLY)
def test_small_files_cost_little_and_are_refused(case: str, tmp_path: Path) -> None:
    """Read the files in a process with at most 1.5 GiB and a minute; it needs far less."""
    file = tmp_path / "evil"
    file.write_bytes(COSTLY[case]())
    program = (
        "import resource, sys, policystore\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))\n"
        "try:\n"
        "    snap = policystore.Snapshot.load(sys.argv[1])\n"
        "    print(snap, len(str(snap)) + len(snap._repr_html_()) < 50_000)\n"
        "except policystore.FormatError as error: print('refused', len(str(error)) < 1000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if case.startswith(("a long key", "the same")):
        # A strange policy, but a valid one, which can be shown.
        assert done.stdout.startswith("Snapshot blake3:")
        assert done.stdout.endswith(" True\n")
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
def test_a_policy_has_only_one_canonical_text(case: str) -> None:
    with pytest.raises(FormatError):
        Snapshot.from_bytes(policy(SAME_BUT_OTHERWISE_WRITTEN[case]))


def test_state_that_is_no_dict_is_refused() -> None:
    for state in ({"~tuple": []}, {"~import": "a:b"}, {"~map": [["a", 1]]}):
        with pytest.raises(FormatError):
            Snapshot.from_bytes(policy({}, state=state))


def test_booleans_are_zero_or_one_when_written_and_read() -> None:
    odd = np.frombuffer(b"\x02\x00\xff", np.bool_)
    snap = Snapshot(weights={"w": odd})
    assert snap.weights["w"].tobytes() == b"\x01\x00\x01"
    assert snap == Snapshot(weights={"w": np.array([True, False, True])})
    data = b"".join(snap._encode(inline=True).policy.chunks)
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


def test_changes_of_returned_values_do_not_change_the_snapshot() -> None:
    space = {"type": "Box", "n": [1]}
    snap = Snapshot(weights={"w": np.ones(6)}, state={"a": np.ones(4), "s": Tagged("space", space)})
    before = snap.digest
    for array in (snap.weights["w"], snap.state["a"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy 2.5
            array.shape = (2, -1)
            array.dtype = np.int64
    space["n"].append(2)
    snap.state["s"].value["n"].append(3)
    for name in ("digest", "weights", "_weights", "other"):
        with pytest.raises(AttributeError):
            setattr(snap, name, 1)
    assert snap._encode().policy.digest == before
    assert snap.weights["w"].shape == (6,)
    data = bytearray(b"".join(snap._encode(inline=True).policy.chunks))
    again = Snapshot.from_bytes(memoryview(data).toreadonly())
    data[-8:] = bytes(8)
    assert again._encode().policy.digest == before


def test_subclasses_of_str_are_stored_as_plain_text() -> None:
    snap = Snapshot(weights={np.str_("w"): np.ones(1)})
    assert snap == Snapshot(weights={"w": np.ones(1)})
    assert type(next(iter(snap.weights))) is str


@pytest.mark.parametrize(
    "state",
    [{"n": 2**63}, {"t": "\ud800"}, {"k": {float("nan"): 1}}, {"x": [[[]]] * 1 + [{"\udfff": 1}]}],
    ids=ascii,
)
def test_state_that_cannot_be_written_is_refused_by_the_constructor(state: Any) -> None:
    with pytest.raises(InvalidInputError, match="state"):
        Snapshot(weights={}, state=state)


def test_no_more_of_a_file_is_read_than_its_header_declares(
    tmp_path: Path, make_snapshot: Make
) -> None:
    file = tmp_path / "x"
    make_snapshot().save(file)
    with file.open("r+b") as opened:
        opened.truncate(8 << 40)
    with pytest.raises(FormatError, match="8796093022208 bytes"):
        Snapshot.load(file)


@pytest.mark.parametrize("path", [None, 5, "", "a\0b", b"x", "\ud800"], ids=ascii)
def test_a_value_that_is_not_a_path_is_refused(path: Any, make_snapshot: Make) -> None:
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
