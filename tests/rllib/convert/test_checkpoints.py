"""Policies of real checkpoints convert, and compute what the live policies computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from policystore import InvalidInputError
from policystore.rllib import read_checkpoint, rebuild_player, to_new_stack, to_old_stack
from tests.rllib.convert.test_networks import assert_same
from tests.support.checkpoint_corpus import Given, given, named
from tests.support.conversions import computed, observations

POLICIES = [(one, policy_id) for one in given() for policy_id in one.about["policies"]]
ALWAYS = {"2.4.0-ppo_old", "1.13.0-ppo_old_meanstd", "2.60.0-ppo_new", "2.60.0-sac_new"}
REFUSED = {
    "ppo_new_lstm": "vf_share_layers=False together with use_lstm",
    "sac_new": "the module of SAC",
    "2.4.0-ppo_new": "config.catalog_class",
    "2.4.0-ppo_new_multi": "config.catalog_class",
}
"""Kinds of checkpoints whose policies have no counterpart -> what the message names."""


def reason(one: Given) -> str | None:
    return REFUSED.get(named(one), REFUSED.get(one.kind))


@pytest.mark.parametrize(
    ("one", "policy_id"),
    [
        pytest.param(
            one,
            policy_id,
            id=f"{named(one)}-{policy_id}",
            marks=() if named(one) in ALWAYS else pytest.mark.long,
        )
        for one, policy_id in POLICIES
    ],
)
def test_a_policy_of_a_checkpoint_converts_or_says_why_not(one: Given, policy_id: str) -> None:
    original = read_checkpoint(one.path, [policy_id])[policy_id]
    convert: Any = to_new_stack if original.spec.stack == "old" else to_old_stack
    if reason(one) is not None:
        with pytest.raises(InvalidInputError, match=f"cannot be converted: .*{reason(one)}"):
            convert(original)
        return

    converted = convert(original)

    truth = one.truth(policy_id)
    inputs = truth.get("__obs_filtered", truth["__obs"])
    for mine, yours in zip(computed(original, inputs), computed(converted, inputs), strict=True):
        for name in mine.keys() & yours.keys():
            np.testing.assert_allclose(mine[name], yours[name], rtol=1e-6, atol=1e-6)
    if "__extra.action_dist_inputs" in truth and one.kind.startswith("ppo"):
        (found,) = computed(converted, inputs, steps=1)
        np.testing.assert_allclose(found["dist"], truth["__extra.action_dist_inputs"], atol=1e-5)
        np.testing.assert_allclose(found["value"], truth["__extra.vf_preds"], atol=1e-5)
    agent = (original.spec.connectors.get("agents") or [None])[0]
    players = [rebuild_player(original, agent=agent), rebuild_player(converted)]
    for obs in observations(players[0].observation_space, 24)[4:]:
        assert_same(*(player.act(obs) for player in players))


def test_every_kind_of_refusal_is_in_the_corpus() -> None:
    assert {named(one) for one, _ in POLICIES if reason(one)} >= {"2.4.0-ppo_new", "2.60.0-sac_new"}
