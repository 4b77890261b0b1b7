"""Simulate a thousand machines that use one store in a bucket, and write docs/scale.md.

    ./.venv/bin/python scripts/benchmarks/scale.py                         # print the tables
    ./.venv/bin/python scripts/benchmarks/scale.py --quick                 # in ten seconds
    ./.venv/bin/python scripts/benchmarks/scale.py --page docs/scale.md    # write tables and charts
    ./.venv/bin/python scripts/tools/ceph.py ./.venv/bin/python scripts/benchmarks/scale.py \
        --calibrate '' --server 'Ceph, one node in memory'                 # measure a real server

The simulation has its own seeded random numbers and reads no clock: it prints the same each time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CALIBRATION = ROOT / "docs" / "assets" / "scale-calibration.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller parts of the machines")
    parser.add_argument("--page", type=Path, help="the page whose tables to write")
    parser.add_argument("--calibrate", metavar="ENDPOINT", help="measure a server instead")
    parser.add_argument("--server", default="a server", help="the name of the measured server")
    given = parser.parse_args()
    if given.calibrate is not None:
        from scripts.benchmarks.scaling.calibrate import calibrate
        from scripts.tools.ceph import KEY, SECRET

        os.environ.setdefault("AWS_ACCESS_KEY_ID", KEY)
        os.environ.setdefault("AWS_SECRET_ACCESS_KEY", SECRET)
        endpoint = given.calibrate or os.environ["POLICYSTORE_TEST_S3"]
        with tempfile.TemporaryDirectory() as folder:
            measured = calibrate(endpoint, Path(folder), given.server)
        CALIBRATION.parent.mkdir(exist_ok=True)
        CALIBRATION.write_text(json.dumps(measured, indent=1) + "\n")
        print(f"wrote {CALIBRATION.relative_to(ROOT)}")
        return 0
    from scripts.benchmarks.scaling.report import Tables, write_page

    tables = Tables(json.loads(CALIBRATION.read_text()), quick=given.quick)
    if given.page is None:
        for title, text in tables.all().items():
            print(f"\n## {title}\n\n{text}")
        return 0
    write_page(given.page, tables)
    print(f"wrote {given.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
