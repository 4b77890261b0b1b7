"""Whoever can write to a bucket cannot make a reader return a wrong policy, hang or exhaust it."""

from __future__ import annotations

import pytest

from policystore import FormatError, NotFoundError, PolicyStore
from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.format import keys
from policystore.format.records import Hint, Span, with_spans
from policystore.testing import make_snapshot
from tests.support.store_fuzz import fuzz


def test_hostile_inputs_give_the_right_policy_or_a_typed_error() -> None:
    figures = fuzz(1, range(300))
    assert figures.faults == []
    assert len(figures.kinds) == 8
    assert figures.outcomes["exact"] > 500
    assert figures.outcomes["FormatError"] > 50


@pytest.mark.long
@pytest.mark.wide
def test_more_hostile_inputs_and_their_memory() -> None:
    figures = fuzz(2, range(6_000), measure=True)
    assert figures.faults == []


def test_a_forged_number_costs_no_list_of_all_numbers() -> None:
    store = PolicyStore("memory://a-forged-number")
    version = store.push(make_snapshot(), "a")
    last = 9_999_999_999
    store._backend.replace(keys.version_key("a", last), b"{}")
    store._backend.replace(keys.hint_key("a"), Hint(last, version.digest).to_bytes())
    for call in (lambda: store.find_acting("0" * 64), lambda: store.log("a")):
        with pytest.raises(FormatError, match="9999999999"):
            call()
    with pytest.raises(NotFoundError):
        store.find_acting("0" * 64, prefix="b")


def test_changes_of_a_mark_of_very_many_ranges_take_time_in_proportion() -> None:
    # With a loop in a loop, this test would take hours.
    many = 60_000
    odd = [(number, number) for number in range(1, 2 * many, 2)]
    even = [(number, number) for number in range(2, 2 * many, 2)]
    deleted = with_spans((), odd, 1)
    assert len(deleted) == many
    assert with_spans(deleted, even, 2)[:3] == (Span(1, 1, 1), Span(2, 2, 2), Span(3, 3, 1))
    assert with_spans(deleted, odd, None) == ()
    assert with_spans(deleted, even, None) == deleted


def test_a_long_text_in_the_place_of_a_digest_is_not_repeated() -> None:
    for text in ("blake3:" + "x" * 10_000, "x" * 10_000):
        with pytest.raises(InvalidInputError) as caught:
            Digest.parse(text)
        assert len(str(caught.value)) < 400
