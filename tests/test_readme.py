"""The README: its blocks run, its links lead somewhere, its table of errors is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.doc_blocks import README, blocks, run_blocks

_LINK = re.compile(r"\]\((?!#)([^)]+)\)")


def test_every_python_block_is_of_a_kind_that_is_run():
    text = README.read_text(encoding="utf-8")
    assert text.count("```python") == len(blocks("")) + len(blocks("rllib"))
    assert len(blocks("")) >= 4
    assert len(blocks("rllib")) >= 4


def test_blocks_that_need_no_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    run_blocks("", names)
    assert names["store"].verify().ok
    assert names["store"].names() == ["control/main", "nets/small"]
    printed = capsys.readouterr().out
    assert "control/main@2" in printed
    assert "its versions are 1 to 2" in printed


def test_what_the_readme_links_to_is_there():
    for target in _LINK.findall(README.read_text(encoding="utf-8")):
        assert (README.parent / target).is_file(), target


def test_the_error_table_is_the_error_tree():
    import policystore

    rows = re.findall(r"^\| `(\w+Error)` \| `(\w+)` \|", README.read_text(encoding="utf-8"), re.M)
    assert rows
    for name, builtin in rows:
        bases = [base.__name__ for base in getattr(policystore, name).__mro__]
        assert builtin in bases, name
    listed = {name for name, _ in rows}
    tree = {cls.__name__ for cls in policystore.PolicyStoreError.__subclasses__()}
    assert listed == tree
