"""Cells of a matrix as parameters: a fixed sample always runs, the rest with ``--all``.

Some cells are ``wide``: CI leaves them out, because other cells run the same code.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cells: Iterable[str], *always: str, wide: Iterable[str] = ()) -> list[Any]:
    """Return the cells as parameters of a test or fixture.

    All but ``always`` are marked long, and those in ``wide`` are marked wide, too.
    """
    cells, left = list(cells), set(wide)
    assert {*always, *left} <= set(cells), {*always, *left} - set(cells)
    assert not left & set(always)
    return [
        cell
        if cell in always
        else pytest.param(cell, marks=[pytest.mark.long, *([pytest.mark.wide] * (cell in left))])
        for cell in cells
    ]


def chosen(request: pytest.FixtureRequest, name: str) -> list[str]:
    """Return the cells that this test run needs from a fixture, in the order of the tests.

    ``name`` is the parameter by which the tests of the module get the cells.
    """
    cells = [
        item.callspec.params[name]
        for item in request.session.items
        if item.path == request.path and name in item.callspec.params  # type: ignore[attr-defined]
    ]
    return list(dict.fromkeys(cells))
