"""Bring a whole Tune experiment into a store: a version for each checkpoint of each policy.

    ./.venv/bin/python scripts/tools/import_experiment.py ~/ray_results/soccer ./policies
    ./.venv/bin/python scripts/tools/import_experiment.py s3://runs/soccer s3://team/policies --ray auto

A policy becomes NAME/TRIAL/POLICY, its checkpoints the versions in their order; each record holds
the numbers that Tune reported, and the experiment, trial, checkpoint and iteration as its source.
What is in the store already is left alone, so that a run that was cut off goes on where it was, and
a second one adds nothing. Neither Ray nor torch is needed, but for --ray.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from policystore import NotFoundError, PolicyStore, PolicyStoreError
from policystore.checkpoints import list_checkpoints, read_checkpoint

MOST_METRICS = 12_000  # bytes of JSON; a record takes 16 KiB


@dataclass(frozen=True)
class Job:
    """One trial."""

    store: str
    experiment: str
    name: str
    trial: str
    policies: tuple[str, ...] | None
    checkpoints: tuple[tuple[str, str, Mapping[str, Any]], ...]  # folder's name, path, result


def plain_name(text: str) -> str:
    """A text as segments of a name; Tune's trials may hold commas and the like."""
    parts = (re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip(".") for part in text.split("/"))
    return "/".join(part for part in parts if part)


def numbers(result: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a result, nested ones by names with slashes; without the config."""
    for key, value in result.items():
        if key in ("config", "hist_stats", "done") or not isinstance(key, str):
            continue
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + key, value


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """As many as a record takes: returns and episodes first."""
    found = sorted(numbers(result), key=lambda item: ("return" not in item[0], item[0].count("/")))
    kept: dict[str, float] = {}
    size = 0
    for key, value in found:
        size += len(json.dumps({key: value}))
        if size > MOST_METRICS:
            break
        kept[key] = value
    return kept


def import_trial(job: Job) -> tuple[str, int, int, list[str]]:
    """Its name, versions added, versions that were there, and what could not be read."""
    store = PolicyStore(job.store)
    known: dict[str, set[tuple[Any, Any]]] = {}
    added = there = 0
    problems = []
    for folder, path, result in job.checkpoints:
        try:
            wanted = [name_of(job, policy_id) for policy_id in job.policies or ()]
            mine = (job.trial, folder)
            if wanted and all(mine in imported(store, name, known) for name in wanted):
                there += len(wanted)
                continue
            snaps = read_checkpoint(path, job.policies)
        except PolicyStoreError as error:
            problems.append(f"{path}: {error}")
            continue
        for policy_id, snap in snaps.items():
            name = name_of(job, policy_id)
            if mine in imported(store, name, known):
                there += 1
                continue
            source = {"experiment": job.experiment, "trial": job.trial, "checkpoint": folder,
                      "iteration": result.get("training_iteration")}  # fmt: skip
            store.push(snap, name, metrics=metrics_of(result), source=source)
            known[name].add(mine)
            added += 1
    return job.trial, added, there, problems


def name_of(job: Job, policy_id: str) -> str:
    return plain_name(f"{job.name}/{job.trial}/{policy_id}")


def imported(
    store: PolicyStore, name: str, known: dict[str, set[tuple[Any, Any]]]
) -> set[tuple[Any, Any]]:
    """The checkpoints that a name has already; trials may differ by what no name can hold."""
    if name not in known:
        try:
            versions = store.log(name)
        except NotFoundError:
            versions = []
        known[name] = {
            (version.source.get("trial"), version.source.get("checkpoint")) for version in versions
        }
    return known[name]


def locally(jobs: list[Job], workers: int) -> Iterator[tuple[str, int, int, list[str]]]:
    with ProcessPoolExecutor(min(workers, len(jobs))) as pool:
        for future in as_completed([pool.submit(import_trial, job) for job in jobs]):
            yield future.result()


def over_ray(jobs: list[Job], address: str) -> Iterator[tuple[str, int, int, list[str]]]:
    import ray

    ray.init(address=address, include_dashboard=False, log_to_driver=False)
    try:
        task: Any = ray.remote(num_cpus=1)(import_trial)
        pending = [task.remote(job) for job in jobs]
        while pending:
            (done,), pending = ray.wait(pending, num_returns=1)
            yield ray.get(done)
    finally:
        ray.shutdown()


def shown(jobs: list[Job], results: Iterator[tuple[str, int, int, list[str]]]) -> int:
    """Print as it goes on; the number of checkpoints that could not be read."""
    added_all = there_all = bad = 0
    for done, (trial, added, there, problems) in enumerate(results, 1):
        added_all, there_all, bad = added_all + added, there_all + there, bad + len(problems)
        print(f"[{done}/{len(jobs)}] {trial or '.'}: {added} added, {there} there already")
        for problem in problems:
            print(f"    {problem}", file=sys.stderr)
    print(f"{added_all} versions added, {there_all} there already, {bad} checkpoints not read")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="a folder or URL of a Tune experiment or trial")
    parser.add_argument("store", help="a folder or URL; made if it is not there")
    parser.add_argument("--name", help="what the names begin with; by default the folder's name")
    parser.add_argument("--policies", nargs="+", metavar="ID", help="only these")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--ray", metavar="ADDRESS", help="as tasks of a Ray cluster; 'local' too")
    given = parser.parse_args()
    experiment = given.experiment.rstrip("/")
    name = given.name or experiment.rpartition("/")[2]
    trials: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for found in list_checkpoints(experiment):
        entry = (found.name, found.path, found.result)
        trials.setdefault(found.trial, []).append(entry)
    if not trials:
        raise SystemExit(f"error: no checkpoints in {experiment}")
    policies = tuple(given.policies) if given.policies else None
    jobs = [
        Job(given.store, experiment, name, trial, policies, tuple(checkpoints))
        for trial, checkpoints in trials.items()
    ]
    run: Callable[[], Iterator[Any]] = (
        (lambda: over_ray(jobs, given.ray)) if given.ray else (lambda: locally(jobs, given.workers))
    )
    return 1 if shown(jobs, run()) else 0


if __name__ == "__main__":
    sys.exit(main())
