"""README and docs/security.md name a test for each promise, and the test exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8").partition("## What policystore")[2]


@pytest.mark.parametrize(
    ("text", "count"),
    [(PAGE.partition("## What is not")[0], 20), (README.partition("## Two commands")[0], 9)],
    ids=["security.md", "README"],
)
def test_each_promise_names_tests_that_exist(text: str, count: int) -> None:
    rows = [line for line in text.splitlines() if line[:1] == "|"]
    heads = ("|---", "| what ", "| promise |")
    promises = [row for row in rows if not row.startswith(heads)]
    assert len(promises) >= count
    for row in promises:
        named = re.findall(r"`([\w/.]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            source = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"def {test}\b", source), f"{file} has no test {test}"


def test_the_policy_of_a_bucket_is_json() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert {entry["Effect"] for entry in json.loads(block)["Statement"]} == {"Deny"}
