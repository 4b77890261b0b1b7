"""The backend of docs/backends.md with the tests that the page shows, and the suites' imports."""

from __future__ import annotations

import subprocess
import sys

from tests.support import ROOT
from tests.support.doc_blocks import run_blocks

# Into this module, so that pytest collects the page's classes and a pickle finds its backend.
run_blocks("", globals(), ROOT / "docs" / "backends.md")


def test_without_pytest_the_suites_say_what_they_need() -> None:
    program = "import sys; sys.modules['pytest'] = None; import policystore.testing"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "policystore.testing needs pytest" in done.stderr
    assert "pip install pytest" in done.stderr
