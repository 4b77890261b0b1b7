"""The backend of docs/backends.md passes the tests that the page shows; pytest is required."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT
from tests.support.doc_blocks import run_blocks

# Run the page's blocks in this module, so that pytest collects the classes of the page, and pickles
# find the backend of the page.
run_blocks("", globals(), ROOT / "docs" / "backends.md")


def test_without_pytest_the_import_error_names_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; import policystore.testing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "policystore.testing needs the package pytest" in done.stderr
    assert "pip install pytest" in done.stderr
