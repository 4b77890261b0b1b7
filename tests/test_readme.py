"""README and docs: blocks run, links lead somewhere, tables are complete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import policystore
from tests.support.doc_blocks import DOCS, PAGES, README, anchors, blocks, links, run_blocks

# Where the Python blocks of each page are run.
HERE = {
    "store.md", "mirrors.md", "upkeep.md", "torch.md", "errors.md", "spaces.md", "report.md",
    "league-ledger.md",
}  # fmt: skip
WITH_RLLIB = {"README.md", "rllib.md", "filters.md", "trust.md"}  # rllib/test_readme_rllib.py
HOW_TOS = {  # rllib/test_documented_howtos.py
    "tutorial.md",
    *(
        f"how-to/{name}.md"
        for name in ("following", "league", "migration", "notebook", "serving", "tune")
    ),
}
ELSEWHERE = {
    "callbacks.md",  # rllib/callbacks/test_documented.py
    "export.md",  # rllib/exporting/test_documented.py
    "league.md",  # league/pool/test_documented.py
    "external.md",  # rllib/live/test_external.py
    "running.md",  # rllib/live/test_documented.py
    "serving.md",  # rllib/playing/test_documented.py
    "ratings.md",  # league/analysis/test_documented.py
    "transfer.md",  # rllib/transfer/test_documented.py
    "play.md",  # play/test_documented.py
    "tournaments.md",  # league/tournament/test_documented.py
    "backends.md",  # contracts/test_contract_documented.py
    "how-to/team.md",  # backends/test_team_page.py
}


def named(page: Path) -> str:
    """Return the path of a page below docs/, or the name of a page outside."""
    return page.relative_to(DOCS).as_posix() if DOCS in page.parents else page.name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_python_block_is_of_a_kind_that_is_run(page: Path):
    fences = re.findall(r"^```python ?(.*)$", page.read_text(encoding="utf-8"), re.M)
    name = named(page)
    if fences and name not in ELSEWHERE:
        assert name in HERE | WITH_RLLIB | HOW_TOS
        kinds = {""} if name in HERE else {"rllib"} if name in HOW_TOS else {"rllib", "first"}
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


def test_the_blocks_about_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    names = run_page("report.md", tmp_path, monkeypatch)

    assert (tmp_path / "site" / "index.html").stat().st_size == names["summary"].nbytes
    assert names["summary"].problems == ()
    assert "2 names, 9 versions, 9 comparisons" in capsys.readouterr().out


def test_the_blocks_about_ledgers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    names = run_page("league-ledger.md", tmp_path, monkeypatch)

    assert names["league"].totals().episodes == 4
    printed = capsys.readouterr().out
    assert "2 players, 1 match, 4 episodes" in printed
    assert "heuristic:greedy" in printed


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
    listed = [target for target in links(DOCS / "index.md") if not target.startswith("../")]
    listed += [f"reference/{target}" for target in links(DOCS / "reference" / "index.md")]

    pages = [named(page) for page in DOCS.rglob("*.md")]
    assert sorted(listed) == sorted(page for page in pages if page != "index.md")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_json_block_is_json(page: Path):
    for block in re.findall(r"^```json\b[^\n]*\n(.*?)^```$", page.read_text(), re.M | re.S):
        json.loads(block)


def test_the_site_has_every_page_in_its_menu():
    menu = (README.parent / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"^ +- (?:.+: )?([\w/-]+\.md)$", menu, re.M)

    outside = ["readme.md", "contributing.md", "changelog.md"]
    assert sorted(listed) == sorted([named(page) for page in DOCS.rglob("*.md")] + outside)


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
