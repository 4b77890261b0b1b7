"""Make a store of a thousand versions, and the page that shows it, to look at.

    ./.venv/bin/python scripts/examples/report_demo.py [--versions N] [--matches N] [--out site]

The store is in memory. It has a main policy, exploiters that branch off, and other projects, with
metrics, tags, annotations and shared weights. The versions of soccer/ have played in a league.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from policystore import PolicyStore  # noqa: E402
from policystore.league import League  # noqa: E402
from tests.support.report_store import league_store  # noqa: E402
from tests.support.sample_league import sample_matches  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=1000, help="how many versions, about")
    parser.add_argument("--matches", type=int, default=5000, help="how many matches of the league")
    parser.add_argument("--out", default="site", help="the folder of the page")
    given = parser.parse_args()
    store = league_store(PolicyStore("memory://report-demo"), given.versions)
    record_league(store, given.matches)
    start = time.perf_counter()
    summary = store.report(given.out, title="A league of policies")
    print(f"{summary}\n  made in {time.perf_counter() - start:.2f} s")


def record_league(store: PolicyStore, matches: int) -> None:
    """Record matches of all versions of soccer/, of which later ones play better."""
    versions = sorted(store.versions("soccer/*"), key=lambda version: version.time)
    refs = {"heuristic:random": "random"}
    refs |= {str(version.digest): version.ref for version in versions}
    League(store, "soccer").record(list(sample_matches(refs, pairs=matches)))


if __name__ == "__main__":
    main()
