"""README and docs: blocks run, links lead somewhere, tables are complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import policystore
from tests.support.doc_blocks import DOCS, PAGES, README, anchors, blocks, links, run_blocks

# Where the Python blocks of each page are run.
HERE = {"store.md", "mirrors.md", "upkeep.md", "torch.md", "errors.md", "spaces.md"}
WITH_RLLIB = {"README.md", "rllib.md", "filters.md", "trust.md"}  # rllib/test_readme_rllib.py
ELSEWHERE = {
    "callbacks.md",  # rllib/callbacks/test_documented.py
    "external.md",  # rllib/live/test_external.py
    "running.md",  # rllib/live/test_documented.py
    "backends.md",  # contracts/test_contract_documented.py
}


def named(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_python_block_is_of_a_kind_that_is_run(page: Path):
    fences = re.findall(r"^```python ?(.*)$", page.read_text(encoding="utf-8"), re.M)
    if fences and page.name not in ELSEWHERE:
        assert page.name in HERE | WITH_RLLIB
        kinds = {""} if page.name in HERE else {"rllib", "first"}
        assert set(fences) <= kinds
    if page == README:
        assert fences[0] == "first"
        assert fences.count("first") == 1


def run_page(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any
) -> dict[str, Any]:
    """Run the blocks of a page in a folder, with these names; return all names."""
    monkeypatch.chdir(folder)
    names = dict(given)
    run_blocks("", names, DOCS / name)
    return names


def test_the_blocks_about_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    names = run_page("store.md", tmp_path, monkeypatch)

    assert names["store"].verify().ok
    assert names["store"].names() == ["control/main", "control/test"]
    assert (tmp_path / "controller.safetensors").is_file()
    printed = capsys.readouterr().out
    assert "control/main@2" in printed
    assert "beats version 1" in printed


def test_the_blocks_about_upkeep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = run_page("upkeep.md", tmp_path, monkeypatch)

    assert names["report"].needed.count == 1
    assert "needs each object" in names["report"].reason


def test_the_blocks_about_mirrors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    names = run_page("mirrors.md", tmp_path, monkeypatch)

    assert names["mirror"].log("soccer/main") == names["store"].log("soccer/main")
    assert names["mirror"].tags("soccer/main") == names["store"].tags("soccer/main")
    printed = capsys.readouterr().out
    assert "would copy 2 versions" in printed
    assert "nothing new" in printed


def test_the_blocks_about_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = run_page("torch.md", tmp_path, monkeypatch)

    assert names["store"].names() == ["nets/small"]
    assert all(
        (left == right).all()
        for left, right in zip(names["net"].parameters(), names["again"].parameters(), strict=True)
    )


def test_the_blocks_about_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    space = gymnasium.spaces.Discrete(4)
    names = run_page("spaces.md", tmp_path, monkeypatch, space=space)

    assert names["again"] == space


def test_the_blocks_about_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run_page("errors.md", tmp_path, monkeypatch)

    comment = re.search(r"# … (.*)", blocks("", DOCS / "errors.md")[0][1])
    assert comment is not None
    assert comment[1] in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_file_or_heading(page: Path):
    for target in links(page):
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        assert leads_to.exists(), target
        assert not anchor or anchor in anchors(leads_to), target


def test_the_index_lists_every_page_once():
    listed = [target for target in links(DOCS / "index.md") if "/" not in target]

    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md") if page.stem != "index")


def test_the_readme_fits_on_a_few_screens():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 170


def test_the_error_table_is_the_error_tree():
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+Error)` \| `(\w+)` \|", text, re.M)

    for name, builtin in rows:
        bases = [base.__name__ for base in getattr(policystore, name).__mro__]
        assert builtin in bases, name
    tree = {cls.__name__ for cls in policystore.PolicyStoreError.__subclasses__()}
    assert {name for name, _ in rows} == tree


def test_every_dependency_is_on_the_page_about_them():
    pyproject = (README.parent / "pyproject.toml").read_text(encoding="utf-8")
    packages = re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?>=', pyproject)
    page = (DOCS / "dependencies.md").read_text(encoding="utf-8")

    assert {"numpy", "ray", "pytest"} <= set(packages)
    assert [each for each in packages if each != "hatchling" and each not in page] == []
