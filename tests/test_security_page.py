"""docs/security.md names a test for each promise, and the test exists."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_each_promise_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.partition("## What is not")[0].splitlines() if line[:1] == "|"]
    promises = [row for row in rows if "|---" not in row and not row.endswith("| test |")]
    assert len(promises) > 15
    for row in promises:
        named = re.findall(r"`([\w/.]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"def {test}\b", text), f"{file} has no test {test}"


def test_the_policy_of_a_bucket_is_json() -> None:
    (block,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert {entry["Effect"] for entry in json.loads(block)["Statement"]} == {"Deny"}
