"""load_into on IMPALA and APPO: nothing that was under way before a load comes after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

import tests.support.envs as envs
import tests.support.new_stack_algorithms as parts
from policystore.errors import StorageError
from policystore.rllib import check_sync, load_into, snapshot_all
from tests.support.cells import sampled

CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "IMPALA": (IMPALAConfig, {"runners": 2, "evals": 1}),
    "IMPALA, two learners": (IMPALAConfig, {"runners": 2, "learners": 2}),
    "IMPALA, broadcasting": (IMPALAConfig, {"runners": 2, "learners": 1, "server": False}),
    "IMPALA, aggregating": (IMPALAConfig, {"runners": 2, "learners": 1, "aggregators": 1}),
    "IMPALA, no runners": (IMPALAConfig, {}),
    "APPO": (APPOConfig, {"runners": 2, "evals": 0}),
    "APPO, two learners": (APPOConfig, {"runners": 2, "evals": 1, "learners": 2}),
}


WIDE = [cell for cell in CELLS if "two" in cell or "no runners" in cell or "broadcasting" in cell]


@pytest.fixture(scope="module", params=sampled(CELLS, wide=WIDE))
def algo(request: Any, ray_session: None) -> Iterator[Any]:
    kind, cell = CELLS[request.param]
    cell = dict(cell)
    server, aggregators = cell.pop("server", True), cell.pop("aggregators", 0)
    config = parts.configured(kind, lr=1e-5, **cell)
    config.use_env_runner_state_server = server
    config.learners(num_aggregator_actors_per_learner=aggregators)
    made = config.build_algo()
    yield made
    made.stop()


def fresh(algo: Any, level: float) -> dict[str, Any]:
    return {
        pid: parts.other(snap, level + 20 * (pid == "foe"))
        for pid, snap in snapshot_all(algo).items()
    }


def load(algo: Any, snaps: dict[str, Any]) -> int:
    """Load, look everywhere, forget the samples of before, and give the load's number."""
    before = max(parts.ask(algo, lambda worker: worker._weights_seq_no).values())
    report = load_into(algo, snaps)
    manager = algo.learner_group._worker_manager
    assert manager is None or not manager.num_outstanding_async_reqs()
    parts.assert_proven(report, algo, snaps)
    parts.assert_held(algo, snaps)
    parts.ask(algo, parts.forget)
    (number,) = {row.seq or 0 for row in report}
    assert number > before
    return number


def samples(algo: Any) -> list[tuple[str, Any]]:
    """All samples of the training group since ``forget``."""
    return [
        (name, drawn)
        for name, found in parts.ask(algo, parts.read).items()
        if name.startswith("train")
        for drawn in found["drawn"]
        if drawn
    ]


def assert_none_is_stale(algo: Any, snaps: dict[str, Any], level: float, wanted: int = 24) -> None:
    """Train on, and look at what every step of at least so many samples was made with."""
    for group in ["train"] if algo.eval_env_runner_group is None else ["eval", "train"]:
        if group == "eval":
            algo.evaluate()
            parts.assert_first_sample(algo, snaps, "eval")
            continue
        parts.until(lambda: algo.train() and len(samples(algo)) >= wanted, f"{wanted} samples")
    stale = [
        (name, number, seen["seq"], seen["levels"]["main"])
        for name in {name for name, _ in samples(algo)}
        for number, drawn in enumerate(each for who, each in samples(algo) if who == name)
        for seen in drawn
        if abs(seen["levels"]["main"] - level) > 0.5
    ]
    assert not stale
    parts.assert_frozen(algo, snaps["foe"], "foe")


def test_before_the_first_train(algo: Any) -> None:
    assert algo.iteration == 0
    snaps = fresh(algo, 2.0)
    load(algo, snaps)
    parts.assert_proven(check_sync(algo), algo, snaps)
    assert_none_is_stale(algo, snaps, 2.0)


@pytest.mark.long
def test_no_later_sample_is_drawn_with_older_weights(algo: Any) -> None:
    parts.train_until_seq(algo, 10)
    for level in (7.0, -4.0):
        snaps = fresh(algo, level)
        load(algo, snaps)
        assert_none_is_stale(algo, snaps, level)


@pytest.mark.long
def test_runners_follow_the_learner_again(algo: Any) -> None:
    """The load's number must not shut out the updates that come after it."""
    parts.train_until_seq(algo, 10)
    snaps = fresh(algo, 5.0)
    number = load(algo, snaps)
    expected = parts.prints_for(algo, {"main": snaps["main"]})

    def followed() -> bool:
        algo.train()
        newer = {
            name
            for name, drawn in samples(algo)
            for seen in drawn
            if seen["seq"] > number and seen["prints"]["main"] != expected[name]["main"]
        }
        return newer == {name for name, _ in samples(algo)} != set()

    parts.until(followed, "runners that sample with what was learned after the load")
    assert parts.learner_seq(algo) > number
    # On their way, and so no fault.
    assert check_sync(algo).ok


def state_of_before(algo: Any, ahead: int) -> dict[str, Any]:
    """A message to runners as RLlib's learners make it, of what they hold now."""
    seqs = parts.ask(algo, lambda worker: worker._weights_seq_no)
    # Of one that samples: it has no critic.
    names = [name for name in seqs if name.startswith("train")]
    arrays = parts.ask(algo, parts.read)[names[-1]]["arrays"]
    return {
        COMPONENT_RL_MODULE: ray.put(arrays),
        WEIGHTS_SEQ_NO: max(seqs.values()) + ahead,
    }


