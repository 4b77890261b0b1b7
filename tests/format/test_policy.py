from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policystore import Digest, FormatError, InvalidInputError, Snapshot, Spec
from policystore.digest import digest_of
from policystore.format.metadata import External
from policystore.format.policy import (
    SPLIT_TENSOR,
    SPLIT_TOTAL,
    decode_object,
    decode_policy,
    decode_tensor,
)
from policystore.format.safetensors import MAX_HEADER

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda name: not name.startswith("__")
)
ARRAYS = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
WEIGHTS = st.dictionaries(
    NAMES,
    ARRAYS.flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
    ),
    max_size=5,
)


def whole(snap: Snapshot) -> bytes:
    return b"".join(snap._encode(inline=True).policy.chunks)


@given(WEIGHTS, st.booleans())
def test_any_safetensors_reader_gets_the_same_arrays(weights: dict[str, Any], state: bool) -> None:
    snap = Snapshot(weights=weights, state={"f": np.ones(2)} if state else None)
    data = whole(snap)
    read = safetensors.numpy.load(data)
    assert read.keys() - {"__state__/0"} == weights.keys()
    for name, array in weights.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()
    again = Snapshot.from_bytes(data)
    assert again == snap
    assert again.weights.keys() == weights.keys()
    assert all(again.weights[name].tobytes() == a.tobytes() for name, a in weights.items())


@given(WEIGHTS, st.randoms(use_true_random=False))
def test_insertion_order_does_not_change_the_digest(weights: dict[str, Any], shuffle: Any) -> None:
    items = list(weights.items())
    shuffle.shuffle(items)
    assert Snapshot(weights=dict(items)).digest == Snapshot(weights=weights).digest


def test_golden_bytes() -> None:
    snap = Snapshot(
        weights={
            "b": np.array([1.5, -0.0], np.float32),
            "a": np.array([[1, 2], [3, 4]], np.int64),
            "ä": np.array(True),
            "h": np.array(2, ml_dtypes.bfloat16),
        },
        spec=Spec(stack="old", algorithm="PPO", config={"lr": 0.5}),
        state={"f": {1: np.array([7], np.uint8)}},
    )
    header = (
        '{"__metadata__":{"policystore":"{\\"format\\":1,\\"kind\\":\\"policy\\",\\"spec\\":'
        '{\\"algorithm\\":\\"PPO\\",\\"config\\":{\\"lr\\":0.5},\\"stack\\":\\"old\\"},'
        '\\"state\\":{\\"f\\":{\\"~map\\":[[1,{\\"~array\\":0}]]}}}"},'
        '"__state__/0":{"data_offsets":[42,43],"dtype":"U8","shape":[1]},'
        '"a":{"data_offsets":[0,32],"dtype":"I64","shape":[2,2]},'
        '"b":{"data_offsets":[32,40],"dtype":"F32","shape":[2]},'
        '"h":{"data_offsets":[40,42],"dtype":"BF16","shape":[]},'
        '"ä":{"data_offsets":[43,44],"dtype":"BOOL","shape":[]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    data = bytes.fromhex(
        "0100000000000000" "0200000000000000" "0300000000000000" "0400000000000000"  # a
        "0000c03f" "00000080"  # b
        "0040" "07" "01"  # h, state, ä
    )  # fmt: skip
    assert whole(snap) == struct.pack("<Q", len(header)) + header + data
    assert str(snap.digest) == (
        "blake3:d649f5e1275315f0b084526166cc152ab070364ad86d49d4a3b254b5a3d953e3"
    )
    assert snap.digest == digest_of(whole(snap))


def test_part_digests_are_of_the_parts_alone() -> None:
    one = Snapshot(
        weights={"pi": np.ones(2), "vf": np.ones(1)},
        spec=Spec(acting=["pi"]),
        state={"n": np.array(3)},
    )
    critic = Snapshot(
        weights={"pi": np.ones(2), "vf": np.zeros(1)},
        spec=Spec(acting=["pi"], config={"other": "wording"}),
        state={"n": np.array(3)},
    )
    assert one.digest != critic.digest
    assert one.weights_digest != critic.weights_digest
    assert one.acting_digest == critic.acting_digest
    assert one.state_digest == critic.state_digest
    # Of the safetensors file that holds just those tensors and no metadata.
    header = b'{"pi":{"data_offsets":[0,16],"dtype":"F64","shape":[2]}}'
    header += b" " * (-len(header) % 8)
    file = struct.pack("<Q", len(header)) + header + np.ones(2).tobytes()
    assert one.acting_digest == digest_of(file)
    assert safetensors.numpy.load(file)["pi"].tolist() == [1, 1]
    assert Snapshot(weights=one.weights).acting_digest == one.weights_digest


