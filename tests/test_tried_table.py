"""The table of tries in docs/running.md is the one of the tests."""

from __future__ import annotations

import pytest

from scripts.tools import tried_table
from tests.support.tried_cells import CALLBACKS, LIVE, Cell, cell_of


def test_the_page_has_the_table_of_the_tests() -> None:
    """The tests take their ids from these cells, so this test needs no Ray."""
    page = tried_table.PAGE.read_text()
    assert tried_table.with_tables(page, [*LIVE, *CALLBACKS]) == page


def test_ids_name_their_cells() -> None:
    cells = [*LIVE, *CALLBACKS]
    assert [cell_of(cell.id) for cell in cells] == cells
    assert len({cell.id for cell in cells}) == len(cells)


def test_a_table_has_calls_and_faults() -> None:
    cells = [Cell("PPO", "load_into"), Cell("PPO", "add_policy", "a kill", "SyncError")]
    table = tried_table.tables(cells)
    assert "| PPO |  | yes |" in table
    assert "| PPO | a kill | `add_policy`: `SyncError` |" in table


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="lacks the markers"):
        tried_table.with_tables("# Page", [])
