"""Exported files beside live Algorithms: the same actions over whole episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tree

import tests.support.new_stack_modules as parts
from policystore.rllib import export, snapshot
from tests.support import new_stack_matrix as new
from tests.support.cells import sampled
from tests.support.exported_file import ExportedFile
from tests.support.old_stack_configs import build, ppo
from tests.support.old_stack_zoo import DiaryEnv

ONLINE = [
    "ppo-flattened-meanstd", "ppo-lstm", "ppo-box-clipped", "ppo-dict-actions", "dqn", "sac-box",
    "appo", "impala", "ppo-multidiscrete", "ppo-box-free-log-std",
]  # fmt: skip


@pytest.fixture
def new_algorithm(ray_session: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    algorithm = new.ONLINE[request.param]().build_algo()
    algorithm.train()
    yield algorithm
    algorithm.stop()


@pytest.mark.parametrize("new_algorithm", sampled(ONLINE, wide=ONLINE[3:]), indirect=True)
def test_file_takes_the_actions_of_the_new_stack(new_algorithm: Any, tmp_path: Path) -> None:
    learned = new_algorithm.learner_group._learner.module["default_policy"]
    new.perturb(learned)
    runner = new_algorithm.env_runner
    runner.module.load_state_dict(learned.state_dict(), strict=False)
    new.freeze_filters(runner)
    snap = snapshot(new_algorithm)
    file = ExportedFile(tmp_path / "a.onnx", export(snap, tmp_path / "a.onnx"))
    last: Any = None
    steps = episodes = 0
    taken = set()
    for event in new.play(runner, parts.TraceEnv.log):
        if event[0] == "reset":
            file.reset()
            episodes += 1
            last = event[1]
            continue
        _, action, _, obs = event
        file.check(last, action, live=True)
        taken.add(repr(tree.map_structure(np.asarray, action)))
        steps += 1
        last = obs
    assert episodes > 1
    assert steps > parts.EPISODE
    assert len(taken) > 1


@pytest.mark.long
@pytest.mark.parametrize("model", [{}, {"use_lstm": True, "lstm_cell_size": 8}])
def test_file_takes_the_actions_of_the_old_stack(
    ray_session: Any, model: dict[str, Any], tmp_path: Path
) -> None:
    config = ppo(obs="dict", act="forces").training(model={"fcnet_hiddens": [16], **model})
    config.environment(DiaryEnv, env_config={"obs": "dict", "act": "forces"})
    config.env_runners(observation_filter="MeanStdFilter", explore=False)
    algorithm = build(config)
    try:
        algorithm.train()
        worker = algorithm.env_runner
        # Sampling goes on with the filter; here it has to stay as it is in the snapshot.
        worker.get_policy().agent_connectors.in_eval()
        snap = snapshot(algorithm)
        DiaryEnv.diary.clear()
        while len(DiaryEnv.diary) < 24:
            worker.sample()
        diary = list(DiaryEnv.diary)
    finally:
        algorithm.stop()
    file = ExportedFile(tmp_path / "a.onnx", export(snap, tmp_path / "a.onnx"))
    whole = [step for step, *_ in diary].index(0)  # the first episode that begins in the diary
    for step, obs, _, action in diary[whole:]:
        if step == 0:
            file.reset()
        file.check(obs, action)