def test_the_split_rule() -> None:
    edge = SPLIT_TENSOR // 4
    rest = (SPLIT_TOTAL - SPLIT_TENSOR) // 4
    below = Snapshot(weights={"a": np.ones(edge, "f4"), "b": np.ones(rest - 1, "f4")})
    assert not below._encode().tensors
    at = Snapshot(
        weights={
            "a": np.ones(edge, "f4"),
            "b": np.ones(rest - 1, "f4"),
            "small": np.ones(1, "f4"),
        }
    )
    encoded = at._encode()
    assert len(encoded.tensors) == 2
    assert encoded.objects[encoded.policy.digest] < 2000
    parsed = decode_policy(b"".join(encoded.policy.chunks), "test", inline=False)
    assert parsed.tensors.keys() == {"small"}
    for name, external in parsed.external.items():
        item = encoded.tensors[external.digest]
        data = b"".join(item.chunks)
        assert item.digest == digest_of(data)
        assert item.size == external.size == len(data)
        assert safetensors.numpy.load(data)["tensor"].tobytes() == at.weights[name].tobytes()
        found = decode_object(data, "test")
        assert isinstance(found, np.ndarray)
    just_small = Snapshot(weights={"a": np.ones(edge - 1, "f4"), "b": np.ones(2 * rest, "f4")})
    names = decode_policy(b"".join(just_small._encode().policy.chunks), "t", inline=False).external
    assert names.keys() == {"b"}


def test_equal_tensors_are_one_object_and_a_frozen_encoder_is_shared(
    make_snapshot: Callable[..., Snapshot],
) -> None:
    one, two = make_snapshot(1, large=True)._encode(), make_snapshot(2, large=True)._encode()
    assert len(one.tensors.keys() & two.tensors.keys()) == 1
    tied = Snapshot(weights={"a": np.ones((1024, 1024), "f4"), "b": np.ones((1024, 1024), "f4")})
    assert len(tied._encode().tensors) == 1


def test_a_saved_file_is_self_contained_and_has_the_digest_of_the_store(
    make_snapshot: Callable[..., Snapshot],
) -> None:
    snap = make_snapshot(large=True)
    data = whole(snap)
    assert dict(safetensors.deserialize(data)).keys() >= snap.weights.keys()
    again = Snapshot.from_bytes(data)
    assert again == snap
    assert again._encode().objects == snap._encode().objects
    with pytest.raises(FormatError, match="large tensors"):
        decode_policy(data, "test", inline=False)
    with pytest.raises(FormatError, match="through the store"):
        Snapshot.from_bytes(b"".join(snap._encode().policy.chunks))


def test_the_digest_is_the_same_in_another_process_with_other_hash_seeds(
    make_snapshot: Callable[..., Snapshot], tmp_path: Any
) -> None:
    snap = make_snapshot(3)
    program = (
        "import numpy as np, ml_dtypes\n"
        "from policystore import Snapshot, Spec\n"
        "r = np.random.default_rng(3)\n"
        "w = {'encoder.weight': r.standard_normal((16, 4), dtype=np.float32),\n"
        "     'encoder.bias': r.standard_normal(16, dtype=np.float32),\n"
        "     'pi.weight': r.standard_normal((2, 16)).astype(ml_dtypes.bfloat16),\n"
        "     'steps': np.array(3, np.int64)}\n"
        "w = {k: w[k] for k in set(w)}\n"
        "print(Snapshot(weights=w, spec=Spec(stack='old', algorithm='PPO',\n"
        "    config={'hiddens': [16], 'lr': 1e-3}),\n"
        "    state={'MeanStdFilter': {0: {'n': 3, 'mean': np.arange(4.0)}}}).digest)\n"
    )
    for seed in ("0", "1", "random"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == str(snap.digest)


def test_a_too_long_header_is_refused_with_advice() -> None:
    with pytest.raises(InvalidInputError, match="header"):
        Snapshot(weights={}, spec=Spec(config={"x": "y" * MAX_HEADER}))._encode()


# Hostile bytes. Each case changes one thing in a good file.

GOOD = Snapshot(
    weights={"a": np.arange(4.0), "b": np.arange(3, dtype=np.int8)},
    spec=Spec(stack="old"),
    state={"n": np.arange(2.0)},
)


def remake(
    change: Callable[[dict[str, Any]], None], *, tail: bytes = b"", pad: bytes = b" "
) -> bytes:
    """Return the good file with a changed header and correct padding."""
    data = whole(GOOD)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
    text += pad * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :] + tail


