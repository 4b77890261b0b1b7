"""Compare load_into, which checks all workers, with RLlib's cheapest calls that reach all workers.

    ./.venv/bin/python scripts/benchmarks/bench_sync.py [--quick] [--cells new:20:2:0:0,…]
        [--profile]

The script prints a Markdown table of medians. RLlib's calls and load_into are measured in turn,
after a ``train()``, on two Algorithms of the same config. Two Algorithms are needed, because after
load_into an Algorithm is guarded against restarts, which makes later calls of RLlib slower. Each
round loads other weights than the round before. Making the arrays and Snapshots of a round is not
measured. Before the measurement the script checks that each of RLlib's ways reaches all learners
and workers: a function of this file runs in each of them and returns checksums of the weights.

These calls of RLlib reach all workers after ``train()`` has run (Ray 2.60, paths in ``ray/rllib``):

New stack. Runners drop weights whose number is not higher than their own number
(``env/multi_agent_env_runner.py:771``), so ``Algorithm.set_weights`` and ``sync_weights`` do not
reach all workers. The cheapest calls that do are ``LearnerGroup.set_weights`` (one call to all
learners) and ``EnvRunner.set_state`` without a number (one call to each group of runners). The
arrays are in the object store once. In the ways ``apply`` a function fetches the arrays; in the
ways ``argument`` the arrays are the argument of ``set_state``. With ``acting part`` only the arrays
that runners hold are sent, else all arrays.

Old stack. The local worker is the learner. The way ``one wave`` is ``RolloutWorker.set_weights``
with one call to each group. The way ``sync_weights`` is ``Policy.set_weights`` for each policy of
the local worker, and then ``EnvRunnerGroup.sync_weights`` from the local worker, with a timeout of
None. (With another timeout, RLlib's ``sync_weights`` does not wait for the workers.)

The ratio in each cell compares load_into with the fastest of these ways.
"""

from __future__ import annotations

import argparse
import cProfile
import functools
import logging
import os
import pstats
import statistics
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads these when it is imported
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

import numpy as np
import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

from policystore import Snapshot
from policystore.rllib import load_into, snapshot_all

Weights = dict[str, dict[str, Any]]
Plain = Callable[[Any, Weights], None]
WARM_UP = 5


class Cell(NamedTuple):
    """One Algorithm of the table."""

    stack: str
    policies: int
    runners: int
    eval_runners: int
    learners: int

    def __str__(self) -> str:
        return ":".join(map(str, self))


CELLS = [
    *(Cell(s, p, r, 0, 0) for s in ("new", "old") for p in (1, 20) for r in (0, 2, 4)),
    *(Cell(s, p, 2, 2, 0) for s in ("new", "old") for p in (1, 20)),
    *(Cell("new", p, 2, 0, 2) for p in (1, 20)),
]
QUICK = [
    *(Cell(s, p, 2, 0, 0) for s in ("new", "old") for p in (1, 20)),
    Cell("new", 20, 2, 0, 2),
]


def build(cell: Cell) -> Any:
    ids = [f"p{number}" for number in range(cell.policies)]
    config = (
        PPOConfig()
        .environment(MultiAgentCartPole, env_config={"num_agents": 2})
        .multi_agent(
            policies=set(ids), policy_mapping_fn=lambda *_a, **_k: "p0", policies_to_train=["p0"]
        )
        .env_runners(num_env_runners=cell.runners, num_cpus_per_env_runner=0.1)
        .debugging(seed=0, log_level="ERROR")
    )
    if cell.eval_runners:
        config.evaluation(evaluation_num_env_runners=cell.eval_runners, evaluation_interval=None)
    if cell.stack == "new":
        config.training(train_batch_size_per_learner=80, minibatch_size=40, num_epochs=1)
        config.learners(num_learners=cell.learners, num_cpus_per_learner=0.1)
        config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[64, 64]))
        return config.build_algo()
    config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
    config.training(
        train_batch_size=80, minibatch_size=40, num_epochs=1, model={"fcnet_hiddens": [64, 64]}
    )
    return config.build_algo()


# Plain RLlib -------------------------------------------------------------------------------------


def _groups(algo: Any) -> list[Any]:
    return [g for g in (algo.env_runner_group, algo.eval_env_runner_group) if g is not None]


def _actors(algo: Any) -> list[tuple[bool, Any]]:
    """Return each actor as a pair: whether the actor is a learner, and its handle."""
    learners = algo.learner_group
    found = [] if learners is None or learners.is_local else [(True, learners)]
    found += [(False, group) for group in _groups(algo)]
    return [(is_l, a) for is_l, g in found for a in g._worker_manager.actors().values()]


