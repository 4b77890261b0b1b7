"""Pages agree with the code: the reference, quoted messages, tests, words and lines of RLlib."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

import policystore
from tests.support import ROOT
from tests.support.doc_blocks import DOCS, page_program
from tests.test_package import PLACES

PACKAGE = Path(policystore.__file__).parent
INTERNAL = {"cli", "report", "store"}  # reached by the command line and by PolicyStore


def exported(package: str) -> list[str]:
    """Return ``__all__`` of a package, without an import."""
    tree = ast.parse((PACKAGE / package / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def public_packages() -> list[str]:
    """Return the packages from which users import names; ``""`` is policystore itself."""
    found = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    return ["", *(name for name in found if name not in INTERNAL and exported(name))]


def documented() -> set[str]:
    """Return the names for which a page of the reference shows the docstring."""
    pages = (DOCS / "reference").glob("*.md")
    return {name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)}


@pytest.mark.parametrize("package", public_packages(), ids=lambda name: name or "policystore")
def test_every_public_name_is_in_the_reference(package: str) -> None:
    module = f"policystore.{package}" if package else "policystore"
    shown = documented()
    lacking = [name for name in exported(package) if f"{module}.{name}" not in shown]

    elsewhere = {  # names of one package that another one exports, too
        name
        for other in public_packages()
        if other != package
        for name in exported(other)
        if f"policystore.{other}.{name}".replace("..", ".") in shown
    }
    text = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    assert [name for name in lacking if name not in elsewhere or f"`{name}`" not in text] == []


def test_there_are_public_packages() -> None:
    assert {"", "rllib", "checkpoints", "torch", "testing", "spaces"} <= set(public_packages())


def templates() -> list[str]:
    """Return every text of the package, with ``…`` in the place of each value that varies."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


@pytest.mark.long
def test_every_message_of_the_page_is_one_of_the_code() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\*\*`(.+)`\*\*$", page, re.M)

    assert len(messages) > 30
    known = templates()
    assert [text for text in messages if not any(text in each for each in known)] == []


@pytest.mark.parametrize("page", ["concurrency.md"])
def test_every_row_of_the_page_names_tests_that_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8").partition("## The tests")[2]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]

    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`([\w/.]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"def {test}\b", (ROOT / file).read_text(encoding="utf-8")), row


def lines_of_rllib() -> list[tuple[str, str, str]]:
    """Return file, number and text of each line of RLlib in the table of docs/why.md."""
    page = (DOCS / "why.md").read_text(encoding="utf-8")
    return re.findall(r"`([\w/]+\.py):(\d+)` \| `(.+)` \|$", page, re.M)


def test_the_lines_of_rllib_are_as_the_page_says() -> None:
    rows = lines_of_rllib()
    found = find_spec("ray")
    if found is None or version("ray") != "2.60.0":
        pytest.skip("the page is about Ray 2.60.0")

    assert len(rows) > 8
    rllib = Path(found.submodule_search_locations[0]) / "rllib"
    for file, number, line in rows:
        source = (rllib / file).read_text(encoding="utf-8").splitlines()
        assert source[int(number) - 1].strip() == line, f"{file}:{number}"


def test_other_pages_name_only_lines_of_rllib_that_are_compared() -> None:
    compared = {(file, number) for file, number, _ in lines_of_rllib()}
    page = (DOCS / "running.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+/\w+\.py):(\d+)`", page)

    assert len(named) > 10
    assert [each for each in named if each not in compared] == []


def test_the_glossary_is_in_order_and_has_each_word_once() -> None:
    page = (DOCS / "glossary.md").read_text(encoding="utf-8")
    words = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]

    assert words == sorted(set(words), key=str.lower)


def test_the_programs_of_the_how_tos_are_whole_and_listed() -> None:
    script = ROOT / "scripts" / "examples" / "how_to.py"
    listed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)

    pages = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [p.stem for p in pages]
    for page in pages:
        compile(page_program(page), str(page), "exec")


def code_lines(path: Path) -> int:
    """Return the number of lines of a program without blank lines, comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def test_the_programs_with_and_without_a_pool_have_as_many_lines_as_the_page_says() -> None:
    page = (DOCS / "league-example.md").read_text(encoding="utf-8")
    total = re.search(r"^\| \*\*all\*\* \| \*\*(\d+)\*\* \| \*\*(\d+)\*\* \|$", page, re.M)

    assert total is not None
    examples = ROOT / "scripts" / "examples"
    assert int(total[1]) == code_lines(examples / "league.py")
    assert int(total[2]) == code_lines(examples / "league_by_hand.py")


def test_the_drawing_of_the_levels_has_every_package() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawing = page.partition("## Levels")[2].partition("```text\n")[2].partition("```")[0]
    drawn = tuple(f"{each}." for each in re.findall(r"[a-z_]+(?:\.[a-z_]+)*", drawing))

    entries = {entry.removesuffix(".*") for entry in PLACES} - {"", "__main__"}
    assert [entry for entry in entries if not f"{entry}.".startswith(drawn)] == []
