"""Print how long `import policystore` takes beyond numpy's own import.

    ./.venv/bin/python scripts/benchmarks/bench_import.py [--runs N]

Fresh interpreters run in turn, one with and one without policystore, so that a slow moment of the
machine affects both. The script prints medians. Besides numpy, policystore imports the standard
library, ml_dtypes and blake3, and never torch or ray.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

NUMPY = "import numpy"
POLICYSTORE = "import numpy; import policystore"
_TIMED = (
    "import time; start = time.perf_counter(); {what}; print(time.perf_counter() - start); "
    "import sys; print(sorted({{'torch', 'ray'}} & set(sys.modules)))"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=21, help="runs of each, at least 15")
    runs = max(15, parser.parse_args().runs)
    for statement in (NUMPY, POLICYSTORE):
        seconds(statement)  # compiles bytecode and fills the page cache
    pairs = [(seconds(NUMPY), seconds(POLICYSTORE)) for _ in range(runs)]
    numpy_alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"import numpy               {numpy_alone * 1000:7.1f} ms")
    print(f"import numpy, policystore  {both * 1000:7.1f} ms")
    print(f"policystore beyond numpy   {(both - numpy_alone) * 1000:7.1f} ms")
    print(f"(medians of {runs} fresh interpreters each, in turn; neither torch nor ray is loaded)")
    return 0


def seconds(statement: str) -> float:
    """Return the seconds that a statement takes in a fresh interpreter, without its start."""
    command = [sys.executable, "-c", _TIMED.format(what=statement)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    elapsed, heavy = ran.stdout.splitlines()
    if heavy != "[]":
        sys.exit(f"error: '{statement}' loads {heavy}")
    return float(elapsed)


if __name__ == "__main__":
    sys.exit(main())
