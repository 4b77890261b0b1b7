"""NaN and infinite numbers are found in arrays of every dtype, and in metrics."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from policystore.format import nonfinite as module
from policystore.format.arrays import DTYPES
from policystore.format.nonfinite import describe_nonfinite, is_finite, nonfinite

FLOATS = [code for code in DTYPES if code.startswith(("F", "BF"))]
OTHERS = [code for code in DTYPES if code not in FLOATS]


def largest(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype).max


@pytest.mark.parametrize("code", FLOATS)
@pytest.mark.parametrize("place", [0, 17, -1])
def test_one_element_of_a_float_array_is_found(
    code: str, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 16)
    dtype = DTYPES[code]
    array = np.full((5, 11), largest(dtype)).astype(dtype)
    array.reshape(-1)[::2] *= np.array(-1, dtype)

    assert is_finite(array)

    values = [math.nan] if code == "F8_E4M3" else [math.nan, math.inf, -math.inf]
    for value in values:
        for sign in (1, -1):
            broken = array.copy()
            broken.reshape(-1)[place] = np.copysign(np.float32(value), sign).astype(dtype)
            assert not np.isfinite(broken.astype(np.float64)).all()
            assert not is_finite(broken)


@pytest.mark.parametrize("code", FLOATS)
def test_a_sum_that_is_too_large_is_not_taken_for_an_infinite_element(code: str) -> None:
    dtype = DTYPES[code]

    assert is_finite(np.full(100_000, largest(dtype), dtype))
    assert is_finite(np.full(100_000, -largest(dtype), dtype))


@pytest.mark.parametrize("code", DTYPES)
def test_empty_arrays_and_single_numbers(code: str) -> None:
    assert is_finite(np.zeros((0, 3), DTYPES[code]))
    assert is_finite(np.zeros((), DTYPES[code]))


@pytest.mark.parametrize("code", OTHERS)
def test_other_arrays_are_finite_whatever_their_bits_are(code: str) -> None:
    array = np.frombuffer(b"\xff" * 64, np.uint8)

    assert is_finite((array > 0) if code == "BOOL" else array.view(DTYPES[code]))


def test_both_infinities_together_are_found() -> None:
    assert not is_finite(np.array([math.inf, -math.inf], np.float32))


def test_tensors_and_metrics_are_named_by_their_part() -> None:
    bad, good = np.array([1.0, math.nan]), np.array([1.0, 2.0])
    metrics = {
        "loss": math.nan,
        "return": 21.5,
        "nested": {"kl": -math.inf},
        "list": [1.0, (2.0, math.inf)],
        "small": np.float32(math.inf),
        "text": "nan",
        "array": good,
    }

    names = nonfinite({"a": good, "b": bad}, [good, bad], metrics)

    assert names == (
        "weights.b", "state.1", "metrics.loss", "metrics.list", "metrics.small", "metrics.nested.kl",
    )  # fmt: skip
    assert nonfinite({"a": good}, [good], {"return": 21.5, "flag": True, "n": 3}) == ()
    assert nonfinite({}, [], {"a": bad, "b": np.array(math.nan, ml_dtypes.bfloat16)}) == (
        "metrics.a", "metrics.b",
    )  # fmt: skip


def test_names_are_few_and_short() -> None:
    bad = np.array([math.nan])

    names = nonfinite({f"{'w' * 300}{n}": bad for n in range(100)}, [bad] * 100, {})

    assert len(names) == 8
    assert max(map(len, names)) == len("weights.") + 64
    assert describe_nonfinite(names) == "NaN or infinite: weights, state"
    assert describe_nonfinite(()) == ""


def test_what_no_metric_can_be_is_left_to_the_check_of_metrics() -> None:
    odd = np.zeros(1, [("a", np.float32)])

    assert nonfinite({}, [], {"odd": odd, "object": object(), "complex": 1j}) == ()
