"""add_policy and remove_policy on the old API stack: what is refused, and who does not take part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.rllib.algorithms.impala import IMPALAConfig

import tests.support.added_policies as parts
from policystore import (
    InvalidInputError,
    MismatchError,
    NotFoundError,
    Snapshot,
    SyncError,
    UntrustedError,
)
from policystore.rllib import snapshot
from policystore.rllib.live.add_remove import add_policy, remove_policy
from tests.support.added_policies import first, instead, made

pytestmark = pytest.mark.xdist_group("crowd")  # shared with the tests of what comes and goes
NEW = "newcomer"


# Someone does not take part ----------------------------------------------------------------------


def test_one_that_refuses_undoes_it_for_all(crowd: Any) -> None:
    before, held = parts.ask(crowd, parts.functions), parts.prints(crowd)
    with pytest.raises(SyncError, match="takes no such policy") as caught:
        add_policy(
            crowd,
            "refused",
            made("wide", 23),
            policy_mapping_fn=instead("wide", "refused"),
            policies_to_train=["refused"],
        )
    assert caught.value.report is not None
    assert caught.value.report.ok
    parts.assert_gone(crowd, "refused")
    assert (parts.ask(crowd, parts.functions), parts.prints(crowd)) == (before, held)
    assert "p_box" in parts.learned(crowd.train())
    assert parts.healthy(crowd)


def test_one_that_is_late_undoes_it_for_all(crowd: Any, tmp_path: Path) -> None:
    """What it is sent too late it takes back once it comes to that."""
    before, flag = parts.ask(crowd, parts.functions), tmp_path / "flag"
    pid = "late@" + str(flag).replace("/", "!")
    with pytest.raises(SyncError, match="no answer in time") as caught:
        add_policy(
            crowd, pid, made("wide", 24), policy_mapping_fn=instead("wide", pid), timeout=5.0
        )
    assert caught.value.report is not None
    assert "train 2" in {row.worker for row in caught.value.report.bad}
    flag.touch()
    parts.assert_gone(crowd, pid)
    assert parts.ask(crowd, parts.functions) == before
    assert "p_box" in parts.learned(crowd.train())


def test_one_that_does_not_let_go_keeps_it_for_all(crowd: Any) -> None:
    snap = made("wide", 25)
    add_policy(crowd, NEW, snap, policy_mapping_fn=instead("wide", NEW))
    parts.until(lambda: crowd.train() and all(parts.at_play(crowd, NEW)), "it plays")
    before, held = parts.ask(crowd, parts.functions), parts.prints(crowd)
    parts.ask(crowd, parts.set_broken, 2, True)
    with pytest.raises(SyncError, match="does not start anew") as caught:
        remove_policy(crowd, NEW, policy_mapping_fn=first)
    parts.ask(crowd, parts.set_broken, 2, False)
    assert caught.value.report is not None
    assert caught.value.report.ok
    assert (parts.ask(crowd, parts.functions), parts.prints(crowd)) == (before, held)
    crowd.train()
    parts.assert_held(crowd, {NEW: snap})
    remove_policy(crowd, NEW, policy_mapping_fn=first)
    parts.assert_gone(crowd, NEW)
    assert "p_box" in parts.learned(crowd.train())


# Refusals ----------------------------------------------------------------------------------------


def test_what_cannot_come(lone: Any) -> None:
    before, held = parts.ask(lone, parts.functions), parts.prints(lone)
    good = made("wide", 26)
    name, array = next(iter(good.weights.items()))
    wrong: list[tuple[type[Exception], str, Snapshot, dict[str, Any]]] = [
        (InvalidInputError, "cannot train a SAC", made("reach", 27), {"policies_to_train": [NEW]}),
        (
            InvalidInputError,
            "max_seq_len 20 is above the minibatch_size 14",
            made("wide", 28, lstm=True, max_seq_len=20),
            {"policies_to_train": [NEW]},
        ),
        (
            InvalidInputError,
            "names 'nobody' for agent 'wide'",
            good,
            {"policy_mapping_fn": instead("wide", "nobody")},
        ),
        (
            InvalidInputError,
            "agent 'wide' would come from 'p_wide', made for observations .*, to 'newcomer', made",
            made("box", 29),
            {"policy_mapping_fn": instead("wide", NEW)},
        ),
        (
            InvalidInputError,
            "policy_mapping_fn raised ZeroDivisionError",
            good,
            {"policy_mapping_fn": lambda *_, **__: 1 / 0},
        ),
        (InvalidInputError, "has a policy 'p_wide' already", good, {"policy_id": "p_wide"}),
        (
            MismatchError,
            "missing",
            Snapshot(weights={k: a for k, a in good.weights.items() if k != name}, spec=good.spec),
            {},
        ),
        (
            MismatchError,
            "not in the target: more",
            Snapshot(weights={**good.weights, "more": array}, spec=good.spec),
            {},
        ),
        (
            MismatchError,
            name,
            Snapshot(weights={**good.weights, name: array.astype(np.float64)}, spec=good.spec),
            {},
        ),
        (
            InvalidInputError,
            "only a snapshot of an old-stack policy",
            Snapshot(weights=good.weights),
            {},
        ),
        (
            UntrustedError,
            "trust",
            good.replace(spec=good.spec.replace(cls="somewhere.else:Policy")),
            {},
        ),
        (
            NotFoundError,
            "cannot be imported",
            good.replace(spec=good.spec.replace(cls="ray.rllib.nowhere:Policy")),
            {},
        ),
    ]
    for kind, message, snap, options in wrong:
        with pytest.raises(kind, match=message):
            add_policy(lone, options.pop("policy_id", NEW), snap, **options)
        parts.assert_gone(lone, NEW)
    assert (parts.ask(lone, parts.functions), parts.prints(lone)) == (before, held)
    assert parts.learned(lone.train()) == {"p_box"}
    # NaN is a value.
    odd = Snapshot(weights={**good.weights, name: np.full_like(array, np.nan)}, spec=good.spec)
    report = add_policy(lone, NEW, odd)
    assert "NaN" in report.notes[0]
    parts.assert_held(lone, {NEW: odd})
    remove_policy(lone, NEW)


@pytest.mark.parametrize(
    ("kind", "options", "more", "to_train", "message"),
    [
        (None, {"policy_states_are_swappable": True}, {}, ["p_box"], "swappable"),
        (
            None,
            {},
            {"checkpoint_trainable_policies_only": True},
            ["p_box"],
            "checkpoint_trainable_policies_only",
        ),
        (IMPALAConfig, {}, {"simple_optimizer": False}, [NEW], "simple_optimizer"),
    ],
    ids=["swappable", "checkpoints", "multi-gpu thread"],
)
def test_algorithms_that_would_fail_later(
    ray_session: None,
    kind: Any,
    options: dict[str, Any],
    more: dict[str, Any],
    to_train: list[str],
    message: str,
) -> None:
    config = parts.configured(**({} if kind is None else {"kind": kind}), **options)
    config.update_from_dict(more)
    with parts.built(config) as algo:
        snap = snapshot(algo, "p_wide") if kind else made("wide", 28)
        with pytest.raises(InvalidInputError, match=message):
            add_policy(algo, NEW, snap, policies_to_train=to_train)
        parts.assert_gone(algo, NEW)


def test_what_cannot_go(crowd: Any) -> None:
    snap = made("wide", 30)
    add_policy(crowd, NEW, snap, policy_mapping_fn=instead("wide", NEW), policies_to_train=[NEW])
    before, held = parts.ask(crowd, parts.functions), parts.prints(crowd)
    for kind, message, pid, options in (
        (NotFoundError, "has no policy 'nobody'", "nobody", {}),
        (InvalidInputError, "Algorithm's config", "p_wide", {}),
        # Whether or not an episode plays it right now.
        (InvalidInputError, f"names '{NEW}'", NEW, {"policies_to_train": ["p_box"]}),
        (
            InvalidInputError,
            f"names '{NEW}'",
            NEW,
            {
                "policies_to_train": ["p_box"],
                "policy_mapping_fn": lambda agent, episode, *_, **__: (
                    NEW if agent == "wide" and episode.episode_id % 4 == 0 else f"p_{agent}"
                ),
            },
        ),
        (InvalidInputError, "only one in training", NEW, {"policy_mapping_fn": first}),
    ):
        with pytest.raises(kind, match=message):
            remove_policy(crowd, pid, **options)
    assert (parts.ask(crowd, parts.functions), parts.prints(crowd)) == (before, held)
    crowd.train()
    remove_policy(crowd, NEW, policy_mapping_fn=first, policies_to_train=["p_box"])
    parts.assert_gone(crowd, NEW)
