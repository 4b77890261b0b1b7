"""A real notebook: each cell that ends with a value of policystore shows HTML and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import ROOT

SET_UP = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from policystore import PolicyStore, Snapshot, Spec

store = PolicyStore("policies")
"""
EMPTY = "store"
PUSH = """
for number in (1, 2):
    weights = {"layer": np.full((2, 3), number, np.float32)}
    snap = Snapshot(weights=weights, spec=Spec(config={"kind": "linear"}))
    store.push(snap, "control/main", metrics={"return": 10.0 * number}, message="<b>bold</b>")
store.tag("control/main@2", "champion")
store
"""
CELLS = {
    "store.log('control/main')": "control/main@2",
    "store.log('control/main')[0]": "blake3:",
    "store.pull('control/main')": "layer",
    "store.pull('control/main').spec": "linear",
    "store.diff('control/main@1', 'control/main@2')": "relative norm",
    "store.verify()": "2 objects",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Run a notebook; return what the last value of each cell shows, by MIME type."""
    cells = [SET_UP, EMPTY, PUSH, *CELLS]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}
        },
    )
    folder: Path = tmp_path_factory.mktemp("notebook")
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    shown: dict[str, Any] = {}
    for source, cell in zip(cells, notebook.cells, strict=True):
        results = [each for each in cell.outputs if each.output_type == "execute_result"]
        errors = [each for each in cell.outputs if each.output_type == "error"]
        assert not errors, errors
        shown[source] = results[0].data if results else {}
    return shown


@pytest.mark.long
def test_each_value_shows_html_and_one_screen_of_text(outputs: dict[str, dict[str, str]]):
    for source, expected in CELLS.items():
        data = outputs[source]
        assert expected in data["text/html"], source
        assert expected in data["text/plain"], source
        assert len(data["text/plain"].splitlines()) <= 40, source


@pytest.mark.long
def test_a_store_shows_its_names(outputs: dict[str, dict[str, str]]):
    assert "no policies under a name yet" in outputs[EMPTY]["text/html"]
    for kind in ("text/html", "text/plain"):
        shown = outputs[PUSH][kind]
        assert "control/main@2" in shown
        assert "champion @2" in shown
        assert "return=20" in shown
    assert "&lt;b&gt;bold" in outputs[PUSH]["text/html"]
    assert "<b>" not in outputs[PUSH]["text/html"]
