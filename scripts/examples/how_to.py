"""Run the program of a how-to, or of the tutorial, in a folder of its own.

    ./.venv/bin/python scripts/examples/how_to.py                    # lists the pages
    ./.venv/bin/python scripts/examples/how_to.py league [FOLDER]    # runs docs/how-to/league.md

The program is made of the Python blocks of the page, so the page is the only place that has the
code. Without FOLDER the program runs in a temporary folder, which is deleted afterwards. FOLDER is
made if it is absent, and keeps the program, the store and the results.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.doc_blocks import DOCS, page_program  # noqa: E402

PAGES = {
    page.stem: page for page in (DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md")))
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", nargs="?", choices=[*PAGES], help="a page; without it, list all")
    parser.add_argument("folder", nargs="?", help="where to run; else a temporary folder")
    given = parser.parse_args()
    if given.page is None:
        for name, page in PAGES.items():
            print(f"{name:<10} {page.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
        return 0
    with tempfile.TemporaryDirectory(prefix="policystore-how-to-") as scratch:
        folder = Path(given.folder or scratch).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / f"{given.page}.py"
        program.write_text(page_program(PAGES[given.page]), encoding="utf-8")
        environment = {"RAY_USAGE_STATS_ENABLED": "0", **os.environ}
        return subprocess.run(
            [sys.executable, program], cwd=folder, env=environment, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
