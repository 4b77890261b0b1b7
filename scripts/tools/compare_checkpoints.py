"""Compare how the installed Ray and policystore read real checkpoints of eleven Ray versions.

    ./.venv/bin/python scripts/tools/compare_checkpoints.py [--write]

prints the table of docs/compatibility.md. With --write the script also writes the table into that
page. Each of Ray's loaders (Algorithm, Policy, RLModule) tries to load each checkpoint. A
checkpoint counts as loaded if one loader returns every policy with the recorded weights.
policystore reads each checkpoint without Ray and rebuilds each policy. The outputs of the rebuilt
policies are compared with the recorded outputs.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.checkpoint_corpus import Given, given  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- table: scripts/tools/compare_checkpoints.py --write -->", "<!-- end of table -->"
PATIENCE = 90  # seconds for one of Ray's loaders


class TooLongError(Exception):
    """A loader did not return in time."""


def by_ray(one: Given) -> str:
    """Return ``"yes"`` if Ray loads the checkpoint, else the errors of Ray's loaders."""
    said: list[str] = []
    for load in (by_algorithm, by_policy, by_module):
        signal.signal(signal.SIGALRM, too_long)
        signal.alarm(PATIENCE)
        try:
            found = dict(load(one))
        except (Exception, SystemExit) as error:
            said.append(type(error).__name__)
            continue
        finally:
            signal.alarm(0)
        if all(
            same(found.get(policy_id), one.weights(policy_id))
            for policy_id in one.about["policies"]
        ):
            return "yes"
        said.append("nothing" if not found else "other weights")
    return "no: " + ", ".join(dict.fromkeys(said))


def too_long(*_: Any) -> None:
    raise TooLongError


def same(found: Any, wanted: dict[str, Any]) -> bool:
    return found is not None and all(
        name in found and np.array_equal(np.asarray(found[name]), wanted[name]) for name in wanted
    )


def at(one: Given) -> Path:
    """Return the checkpoint's own folder, which lies in another one up to Ray 2.6."""
    return next(iter(sorted(one.path.glob("checkpoint_*"))), one.path)


def by_algorithm(one: Given) -> Iterator[tuple[str, Any]]:
    from ray.rllib.algorithms.algorithm import Algorithm

    algorithm = Algorithm.from_checkpoint(str(at(one)))
    try:
        for policy_id in one.about["policies"]:
            if algorithm.config.enable_rl_module_and_learner:
                yield policy_id, algorithm.get_module(policy_id).get_state()
            else:
                yield policy_id, algorithm.get_policy(policy_id).get_weights()
    finally:
        algorithm.stop()


def by_policy(one: Given) -> Iterator[tuple[str, Any]]:
    from ray.rllib.policy.policy import Policy

    found = Policy.from_checkpoint(str(at(one)))
    policies = found if isinstance(found, dict) else {"default_policy": found}
    for policy_id, policy in policies.items():
        yield policy_id, policy.get_weights()


def by_module(one: Given) -> Iterator[tuple[str, Any]]:
    from ray.rllib.core.rl_module.rl_module import RLModule

    for policy_id in one.about["policies"]:
        path = at(one) / "learner_group" / "learner" / "rl_module" / policy_id
        yield policy_id, RLModule.from_checkpoint(str(path)).get_state()


def by_policystore(one: Given) -> str:
    """Return ``"yes"`` if policystore rebuilds the checkpoint, else what differs."""
    from policystore.checkpoints import read_checkpoint
    from tests.rllib.test_checkpoints import check_new, check_old

    for policy_id, snap in read_checkpoint(one.path).items():
        wanted = one.weights(policy_id)
        if not same(snap.weights, wanted) or snap.weights.keys() != wanted.keys():
            return f"no: other weights of {policy_id}"
        check: Callable[..., None] = check_old if one.stack == "old" else check_new
        try:
            check(snap, one.truth(policy_id))
        except AssertionError:
            return "weights; other outputs"
    return "yes"


def table(everything: list[Given]) -> str:
    import gymnasium as gym
    import ray
    from ray import __version__, tune
    from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

    # The checkpoints name the environments in which they were trained.
    for name in ("macp", "two_cartpole"):
        tune.register_env(name, lambda config: MultiAgentCartPole({"num_agents": 3}))
    tune.register_env("pend", lambda config: gym.make("Pendulum-v1"))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows = [
        f"| written by | kind | Ray {__version__} loads it | policystore |",
        "|---|---|---|---|",
    ]
    loaded = [0, 0]
    for one in everything:
        theirs, ours = by_ray(one), by_policystore(one)
        loaded[0] += theirs == "yes"
        loaded[1] += ours == "yes"
        rows.append(f"| {one.version} | `{one.kind}` | {theirs} | {ours} |")
        print(rows[-1], file=sys.stderr, flush=True)
    ray.shutdown()
    total = len(everything)
    rows.append(f"| **all** | {total} | **{loaded[0]}** | **{loaded[1]}** |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="into docs/compatibility.md")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    found = table(given())
    print(found)
    if arguments.write:
        before, rest = PAGE.read_text().split(BEGIN)
        after = rest.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{found}\n{END}{after}")


if __name__ == "__main__":
    main()
