"""adapt on policies of the old stack, and between the stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Discrete
from ray.rllib.algorithms.dqn.dqn_torch_policy import DQNTorchPolicy
from ray.rllib.algorithms.ppo.ppo_torch_policy import PPOTorchPolicy
from ray.rllib.connectors.util import create_connectors_for_policy

from policystore import InvalidInputError, MismatchError, Snapshot
from policystore.rllib import adapt, rebuild_player, rebuild_policy, snapshot
from tests.support import transfer
from tests.support.old_stack_configs import dqn, ppo
from tests.support.old_stack_zoo import SPACES, SmallModel

HEADS = ["_logits.", "_value_branch."]


def policy(
    actions: int = 3, *, observation_filter: str = "NoFilter", model: Any = None
) -> PPOTorchPolicy:
    """Make a policy of PPO with the connectors that an Algorithm gives it."""
    config = ppo().env_runners(observation_filter=observation_filter)
    if model is not None:
        config.training(model=model)
    made = PPOTorchPolicy(SPACES["vector"], Discrete(actions), config.to_dict())
    create_connectors_for_policy(made, config)
    return made


def seen(made: PPOTorchPolicy, scale: float) -> Snapshot:
    """Return a snapshot of a policy whose filter has seen some observations."""
    (connector,) = made.agent_connectors["MeanStdObservationFilterAgentConnector"]
    for obs in np.random.default_rng(1).normal(scale, scale, (9, 4)):
        connector.filter(obs.astype(np.float32))
    return snapshot(made)


def test_the_encoder_only() -> None:
    trained, live = snapshot(policy(5)), policy(3)
    target = snapshot(live)

    result = adapt(trained, live, keep=HEADS)

    assert result.snapshot.spec == target.spec
    for name, array in result.snapshot.weights.items():
        source = target if name.startswith(tuple(HEADS)) else trained
        assert array.tobytes() == source.weights[name].tobytes(), name
    rebuild_policy(result.snapshot)
    with pytest.raises(MismatchError) as caught:
        adapt(trained, live)
    assert list(caught.value.wrong) == ["_logits._model.0.bias", "_logits._model.0.weight"]


def test_filter_statistics_come_along_with_the_weights() -> None:
    trained = seen(policy(observation_filter="MeanStdFilter"), 4.0)
    target = seen(policy(observation_filter="MeanStdFilter"), 0.5)
    assert trained.state_digest != target.state_digest

    result = adapt(trained, target)

    assert result.snapshot.state_digest == trained.state_digest
    (row,) = [row for row in result.report.rows if row.kind == "state"]
    assert (row.status, row.why) == ("taken", "9 observations")
    for obs in np.random.default_rng(2).normal(4, 4, (5, 4)).astype(np.float32):
        actions = [rebuild_player(snap).act(obs) for snap in (trained, result.snapshot)]
        assert actions[0] == actions[1]

    kept = adapt(trained, target, state="target")

    assert kept.snapshot.state_digest == target.state_digest
    assert kept.snapshot.weights_digest == trained.weights_digest


def test_the_progress_of_exploration_is_the_targets() -> None:
    exploration = {"type": "EpsilonGreedy", "epsilon_timesteps": 100, "final_epsilon": 0.5}
    config = dqn().env_runners(exploration_config=exploration)
    snaps = []
    for timestep in (50, 10):
        made = DQNTorchPolicy(SPACES["vector"], SPACES["discrete"], config.to_dict())
        made.global_timestep = timestep
        snaps.append(snapshot(made))
    trained, target = snaps

    result = adapt(trained, target)

    assert result.snapshot.state == {"exploration": {"timestep": 10}}
    (row,) = [row for row in result.report.rows if row.kind == "state"]
    assert (row.name, row.status) == ("exploration", "kept")


def own_model() -> PPOTorchPolicy:
    config = {"custom_model": SmallModel, "custom_model_config": {"tied": True}}
    return policy(model=config)


@pytest.mark.parametrize("form", ["live", "snapshot"])
def test_tied_parameters_of_a_model_of_ones_own(form: str) -> None:
    trained, live = snapshot(own_model()), own_model()
    target = live if form == "live" else snapshot(live)

    result = adapt(trained, target, only=["second.", "heads."])

    assert transfer.same(result.snapshot, "third.weight", trained, "second.weight")
    rebuild_policy(result.snapshot, trust=[SmallModel])


def test_the_other_stack_is_refused_with_the_call_that_converts() -> None:
    old, new = snapshot(policy()), transfer.ppo()
    with pytest.raises(MismatchError, match=r"to_new_stack\(snap\) converts"):
        adapt(old, new)
    with pytest.raises(MismatchError, match=r"to_old_stack\(snap\) converts"):
        adapt(new, policy())


def test_ids_are_for_algorithms() -> None:
    with pytest.raises(InvalidInputError, match="policy_id='main' has no meaning"):
        adapt(snapshot(policy()), policy(), "main")
