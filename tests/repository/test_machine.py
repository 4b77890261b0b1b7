"""Random calls of several writers, with faults and deaths, against a plain model of a store."""

from __future__ import annotations

import datetime
import itertools
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from policystore import NotFoundError, PolicyStore, PolicyStoreError, StorageError
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.memory import MemoryBackend
from policystore.backends.options import StorageOptions
from policystore.repository import stamp
from tests.support import store_model as model
from tests.support.faults import DiedError, FaultyBackend, Plan
from tests.support.store_model import Op, State, merged, observe, policy

COUNT = itertools.count()
LONG = os.environ.get("POLICYSTORE_HYPOTHESIS") == "long"
NAMES = st.sampled_from(("a", "a/b", "C"))
NUMBERS = st.integers(1, 6)
SEEDS = st.sampled_from((0, 0, 1, 2, 3, 4, 5, 6, 7))
WORDS = st.sampled_from(("best", "old"))
FAULTS = st.sampled_from(("refused", "lost", "own create refused", "killed before", "killed after"))
PLACES = st.integers(0, 12)
PLANS = st.builds(Plan, st.integers(0, 3) | PLACES, FAULTS)
WRITERS = st.integers(0, 2)
PUSHES = st.builds(model.push, NAMES, SEEDS)
CHANGES = st.one_of(
    PUSHES,
    PUSHES,
    PUSHES,
    st.builds(model.keep, SEEDS),
    st.builds(model.tag, NAMES, NUMBERS, WORDS),
    st.builds(model.untag, NAMES, WORDS),
    st.builds(model.annotate, NAMES, NUMBERS, WORDS),
    st.builds(model.delete, NAMES, NUMBERS, st.booleans()),
    st.builds(model.delete_name, NAMES, st.booleans()),
    st.builds(model.restore, NAMES, st.integers(0, 6)),
    st.builds(model.prune, NAMES, st.integers(1, 3)),
)
READS = st.one_of(
    st.builds(model.pull, NAMES, st.sampled_from(("", "1", "2", "3", "7", "best", "old"))),
    st.builds(model.log, NAMES),
    st.builds(model.names),
    st.builds(model.verify),
)


class WrongClock:
    """The clock of the writer that makes a call: two of three writers are an hour wrong."""

    timezone = datetime.timezone
    ahead = datetime.timedelta(0)

    @property
    def datetime(self) -> WrongClock:
        return self  # in the place of the module datetime and of the class in it

    def now(self, zone: datetime.tzinfo) -> datetime.datetime:
        return datetime.datetime.now(zone) + self.ahead


CLOCK = WrongClock()


