"""The blocks of docs/transfer.md, run in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.rllib.algorithms.bc.bc_catalog import BCCatalog
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from policystore import PolicyStore
from policystore.rllib import snapshot
from tests.support.doc_blocks import DOCS, outputs, run_blocks
from tests.support.rl_modules import DefaultBCTorchRLModule
from tests.support.transfer import same


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_the_blocks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = PolicyStore(tmp_path)
    config = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0)
    net = DefaultModelConfig(fcnet_hiddens=[16], vf_share_layers=False)
    algo = config.rl_module(model_config=net).build_algo()
    module = algo.get_module()
    store.push(snapshot(algo), "cartpole/ppo")
    cloned = RLModuleSpec(
        module_class=DefaultBCTorchRLModule,
        observation_space=module.observation_space,
        action_space=module.action_space,
        model_config={"fcnet_hiddens": [16], "head_fcnet_hiddens": []},
        catalog_class=BCCatalog,
    ).build()
    bc = snapshot(cloned)
    store.push(bc, "cartpole/bc")
    names: dict[str, Any] = {"store": store, "algo": algo}
    try:
        run_blocks("rllib", names, DOCS / "transfer.md")
        held = snapshot(names["algo"])
        begun = snapshot(names["fresh"])
    finally:
        names["algo"].stop()
        names["fresh"].stop()
    for snap in (held, begun):
        for start, place in names["names"].items():
            for name in bc.weights:
                if name.startswith(start):
                    assert same(snap, place + name.removeprefix(start), bc, name)
    # The digest in the title differs, because the weights are random.
    (shown,) = outputs(DOCS / "transfer.md")
    assert shown.partition("\n")[2] in capsys.readouterr().out