def meta(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def inner(header: dict[str, Any]) -> None:
        found = json.loads(header["__metadata__"]["policystore"])
        change(found)
        header["__metadata__"]["policystore"] = json.dumps(
            found, separators=(",", ":"), sort_keys=True
        )

    return inner


def put(name: str, **fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(fields)


def replaced(old: bytes, new: bytes) -> bytes:
    data = whole(GOOD)
    assert old in data
    return data.replace(old, new, 1)


EVIL = {
    "empty": b"",
    "short": b"\x01\x00\x00",
    "only a length": struct.pack("<Q", 2),
    "a header of exabytes": struct.pack("<Q", 2**63) + b"{}",
    "a header of 100 MB": struct.pack("<Q", 10**8) + b"{}",
    "a header longer than the file": struct.pack("<Q", 4096) + b"{}",
    "no json": struct.pack("<Q", 8) + b"\xff" * 8,
    "a list": struct.pack("<Q", 8) + b"[]      ",
    "an empty object": struct.pack("<Q", 8) + b"{}      ",
    "deep nesting": struct.pack("<Q", 80000) + b"[" * 80000,
    "cut": whole(GOOD)[:-1],
    "cut to the header": whole(GOOD)[:-60],
    "bytes behind": remake(lambda h: None, tail=b"\x00"),
    "padding of other bytes": remake(lambda h: h.update(cc=h.pop("b")), pad=b"\n"),
    "padding too long": (lambda d: struct.pack("<Q", int.from_bytes(d[:8], "little") + 8)
                         + d[8 : 8 + int.from_bytes(d[:8], "little")] + b" " * 8
                         + d[8 + int.from_bytes(d[:8], "little") :])(whole(GOOD)),
    "overlap": remake(put("b", data_offsets=[0, 3])),
    "hole": remake(put("b", data_offsets=[49, 52])),
    "negative offsets": remake(put("a", data_offsets=[-32, 0])),
    "swapped order": remake(lambda h: (h["a"].update(data_offsets=[0, 32]),
                                       h["__state__/0"].update(data_offsets=[32, 48]))),
    "shape larger than data": remake(put("a", shape=[5])),
    "shape of exabytes": remake(put("a", shape=[2**62, 2**62])),
    "negative shape": remake(put("a", shape=[-4])),
    "shape of floats": remake(put("a", shape=[4.0])),
    "shape of booleans": remake(put("b", shape=[True, 3])),
    "shape of rank 1000": remake(put("a", shape=[1] * 999 + [4])),
    "unknown dtype": remake(put("a", dtype="C64")),
    "dtype of another type": remake(put("a", dtype=["F64"])),
    "entry with more": remake(put("a", more=1)),
    "entry of another type": remake(lambda h: h.update(a=1)),
    "entry with less": remake(lambda h: h["a"].pop("shape")),
    "no metadata": remake(lambda h: h.pop("__metadata__")),
    "foreign metadata": remake(lambda h: h.update(__metadata__={"format": "pt"})),
    "two metadata keys": remake(lambda h: h["__metadata__"].update(other="x")),
    "metadata not a string": remake(lambda h: h["__metadata__"].update(policystore=1)),
    "metadata not json": remake(lambda h: h["__metadata__"].update(policystore="{")),
    "metadata not an object": remake(lambda h: h["__metadata__"].update(policystore="1")),
    "metadata not canonical": remake(lambda h: h["__metadata__"].update(
        policystore=h["__metadata__"]["policystore"].replace(":", ": ", 1))),
    "newer format": remake(meta(lambda m: m.update(format=2))),
    "format of another type": remake(meta(lambda m: m.update(format=True))),
    "no format": remake(meta(lambda m: m.pop("format"))),
    "another kind": remake(meta(lambda m: m.update(kind="tensor"))),
    "no spec": remake(meta(lambda m: m.pop("spec"))),
    "unknown metadata field": remake(meta(lambda m: m.update(more=1))),
    "spec of another type": remake(meta(lambda m: m.update(spec=[]))),
    "spec with unknown field": remake(meta(lambda m: m.update(spec={"x": 1}))),
    "spec.acting of absent weights": remake(meta(lambda m: m.update(spec={"acting": ["zz"]}))),
    "state without its array": remake(meta(lambda m: m.update(state={"n": 1}))),
    "state with another array": remake(meta(lambda m: m.update(state={"n": {"~array": 1}}))),
    "state with an array twice": remake(meta(lambda m: m.update(
        state={"n": {"~array": 0}, "o": {"~array": 0}}))),
    "state of another type": remake(meta(lambda m: m.update(state=[{"~array": 0}]))),
    "state empty and written": remake(meta(lambda m: m.update(state={}))),
    "external that is not outside": remake(meta(lambda m: m.update(
        external={"x": {"dtype": "F64", "shape": [4], "digest": "blake3:" + "a" * 64}}))),
    "external empty and written": remake(meta(lambda m: m.update(external={}))),
    "external of another type": remake(meta(lambda m: m.update(external=[1]))),
    "a name of ours": remake(lambda h: h.update({"__x": h.pop("b")})),
    "an empty name": remake(lambda h: h.update({"": h.pop("b")})),
    "a key twice": replaced(b'"b":{', b'"a":{'),
    "spaces in the header": replaced(b',"b":{', b' "b":{'),
    "unsorted keys": replaced(b'"data_offsets":[48,51],"dtype":"I8"',
                              b'"dtype":"I8","data_offsets":[48,51]'),
}  # fmt: skip


@pytest.mark.parametrize("case", EVIL)
def test_hostile_bytes_are_a_format_error(case: str) -> None:
    assert EVIL[case] != whole(GOOD)
    for inline in (True, False):
        with pytest.raises(FormatError, match="the file"):
            decode_policy(EVIL[case], "the file", inline=inline)
    with pytest.raises(FormatError, match="the file"):
        decode_object(EVIL[case], "the file")


def test_a_newer_format_advises_to_upgrade() -> None:
    with pytest.raises(FormatError, match=r"format 2.*reads format 1.*Upgrade"):
        decode_policy(EVIL["newer format"], "the file", inline=True)


@given(st.data())
def test_no_changed_byte_is_missed(data: st.DataObject) -> None:
    """Changed bytes give a FormatError or a different policy, but never the same policy."""
    good = whole(GOOD)
    at = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
    if kind == "flip":
        bad = bytearray(good)
        bad[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "insert":
        bad = bytearray(good[:at] + data.draw(st.binary(min_size=1, max_size=9)) + good[at:])
    elif kind == "delete":
        bad = bytearray(good[:at] + good[at + data.draw(st.integers(1, 9)) :])
    else:
        bad = bytearray(good[:at])
    if bad == good:
        return
    try:
        found = Snapshot.from_bytes(bytes(bad))
    except FormatError:
        return
    assert whole(found) == bytes(bad)
    assert found.digest != GOOD.digest


def test_files_of_other_writers_are_refused_and_other_readers_read_ours() -> None:
    foreign = safetensors.numpy.save({"a": np.ones(2)}, {"policystore": "{}"})
    with pytest.raises(FormatError):
        Snapshot.from_bytes(foreign)
    assert safetensors.numpy.load(whole(GOOD))["a"].dtype == np.float64


def test_tensor_objects_are_checked_against_the_policy_object() -> None:
    encoded = Snapshot(weights={"w": np.ones((1024, 1024), "f4")})._encode()
    (item,) = encoded.tensors.values()
    data = b"".join(item.chunks)
    good = External(np.dtype("f4"), (1024, 1024), item.digest)
    assert decode_tensor(data, good, "t").shape == (1024, 1024)
    for dtype, shape in [("i4", (1024, 1024)), ("f4", (1024 * 1024,)), ("f4", (512, 2048))]:
        with pytest.raises(FormatError, match="expected one tensor"):
            decode_tensor(data, External(np.dtype(dtype), shape, item.digest), "t")
    with pytest.raises(FormatError, match="expected one tensor"):
        decode_tensor(whole(GOOD), External(np.dtype("f4"), (1,), Digest("a" * 64)), "t")