class StoreMachine(RuleBasedStateMachine):
    """Make calls on one storage and compare what readers see with the model after each."""

    make_backend: ClassVar[Callable[[], Backend]]
    figures: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.backend = type(self).make_backend()
        self.second = type(self).make_backend()
        self.reader = PolicyStore.over(self.backend, cache=False)
        self.writers: dict[int, tuple[FaultyBackend, PolicyStore]] = {}
        in_memory = isinstance(self.backend, MemoryBackend)
        # Readers cannot see all: whether a policy is kept, and where a tag on a deleted version is.
        self.states = [State(stands_still=not in_memory)]
        self.ahead = 0.0
        self.advance(0.0)

    @property
    def state(self) -> State:
        """The state, as far as readers see it."""
        return self.states[0]

    def store(self, writer: int, plan: Plan | None) -> PolicyStore:
        """Return the store of a writer, whose next calls follow a plan."""
        if writer not in self.writers:
            backend = FaultyBackend(self.backend)
            self.writers[writer] = backend, PolicyStore.over(backend, cache=False)
        backend, store = self.writers[writer]
        backend.follow(plan)
        backend.ahead = self.ahead
        return store

    def make(self, op: Op, writer: int, plan: Plan | None) -> Any:
        """Make a call and return its outcome; a writer that died is another process afterwards."""
        CLOCK.ahead = datetime.timedelta(hours=(0, 1, -1)[writer % 3])
        try:
            return op.run(self.store(writer, plan))
        except PolicyStoreError as error:
            return type(error).__name__
        except DiedError:
            del self.writers[writer]
            return "died"

    def step(
        self,
        op: Op,
        writer: int,
        plan: Plan | None,
        other: Op | None = None,
        dies_after: int | None = None,
    ) -> None:
        """Make a call, perhaps with a fault or with the call of another writer in its middle."""
        outcomes: dict[Op, Any] = {}
        if other is not None and plan is not None:

            def work(other: Op = other) -> None:
                outcomes[other] = self.make(other, writer + 3, None)

            plan = Plan(plan.at, "another writer", work, dies_after=dies_after)
        outcomes[op] = self.make(op, writer, plan)
        self.count(op, plan, outcomes)
        seen = observe(self.reader)
        found = (state for state in self.candidates(outcomes, plan) if state.visible() == seen)
        candidates = merged(found)
        assert candidates, (
            f"{[each.label for each in outcomes]} came to {list(outcomes.values())} with {plan}, "
            f"and the store shows {seen} after {self.state.visible()}"
        )
        self.states = candidates

    def candidates(self, outcomes: dict[Op, Any], plan: Plan | None) -> list[State]:
        """Return the states that the store may have after calls with these outcomes."""
        found: list[State] = []
        for order in itertools.permutations(outcomes):
            states = self.states
            for op in order:
                outcome = outcomes[op]
                # verify() reports the errors of the storage.
                failed = (
                    plan is not None
                    and plan.fired
                    and (outcome in ("died", "StorageError") or op.label == "verify")
                )
                states = [
                    after
                    for state in states
                    for expected, after in [
                        *[(outcome, state)] * failed,
                        *op.outcomes(state),
                        # Two writers may remove a tag at once.
                        *[(None, state)] * (len(outcomes) > 1 and op.label.startswith("untag")),
                        *[
                            unseen(state)
                            for unseen in [op.unseen]
                            if unseen and "died" in outcomes.values()
                        ],
                        *[
                            (NotFoundError.__name__, back(state))
                            for back in [op.overtaken]
                            if back is not None and len(outcomes) > 1
                        ],
                    ]
                    if failed or expected == outcome
                ]
            found += states
        return found

    def count(self, op: Op, plan: Plan | None, outcomes: dict[Op, Any]) -> None:
        figures = type(self).figures
        figures["operations"] += len(outcomes)
        figures[f"  {op.label.split()[0]}"] += 1
        if plan is not None and plan.fired:
            figures["interleaved" if len(outcomes) > 1 else f"fault: {plan.kind}"] += 1
            figures["faults"] += len(outcomes) == 1

    @initialize(count=st.integers(0, 4))
    def begin(self, count: int) -> None:
        for seed in range(count):
            self.step(model.push("a", seed), 0, None)

    @rule(op=CHANGES, writer=WRITERS, plan=st.none() | PLANS)
    def change(self, op: Op, writer: int, plan: Plan | None) -> None:
        self.step(op, writer, plan)

    @rule(op=CHANGES, writer=WRITERS, at=PLACES, other=CHANGES)
    def change_beside_another(self, op: Op, writer: int, at: int, other: Op) -> None:
        self.step(op, writer, Plan(at, "another writer"), other)

    @rule(op=CHANGES, writer=WRITERS)
    def change_whose_answer_is_lost(self, op: Op, writer: int) -> None:
        self.step(op, writer, Plan(0, "own create refused"))

    @precondition(lambda self: self.state.visible())
    @rule(data=st.data(), writer=WRITERS, at=PLACES, first=st.booleans())
    def take_away_beside_a_tag(
        self, data: st.DataObject, writer: int, at: int, first: bool
    ) -> None:
        name = data.draw(st.sampled_from(sorted(self.state.visible())))
        number = data.draw(st.sampled_from(sorted(self.state.standing(name))))
        taking = (model.prune(name, 1), model.delete(name, number, False),
                  model.delete(name, number, True), model.delete_name(name, False))  # fmt: skip
        ops = [data.draw(st.sampled_from(taking)), model.tag(name, number, data.draw(WORDS))]
        op, other = ops if first else reversed(ops)
        self.step(op, writer, Plan(at, "another writer"), other)

    @precondition(lambda self: self.state.visible())
    @rule(data=st.data(), writer=WRITERS, at=PLACES, after=st.integers(0, 6))
    def die_while_taking_away_beside_a_tag(
        self, data: st.DataObject, writer: int, at: int, after: int
    ) -> None:
        name = data.draw(st.sampled_from(sorted(self.state.visible())))
        number = data.draw(st.sampled_from(sorted(self.state.standing(name))))
        taking = (model.prune(name, 1), model.delete(name, number, False),
                  model.delete_name(name, False))  # fmt: skip
        op, tag = data.draw(st.sampled_from(taking)), model.tag(name, number, data.draw(WORDS))
        self.step(op, writer, Plan(at, "another writer"), tag, dies_after=after)

    @rule(op=READS, writer=WRITERS, plan=st.none() | PLANS)
    def read(self, op: Op, writer: int, plan: Plan | None) -> None:
        self.step(op, writer, plan)

    @precondition(lambda self: self.state.versions)
    @rule(op=READS, writer=WRITERS, at=PLACES, other=CHANGES)
    def read_beside_another(self, op: Op, writer: int, at: int, other: Op) -> None:
        self.step(op, writer, Plan(at, "another writer"), other)

    @precondition(lambda self: self.state.versions)
    @rule(hours=st.sampled_from((0, 1, 100, 200, 400)), writer=WRITERS, plan=st.none() | PLANS,
          other=st.none() | CHANGES)  # fmt: skip
    def collect(self, hours: int, writer: int, plan: Plan | None, other: Op | None) -> None:
        self.advance(hours * 3600.0)
        self.step(model.collect(), writer, plan, None if self.state.stands_still else other)
        self.check_policies(self.reader, State.not_collected)

    @precondition(lambda self: self.state.versions)
    @rule(writer=WRITERS, plan=st.none() | PLANS)
    def copy_there_and_back(self, writer: int, plan: Plan | None) -> None:
        """A copy that was cut off leaves a valid store, and the next one completes it."""
        target = FaultyBackend(self.second)
        target.follow(plan)
        try:
            self.store(writer, None).copy_to(PolicyStore.over(target, cache=False))
        except (StorageError, DiedError):
            assert plan is not None
            assert plan.fired
        mirror = PolicyStore.over(self.second, cache=False)
        with suppress(NotFoundError):  # not even the marker was written
            assert mirror.verify().ok, str(mirror.verify())
        self.reader.copy_to(mirror)
        assert observe(mirror) == self.state.visible()
        self.check_policies(mirror, State.roots)
        mirror.copy_to(self.reader)
        assert observe(self.reader) == self.state.visible()
        self.figures.update(["operations"] * 3 + ["  copy"] * 3)
        if plan is not None and plan.fired:
            self.figures.update(["faults", f"fault: {plan.kind}"])

    def advance(self, seconds: float) -> None:
        """Put the clock of the storage forward."""
        for state in self.states:
            state.now += seconds
        if isinstance(self.backend, MemoryBackend):
            now = self.state.now
            self.backend._space.clock = lambda: now
        self.ahead = 0.0 if isinstance(self.backend, MemoryBackend) else self.state.now

    def teardown(self) -> None:
        """Nothing that was acknowledged is lost."""
        self.check_policies(self.reader, State.not_collected)
        if self.state.visible():
            report = self.reader.verify()
            assert report.ok, str(report)

    def check_policies(self, store: PolicyStore, seeds: Callable[[State], set[int]]) -> None:
        """Check that a store has the policies that must be there in each state that may be."""
        for seed in set.intersection(*map(seeds, self.states)):
            assert store.pull(policy(seed).digest) == policy(seed)


