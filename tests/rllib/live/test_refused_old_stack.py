"""add_policy and remove_policy on the old API stack: what is refused, and who does not take part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from policystore.rllib.live.policies import add_policy, remove_policy
from tests.support.added_policies import first, instead, made

NEW = "newcomer"


# Someone does not take part ----------------------------------------------------------------------


@pytest.mark.long
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


@pytest.mark.long
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


@pytest.mark.long
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


def missing(snap: Snapshot) -> Snapshot:
    """Return it without its first tensor."""
    return Snapshot(weights=dict([*snap.weights.items()][1:]), spec=snap.spec)


def with_first(snap: Snapshot, change: Callable[[Any], Any]) -> Snapshot:
    """Return it with its first tensor changed."""
    name, array = next(iter(snap.weights.items()))
    return Snapshot(weights={**snap.weights, name: change(array)}, spec=snap.spec)


def of_class(snap: Snapshot, cls: str) -> Snapshot:
    return snap.replace(spec=snap.spec.replace(cls=cls))


REFUSED: dict[str, tuple[type[Exception], str, Callable[[], Snapshot], dict[str, Any]]] = {
    "SAC in training": (
        InvalidInputError,
        "cannot train a SAC",
        lambda: made("reach", 27),
        {"policies_to_train": [NEW]},
    ),
    "sequences above a minibatch": (
        InvalidInputError,
        "max_seq_len 20 is above the minibatch_size 14",
        lambda: made("wide", 28, lstm=True, max_seq_len=20),
        {"policies_to_train": [NEW]},
    ),
    "a mapping to nobody": (
        InvalidInputError,
        "names 'nobody' for agent 'wide'",
        lambda: made("wide", 26),
        {"policy_mapping_fn": instead("wide", "nobody")},
    ),
    "another agent's": (
        InvalidInputError,
        "agent 'wide' would come from 'p_wide', made for observations .*, to 'newcomer', made",
        lambda: made("box", 29),
        {"policy_mapping_fn": instead("wide", NEW)},
    ),
    "a mapping that fails": (
        InvalidInputError,
        "policy_mapping_fn raised ZeroDivisionError",
        lambda: made("wide", 26),
        {"policy_mapping_fn": lambda *_, **__: 1 / 0},
    ),
    "there already": (
        InvalidInputError,
        "has a policy 'p_wide' already",
        lambda: made("wide", 26),
        {"policy_id": "p_wide"},
    ),
    "missing": (MismatchError, "missing", lambda: missing(made("wide", 26)), {}),
    "extra": (
        MismatchError,
        "not in the target: more",
        lambda: Snapshot(
            weights={**made("wide", 26).weights, "more": np.zeros(2)}, spec=made("wide", 26).spec
        ),
        {},
    ),
    "dtype": (
        MismatchError,
        "float64",
        lambda: with_first(made("wide", 26), lambda array: array.astype(np.float64)),
        {},
    ),
    "no policy of the old stack": (
        InvalidInputError,
        "only a snapshot of an old-stack policy",
        lambda: Snapshot(weights=made("wide", 26).weights),
        {},
    ),
    "not trusted": (
        UntrustedError,
        "trust",
        lambda: of_class(made("wide", 26), "somewhere.else:Policy"),
        {},
    ),
    "not to be imported": (
        NotFoundError,
        "cannot be imported",
        lambda: of_class(made("wide", 26), "ray.rllib.nowhere:Policy"),
        {},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_come_changes_nothing(lone: Any, case: str) -> None:
    kind, message, make, options = REFUSED[case]
    snap = make()
    before, held = parts.ask(lone, parts.functions), parts.prints(lone)
    with pytest.raises(kind, match=message):
        add_policy(lone, **{"policy_id": NEW, "snap": snap, **options})
    parts.assert_gone(lone, NEW)
    assert (parts.ask(lone, parts.functions), parts.prints(lone)) == (before, held)
    assert parts.learned(lone.train()) == {"p_box"}


def test_nan_is_a_value_and_is_told(lone: Any) -> None:
    odd = with_first(made("wide", 26), lambda array: np.full_like(array, np.nan))
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


def now_and_then(agent: str, episode: Any, *_: Any, **__: Any) -> str:
    return NEW if agent == "wide" and episode.episode_id % 4 == 0 else f"p_{agent}"


LEAVING: dict[str, tuple[type[Exception], str, str, dict[str, Any]]] = {
    "nobody": (NotFoundError, "has no policy 'nobody'", "nobody", {}),
    "of the config": (InvalidInputError, "Algorithm's config", "p_wide", {}),
    # Whether or not an episode plays it right now.
    "mapped": (InvalidInputError, f"names '{NEW}'", NEW, {"policies_to_train": ["p_box"]}),
    "mapped by some episodes": (
        InvalidInputError,
        f"names '{NEW}'",
        NEW,
        {"policies_to_train": ["p_box"], "policy_mapping_fn": now_and_then},
    ),
    "the one in training": (
        InvalidInputError,
        "nothing would be trained",
        NEW,
        {"policy_mapping_fn": first},
    ),
}


@pytest.fixture(scope="module")
def joined(crowd: Any) -> Iterator[Any]:
    """The crowd with one more, for ``wide``, and the only one that is trained."""
    snap = made("wide", 30)
    add_policy(crowd, NEW, snap, policy_mapping_fn=instead("wide", NEW), policies_to_train=[NEW])
    yield crowd
    crowd.train()
    remove_policy(crowd, NEW, policy_mapping_fn=first, policies_to_train=["p_box"])
    parts.assert_gone(crowd, NEW)


@pytest.mark.long
@pytest.mark.parametrize("case", LEAVING)
def test_what_cannot_go_changes_nothing(joined: Any, case: str) -> None:
    kind, message, policy_id, options = LEAVING[case]
    before, held = parts.ask(joined, parts.functions), parts.prints(joined)
    with pytest.raises(kind, match=message):
        remove_policy(joined, policy_id, **options)
    assert (parts.ask(joined, parts.functions), parts.prints(joined)) == (before, held)
