"""What has no counterpart is refused, and the message names the first such tensor or setting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.connectors.env_to_module.mean_std_filter import MeanStdFilter
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModule

from policystore import InvalidInputError, MismatchError, Snapshot
from policystore.format.values import Tagged
from policystore.rllib import (
    rebuild_module,
    rebuild_player,
    rebuild_policy,
    snapshot,
    to_new_stack,
    to_old_stack,
)
from policystore.rllib.live.checks.compatibility import prepare
from policystore.rllib.new_stack.connectors import piece_to_plain
from tests.support.conversions import FORCES, LSTM, SMALL, VECTOR, Cell
from tests.support.old_stack_zoo import Shift
from tests.support.rl_modules import FrameStacking

LONG = {**SMALL, **LSTM}


def model(**settings: Any) -> Callable[[], Snapshot]:
    return lambda: snapshot(Cell(model={**SMALL, **settings}).policy())


def spaces(obs: Any = VECTOR, act: Any = None, **settings: Any) -> Callable[[], Snapshot]:
    cell = Cell(obs=obs, act=act or Discrete(3), model={**SMALL, **settings})
    return lambda: snapshot(cell.policy())


def dqn(**training: Any) -> Callable[[], Snapshot]:
    return lambda: snapshot(Cell("DQN", training=training).policy())


def recorded(**config: Any) -> Callable[[], Snapshot]:
    """A snapshot with other settings of the model in its config than the policy was built with."""

    def make() -> Snapshot:
        snap = snapshot(Cell().policy())
        settings = snap.spec.config
        settings["model"] |= config
        return snap.replace(spec=snap.spec.replace(config=settings))

    return make


def in_environment(space: Any) -> Callable[[], Snapshot]:
    """A snapshot of a policy in an environment with another observation space."""

    def make() -> Snapshot:
        snap = snapshot(Cell().policy())
        return snap.replace(spec=snap.spec.replace(env_observation_space=space))

    return make


def with_weight(name: str, array: Any) -> Callable[[], Snapshot]:
    def make() -> Snapshot:
        snap = snapshot(Cell().policy())
        return snap.replace(weights={**snap.weights, name: array})

    return make


def sac_without_a_flag() -> Snapshot:
    """A snapshot of a SAC policy that does not say how the Algorithm handled its actions."""
    snap = snapshot(Cell("SAC", act=FORCES).policy())
    return snap.replace(spec=snap.spec.replace(normalize_actions=None))


OLD: dict[str, tuple[Callable[[], Snapshot], str]] = {
    "previous-actions": (
        recorded(use_lstm=True, lstm_use_prev_action=True),
        "config.model.lstm_use_prev_act",
    ),
    "previous-rewards": (
        model(**LSTM, lstm_use_prev_reward=True),
        "config.model.lstm_use_prev_rew",
    ),
    "attention": (model(use_attention=True, attention_dim=8), "config.model.use_attention"),
    "custom-model": (recorded(custom_model=Tagged("import", "a:B")), r"custom_model \(a:B\)"),
    "custom-dist": (recorded(custom_action_dist=Tagged("import", "a:B")), "custom_action_dist"),
    "custom-preprocessor": (recorded(custom_preprocessor=Tagged("import", "a:B")), "preprocessor"),
    "no-final-linear": (recorded(no_final_linear=True), "config.model.no_final_linear"),
    "no-layers": (model(fcnet_hiddens=[]), r"config.model.fcnet_hiddens=\[\]"),
    "start": (spaces(Discrete(4, start=1)), r"Discrete\(4, start=1\)"),
    "start-inside": (spaces(Dict({"a": MultiDiscrete([3, 2], start=[0, 1])})), "MultiDiscrete"),
    "atari-ram": (spaces(Box(0, 255, (128,), np.uint8)), "AtariRamPreprocessor"),
    "pixels": (
        in_environment(Dict({"seen": Box(0, 255, (210, 160, 3), np.uint8)})),
        "GenericPixelPreprocessor",
    ),
    "text": (in_environment(Text(4)), "the observation space Text"),
    "matrix": (spaces(Box(-1.0, 1.0, (3, 2), np.float32)), "the tensor "),
    "multi-binary": (spaces(MultiBinary(4)), "the tensor "),
    "numbers-in-a-matrix": (
        spaces(Dict({"a": MultiDiscrete([[1, 3], [2, 4]]), "b": VECTOR})),
        "MultiDiscrete.* of one dimension only",
    ),
    "no-numbers": (
        spaces(Dict({"a": Box(0, 1, (0,)), "b": VECTOR})),
        "this space holds no numbers",
    ),
    "filter-of-integers": (
        lambda: snapshot(
            Cell(obs=Box(0, 9, (4,), np.int32)).policy(observation_filter="MeanStdFilter")
        ),
        r"the filter of the observation space Box\(0, 9, \(4,\), int32\)",
    ),
    "post-layers-after-conv": (
        spaces(
            Box(0.0, 1.0, (10, 10, 2), np.float32),
            conv_filters=[[4, 5, 2], [8, [5, 5], 2]],
            post_fcnet_hiddens=[7],
        ),
        "config.model.post_fcnet_hiddens",
    ),
    "whole-numbers": (spaces(act=Box(0, 3, (2,), np.int64)), r"the action space Box\(0, 3"),
    "noisy": (dqn(noisy=True), "config.noisy"),
    "atoms-and-dueling": (dqn(num_atoms=3), "config.num_atoms together with config.dueling"),
    "no-streams": (dqn(hiddens=[]), r"config.hiddens=\[\] together with config.dueling"),
    "dqn-at-the-start": (dqn(), "state.exploration.timestep"),
    "sac-without-tanh": (
        lambda: snapshot(Cell("SAC", act=FORCES).policy(normalize_actions=False)),
        "normalize_actions=False",
    ),
    "sac-perhaps-without-tanh": (sac_without_a_flag, "normalize_actions=None"),
    "one-more-tensor": (with_weight("extra.weight", np.zeros(3, "f4")), "the tensor extra.weight"),
    "float64": (
        with_weight("_logits._model.0.bias", np.zeros(3)),
        "the tensor _logits._model.0.bias",
    ),
    "shape": (
        with_weight("_logits._model.0.bias", np.zeros(4, "f4")),
        "the tensor _logits._model.0.bias",
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_the_first_part_of_an_old_policy_without_a_counterpart_is_named(name: str) -> None:
    make, part = OLD[name]
    snap = make()

    with pytest.raises(InvalidInputError, match=f"(?s)cannot be converted: .*{part}"):
        to_new_stack(snap)


def test_exploration_is_given_up_on_request() -> None:
    there = to_new_stack(dqn()(), omit=["exploration"])

    assert there.spec.omitted["exploration"] == "left out on request"


@pytest.mark.parametrize("timestep", [0, 4_999, 5_000, 2**40])
def test_a_finished_exploration_is_carried(timestep: int) -> None:
    schedule = {
        "type": "EpsilonGreedy",
        "initial_epsilon": 0.9,
        "final_epsilon": 0.1,
        "warmup_timesteps": 1000,
        "epsilon_timesteps": 4000,
    }
    policy = Cell("DQN").policy(exploration=schedule)
    policy.global_timestep = timestep
    snap = snapshot(policy)

    if timestep < 5_000:
        with pytest.raises(InvalidInputError, match="end of its schedule"):
            to_new_stack(snap)
    else:
        there = to_new_stack(snap)
        epsilon = there.spec.config["model_config"]["epsilon"]
        assert epsilon == [[0, 0.9], [1000, 0.9], [5000, 0.1]]
        back = to_old_stack(there)
        assert back.spec.config["exploration_config"] == snap.spec.config["exploration_config"]
        assert back.state_digest == snap.state_digest


def test_connectors_of_ones_own_are_refused_or_given_up() -> None:
    policy = Cell().policy()
    policy.agent_connectors.insert_before("StateBufferConnector", Shift(None))
    snap = snapshot(policy)

    with pytest.raises(InvalidInputError, match="old_stack_zoo:Shift"):
        to_new_stack(snap)
    there = to_new_stack(snap, omit=["Shift"])
    assert "connectors.Shift" in there.spec.omitted


def module(**settings: Any) -> Callable[[], Snapshot]:
    act = settings.pop("act", Discrete(3))
    obs = settings.pop("obs", VECTOR)
    return lambda: snapshot(Cell(obs=obs, act=act, model={**SMALL, **settings}).module())


def changed(**fields: Any) -> Callable[[], Snapshot]:
    def make() -> Snapshot:
        snap = snapshot(Cell().module())
        return snap.replace(spec=snap.spec.replace(**fields))

    return make


def clipped() -> Snapshot:
    cell = Cell(act=FORCES, model={**SMALL, "free_log_std": True})
    snap = snapshot(cell.module())
    return snap.replace(weights={**snap.weights, "pi.log_std": np.float32([1.0, -21.0])})


def filtered(obs: Any, *pieces: Any) -> Callable[[], Snapshot]:
    """A snapshot of a module whose connectors are these pieces."""

    def make() -> Snapshot:
        connectors = {
            "env_to_module": [piece_to_plain(piece) for piece in pieces],
            "module_to_env": [],
            "defaults": {"env_to_module": True, "module_to_env": True},
        }
        return changed(connectors=connectors, env_observation_space=obs)()

    return make


_PIECES = {
    "env_to_module": [piece_to_plain(FrameStacking(num_frames=2))],
    "module_to_env": [],
    "defaults": {"env_to_module": True, "module_to_env": True},
}
_IMAGE = Box(0.0, 1.0, (10, 10, 2), np.float32)
NEW: dict[str, tuple[Callable[[], Snapshot], str]] = {
    "two-lstms": (module(**LSTM, vf_share_layers=False), "vf_share_layers=False together"),
    "heads": (module(head_fcnet_hiddens=[5]), "config.model_config.head_fcnet_hiddens"),
    "layer-norm": (module(fcnet_use_layernorm=True), "config.model_config.fcnet_use_layernorm"),
    "same-at-the-end": (module(obs=_IMAGE, conv_filters=[[4, 5, 2], [8, 5, 2]]), "conv_filters"),
    "valid-before": (
        module(obs=_IMAGE, conv_filters=[[4, 5, 2, "valid"], [8, 3, 1, "valid"]]),
        "conv_filters",
    ),
    "many-positions": (
        module(obs=_IMAGE, conv_filters=[[4, 5, 2], [8, 3, 1, "valid"]]),
        "they end with 3x3 positions",
    ),
    "clipped": (clipped, "the tensor pi.log_std"),
    "catalog": (
        lambda: (
            lambda snap: snap.replace(
                spec=snap.spec.replace(
                    config={**snap.spec.config, "catalog_class": Tagged("import", "a:B")}
                )
            )
        )(snapshot(Cell().module())),
        r"config.catalog_class \(a:B\)",
    ),
    "sac": (
        lambda: to_new_stack(snapshot(Cell("SAC", act=FORCES).policy())),
        "the module of SAC",
    ),
    "own-class": (changed(cls="mypkg.nets:Net"), "the class mypkg.nets:Net"),
    "frames": (
        changed(connectors=_PIECES, env_observation_space=VECTOR),
        "frame_stacking:FrameStacking",
    ),
    "filter-of-floats": (
        filtered(Box(0, 9, (4,), np.int32), FlattenObservations(), MeanStdFilter()),
        r"a .*MeanStdFilter behind other connectors, for .*int32",
    ),
    "filter-of-a-dict": (
        filtered(Dict({"a": VECTOR}), MeanStdFilter(), FlattenObservations()),
        "MeanStdFilter before other connectors",
    ),
    "actions-in-a-matrix": (
        module(act=MultiDiscrete([[1, 3], [2, 4]])),
        "MultiDiscrete.* of one dimension only",
    ),
    "no-defaults": (
        changed(connectors={**_PIECES, "defaults": {"env_to_module": False}}),
        "connectors.defaults",
    ),
    "dqn-heads": (
        lambda: snapshot(
            Cell(
                "DQN",
                model={**SMALL, "head_fcnet_hiddens": [5], "head_fcnet_activation": "tanh"},
            ).module()
        ),
        "head_fcnet_activation",
    ),
    "dqn-no-streams": (
        lambda: snapshot(Cell("DQN", model={**SMALL, "head_fcnet_hiddens": []}).module()),
        r"head_fcnet_hiddens=\[\] together with dueling",
    ),
}


@pytest.mark.parametrize("name", NEW)
def test_the_first_part_of_a_module_without_a_counterpart_is_named(name: str) -> None:
    make, part = NEW[name]
    snap = make()

    with pytest.raises(InvalidInputError, match=f"(?s)cannot be converted: .*{part}"):
        to_old_stack(snap)


def test_an_inference_only_module_lacks_the_value_network() -> None:
    full = snapshot(Cell().module())
    names = full.spec.acting or ()
    acting = {name: array for name, array in full.weights.items() if name in names}
    snap = Snapshot(weights=acting, spec=full.spec.replace(weights="inference-only", acting=None))

    with pytest.raises(InvalidInputError, match="a network without _value_branch"):
        to_old_stack(snap)


def test_modules_that_share_parts_are_refused() -> None:
    inner = snapshot(Cell().module())
    spec = inner.spec.replace(
        cls="ray.rllib.core.rl_module.multi_rl_module:MultiRLModule",
        modules={"p": inner.spec},
        acting=None,
    )
    assert MultiRLModule.__name__ in (spec.cls or "")

    with pytest.raises(InvalidInputError, match="spec.modules"):
        to_old_stack(Snapshot(weights={}, spec=spec))


def test_only_policies_of_the_other_stack_are_converted() -> None:
    old, new = snapshot(Cell().policy()), snapshot(Cell().module())

    with pytest.raises(InvalidInputError, match="of the new API stack already"):
        to_new_stack(new)
    with pytest.raises(InvalidInputError, match="of the old API stack already"):
        to_old_stack(old)
    with pytest.raises(InvalidInputError, match="no policy of RLlib"):
        to_new_stack(Snapshot(weights={}))
    with pytest.raises(InvalidInputError, match="omit is a list"):
        to_new_stack(old, omit="exploration")
    with pytest.raises(InvalidInputError, match=r"store\.pull"):
        to_new_stack("main@3")  # type: ignore[arg-type]


def test_messages_about_the_wrong_stack_name_the_conversion() -> None:
    old, new = snapshot(Cell().policy()), snapshot(Cell().module())
    info: Any = type("Info", (), {"tensors": {}, "spaces": (None, None)})

    with pytest.raises(InvalidInputError, match=r"to_old_stack\(snap\)"):
        rebuild_policy(new)
    with pytest.raises(InvalidInputError, match=r"to_new_stack\(snap\)"):
        rebuild_module(old)
    with pytest.raises(MismatchError, match=r"to_new_stack\(snap\)"):
        prepare("main", old, info, "new")
    with pytest.raises(MismatchError, match=r"to_old_stack\(snap\)"):
        prepare("main", new, info, "old")


def test_a_sac_policy_converts_when_it_is_told_how_its_actions_are_handled() -> None:
    snap = sac_without_a_flag()

    there = to_new_stack(snap.replace(spec=snap.spec.replace(normalize_actions=True)))

    assert there.spec.normalize_actions is True


def test_a_converted_sac_policy_says_how_it_acts() -> None:
    original = snapshot(Cell("SAC", act=FORCES).policy())

    there = to_new_stack(original)

    assert there.spec.cls == "policystore.rllib.convert.modules:TanhSACTorchRLModule"
    assert there.spec.weights == "inference-only"
    assert {"q_net", "twin_q_net", "log_alpha"} <= set(there.spec.omitted)
    plain = there.spec.replace(
        cls="ray.rllib.algorithms.sac.torch.default_sac_torch_rl_module:DefaultSACTorchRLModule"
    )
    obs = np.full(4, 0.9, np.float32)
    squashed, mean = (rebuild_player(snap).act(obs) for snap in (there, there.replace(spec=plain)))
    np.testing.assert_allclose(squashed, rebuild_player(original).act(obs), rtol=1e-6)
    assert not np.allclose(squashed, mean)