def _shared(algo: Any, value: Any) -> Any:
    """Return a reference to the value if there are remote workers, else the value."""
    return ray.put(value) if any(g.num_remote_workers() for g in _groups(algo)) else None


def _needed_to_act(algo: Any, weights: Weights) -> Weights:
    """Return the weights that env runners hold; the local env runner says which these are."""
    module = algo.env_runner.module
    return {
        mid: {name: held[name] for name in module[mid].state_dict()}
        for mid, held in weights.items()
    }


def _set_state(algo: Any, weights: Weights, *, argument: bool, part: bool) -> None:
    algo.learner_group.set_weights(weights)
    state = {"rl_module": _needed_to_act(algo, weights) if part else weights}
    reference = _shared(algo, state)
    for group in _groups(algo):
        if group.local_env_runner is not None:
            group.local_env_runner.set_state(state)
        if not group.num_remote_workers():
            continue
        if argument:
            group.foreach_env_runner(
                "set_state", kwargs={"state": reference}, local_env_runner=False
            )
        else:
            group.foreach_env_runner(
                lambda runner: runner.set_state(ray.get(reference)), local_env_runner=False
            )


def _one_wave(algo: Any, weights: Weights) -> None:
    reference = _shared(algo, weights)
    for group in _groups(algo):
        if group.local_env_runner is not None:
            group.local_env_runner.set_weights(weights)
        if group.num_remote_workers():
            group.foreach_env_runner(
                lambda worker: worker.set_weights(ray.get(reference)), local_env_runner=False
            )


def _sync_weights(algo: Any, weights: Weights) -> None:
    for pid, arrays in weights.items():
        algo.get_policy(pid).set_weights(arrays)
    ids = list(weights)
    if algo.env_runner_group.num_remote_workers():
        algo.env_runner_group.sync_weights(policies=ids, timeout_seconds=None)
    evaluation = algo.eval_env_runner_group
    if evaluation is not None:
        source = algo.env_runner_group.local_env_runner
        evaluation.sync_weights(
            policies=ids, from_worker_or_learner_group=source, timeout_seconds=None
        )
        if evaluation.local_env_runner is not None:
            evaluation.local_env_runner.set_weights(weights)


PLAIN: dict[str, dict[str, Plain]] = {
    "new": {
        "apply": functools.partial(_set_state, argument=False, part=False),
        "apply, acting part": functools.partial(_set_state, argument=False, part=True),
        "argument": functools.partial(_set_state, argument=True, part=False),
        "argument, acting part": functools.partial(_set_state, argument=True, part=True),
    },
    "old": {"one wave": _one_wave, "sync_weights": _sync_weights},
}


# The weights that workers hold -------------------------------------------------------------------


def _sums(worker: Any, ids: list[str]) -> Any:
    """Return a checksum of each parameter; runs in a worker, so it must not raise."""
    try:
        found = {}
        for pid in ids:
            if hasattr(worker, "policy_map"):
                held = worker.policy_map[pid].model
            else:
                held = worker.module[pid]
                held = held.module if hasattr(held, "module") else held  # DDP's wrapper
            found[pid] = {
                name: zlib.crc32(value.detach().cpu().contiguous().numpy().tobytes())
                for name, value in held.state_dict().items()
            }
        return found
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def show_all_reached(algo: Any, weights: Weights, way: str) -> int:
    """Return the number of learners and workers, all of which hold exactly these weights.

    Raises:
        SystemExit: one of them does not.
    """
    ids = list(weights)
    expected = {
        pid: {name: zlib.crc32(np.ascontiguousarray(array).tobytes()) for name, array in w.items()}
        for pid, w in weights.items()
    }
    answers: list[tuple[bool, Any]] = []
    learners = algo.learner_group
    if learners is not None and learners.is_local:
        answers.append((True, _sums(learners._learner, ids)))
    local = [group.local_env_runner for group in _groups(algo)]
    answers += [(False, _sums(worker, ids)) for worker in local if worker is not None]
    answers += [
        (is_learner, ray.get(actor.apply.remote(lambda worker, ids=ids: _sums(worker, ids))))
        for is_learner, actor in _actors(algo)
    ]
    for is_learner, answer in answers:
        same = not isinstance(answer, str) and all(
            held.items() <= expected[pid].items()
            and held
            and (not is_learner or held.keys() == expected[pid].keys())
            for pid, held in answer.items()
        )
        if not same:
            raise SystemExit(f"{way!r} does not reach all workers: {str(answer)[:300]}")
    return len(answers)


# Times -------------------------------------------------------------------------------------------


