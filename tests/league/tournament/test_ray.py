"""Tournaments as tasks on a Ray cluster."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import pytest
import torch

from policystore import MatchError, PolicyStore
from policystore.league import League
from policystore.league.tournament.play import play
from tests.support import ROOT, player_pairs
from tests.support.tournament import SEEN, Numbers

pytestmark = pytest.mark.long


@pytest.mark.usefixtures("ray_session")
def test_tasks_give_what_one_process_gives(tmp_path: Any) -> None:
    store = PolicyStore(tmp_path)
    torch.manual_seed(0)
    choices: Any = gym.spaces.Discrete(3)
    store.push(player_pairs.module(SEEN, choices), "new")
    refs: list[object] = ["new", "random"]
    arguments: dict[str, Any] = {"env": lambda config: Numbers(config), "episodes": 8}
    here = play(League(store, "here"), refs, **arguments, batch_size=2)
    there = play(League(store, "there"), refs, **arguments, batch_size=2, parallel="ray")
    assert there.matches == here.matches
    with pytest.raises(MatchError, match="flooded") as caught:
        play(
            League(store, "broken"),
            refs,
            env=(Numbers, {"crash": there.matches[0].seeds[1]}),
            episodes=8,
            parallel="ray",
        )
    assert caught.value.seeds == (there.matches[0].seeds[1],)


def test_without_a_cluster_nothing_is_started(tmp_path: Any) -> None:
    program = f"""
import ray
from policystore import InvalidInputError, PolicyStore
from policystore.league import League
from policystore.league.tournament.play import play
from tests.support.tournament import Numbers

league = League(PolicyStore({str(tmp_path)!r}), "none")
try:
    play(league, ["random", lambda seen: 1], env=Numbers, episodes=1, parallel="ray")
except InvalidInputError as error:
    print(error)
print(ray.is_initialized())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "ray.init" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
