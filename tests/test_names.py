"""Names that were given up are left nowhere, and docstrings say first what a function does."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import policystore

PACKAGE = Path(policystore.__file__).parent
ROOT = PACKAGE.parent

# Old name -> what to write now. Before the first release, public names were changed without shims.
RENAMED = {
    r"\badd_to\b": "add_policy",
    r"\bremove_from\b": "remove_policy",
    r"\bsnapshots\(": "snapshot_all(",
    r"\bkeep_added\b": "restore_added_policies",
    r"\bbeside=": "callbacks=",
    r"\bevery=": "interval=",
    r"\bqueue=": "max_pending=",
    r"\bagents=": "agent_ids=",
    r"\blist_checkpoint\b": "inspect_checkpoint",
    r"\blist_experiment\b": "list_checkpoints",
    r"\bListing\b": "CheckpointInfo",
    r"\bTrained\b": "TrialCheckpoint",
    r"\bleave_out\b": "omit",
    r"\bcheck_writable\b": "nothing: it is private",
    r"\bof_parsed\b": "nothing: it is private",
    r"\bSnapshot\.encode\b|\bsnap(?:shot)?\.encode\(": "nothing: it is private",
    r"\.state_json\b": "nothing: it is private",
    r"\bSnapshot\.state_arrays\b|\bsnap(?:shot)?\.state_arrays\b": "nothing: it is private",
}

# The JSON key stays: in quotes in code, as code in the table of docs/format.md.
LEFT_OUT = re.compile(r"(?<![\"`])\bleft_out\b|\bleft_out\b(?![\"`])")

NO_VERBS = {
    # articles and determiners
    "a", "an", "all", "any", "both", "each", "every", "no", "one", "some", "the",
    # question words and conjunctions
    "as", "how", "if", "what", "when", "where", "whether", "which", "who", "whoever", "whom", "why",
    # prepositions
    "about", "after", "around", "at", "before", "beside", "between", "by", "for", "from", "in",
    "of", "on", "to", "under", "with", "within", "without",
    # pronouns
    "it", "its", "nobody", "none", "our", "that", "their", "these", "they", "this", "those", "we",
}  # fmt: skip


@functools.cache
def texts() -> list[Path]:
    """Return every file of the checkout in which a user meets names."""
    folders = [PACKAGE, ROOT / "docs", ROOT / "scripts"]
    files = [path for folder in folders for path in sorted(folder.rglob("*"))]
    return [
        path
        for path in [ROOT / "README.md", *files]
        if path.suffix in (".py", ".md", "") and path.is_file()
    ]


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text()


def places(pattern: str | re.Pattern[str]) -> list[str]:
    """Return where a pattern is found in a line, each place as ``file:line: text``."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in texts()
        if re.search(pattern, text_of(path))
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("old", RENAMED)
def test_no_old_name_is_left(old: str) -> None:
    assert places(old) == [], f"now {RENAMED[old]}"


def test_what_is_omitted_is_called_left_out_only_as_a_key_of_json() -> None:
    assert places(LEFT_OUT) == [], "now omitted"


def test_the_search_finds_what_is_there() -> None:
    assert any(line.startswith("README.md:") for line in places(r"\bpolicystore\b"))
    assert any(line.startswith("docs/format.md:") for line in places(r"`left_out`"))
    assert any(line.startswith("policystore/format/spec.py:") for line in places(r'"left_out"'))
    assert any(line.startswith("scripts/examples/") for line in places(r"\bsnapshot\b"))


def docstrings() -> Iterator[tuple[str, str]]:
    """Return the place and the docstring of each function that is not a property."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                docstring = ast.get_docstring(node)
                is_property = any("property" in ast.unparse(each) for each in node.decorator_list)
                if docstring and not is_property:
                    place = f"{path.relative_to(PACKAGE)}:{node.lineno}"
                    yield place, docstring.partition("\n")[0]


def begins_with_a_verb(docstring: str) -> bool:
    """Return whether the first word may be a verb; nouns without an article are not told apart."""
    first = docstring.split()[0].strip(".,:;")
    return re.fullmatch(r"[A-Za-z-]+", first) is not None and first.lower() not in NO_VERBS


def test_three_of_four_docstrings_begin_with_a_verb() -> None:
    lines = list(docstrings())
    others = [f"{place}: {line}" for place, line in lines if not begins_with_a_verb(line)]
    share = 1 - len(others) / len(lines)
    assert share >= 0.75, f"{share:.0%} do; these do not:\n" + "\n".join(others)


def test_first_words_that_are_no_verbs() -> None:
    assert begins_with_a_verb("Return the digest.")
    assert begins_with_a_verb("Re-open the file.")
    for docstring in (
        "The digest.",
        "Whether it fits.",
        "``value`` if it fits.",
        "RLlib's own one.",
    ):
        assert not begins_with_a_verb(docstring)
