"""The graphs of all cells, run by torch as they are: the same actions as the players."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.connectors.env_to_module import PrevActionsPrevRewards
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule

from policystore.errors import InvalidInputError, MismatchError
from policystore.rllib import export, rebuild_module, rebuild_player, snapshot, to_new_stack
from policystore.rllib.exporting import api, new_stack
from policystore.rllib.exporting.checking import compare_actions
from policystore.rllib.exporting.formats import Runner
from tests.support import conversions, exported
from tests.support.cells import sampled
from tests.support.exported_file import ExportedFile
from tests.support.rl_modules import FrameStacking

# Cells without a graph, and what the message has to name.
REFUSED = {
    "new:module-conv": "the player of the policy cannot act",  # of uint8, which RLlib's convolutions refuse
    "new:module-dqn-conv": "the player of the policy cannot act",
    "new:module-random": "RandomRLModule",
    "new:module-heuristic": "BeatLastHeuristicRLM",
    "old:model:lstm-prev": "'actions' of earlier steps",
    "old:lstm-prev-dict-action": "'actions' of earlier steps",
    "old:model:attention": "attention memory",
    "old:model:attention-prev": "attention memory",
    "old:model:view-of-three": "'obs' of earlier steps",
    "old:model:custom-dist": "old_stack_zoo.LoudCategorical",
    "old:custom-exploration": "old_stack_zoo.LastExploration",
    "old:heuristic:stateless": "StatelessHeuristic",
    "old:heuristic:table": "TableHeuristic",
    "old:heuristic:torch-inside": "HalfPolicy",
    "old:heuristic:random": "RandomPolicy",
    "old:pixels": "GenericPixelPreprocessor",
}
# Cells that only a trace, or the check of a file, can refuse.
UNTRACED = {
    "new:own-branching", "new:own-counting", "new:own-counting-rows", "old:own-branching", "old:dqn:noisy",
}  # fmt: skip
SLOW = {"new:conv", "new:conv-lstm", "old:obs:image"}
REFUSED_QUICK = [
    "new:module-random", "old:model:lstm-prev", "old:model:attention", "old:model:custom-dist",
    "old:custom-exploration", "old:heuristic:torch-inside", "old:pixels",
]  # fmt: skip
PLAYED = [name for name in exported.NAMES if name not in {*REFUSED, *UNTRACED}]
QUICK = [
    "new:nested-actions", "new:flatten-filter", "new:sac-box", "new:own-recurrent",
    "old:mixed-filter", "old:dqn:dueling-double",
]  # fmt: skip


class Eager(Runner):
    """Runs a graph by torch, as if it were a file."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        with torch.no_grad():
            outputs = self.graph(*(torch.from_numpy(np.array(each)) for each in tensors))
        return [each.numpy() for each in outputs]


def plan_of(name: str) -> Any:
    cell = exported.cell(name)
    arguments = dict.fromkeys(
        ("env_spaces", "agent", "module_id", "normalize_actions", "clip_actions")
    )
    return api._plan_player(cell.snap, exported.TRUST, {**arguments, **cell.arguments})


@pytest.mark.parametrize("name", sampled(PLAYED, *QUICK))
def test_graph_acts_as_the_player(name: str) -> None:
    plan = plan_of(name)
    plan.check(Eager(plan.graph))


@pytest.mark.parametrize("name", sampled(REFUSED, *REFUSED_QUICK))
def test_what_a_graph_cannot_hold_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot be exported") as refused:
        plan_of(name)
    assert REFUSED[name] in str(refused.value)
    assert "Nothing was written" in str(refused.value)


def test_filter_statistics_matter() -> None:
    plan = plan_of("new:filter-box")
    plan.graph.prepare.stages[0].mean += 1.0
    with pytest.raises(MismatchError, match="does not compute what the policy computes"):
        plan.check(Eager(plan.graph))


def test_a_state_that_is_lost_between_steps_is_found() -> None:
    plan = plan_of("old:lstm-box")

    class Forgets(Eager):
        def __call__(self, tensors: Sequence[Any]) -> list[Any]:
            count = len(self.graph.inputs)
            blank = [np.zeros_like(each) for each in tensors[count:]]
            return super().__call__([*tensors[:count], *blank])

    with pytest.raises(MismatchError, match="step 2"):
        plan.check(Forgets(plan.graph))


