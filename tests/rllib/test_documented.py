"""The page on RLlib lists exactly the cells that are tested."""

from __future__ import annotations

import re
from types import ModuleType

from tests.rllib.new_stack import test_matrix as new_stack
from tests.rllib.old_stack import test_matrix as old_stack
from tests.support import ROOT

PAGE = ROOT / "docs" / "rllib.md"


def cells_of(module: ModuleType) -> set[str]:
    """Return the parameters of the module's one test, also those that are marked long."""
    (test,) = [each for name, each in vars(module).items() if name.startswith("test_")]
    (mark,) = [mark for mark in test.pytestmark if mark.name == "parametrize"]
    return {getattr(each, "values", (each,))[0] for each in mark.args[1]}


def test_every_cell_is_listed_and_every_listed_cell_is_one() -> None:
    table = PAGE.read_text().partition("## Shown to come back")[2].partition("\n## ")[0]
    rows = [line.split("|")[2:4] for line in table.splitlines() if line.startswith("| ")][1:]
    for column, module in enumerate((old_stack, new_stack)):
        listed = {cell for row in rows for cell in re.findall(r"`([^`]+)`", row[column])}
        assert listed == cells_of(module)
