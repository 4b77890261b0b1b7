from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policystore import InvalidInputError, Snapshot
from policystore.format.arrays import CODES, DTYPES, own, raw

ANY = st.sampled_from(list(CODES)).flatmap(
    lambda dtype: hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4).flatmap(
        lambda shape: st.binary(
            min_size=dtype.itemsize * int(np.prod(shape)),
            max_size=dtype.itemsize * int(np.prod(shape)),
        ).map(lambda data: np.ndarray(shape, dtype, bytearray(data)))
    )
)


@given(ANY)
def test_every_bit_pattern_of_every_dtype_is_kept(array: np.ndarray) -> None:
    if array.dtype == bool:  # numpy's bool has two patterns
        array = array.view(np.uint8) > 127
    owned = own(array, "x")
    assert (owned.dtype, owned.shape) == (array.dtype, array.shape)
    assert owned.tobytes() == array.tobytes() == bytes(raw(owned))


LAYOUTS = {
    "transposed": lambda a: a.T,
    "strided": lambda a: a[::2, 1::2],
    "reversed": lambda a: a[::-1, ::-1],
    "fortran": np.asfortranarray,
    "broadcast": lambda a: np.broadcast_to(a[0], a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "scalar": lambda a: a[0, 0],
    "zero-dimensional": lambda a: np.array(a[0, 0]),
    "empty": lambda a: a[:0],
}


CASES = [
    (layout, np.dtype(dtype))
    for layout in LAYOUTS
    for dtype in (np.float64, np.int32, np.uint16, ml_dtypes.bfloat16)
    if (layout, dtype) != ("big-endian", ml_dtypes.bfloat16)  # ml_dtypes has one byte order
]


@pytest.mark.parametrize(("layout", "dtype"), CASES, ids=str)
def test_memory_layout_and_byte_order_do_not_change_the_bytes(layout: str, dtype: np.dtype) -> None:
    base = (np.arange(24).reshape(4, 6) - 3).astype(dtype)
    array = LAYOUTS[layout](base)
    plain = np.array(array.tolist(), dtype).reshape(array.shape)
    owned = own(array, "x")
    assert owned.dtype == dtype
    assert owned.shape == array.shape
    assert owned.tobytes() == plain.tobytes()
    left, right = (Snapshot(weights={"w": np.asarray(a)}) for a in (array, plain))
    assert left.digest == right.digest


def test_nan_payloads_infinities_and_signs_survive_also_a_change_of_byte_order() -> None:
    bits = np.array([0x7FF0000000000001, 0xFFF8DEADBEEF0000, 0x7FF0000000000000, 1 << 63], "u8")
    for array in (bits.view("f8"), bits.byteswap().view(">f8")):
        assert own(array, "x").view("u8").tolist() == bits.tolist()


def test_the_memory_of_a_kept_array_cannot_be_changed() -> None:
    source = np.ones(3)
    owned = own(source, "x")
    source[:] = 5
    assert owned.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        owned[0] = 2
    with pytest.raises(ValueError, match="WRITEABLE"):
        owned.flags.writeable = True
    read_only = np.ones(2)
    read_only.flags.writeable = False
    assert own(read_only, "x").tolist() == [1, 1]


REFUSED = [
    np.ones(2, np.complex64),
    np.array([None, 1]),
    np.array(["a"]),
    np.array([b"a"]),
    np.array(["2026-01-01"], "M8[D]"),
    np.array([1], "m8[s]"),
    np.zeros(1, [("a", "f4")]),
    np.zeros(1, np.longdouble),
    np.zeros(1, ml_dtypes.int4),
    np.zeros(1, ml_dtypes.float8_e4m3fnuz),
    np.ma.masked_array([1.0], [True]),
    [1.0, 2.0],
    1.0,
    None,
]


@pytest.mark.parametrize(
    "value", REFUSED, ids=lambda v: f"{type(v).__name__}-{getattr(v, 'dtype', '')}"
)
def test_an_array_that_cannot_be_stored_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidInputError, match="encoder/w"):
        Snapshot(weights={"encoder/w": value})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name", ["", "__metadata__", "__state__/0", "__x", 7, None, b"w", "\ud800"]
)
def test_names_that_a_file_cannot_hold_are_refused(name: object) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        Snapshot(weights={name: np.ones(1)})  # type: ignore[dict-item]


def test_nested_weights_and_other_containers_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="expected a numpy array, found builtins.dict"):
        Snapshot(weights={"pi": {"w": np.ones(1)}})  # type: ignore[dict-item]
    with pytest.raises(InvalidInputError, match="expected a mapping"):
        Snapshot(weights=[np.ones(1)])  # type: ignore[arg-type]


def test_the_dtype_codes_are_those_of_safetensors() -> None:
    assert len(DTYPES) == len(CODES) == 15
    assert all(DTYPES[code].itemsize * 8 == int("".join(c for c in code.split("_")[0] if c.isdigit()) or 8)
               for code in DTYPES)  # fmt: skip