def run(make_backend: Callable[[], Backend], *, examples: int, steps: int) -> Counter[str]:
    """Run the machine on storages that ``make_backend`` makes, and return figures."""
    figures: Counter[str] = Counter()
    machine = type(
        "Machine", (StoreMachine,), {"make_backend": staticmethod(make_backend), "figures": figures}
    )
    given = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck), print_blob=True, phases=[Phase.generate],
    )  # fmt: skip
    with mock.patch.object(stamp, "datetime", CLOCK):
        run_state_machine_as_test(machine, settings=given)
    return figures


def memory() -> Backend:
    return open_backend(f"memory://machine-{next(COUNT)}")


def test_in_memory() -> None:
    figures = run(memory, examples=400 if LONG else 12, steps=40)
    print(figures)
    assert figures["faults"] > 10
    assert figures["interleaved"] > 10


def test_in_a_folder(tmp_path: Path) -> None:
    def local() -> Backend:
        return open_backend(tmp_path / str(next(COUNT)))

    figures = run(local, examples=100 if LONG else 4, steps=25)
    print(figures)


@pytest.mark.long
def test_on_s3(s3_endpoint: str, s3_bucket: str) -> None:
    options = StorageOptions({"endpoint_url": s3_endpoint})

    def remote() -> Backend:
        return open_backend(f"s3://{s3_bucket}/{next(COUNT)}", options)

    figures = run(remote, examples=20 if LONG else 2, steps=25)
    print(figures)
