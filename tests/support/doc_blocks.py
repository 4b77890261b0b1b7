"""Read and run the Python blocks of README and docs, in order, as a reader would paste them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.support import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
"""Every page that people read."""

_BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str, page: Path = README) -> list[tuple[int, str]]:
    """Return line number and code of a page's blocks of one kind.

    The kind is the word after ``python`` on the fence's line: ``""`` for blocks that need no Ray,
    ``"rllib"`` for those that do, ``"first"`` for the README's program. Blocks that begin with
    ``py`` are not run.
    """
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, match.start(2)), match[2])
        for match in _BLOCK.finditer(text)
        if match[1].strip() == kind
    ]


def run_blocks(kind: str, names: dict[str, Any], page: Path = README) -> None:
    """Run a page's blocks of one kind, one after the other, with these names."""
    for line, code in blocks(kind, page):
        exec(compile("\n" * line + code, str(page), "exec"), names)


def page_program(page: Path) -> str:
    """Return all Python blocks of a page as one program, whatever their kind."""
    text = page.read_text(encoding="utf-8")
    return "\n".join(match[2] for match in _BLOCK.finditer(text))


def outputs(page: Path) -> list[str]:
    """Return the blocks of a page that show what a program prints, in order."""
    return re.findall(r"^```text\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def readme_program() -> tuple[str, str]:
    """Return all Python blocks of the README in order, and the output printed below the first."""
    text = README.read_text(encoding="utf-8")
    match = re.search(r"^```python first\n.*?^```$.*?^```text\n(.*?)^```$", text, re.M | re.S)
    assert match is not None
    return "\n".join(code for _, code in blocks("first") + blocks("rllib")), match[1]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def links(page: Path) -> list[str]:
    """Return the targets of a page's links to files and headings of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _without_code(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def _without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
