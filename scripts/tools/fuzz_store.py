"""Read stores with hostile bytes, keys and listings, and print what came out.

    ./.venv/bin/python scripts/tools/fuzz_store.py [--count 100000] [--seed 0] [--first 0]

Each input must give the right policy or a typed error, within a second of processor time and 64 MiB
above the size of the store. The script prints the figures, and ends with status 1 after a fault. A
fault is printed with the options that try its input again.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.store_fuzz import fuzz  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    faulthandler.dump_traceback_later(7200, exit=True)  # a call that hangs ends the script
    began = time.monotonic()
    numbers = range(given.first, given.first + given.count)
    figures = fuzz(given.seed, numbers, measure=True)
    print(figures)
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main())
