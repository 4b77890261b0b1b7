"""RLlib's private parts are reached through the two compat modules, and listed in the docs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import policystore
from policystore.rllib import compat as of_policies
from policystore.rllib.worker_code import compat as inside_workers
from policystore.rllib.workers import compat as on_the_driver

RLLIB = Path(policystore.__file__).parent / "rllib"
PAGE = Path(policystore.__file__).parents[1] / "docs" / "architecture.md"
# Those of Python and torch, and of PolicyStore, Snapshot, Player and Session.
ALLOWED = {
    "_check_storage", "_check_writable", "_current_frames", "_engine", "_following", "_forward",
    "_gate", "_ids", "_named_ref", "_pipelines", "_pulled_as", "_slot_of", "_snap", "_states",
    "_stop", "_thread", "_validate_args",
}  # fmt: skip


def private_names(path: Path) -> set[str]:
    """Names with an underscore that a module reads of other objects than its own."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls"):
            names.add(node.attr)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr"):
            names |= {
                each.value
                for each in node.args[1:2]
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
        if isinstance(node, ast.ImportFrom):
            names |= set((node.module or "").split("."))
    own = {
        node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    return {
        name
        for name in names - own - ALLOWED
        if re.match("_[a-z]", name) and not name.startswith("_policystore")
    }


def test_other_modules_use_no_private_name_of_rllib() -> None:
    found = {
        str(path.relative_to(RLLIB)): names
        for path in RLLIB.rglob("*.py")
        if path.name != "compat.py" and (names := private_names(path))
    }
    # policystore._util is ours.
    assert {name: names - {"_util"} for name, names in found.items() if names - {"_util"}} == {}


@pytest.mark.parametrize("module", [inside_workers, of_policies, on_the_driver])
def test_the_page_lists_what_is_used(module: object) -> None:
    page = PAGE.read_text()
    source = Path(module.__file__).read_text()  # type: ignore[attr-defined]
    private = private_names(Path(module.__file__)) - {"_private"}  # type: ignore[attr-defined]
    strings = set(re.findall(r'"(_[a-z]\w+)"', source))
    for name in private | strings | set(module.__all__):  # type: ignore[attr-defined]
        assert f"{name}`" in page, name