@pytest.fixture(scope="module")
def discrete() -> Any:
    """A graph with two discrete actions."""
    return plan_of("new:module-multidiscrete").graph


@pytest.mark.parametrize(("gap", "right"), [(1e-7, True), (1e-2, False)])
def test_either_of_two_actions_of_the_same_score_is_right(
    discrete: Any, gap: float, right: bool
) -> None:
    graph = discrete
    scores = np.zeros((1, 7), np.float32)  # MultiDiscrete([2, 5])
    scores[0, 3], scores[0, 6] = 2.0, 2.0 - gap
    space = exported.cell("new:module-multidiscrete").arguments["env_spaces"][1]
    wanted, found = [np.array([[0, 1]])], [np.array([[0, 4]])]
    if right:
        compare_actions(graph, space, found, wanted, lambda: scores, "here")
    else:
        with pytest.raises(
            MismatchError, match=r"row 0 the action of the file is \[0, 4\].* the player"
        ):
            compare_actions(graph, space, found, wanted, lambda: scores, "here")
    with pytest.raises(MismatchError):
        compare_actions(graph, space, found, wanted, lambda: None, "here")


def test_another_dtype_of_an_action_is_no_match() -> None:
    plan = plan_of("new:module-box")

    class Wider(Eager):
        def __call__(self, tensors: Sequence[Any]) -> list[Any]:
            return [each.astype(np.float64) for each in super().__call__(tensors)]

    with pytest.raises(MismatchError, match="float64 of shape .* the player float32"):
        plan.check(Wider(plan.graph))


class Together(MultiRLModule):
    """Several modules that compute together."""


@pytest.mark.parametrize(
    ("connector", "seen", "reason"),
    [
        (
            lambda: FrameStacking(num_frames=2), Box(-1.0, 1.0, (8, 8, 2), np.float32),
            "the connector FrameStacking keeps earlier observations",
        ),
        (
            lambda: PrevActionsPrevRewards(n_prev_actions=1, n_prev_rewards=1),
            Dict({"_original_obs": Box(-1.0, 1.0, (8, 8, 1), np.float32)}),
            "the connector PrevActionsPrevRewards keeps earlier actions and rewards",
        ),
    ],
    ids=["frames", "actions"],
)  # fmt: skip
def test_connectors_that_remember_are_refused_by_name(
    connector: Callable[[], Any], seen: Any, reason: str
) -> None:
    spec = RLModuleSpec(
        module_class=RandomRLModule, observation_space=seen, action_space=Discrete(3)
    )
    player = rebuild_player(
        snapshot(spec.build()),
        env_spaces=(Box(-1.0, 1.0, (8, 8, 1), np.float32), Discrete(3)),
        connectors=[connector()],
    )
    with pytest.raises(InvalidInputError, match="cannot be exported") as refused:
        new_stack.preparation(player)
    assert reason in str(refused.value)
    assert 'contents="network"' in str(refused.value)


def test_modules_that_compute_together_are_refused_by_name() -> None:
    cell = exported.cell("new:module-box")
    module = rebuild_module(cell.snap)
    together = Together(rl_module_specs={"a": RLModuleSpec.from_module(module)})
    with pytest.raises(
        InvalidInputError, match=r"test_graphs\.Together makes several modules compute together"
    ):
        new_stack.module_of(together, "a")


@pytest.mark.long
def test_a_converted_policy_of_images_is_exported(tmp_path: Path) -> None:
    """Its connector turns the bytes of an image into the floats that the old stack's net saw."""
    cell = conversions.OLD["ppo-conv"]
    snap = to_new_stack(snapshot(cell.policy()))
    assert [piece["class"] for piece in snap.spec.connectors["env_to_module"]]
    metadata = export(snap, tmp_path / "main.onnx")
    assert metadata.inputs[0].dtype == "uint8"
    ExportedFile(tmp_path / "main.onnx", metadata).check_thousand(rebuild_player(snap))