@pytest.mark.long
def test_what_was_sent_before_and_arrives_later_is_dropped(algo: Any) -> None:
    """Also by the actor that runners pull from, and with the number of an update in progress."""
    parts.train_until_seq(algo, 10)
    stale = state_of_before(algo, ahead=5)
    snaps = fresh(algo, 12.0)
    load(algo, snaps)
    server = getattr(algo, "_env_runner_state_server", None)
    if server is not None:
        ray.get(server.push.remote(stale))
    for name, runner in parts.workers(algo).items():
        if name.startswith("train"):
            if isinstance(runner, ray.actor.ActorHandle):
                runner.set_state.remote(stale)
            else:
                runner.set_state({**stale, COMPONENT_RL_MODULE: ray.get(stale["rl_module"])})
    assert_none_is_stale(algo, snaps, 12.0)


def queue_state(worker: Any, state: Any) -> bool:
    """Let a learner have a state to send off with its next result."""
    queue = getattr(worker, "_learner_state_queue", None)
    if queue is None:
        return False
    while not queue.empty():
        queue.get_nowait()
    queue.put_nowait(state)
    worker._learner_state = state
    return True


def queued(worker: Any) -> Any:
    queue = getattr(worker, "_learner_state_queue", None)
    return None if queue is None else (queue.qsize(), worker._learner_state is not None)


@pytest.mark.long
def test_what_waits_in_learners_is_thrown_away(algo: Any) -> None:
    """Its number is above any that a load gives, so only the learner can stop it."""
    parts.train_until_seq(algo, 10)
    stale = state_of_before(algo, ahead=10**6)
    check_sync(algo)  # waits until learners rest: no update of theirs takes the place of this
    assert any(parts.ask(algo, queue_state, stale).values())
    snaps = fresh(algo, -9.0)
    load(algo, snaps)
    assert set(parts.ask(algo, queued).values()) == {None, (0, False)}
    assert_none_is_stale(algo, snaps, -9.0)


@pytest.mark.long
def test_frozen_stays_frozen(algo: Any) -> None:
    frozen = parts.other(snapshot_all(algo)["foe"], 15.0)
    load_into(algo, {"foe": frozen})
    parts.ask(algo, parts.forget)
    for _ in range(10):
        algo.train()
    parts.assert_frozen(algo, frozen, "foe")
    assert {row.digest for row in check_sync(algo, ["foe"])} == {frozen.acting_digest}


SLOW = {
    "IMPALA": (IMPALAConfig, envs.SlowIMPALALearner),
    "APPO": (APPOConfig, envs.SlowAPPOLearner),
}


@pytest.fixture(scope="module", params=sampled(SLOW, wide=["APPO"]))
def slow(request: Any, ray_session: None) -> Iterator[Any]:
    """With a remote learner that works on while train() returns: four times of five it does not
    wait for its thread (algorithms/impala/impala_learner.py:update).
    """
    kind, learner = SLOW[request.param]
    config = parts.configured(kind, runners=1, learners=1, lr=1e-5, learner_class=learner)
    algo = config.training(broadcast_interval=5).build_algo()
    yield algo
    parts.ask(algo, set_nap, 0.0)
    algo.stop()


def set_nap(worker: Any, seconds: float) -> None:
    worker.nap = seconds


def busy(algo: Any) -> bool:
    return any(parts.ask(algo, lambda worker: getattr(worker, "busy", False)).values())


def begin_update(algo: Any, seconds: float) -> None:
    """Return with an update in progress that takes so long."""
    parts.ask(algo, set_nap, seconds)
    parts.until(lambda: busy(algo) or (algo.train() and busy(algo)), "an update in progress")


def test_an_update_in_progress_is_awaited(slow: Any) -> None:
    """It ends with a step of the optimizer: written before that, the weights would be others."""
    parts.train_until_seq(slow, 3)
    for level in (3.0, -3.0):
        snaps = fresh(slow, level)
        begin_update(slow, 0.5)
        load(slow, snaps)
        parts.ask(slow, set_nap, 0.0)
        parts.until(lambda: not busy(slow), "rest")
        parts.assert_held(slow, snaps)
        assert_none_is_stale(slow, snaps, level)


def test_an_update_longer_than_the_timeout(slow: Any) -> None:
    """Nothing is sent, nobody has changed, training goes on, and the next load is fine."""
    snaps = fresh(slow, 8.0)
    load(slow, snaps)
    runners = parts.prints_for(slow, snaps)
    begin_update(slow, 4.0)
    with pytest.raises(StorageError, match=r"learner 0 does not answer within 0\.5 s"):
        load_into(slow, fresh_held(snaps, 16.0), timeout=0.5)
    parts.ask(slow, set_nap, 0.0)
    parts.until(lambda: not busy(slow), "rest")
    held = parts.ask(slow, parts.read)
    for name, each in held.items():
        assert abs(parts.level_of(each["arrays"]["main"]) - 8.0) < 0.5, name
        if name in runners:
            assert parts.print_of(each["arrays"]["foe"]) == runners[name]["foe"]
    assert check_sync(slow).ok
    assert_none_is_stale(slow, snaps, 8.0, wanted=5)
    snaps = fresh(slow, 16.0)
    load(slow, snaps)
    assert_none_is_stale(slow, snaps, 16.0, wanted=5)


def fresh_held(snaps: dict[str, Any], level: float) -> dict[str, Any]:
    return {pid: parts.other(snap, level) for pid, snap in snaps.items()}
