"""Prefixes of names: renames, only and keep."""

from __future__ import annotations

from typing import Any

import pytest

from policystore import InvalidInputError
from policystore.rllib.transfer.selection import Selection, listed_parts

GIVEN = ["body.0.weight", "body.0.bias", "body.1.weight", "out.weight"]
TARGET = ["net.0.weight", "net.0.bias", "net.1.weight", "out.weight", "value.weight"]


def test_renames_happen_at_once_and_the_longest_prefix_counts() -> None:
    selection = Selection.of({"body.": "net.", "body.1.": "last.", "net.": "body."}, None, None)
    assert selection.renamed("body.0.weight") == "net.0.weight"
    assert selection.renamed("body.1.weight") == "last.weight"
    assert selection.renamed("net.0.weight") == "body.0.weight"
    assert selection.renamed("out.weight") == "out.weight"


def test_an_empty_prefix_renames_all() -> None:
    assert Selection.of({"": "net."}, None, None).renamed("weight") == "net.weight"


def test_what_is_wanted_and_kept() -> None:
    selection = Selection.of(None, ["net.", "out."], ["net.1."])
    assert [name for name in TARGET if selection.is_wanted(name)] == TARGET[:4]
    assert [name for name in TARGET if selection.is_kept(name)] == ["net.1.weight"]
    assert Selection.of(None, None, []).is_wanted("any")


def test_prefixes_with_an_effect_pass() -> None:
    Selection.of({"body.": "net."}, ["net."], ["net.1.", "value."]).check(GIVEN, TARGET)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (({"bodi.": "net."}, None, None), r"renames nothing.*snapshot has 'body\.', 'out\.'.*"
                                          r"Did you mean 'body\.'"),
        (({"net.": "body."}, None, None), r"\(Names of the target begin with 'net\.'\.\)"),
        (({"body.": "nett."}, None, None), r"leads to names that the target does not have, such "
                                           r"as 'nett\.0\.bias'.*Did you mean 'net\."),
        (({"body.": "net.", "body.0.": "net.0.", "body.1.": "net.1."}, None, None),
         r"'body\.'.*longer prefixes of rename \(body\.0\., body\.1\.\) fit all"),
        (({"body.0.": "net.", "body.1.": "net."}, None, None),
         r"one name to several tensors.*body\.0\.weight and body\.1\.weight -> net\.weight"),
        ((None, None, ["vallue."]), r"keep= lists 'vallue\.'.*Did you mean 'value\.'"),
        ((None, None, ["body."]), r"\(Names of the snapshot begin with 'body\.'\.\)"),
        ((None, ["body."], None), r"only= lists 'body\.'.*after rename.*Names of the snapshot begin"),
        ((None, ["value."], None), r"the snapshot has no tensor whose name begins so.*"
                                   r"The snapshot has 'body\.', 'out\.'"),
    ],
    ids=["typo", "wrong way", "wrong place", "hidden", "collision", "keep", "keep of the snapshot",
         "only", "only without tensors"],
)  # fmt: skip
def test_prefixes_without_effect(arguments: Any, words: str) -> None:
    target = [*TARGET, "net.weight"]
    with pytest.raises(InvalidInputError, match=f"(?s){words}"):
        Selection.of(*arguments).check(GIVEN, target)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("net.", None, None), "rename is a dict"),
        (({"a.": 1}, None, None), "rename is a dict"),
        ((None, "net.", None), r"only is a list of prefixes of names: only=\['net\.'\]"),
        ((None, [], None), r"only=\[\] takes nothing"),
        ((None, None, [""]), "keep is a list of prefixes"),
        ((None, None, 7), "keep is a list of prefixes"),
    ],
)
def test_other_forms(arguments: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Selection.of(*arguments)


def test_names_are_listed_by_their_first_part() -> None:
    assert listed_parts(TARGET) == "'net.', 'out.', 'value.'"
    assert listed_parts(["p0/net.weight", "weight"]) == "'p0/', 'weight'"
    assert listed_parts([]) == "no tensors"
    assert listed_parts(f"{index:02d}.weight" for index in range(20)).endswith("and 8 more")
