"""Small stores, and the data of their pages."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot
from tests.support.report_store import MADE

_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def small(seed: int) -> Snapshot:
    """Return one of several small policies."""
    return Snapshot(weights={"w": np.full((2, 3), seed, np.float32), "b": np.ones(2, np.float32)})


def data_of(page: Path) -> dict[str, Any]:
    """Return the data in a page, as the scripts of the page read it."""
    match = _DATA.search(page.read_text(encoding="utf-8"))
    assert match is not None
    read: dict[str, Any] = json.loads(match[1])
    return read


def document_of(store: PolicyStore, **arguments: Any) -> dict[str, Any]:
    """Write a report, and return the data in its page."""
    with tempfile.TemporaryDirectory() as folder:
        return data_of(store.report(Path(folder) / "site", time=MADE, **arguments).path)