class Times(NamedTuple):
    """Medians of one cell, in seconds."""

    way: str
    plain: float
    ours: float
    reached: int


def measure(cell: Cell, rounds: int, profile: bool) -> Times:
    plain_algo, algo = build(cell), build(cell)
    try:
        plain_algo.train()
        algo.train()
        material = _Material(algo)
        ways: dict[str, Callable[[], tuple[Any, Callable[[Any, Any], Any], Any]]] = {
            way: functools.partial(lambda plain: (plain_algo, plain, material.weights()), plain)
            for way, plain in PLAIN[cell.stack].items()
        }
        ways["load_into"] = lambda: (algo, load_into, material.snaps())
        reached = _show_all(ways)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        order = list(ways)
        for _ in range(WARM_UP + rounds):
            order.append(order.pop(0))  # so that no way is always measured after the same way
            for way in order:
                target, call, given = ways[way]()
                _wait_until_idle(plain_algo)
                _wait_until_idle(algo)
                started = time.perf_counter()
                call(target, given)
                taken[way].append(time.perf_counter() - started)
        if profile:
            _profile(algo, [material.snaps() for _ in range(rounds)])
    finally:
        plain_algo.stop()
        algo.stop()
    medians = {way: statistics.median(each[WARM_UP:]) for way, each in taken.items()}
    ours = medians.pop("load_into")
    best = min(medians, key=lambda way: medians[way])
    return Times(best, medians[best], ours, reached)


class _Material:
    """Two sets of weights, which are returned in turn, each time in new arrays."""

    def __init__(self, algo: Any) -> None:
        first = snapshot_all(algo)
        self._specs = {pid: snap.spec for pid, snap in first.items()}
        self._sets = [
            {
                pid: {name: np.asarray(array) + step for name, array in snap.weights.items()}
                for pid, snap in first.items()
            }
            for step in (np.float32(0.0), np.float32(0.125))
        ]

    def weights(self) -> Weights:
        """Return the next weights in the form that RLlib takes."""
        self._sets.append(self._sets.pop(0))
        return {pid: {n: a.copy() for n, a in w.items()} for pid, w in self._sets[0].items()}

    def snaps(self) -> dict[str, Snapshot]:
        """Return the next weights in the form that load_into takes."""
        return {
            pid: Snapshot(weights=arrays, spec=self._specs[pid])
            for pid, arrays in self.weights().items()
        }


def _show_all(ways: Any) -> int:
    reached = set()
    for way, prepare in ways.items():
        target, call, given = prepare()
        call(target, given)
        weights = {
            pid: dict(each.weights) if isinstance(each, Snapshot) else each
            for pid, each in given.items()
        }
        reached.add(show_all_reached(target, weights, way))
    if len(reached) != 1:
        raise SystemExit(f"the Algorithms have different numbers of workers: {reached}")
    return reached.pop()


def _wait_until_idle(algo: Any) -> None:
    """Wait for the calls that the last way has sent, so that they do not slow down the next way."""
    ray.get([actor.apply.remote(lambda _worker: None) for _, actor in _actors(algo)])


def _profile(algo: Any, given: list[dict[str, Snapshot]]) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    for snaps in given:
        load_into(algo, snaps)
    profiler.disable()
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumtime").print_stats(45)
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="five cells, fewer rounds")
    parser.add_argument("--rounds", type=int, help="how often each way is taken (40, quick: 15)")
    parser.add_argument("--cells", help="stack:policies:runners:eval:learners, comma-separated")
    parser.add_argument("--profile", action="store_true", help="of load_into, to stderr")
    options = parser.parse_args()
    rounds = options.rounds or (15 if options.quick else 40)
    cells = QUICK if options.quick else CELLS
    if options.cells:
        parts = [text.split(":") for text in options.cells.split(",")]
        cells = [Cell(stack, *map(int, numbers)) for stack, *numbers in parts]
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # RLlib warns of its own deprecated calls
    logging.getLogger("ray.rllib").setLevel(logging.ERROR)
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    print(f"Ray {ray.__version__}, torch {torch.__version__}; medians of {rounds} rounds\n")
    print("| stack | policies | env runners | eval runners | remote learners | reached ", end="")
    print("| plain RLlib | load_into | ratio | plain calls |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    try:
        for cell in cells:
            times = measure(cell, rounds, options.profile)
            shown = " | ".join(map(str, cell))
            print(
                f"| {shown} | {times.reached} | {times.plain * 1e3:.2f} ms "
                f"| {times.ours * 1e3:.2f} ms | {times.ours / times.plain:.2f} | {times.way} |",
                flush=True,
            )
    finally:
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
