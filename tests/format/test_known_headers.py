"""A header that was read before is not parsed again, and everything else is checked as before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from policystore import FormatError, Snapshot
from policystore.format import policy
from policystore.format.policy import decode_object, decode_policy
from policystore.format.safetensors import parse_header
from policystore.format.spec import Spec


def whole(value: float, **changes: object) -> bytes:
    """Return the file of a policy; all have the same header, unless something else is changed."""
    weights = {"w": np.full(3, value, np.float32), "flag": np.array([True, False])}
    given = {"weights": weights, "spec": Spec(algorithm="PPO"), "state": {"n": 1}} | changes
    return b"".join(Snapshot(**given)._encode(inline=True).policy.chunks)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    policy._content.cache_clear()
    yield
    policy._content.cache_clear()


def test_equal_headers_are_parsed_once_and_give_other_weights() -> None:
    parsed = [decode_policy(whole(value), f"file {value}", inline=True) for value in (1.0, 2.0)]
    assert policy._content.cache_info().misses == 1
    assert [each.tensors["w"][0] for each in parsed] == [1.0, 2.0]
    assert parsed[0].spec == parsed[1].spec
    parsed[0].external["new"] = None  # type: ignore[assignment]
    assert not decode_policy(whole(1.0), "again", inline=True).external


@pytest.mark.parametrize(
    "changes",
    [{"spec": Spec(algorithm="SAC")}, {"state": {"n": 2}}, {"weights": {"w": np.ones(4, "f4")}}],
)
def test_another_spec_state_or_shape_is_another_policy(changes: dict[str, object]) -> None:
    decode_policy(whole(1.0), "one", inline=True)
    parsed = decode_policy(whole(1.0, **changes), "two", inline=True)
    fresh = Snapshot(weights={"w": np.ones(3, "f4")}, spec=parsed.spec)
    assert policy._content.cache_info().misses == 2
    if "spec" in changes:
        assert fresh.spec.algorithm == "SAC"
    if "state" in changes:
        assert parsed.state == {"n": 2}
    if "weights" in changes:
        assert parsed.tensors["w"].shape == (4,)


def test_bytes_behind_a_known_header_are_checked_under_their_own_name() -> None:
    data = whole(1.0)
    decode_policy(data, "sound", inline=True)
    for bad, match in (
        (data[:-1], "bad: expected .* cut short"),
        (data + b"\0", "bad: expected .* behind the end"),
        (data[:-1] + b"\2", "bad: .*booleans"),
    ):
        with pytest.raises(FormatError, match=match):
            decode_policy(bad, "bad", inline=True)
    assert policy._content.cache_info().misses == 1


def test_a_file_and_an_object_are_not_taken_for_each_other() -> None:
    large = {"w": np.zeros(policy.SPLIT_TOTAL // 4, np.float32)}
    data = whole(0.0, weights=large)
    decode_policy(data, "file", inline=True)
    with pytest.raises(FormatError, match="large tensors"):
        decode_policy(data, "object", inline=False)


def test_a_refused_header_names_each_file_and_is_not_kept() -> None:
    bad = whole(1.0).replace(b"PPO", b"PP\x01", 1)
    for name in ("first", "second"):
        with pytest.raises(FormatError, match=name):
            decode_policy(bad, name, inline=True)
    assert policy._content.cache_info().currsize == 0


def test_few_and_short_headers_are_kept() -> None:
    for number in range(100):
        decode_policy(whole(1.0, state={"n": number}), "many", inline=True)
    assert policy._content.cache_info().currsize == 32
    before = policy._content.cache_info()
    data = whole(1.0, state={"long": "x" * 70_000})
    assert decode_policy(data, "long", inline=True).state == {"long": "x" * 70_000}
    assert policy._content.cache_info() == before


def test_an_object_of_a_store_is_told_by_a_header_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objects = [
        b"".join(Snapshot(weights={"w": np.full(3, n)})._encode().policy.chunks) for n in range(9)
    ]
    policy._is_policy.cache_clear()
    calls: list[str] = []

    def parse(buffer: memoryview, label: str) -> object:
        calls.append(label)
        return parse_header(buffer, label)

    monkeypatch.setattr(policy, "parse_header", parse)
    for n, data in enumerate(objects):
        content = decode_object(data, f"object {n}")
        assert isinstance(content, policy.ParsedPolicy)
        assert content.tensors["w"][0] == n
    assert calls == ["object 0", "object 0"]  # for the kind, and for the content
    with pytest.raises(FormatError, match="object 9: expected .* cut short"):
        decode_object(objects[0][:-1], "object 9")
