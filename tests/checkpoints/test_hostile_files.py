"""Files that were made to harm: harmless data or a FormatError, in bounded time and memory."""

from __future__ import annotations

import json
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tests.support.hostile_pickles as corpus
from policystore import FormatError, PolicyStoreError
from policystore.checkpoints import read_checkpoint
from policystore.checkpoints.files.msgpack_reader import read_msgpack
from policystore.checkpoints.files.pickle_reader import read_pickle
from policystore.checkpoints.files.placeholders import Global, UnbuiltObject
from policystore.checkpoints.files.torch_reader import read_torch
from tests.support.checkpoint_corpus import Given

OLD = Given("2.60.0", "ppo_old")
REFUSED = (
    "billion laughs as a key", "integers of one hash", "six million operations",
    "copies of a long list", "copies of long bytes", "a decimal of a million digits",
    "a line without end",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _never_for_ever() -> Iterator[None]:
    """Half a minute of one test is a hang: the largest file of the corpus takes seconds."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(90)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outcome(data: bytes, read: Any = read_pickle) -> Any:
    try:
        return read(data, "the file")
    except FormatError as error:
        assert str(error).startswith("the file")
        assert len(str(error)) < 2000
        return error


def test_what_executes_elsewhere_is_data_here(tmp_path: Path) -> None:
    """Under an audit hook that ends the process at the first import, call or opened file."""
    canary = tmp_path / "canary"
    files = [[what, data.hex()] for what, data in corpus.executing(str(canary))]
    assert len(files) > 100
    (tmp_path / "corpus.json").write_text(json.dumps(files))
    program = """
        import json, os, sys
        from policystore import FormatError
        from policystore.checkpoints.files.folder import decode_file
        from policystore.checkpoints.files.pickle_reader import read_pickle

        def read_file(data, label):
            return decode_file(data, "policy_state.pkl", label)

        corpus = [(what, bytes.fromhex(data)) for what, data in json.load(open(sys.argv[1]))]
        silent = [True]

        def hook(event, args):
            if not silent[0] and not event.startswith(("object.__getattr__", "sys._getframe", "builtins.id")):
                os.write(2, f"{event} {args}".encode())
                os._exit(3)

        sys.addaudithook(hook)
        for what, data in corpus:
            for read in (read_pickle, read_file):
                silent[0] = False
                try:
                    found = type(read(data, what)).__name__
                except FormatError:
                    found = "FormatError"
                silent[0] = True
                print(what, found)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "corpus.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * len(files)
    assert not canary.exists()


def test_the_corpus_does_execute_in_python(tmp_path: Path) -> None:
    """Or it would show nothing."""
    canary = tmp_path / "canary"
    program = "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))"
    done = 0
    for what, data in corpus.executing(str(canary)):
        if not what.startswith(("os.system", "builtins.eval by reduce", "as a", "a pickle in")):
            continue
        subprocess.run(
            [sys.executable, "-c", program, data.hex()], capture_output=True, check=False
        )
        done += canary.exists()
        canary.unlink(missing_ok=True)
    assert done >= 7


@pytest.mark.parametrize(("what", "data"), [*corpus.exhausting()], ids=lambda x: str(x)[:40])
def test_what_would_take_all_memory_or_time(what: str, data: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = outcome(data)
    if what in REFUSED:
        assert isinstance(found, FormatError)
    # In KiB; a value stands for each byte at the most.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000 + len(data) // 5
    del found


@pytest.mark.parametrize(("what", "data"), [*corpus.malformed()], ids=lambda x: str(x)[:40])
def test_what_is_no_pickle(what: str, data: bytes) -> None:
    with pytest.raises(FormatError, match="the file"):
        read_pickle(data, "the file")


@pytest.mark.parametrize(("what", "data"), [*corpus.torch_files()], ids=lambda x: str(x)[:40])
def test_torch_files(what: str, data: bytes) -> None:
    found = outcome(data, read_torch)
    if what == "whole":
        assert found["w"].shape == (2, 2)
    elif what == "a tensor that calls":
        assert isinstance(found, UnbuiltObject)
    else:
        assert isinstance(found, FormatError)


@pytest.mark.parametrize("where", ["policy_state", "algorithm_state"])
def test_a_whole_checkpoint_of_hostile_files(where: str, tmp_path: Path) -> None:
    """Also what is made of the data afterwards ends, in a snapshot or a typed error."""
    folder = tmp_path / "policies" / "default_policy"
    folder.mkdir(parents=True)
    good = OLD.path / "policies" / "default_policy" / "policy_state.pkl"
    files = {
        "policy_state": folder / "policy_state.pkl",
        "algorithm_state": tmp_path / "algorithm_state.pkl",
    }
    whole = {
        "policy_state": good.read_bytes(),
        "algorithm_state": (OLD.path / "algorithm_state.pkl").read_bytes(),
    }
    for name, file in files.items():
        file.write_bytes(whole[name])
    assert read_checkpoint(tmp_path)
    bad = [*corpus.executing(str(tmp_path / "canary"))]
    bad += [(what, data) for what, data in corpus.exhausting() if len(data) < 100_000]
    for _, data in bad:
        wrapped = (
            b"}" + corpus.text("weights") + b"}s" + corpus.text("policy_spec") + b"}("
            + b"".join(corpus.text(key) + b"h\0" for key in ("policy_class", "observation_space",
                                                            "action_space", "config"))
            + b"us" + corpus.text("connector_configs") + b"h\0s" + corpus.text("config") + b"h\0s."
        )  # fmt: skip
        for pickled in (data, data[:-1] + b"q\0" + b"0" + wrapped):
            files[where].write_bytes(pickled)
            with suppress(PolicyStoreError):
                read_checkpoint(tmp_path)
    assert not (tmp_path / "canary").exists()


def test_nested_by_reference_beyond_any_use(tmp_path: Path) -> None:
    """Ten to the hundredth values in two kilobytes, at each place that is walked."""
    laughs = b"}q\0" + b"".join(
        b"}(" + b"".join(corpus.text(f"k{j}") + b"h" + bytes([i]) for j in range(10)) + b"uq"
        + bytes([i + 1]) for i in range(100)
    )  # fmt: skip
    (tmp_path / "policy_state.pkl").write_bytes(
        b"}" + laughs + corpus.text("weights")[:0] + b"00}" + corpus.text("weights") + b"h\x64s."
    )
    with pytest.raises(FormatError, match=r"expected weights.*repeated beyond any use"):
        read_checkpoint(tmp_path)
    spec = (
        laughs + b"0}" + corpus.text("weights") + b"}s" + corpus.text("policy_spec") + b"}("
        + corpus.text("policy_class") + corpus.text("PPOTorchPolicy") + corpus.text("config")
        + b"}" + corpus.text("model") + b"h\x64s" + b"us."
    )  # fmt: skip
    (tmp_path / "policy_state.pkl").write_bytes(spec)
    (snap,) = read_checkpoint(tmp_path).values()
    assert any("repeated beyond any use" in why for why in snap.spec.omitted.values())


def test_one_array_under_a_million_names(tmp_path: Path) -> None:
    array = pickle.dumps(np.zeros(1 << 18, np.float32))[:-1]
    names = b"".join(corpus.text(f"w{i}") + b"j\xe8\x03\0\0" for i in range(10_000))
    data = array + b"r\xe8\x03\0\0" + b"0}" + corpus.text("weights") + b"}(" + names + b"us."
    (tmp_path / "policy_state.pkl").write_bytes(data)
    with pytest.raises(FormatError, match="repeated beyond any use"):
        read_checkpoint(tmp_path)


def test_msgpack_that_would_unpickle() -> None:
    import msgpack

    inner = corpus.call("os", "system", corpus.text("true")) + b"."
    for kind in (b"O", "O"):
        packed = msgpack.packb(
            {"w": {b"nd": True, b"type": "O", b"kind": kind, b"shape": (1,), b"data": inner}}
        )
        assert isinstance(read_msgpack(packed, "it")["w"], UnbuiltObject)
    for bad in (
        {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": (1 << 40,), b"data": b"1234"},
        {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": "x", b"data": b"1234"},
        {b"nd": True, b"type": "<f4", b"kind": b"", b"shape": (1,), b"data": "1234"},
    ):
        assert isinstance(outcome(msgpack.packb(bad), read_msgpack), FormatError)
    nested = b"\x91" * 5000 + b"\xc0"
    lists = b"\xdd\x7f\xff\xff\xff" * 200 + b"\xc0"
    for data in (nested, lists, b"", b"\xc1", b"\x93\x01", b"\x01\x01", b"\xc7\x01\x05x"):
        outcome(data, read_msgpack)


# What is no attack


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_writes(protocol: int) -> None:
    value = {
        "numbers": [0, 1, -1, 255, 256, 65536, 2**31, -(2**31), 2**63, -(2**100), 1.5, -0.0],
        "texts": ["", "a", "\n'\"\\", "é€𝄞", "\ud800", "x" * 70_000],
        "bytes": [b"", b"\0\xff", b"x" * 70_000],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((),)],
        "others": [None, True, False, set(), {1, "a"}, frozenset({b"x"}), complex(1, -2)],
        "bytearray": bytearray(b"abc"),
        1: {None: "keys", (1, "a"): 2.5, b"k": True},
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
    }
    found = read_pickle(pickle.dumps(value, protocol), "it")
    assert found == value
    assert repr(found) == repr(value)
    both = ["shared"]
    again = read_pickle(pickle.dumps([both, both], protocol), "it")
    assert again[0] is again[1]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "dtype",
    ["?", "i1", "u1", "<i2", ">i2", "<u4", "<i8", ">i8", "<f2", "<f4", ">f4", "<f8", ">f8", "<c8"],
)
def test_arrays_as_numpy_writes_them(dtype: str, protocol: int) -> None:
    flat = np.arange(24).astype(dtype)
    for array in (flat, flat.reshape(2, 3, 4), flat.reshape(2, 3, 4).T, flat[:0], flat[5:6][0],
                  np.asarray(flat[3]), np.asfortranarray(flat.reshape(4, 6)), flat[::2]):  # fmt: skip
        found = read_pickle(pickle.dumps(array, protocol), "it")
        assert isinstance(found, (np.ndarray, np.generic))
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", range(6))
def test_objects_are_described(protocol: int) -> None:
    from fractions import Fraction
    from pathlib import PurePosixPath

    found = read_pickle(
        pickle.dumps([Fraction, Fraction(1, 3), PurePosixPath("a/b")], protocol), "it"
    )
    assert found[0] == Global("fractions", "Fraction")
    assert isinstance(found[1], UnbuiltObject)
    assert found[1].cls in (Global("fractions", "Fraction"), Global("copyreg", "_reconstructor"),
                            Global("copy_reg", "_reconstructor"))  # fmt: skip
    assert isinstance(found[2], UnbuiltObject)
    ragged = np.array([1, "a", None], object)
    assert isinstance(read_pickle(pickle.dumps(ragged, protocol), "it"), UnbuiltObject)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
    | st.binary()
    | arrays.arrays(st.sampled_from([np.float32, np.int64, np.bool_]), st.integers(0, 9)).map(
        lambda array: ("array", array.dtype.str, array.tobytes())),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple)
    | st.dictionaries(st.text() | st.integers(-(2**50), 2**50), inner),
    max_leaves=30,
)  # fmt: skip


@examples(plain, st.integers(0, 5))
def test_any_plain_value_comes_back(value: Any, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol), "it") == value
