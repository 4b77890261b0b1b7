"""load_into, which checks all workers, against RLlib's cheapest calls that reach all workers.

RLlib's calls and load_into are measured in turn, after a ``train()``, on two Algorithms of the same
config. Two Algorithms are needed, because after load_into an Algorithm is guarded against restarts,
which makes later calls of RLlib slower. Each round loads other weights than the round before.
Making the arrays and Snapshots of a round is not measured. Before the measurement, each way is
shown to reach all learners and workers: a function of this file runs in each of them and returns
checksums of the weights.

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

The ratio compares load_into with the fastest of these ways.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import ray

from policystore import Snapshot
from policystore.rllib import load_into, snapshot_all
from scripts.benchmarks.lines.harness.networks import algorithm, cluster
from scripts.benchmarks.lines.harness.rows import InconsistentError, Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import Prepared, in_turn

__all__ = ["measure"]

Weights = dict[str, dict[str, Any]]
Plain = Callable[[Any, Weights], None]
_WARM_UP = 5


class _Cell(NamedTuple):
    """One Algorithm of the table."""

    stack: str
    policies: int
    runners: int
    eval_runners: int = 0
    learners: int = 0

    def __str__(self) -> str:
        parts = [f"{self.stack} stack", _several(self.policies, "policy", "policies"),
                 _several(self.runners, "env runner"),
                 _several(self.eval_runners, "eval runner") if self.eval_runners else "",
                 _several(self.learners, "remote learner") if self.learners else ""]  # fmt: skip
        return ", ".join(filter(None, parts))


def _several(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


_CELLS = [
    *(_Cell(s, p, r) for s in ("new", "old") for p in (1, 20) for r in (0, 2, 4)),
    *(_Cell(s, 20, 2, eval_runners=2) for s in ("new", "old")),
    *(_Cell("new", p, 2, learners=2) for p in (1, 20)),
]
_QUICK = [_Cell("new", 2, 1), _Cell("old", 2, 0)]


def measure(settings: Settings, report: Report) -> None:
    with cluster(4):
        for cell in _QUICK if settings.quick else _CELLS:
            _one_cell(settings, report, cell)
    if settings.quick:
        report.omit("20 policies, more workers, remote learners (--quick)")


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


_PLAIN: dict[str, dict[str, Plain]] = {
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


def _show_reached(algo: Any, weights: Weights, way: str) -> int:
    """Return the number of learners and workers, all of which hold exactly these weights.

    Raises:
        InconsistentError: one of them does not.
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
            raise InconsistentError(f"{way!r} does not reach all workers: {str(answer)[:300]}")
    return len(answers)


# Times -------------------------------------------------------------------------------------------


def _one_cell(settings: Settings, report: Report, cell: _Cell) -> None:
    """Measure all ways, and add the row of the fastest of RLlib's."""
    algos = [algorithm(*cell[:2], runners=cell.runners, eval_runners=cell.eval_runners,
                       learners=cell.learners) for _ in (0, 1)]  # fmt: skip
    try:
        for algo in algos:
            algo.train()
        material = _Material(algos[1])

        def prepared(target: Any, make: Callable[[], Any], call: Any) -> Prepared:
            def prepare() -> Any:
                for algo in algos:
                    _wait_until_idle(algo)
                return make()

            return Prepared(prepare, lambda given: call(target, given))

        ways = {way: prepared(algos[0], material.weights, plain)
                for way, plain in _PLAIN[cell.stack].items()}  # fmt: skip
        ways["load_into"] = prepared(algos[1], material.snaps, load_into)
        reached = {_reached(way, algos[way == "load_into"], each) for way, each in ways.items()}
        report.check(len(reached) == 1, f"{cell}: the ways reach {reached} workers")
        times = in_turn(ways, settings.rounds(40), warm_up=settings.rounds(_WARM_UP))
    finally:
        for algo in algos:
            algo.stop()
    ours = times.pop("load_into")
    best = min(times, key=lambda way: times[way].median)
    report.compare(
        f"load_into, with proof: {cell}", "the cheapest correct calls of RLlib", ours, times[best],
        limit=2.0 if cell.learners else 1.3, note=f"{reached.pop()} workers; RLlib: {best}",
    )  # fmt: skip


def _reached(way: str, algo: Any, each: Prepared) -> int:
    """Load once, and return how many workers hold what was loaded, which all have to."""
    given = each.prepare()
    each.call(given)
    weights = {pid: dict(held.weights) if isinstance(held, Snapshot) else held
               for pid, held in given.items()}  # fmt: skip
    return _show_reached(algo, weights, way)


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


def _wait_until_idle(algo: Any) -> None:
    """Wait for the calls that the last way has sent, so that they do not slow down the next way."""
    ray.get([actor.apply.remote(lambda _worker: None) for _, actor in _actors(algo)])
