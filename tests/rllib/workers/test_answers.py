"""How answers of workers are sorted."""

from __future__ import annotations

import pytest

from policystore import InvalidInputError, StorageError
from policystore.rllib.workers.answers import Answer, Answers
from policystore.rllib.workers.discovery import Worker

LEARNER = Worker("learner 0", "learner", leads=True)
ONE, TWO, THREE = (Worker(f"train {n}", "train") for n in (1, 2, 3))


def test_one_answer() -> None:
    assert Answer(5).ok
    assert Answer(5).get() == 5
    assert Answer(None).ok  # a function that returns nothing
    for answer, why in (
        (Answer[int](error="odd"), "odd"),
        (Answer[int](pending=True), "no answer in time"),
        (Answer[int](error="busy", pending=True), "busy"),
        (Answer[int](unreachable="the actor died"), "the actor died"),
    ):
        assert not answer.ok
        assert answer.why == why
        with pytest.raises(StorageError, match=why):
            answer.get()


def test_a_dead_env_runner_is_no_failure_and_a_dead_learner_is() -> None:
    answers = Answers(
        {
            LEARNER: Answer(unreachable="gone"),
            ONE: Answer(unreachable="gone"),
            TWO: Answer(error="odd"),
            THREE: Answer(1),
        }
    )
    assert answers.failures == {LEARNER: "a learner is dead: gone", TWO: "odd"}
    assert set(answers.silent) == {LEARNER, ONE}
    assert answers.values_of([LEARNER, ONE, TWO, THREE]) == [1]


def test_all_have_to_do_their_part() -> None:
    good = Answers({ONE: Answer(1), TWO: Answer(unreachable="gone")})
    good.require_all("it cannot be done", "Nothing was changed.")
    refused = Answers({ONE: Answer[int](error="no"), TWO: Answer(pending=True)})
    with pytest.raises(InvalidInputError, match="it cannot be done:\n  train 1: no\nNothing"):
        refused.require_all("it cannot be done", "Nothing was changed.")
    for answer in (Answer[int](pending=True), Answer[int](error="busy", pending=True)):
        with pytest.raises(StorageError, match=r"it cannot be done: no answer from train 1\. N"):
            Answers({ONE: answer}).require_all("it cannot be done", "Nothing was changed.")
