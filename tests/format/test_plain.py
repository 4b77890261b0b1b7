"""Values as JSON has them, times as text, nested dicts as flat ones."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from policystore.digest import Digest
from policystore.format.plain import flatten, iso_time, plain_fields, to_plain
from policystore.format.values import Tagged

TIME = datetime.datetime(2026, 11, 21, 1, 25, 37, tzinfo=datetime.timezone.utc)
INDIA = datetime.timezone(datetime.timedelta(hours=5, minutes=30))

PLAIN: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (2**63, 2**63),
    (math.nan, "nan"),
    (-math.inf, "-inf"),
    (-0.0, -0.0),
    (Digest("ab" * 32), "blake3:" + "ab" * 32),
    (TIME.astimezone(INDIA), "2026-11-21T01:25:37.000000+00:00"),
    (datetime.timedelta(hours=2), 7200.0),
    (b"\x00\xff", "00ff"),
    ((1, (2.5, [math.inf])), [1, [2.5, ["inf"]]]),
    ({3: "a", None: "b", (1, 2): "c"}, {"3": "a", "None": "b", "(1, 2)": "c"}),
    ({1: "number", "1": "text"}, {"int 1": "number", "1": "text"}),
    (np.array([[1.5, np.nan]]), [[1.5, "nan"]]),
    (np.array([1, 2], np.uint64), [1, 2]),
    (np.float32(0.5), 0.5),
    (np.array([0.5, 2.0], ml_dtypes.bfloat16), [0.5, 2.0]),
    (Tagged("import", "torch.nn:ReLU"), {"~import": "torch.nn:ReLU"}),
]


@pytest.mark.parametrize(("value", "plain"), PLAIN, ids=lambda value: type(value).__name__)
def test_values_become_values_of_json(value: Any, plain: Any) -> None:
    converted = to_plain(value)

    assert repr(converted) == repr(plain)
    json.dumps(converted, allow_nan=False)


def test_numbers_that_json_lacks_stay_where_the_caller_wants_them() -> None:
    assert math.isnan(to_plain([{"loss": math.nan}], finite=False)[0]["loss"])
    assert math.isnan(to_plain(np.array([np.nan]), finite=False)[0])


@dataclass
class Inner:
    digest: Digest


@dataclass
class Told:
    def to_dict(self) -> dict[str, Any]:
        return {"told": True}


@dataclass
class Outer:
    inner: Inner
    told: Told
    counts: dict[str, int] = field(default_factory=dict)


def test_dataclasses_become_dicts_by_their_own_way_or_field_by_field() -> None:
    outer = Outer(Inner(Digest("0" * 64)), Told(), {"a": 1})

    assert plain_fields(outer) == {
        "inner": {"digest": "blake3:" + "0" * 64},
        "told": {"told": True},
        "counts": {"a": 1},
    }


def test_another_value_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(TypeError, match="object is not a plain value"):
        to_plain({"x": object()})


def test_times_are_utc_of_one_length_and_read_back() -> None:
    text = iso_time(TIME.astimezone(INDIA))

    assert text == "2026-11-21T01:25:37.000000+00:00"
    assert datetime.datetime.fromisoformat(text) == TIME
    assert len(iso_time(TIME.replace(microsecond=12))) == len(text)


def test_nested_dicts_become_flat() -> None:
    values = {"return": 1.5, "env_runners": {"mean": 2, "modules": {0: {"x": []}}}, "none": {}}

    assert flatten(values, "metrics.") == {
        "metrics.return": 1.5,
        "metrics.env_runners.mean": 2,
        "metrics.env_runners.modules.0.x": [],
    }


def test_of_two_values_with_one_name_the_one_that_lies_less_deep_counts() -> None:
    assert flatten({"a": {"b": 1}, "a.b": 2}) == {"a.b": 2}
