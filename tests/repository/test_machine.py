"""Random calls of several writers, with faults and deaths, against a plain model of a store."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from policystore import PolicyStore, PolicyStoreError
from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.backends.options import StorageOptions
from tests.support import store_model as model
from tests.support.faults import DiedError, FaultyBackend, Plan
from tests.support.store_model import Op, State, observe, policy

COUNT = itertools.count()
LONG = os.environ.get("POLICYSTORE_HYPOTHESIS") == "long"
NAMES = st.sampled_from(("a", "a/b", "C"))
NUMBERS = st.integers(1, 6)
SEEDS = st.sampled_from((0, 0, 1, 2, 3, 4, 5, 6, 7))
WORDS = st.sampled_from(("best", "old"))
FAULTS = st.sampled_from(("refused", "lost", "own create refused", "killed before", "killed after"))
PLANS = st.none() | st.builds(Plan, st.integers(0, 12), FAULTS)
WRITERS = st.integers(0, 2)

CHANGES = st.one_of(
    st.builds(model.push, NAMES, SEEDS),
    st.builds(model.keep, SEEDS),
    st.builds(model.tag, NAMES, NUMBERS, WORDS),
    st.builds(model.untag, NAMES, WORDS),
)


class StoreMachine(RuleBasedStateMachine):
    """Make calls on one storage and compare what readers see with the model after each."""

    make_backend: ClassVar[Callable[[], Backend]]
    figures: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.backend = type(self).make_backend()
        self.reader = PolicyStore.over(self.backend, cache=False)
        self.writers: dict[int, tuple[FaultyBackend, PolicyStore]] = {}
        self.state = State()

    def store(self, writer: int, plan: Plan | None) -> PolicyStore:
        """Return the store of a writer, whose next calls follow a plan."""
        if writer not in self.writers:
            backend = FaultyBackend(self.backend)
            self.writers[writer] = backend, PolicyStore.over(backend, cache=False)
        backend, store = self.writers[writer]
        backend.follow(plan)
        return store

    def make(self, op: Op, writer: int, plan: Plan | None) -> Any:
        """Make a call and return its outcome; a writer that died is another process afterwards."""
        try:
            return op.run(self.store(writer, plan))
        except PolicyStoreError as error:
            return type(error).__name__
        except DiedError:
            del self.writers[writer]
            return "died"

    def step(self, op: Op, writer: int, plan: Plan | None, other: Op | None = None) -> None:
        """Make a call, perhaps with a fault or with the call of another writer in its middle."""
        outcomes: dict[Op, Any] = {}
        if other is not None and plan is not None:

            def work(other: Op = other) -> None:
                outcomes[other] = self.make(other, writer + 3, None)

            plan = Plan(plan.at, "another writer", work)
        outcomes[op] = self.make(op, writer, plan)
        self.count(op, plan, outcomes)
        seen = observe(self.reader)
        candidates = [state for state in self.candidates(outcomes, plan) if state.visible() == seen]
        assert candidates, (
            f"{[each.label for each in outcomes]} came to {list(outcomes.values())} with {plan}, "
            f"and the store shows {seen} after {self.state.visible()}"
        )
        self.state = candidates[0]

    def candidates(self, outcomes: dict[Op, Any], plan: Plan | None) -> list[State]:
        """Return the states that the store may have after calls with these outcomes."""
        found: list[State] = []
        for order in itertools.permutations(outcomes):
            states = [self.state]
            for op in order:
                outcome = outcomes[op]
                failed = plan is not None and plan.fired and outcome in ("died", "StorageError")
                states = [
                    after
                    for state in states
                    for expected, after in [*op.outcomes(state), (outcome, state)][
                        : None if failed else -1
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

    @rule(name=NAMES, seed=SEEDS, writer=WRITERS, plan=PLANS, other=st.none() | CHANGES)
    def push(self, name: str, seed: int, writer: int, plan: Plan | None, other: Op | None) -> None:
        self.step(model.push(name, seed), writer, plan, other)

    @rule(seed=SEEDS, writer=WRITERS, plan=PLANS)
    def keep(self, seed: int, writer: int, plan: Plan | None) -> None:
        self.step(model.keep(seed), writer, plan)

    @rule(name=NAMES, seed=SEEDS, writer=WRITERS, at=st.integers(0, 12), other=CHANGES)
    def push_beside(self, name: str, seed: int, writer: int, at: int, other: Op) -> None:
        self.step(model.push(name, seed), writer, Plan(at, "another writer"), other)

    @precondition(lambda self: self.state.visible())
    @rule(name=NAMES, number=NUMBERS, word=WORDS, writer=WRITERS, plan=PLANS,
          other=st.none() | CHANGES)  # fmt: skip
    def tag(
        self, name: str, number: int, word: str, writer: int, plan: Plan | None, other: Op | None
    ) -> None:
        self.step(model.tag(name, number, word), writer, plan, other)

    @precondition(lambda self: self.state.visible())
    @rule(name=NAMES, word=WORDS, writer=WRITERS, plan=PLANS, other=st.none() | CHANGES)
    def untag(self, name: str, word: str, writer: int, plan: Plan | None, other: Op | None) -> None:
        self.step(model.untag(name, word), writer, plan, other)

    @precondition(lambda self: self.state.visible())
    @rule(name=NAMES, at=st.sampled_from(("", "1", "2", "3", "7", "best", "old")), writer=WRITERS,
          plan=PLANS)  # fmt: skip
    def pull(self, name: str, at: str, writer: int, plan: Plan | None) -> None:
        self.step(model.pull(name, at), writer, plan)

    @precondition(lambda self: self.state.visible())
    @rule(name=NAMES, writer=WRITERS)
    def log(self, name: str, writer: int) -> None:
        self.step(model.log(name), writer, None)

    @rule(writer=WRITERS)
    def names(self, writer: int) -> None:
        self.step(model.names(), writer, None)

    @precondition(lambda self: self.state.visible())
    @rule(writer=WRITERS)
    def verify(self, writer: int) -> None:
        self.step(model.verify(), writer, None)

    def teardown(self) -> None:
        """Nothing that was acknowledged is lost."""
        for seed in self.state.roots():
            assert self.reader.pull(policy(seed).digest) == policy(seed)
        if self.state.visible():
            report = self.reader.verify()
            assert report.ok, str(report)


def run(make_backend: Callable[[], Backend], *, examples: int, steps: int) -> Counter[str]:
    """Run the machine on storages that ``make_backend`` makes, and return figures."""
    figures: Counter[str] = Counter()
    machine = type(
        "Machine", (StoreMachine,), {"make_backend": staticmethod(make_backend), "figures": figures}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), print_blob=True,
        ),
    )  # fmt: skip
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
