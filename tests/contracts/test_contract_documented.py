"""The backend of docs/backends.md, and the tests of it that the page shows."""

from __future__ import annotations

from tests.support import ROOT
from tests.support.doc_blocks import run_blocks

# Into this module, so that pytest collects the page's classes and a pickle finds its backend.
run_blocks("", globals(), ROOT / "docs" / "backends.md")
