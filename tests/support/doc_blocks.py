"""The Python blocks of the README, run in order, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.support import ROOT

README = ROOT / "README.md"
_BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str, page: Path = README) -> list[tuple[int, str]]:
    """Line number and code of the blocks of a kind: ``""`` or ``"rllib"``."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in _BLOCK.finditer(text)
        if match[1].strip() == kind
    ]


def run_blocks(kind: str, names: dict[str, Any], page: Path = README) -> None:
    for line, code in blocks(kind, page):
        exec(compile("\n" * line + code, str(page), "exec"), names)
