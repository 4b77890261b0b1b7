"""Check the collector against every order of the steps of pushes, marks, readers and collectors.

Each scenario is explored to its end, with the code of policystore itself over a storage in memory.
Other scenarios explore tags against deletions, each of which may die at any step.
Then each rule of the collector is broken once, and a scenario has to notice. The tests explore the
short scenarios; ``./scripts/test --all`` and this script explore all. This takes some minutes.

    scripts/tools/collect_model.py [WORD …]    # only scenarios and rules with these words
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.collector_model import (
    broken_rules,
    broken_tag_rules,
    explore,
    explore_tags,
    scenarios,
    tag_scenarios,
)
from tests.support.interleavings import LostError


def main() -> int:
    words = sys.argv[1:]
    states = schedules = 0.0
    every = [(name, each, explore) for name, each in scenarios().items()]
    every += [(name, each, explore_tags) for name, each in tag_scenarios().items()]
    for name, scenario, visit in every:
        if words and not any(word in name for word in words):
            continue
        began = time.perf_counter()
        explorer = visit(scenario)
        states += explorer.states
        schedules += explorer.schedules
        print(
            f"{name:36} {explorer.states:9,} states {explorer.schedules:9.2g} schedules "
            f"{time.perf_counter() - began:6.1f} s",
            flush=True,
        )
    print(f"{'nothing is lost in':36} {states:9,.0f} states {schedules:9.2g} schedules")
    missed = 0
    rules = [(rule, *each, explore) for rule, each in broken_rules().items()]
    rules += [(rule, *each, explore_tags) for rule, each in broken_tag_rules().items()]
    for rule, scenario, broken, visit in rules:
        if words and not any(word in rule for word in words):
            continue
        try:
            with broken:
                visit(scenario)
            missed += 1
            print(f"NOT noticed: {rule}", flush=True)
        except LostError as error:
            steps = len(str(error).splitlines()) - 1
            print(f"noticed after {steps} steps: {rule}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
