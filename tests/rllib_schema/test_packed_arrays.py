"""RLlib's packed arrays: numbers come back bit for bit, everything else is refused in bounds."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from policystore import FormatError
from policystore.checkpoints.convert.filter_stats import StatsReader
from policystore.checkpoints.convert.spaces import described_space
from policystore.rllib_schema import packed_arrays
from policystore.rllib_schema.packed_arrays import is_packed_array, unpack_array

MAGIC = b"\x93NUMPY\x01\x00"


def text_of(npy: bytes) -> str:
    return base64.b64encode(zlib.compress(npy)).decode()


def packed(array: Any) -> str:
    """A text as RLlib's ``_serialize_ndarray`` writes it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return text_of(buffer.getvalue())


def with_header(header: str, data: bytes = b"") -> str:
    return text_of(MAGIC + len(header).to_bytes(2, "little") + header.encode() + data)


def header(descr: str = "'<f8'", order: str = "False", shape: str = "(2,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.array([1, 2], ">i4"),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.float64(3.5),
        np.zeros((0, 4), np.uint8),
        np.array([np.nan, np.inf, -0.0], np.float16),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_numbers_come_back_bit_for_bit(array: Any) -> None:
    text = packed(array)
    assert is_packed_array(text)
    read = unpack_array(text, "it")
    assert read.dtype == np.asarray(array).dtype
    assert read.shape == np.asarray(array).shape
    assert read.tobytes() == np.asarray(array).tobytes()


REFUSED = {
    "not base64": "no array!",
    "not ascii": "ünpacked",
    "not zlib": base64.b64encode(b"plain").decode(),
    "nothing": text_of(b""),
    "not npy": text_of(b"plain"),
    "objects": packed(np.array([{}], object)),
    "texts": packed(np.array(["text"])),
    "times": packed(np.array(["2026-01-01"], "M8[D]")),
    "fields": packed(np.zeros(2, [("a", "<f8")])),
    "cut": packed(np.arange(100.0))[:40],
    "fewer bytes than its shape": with_header(header(), b"\0" * 8),
    "more bytes than its shape": with_header(header(), b"\0" * 24),
    "a shape below zero": with_header(header(shape="(-1, -2)"), b"\0" * 16),
    "a shape of terabytes": with_header(header(shape="(1 << 40,)"), b"\0" * 16),
    "a large shape": with_header(header(shape=f"({1 << 60}, {1 << 60})"), b"\0" * 16),
    "a shape of bools": with_header(header(shape="(True, 2)"), b"\0" * 16),
    "33 dimensions": with_header(header(shape=f"({'1,' * 33})"), b"\0" * 8),
    "a header that calls": with_header(header(descr="__import__('os').getcwd()")),
    "a header that is a list": with_header("[1]"),
    "a header without end": with_header("{" * 5000),
    "a header of 60 kB": with_header(" " * 60_000 + header(), b"\0" * 16),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_else_is_refused(case: str) -> None:
    with pytest.raises(FormatError, match=r"^the place: "):
        unpack_array(REFUSED[case], "the place")


def of_space(text: str) -> Any:
    box = {"space": "box", "low": text, "high": text, "shape": [2], "dtype": "<f8"}
    return described_space(box, "it")


def of_statistics(text: str) -> Any:
    return StatsReader("it").read({"num_pushes": 1, "mean_array": text, "std_array": text})


CALLERS = pytest.mark.parametrize("read", [of_space, of_statistics])


@CALLERS
@pytest.mark.parametrize("case", REFUSED)
def test_checkpoints_are_read_by_the_same_rules(case: str, read: Callable[[str], Any]) -> None:
    with pytest.raises(FormatError, match="it"):
        read(REFUSED[case])


@CALLERS
def test_one_limit_of_bytes(read: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    text = packed(np.zeros(2))
    size = len(zlib.decompress(base64.b64decode(text)))
    monkeypatch.setattr(packed_arrays, "MAX_PACKED_BYTES", size)
    read(text)
    monkeypatch.setattr(packed_arrays, "MAX_PACKED_BYTES", size - 1)
    with pytest.raises(FormatError, match=f"more than {size - 1} bytes"):
        read(text)
    assert is_packed_array(text)


def test_a_bomb_is_not_unpacked() -> None:
    squeezer = zlib.compressobj(9)
    parts = [squeezer.compress(bytes(1 << 20)) for _ in range(80)]
    text = base64.b64encode(b"".join([*parts, squeezer.flush()])).decode()
    assert len(text) < 200_000
    with pytest.raises(FormatError, match="more than 67,108,864 bytes"):
        unpack_array(text, "it")
    assert is_packed_array(text)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_rllibs_decoder_would_accept_is_recognized(as_bytes: bool) -> None:
    """Also where characters that are not base64 stand between, which that decoder skips."""
    text = packed(np.zeros(2))
    for disguised in (text, f" {text[:8]}!{text[8:]}\n", text_of(b"a pickle, say")):
        assert is_packed_array(disguised.encode() if as_bytes else disguised)
    for harmless in ("", "plain", "aGVsbG8=", "ü", text[:24]):
        assert not is_packed_array(harmless.encode() if as_bytes else harmless)
