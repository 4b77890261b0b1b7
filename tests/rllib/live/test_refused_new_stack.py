"""add_policy and remove_policy on the new API stack: what is refused leaves everything as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.ppo import PPOConfig

import tests.support.added_modules as join
import tests.support.new_stack_algorithms as parts
from policystore import Snapshot
from policystore.errors import InvalidInputError, MismatchError, NotFoundError
from policystore.rllib import add_policy, remove_policy
from tests.support.added_modules import NEW, by

PI = "pi.net.mlp.0.weight"
FEW = np.zeros(2, np.float32)


@pytest.fixture(scope="module")
def algo(ray_session: None) -> Iterator[Any]:
    with parts.built(join.configured(runners=1)) as made:
        parts.train_until_seq(made, 10)
        yield made


def changed(snap: Snapshot, **weights: Any) -> Snapshot:
    return Snapshot(weights={**snap.weights, **weights}, spec=snap.spec)


ADDING: dict[str, tuple[Any, type[Exception], str]] = {
    "a bad id": (lambda a, s: add_policy(a, "a/b", s), InvalidInputError, "found 'a/b'"),
    "an empty id": (lambda a, s: add_policy(a, "", s), InvalidInputError, "found ''"),
    "a dot at its end": (lambda a, s: add_policy(a, "x.", s), InvalidInputError, "found 'x.'"),
    "no text": (lambda a, s: add_policy(a, 7, s), InvalidInputError, "found 7"),
    "too long": (lambda a, s: add_policy(a, "x" * 201, s), InvalidInputError, "at most 200 bytes"),
    "a line's end": (lambda a, s: add_policy(a, "a\nb", s), InvalidInputError, "printable"),
    "all modules": (lambda a, s: add_policy(a, "__all_modules__", s), InvalidInputError, "and not"),
    "a mapping that does not pickle": (
        lambda a, s: add_policy(
            a, NEW, s, policy_mapping_fn=lambda *_, **__: (threading.Lock(), a)
        ),
        InvalidInputError,
        "policy_mapping_fn cannot be sent to the workers",
    ),
    "a choice that does not pickle": (
        lambda a, s: add_policy(a, NEW, s, policies_to_train=lambda pid, batch: pid == a),
        InvalidInputError,
        "policies_to_train cannot be sent to the workers",
    ),
    "there already": (lambda a, s: add_policy(a, "foe", s), InvalidInputError, "load_into"),
    "no snapshot": (lambda a, s: add_policy(a, NEW, dict(s.weights)), InvalidInputError, "dict"),
    "nobody to train": (
        lambda a, s: add_policy(a, NEW, s, policies_to_train=["main", "nobody"]),
        NotFoundError,
        "names .'nobody'.",
    ),
    "a text to train": (
        lambda a, s: add_policy(a, NEW, s, policies_to_train="main"),
        InvalidInputError,
        "not 'main'",
    ),
    "nothing to train": (
        lambda a, s: add_policy(a, NEW, s, policies_to_train=[]),
        InvalidInputError,
        "is empty",
    ),
    "no function": (
        lambda a, s: add_policy(a, NEW, s, policy_mapping_fn={"a": NEW}),
        InvalidInputError,
        "is a function",
    ),
    "missing": (lambda a, s: add_policy(a, NEW, join.without(s, "vf.")), MismatchError, "vf.net"),
    "extra": (lambda a, s: add_policy(a, NEW, changed(s, odd=FEW)), MismatchError, "odd"),
    "shape": (lambda a, s: add_policy(a, NEW, changed(s, **{PI: FEW})), MismatchError, PI),
    "dtype": (
        lambda a, s: add_policy(a, NEW, changed(s, **{PI: s.weights[PI].astype("float64")})),
        MismatchError,
        PI,
    ),
    "the other stack's": (
        lambda a, s: add_policy(a, NEW, s.replace(spec=s.spec.replace(stack="old"))),
        InvalidInputError,
        "no RLModule",
    ),
    "another agent's": (
        lambda a, s: add_policy(a, NEW, s, policy_mapping_fn=by(a=NEW)),
        InvalidInputError,
        "agent 'a' would come from 'main', made for observations Box.*, to 'newcomer', made for",
    ),
    "no time": (lambda a, s: add_policy(a, NEW, s, timeout=0), InvalidInputError, "above 0"),
}
REMOVING: dict[str, tuple[Any, type[Exception], str]] = {
    "nobody": (lambda a, s: remove_policy(a, NEW), NotFoundError, "'foe', 'main', 'tiny'"),
    "mapped": (lambda a, s: remove_policy(a, "tiny"), InvalidInputError, "names 'tiny'"),
    "mapped to nobody": (
        lambda a, s: remove_policy(a, "tiny", policy_mapping_fn=by(c=NEW)),
        InvalidInputError,
        f"names '{NEW}'",
    ),
    "to another agent's": (
        lambda a, s: remove_policy(a, "tiny", policy_mapping_fn=by(c="foe")),
        InvalidInputError,
        "agent 'c' would come from 'tiny', .* to 'foe', made for",
    ),
    "the one in training": (
        lambda a, s: remove_policy(a, "main", policy_mapping_fn=by(a="foe")),
        InvalidInputError,
        "nothing would be trained",
    ),
    "itself to train": (
        lambda a, s: remove_policy(
            a, "foe", policies_to_train=["foe"], policy_mapping_fn=by(b="main")
        ),
        NotFoundError,
        "names .'foe'.",
    ),
    "no function": (
        lambda a, s: remove_policy(a, "foe", policy_mapping_fn="main"),
        InvalidInputError,
        "is a function",
    ),
}
CASES = {f"add: {k}": v for k, v in ADDING.items()} | {
    f"remove: {k}": v for k, v in REMOVING.items()
}


@pytest.mark.parametrize("case", CASES)
def test_refused(algo: Any, case: str) -> None:
    call, error, words = CASES[case]
    join.refused(algo, lambda: call(algo, join.pretrained(algo, 3.0)), error, words)
    seq = parts.learner_seq(algo)
    algo.train()
    assert parts.learner_seq(algo) > seq


def test_a_single_agent(ray_session: None) -> None:
    with parts.built(parts.configured(multi=False)) as algo:
        algo.train()
        with pytest.raises(InvalidInputError, match="single agent"):
            add_policy(algo, NEW, join.pretrained(algo, 3.0))
        with pytest.raises(InvalidInputError, match="single agent"):
            remove_policy(algo, "default_policy")
        algo.train()


def test_down_to_one_and_where_all_are_trained(ray_session: None) -> None:
    """``policies_to_train=None`` trains what comes, and none may be the last to go."""
    config = parts.configured().multi_agent(
        policies_to_train=None,
        algorithm_config_overrides_per_module={"foe": PPOConfig.overrides(lr=1e-5)},
    )
    with parts.built(config) as algo:
        algo.train()
        snap = join.pretrained(algo, 3.0, agent="b")
        add_policy(algo, NEW, snap, policy_mapping_fn=by(b=NEW))
        join.assert_joined(algo, NEW, snap)
        join.goes_on(algo, ["main", NEW])
        remove_policy(algo, "foe")
        join.assert_gone(algo, "foe")
        remove_policy(algo, "main", policy_mapping_fn=by(a=NEW, b=NEW))
        join.assert_gone(algo, "main")
        join.goes_on(algo, [NEW])
        join.refused(algo, lambda: remove_policy(algo, NEW), InvalidInputError, "no policy left")
        join.goes_on(algo, [NEW])
    with pytest.raises(InvalidInputError, match="was stopped"):
        add_policy(algo, "another", snap)
    with pytest.raises(InvalidInputError, match="was stopped"):
        remove_policy(algo, NEW)


def test_a_mapping_to_nobody(ray_session: None) -> None:
    """An env runner would end with the first step of the agent."""
    with parts.built(join.configured()) as algo:
        algo.train()
        snap = join.pretrained(algo, 3.0)
        call = lambda: add_policy(algo, NEW, snap, policy_mapping_fn=by(c="nobody"))  # noqa: E731
        join.refused(algo, call, InvalidInputError, "nobody")
        join.goes_on(algo)
