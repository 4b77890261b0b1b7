"""Map the names of RLlib's classes in checkpoints to the import paths that they have today.

The paths are those of Ray 2.60. Sources: ``ray/rllib/algorithms/registry.py:124`` (policies by
name), ``ray/rllib/connectors/`` (old-stack connectors by name), and the history of the folders
``ray/rllib/algorithms/*/torch`` (new-stack modules).
"""

from __future__ import annotations

__all__ = ["ALGORITHMS", "ALGORITHM_NAMES", "CONNECTORS", "MODULES", "POLICIES", "todays_path"]

_ALGORITHMS = "ray.rllib.algorithms"

POLICIES = {
    name: f"{_ALGORITHMS}.{folder}.{folder}_torch_policy:{name}"
    for folder, name in (
        ("appo", "APPOTorchPolicy"), ("cql", "CQLTorchPolicy"), ("dqn", "DQNTorchPolicy"),
        ("impala", "ImpalaTorchPolicy"), ("marwil", "MARWILTorchPolicy"),
        ("ppo", "PPOTorchPolicy"), ("sac", "SACTorchPolicy"),
    )
}  # fmt: skip
"""Name -> import path of the torch policies of the old stack that Ray 2.60 has."""
# Names until Ray 1.13 (agents/ppo/appo_torch_policy.py, agents/impala/vtrace_torch_policy.py).
POLICIES |= {
    "AsyncPPOTorchPolicy": POLICIES["APPOTorchPolicy"],
    "VTraceTorchPolicy": POLICIES["ImpalaTorchPolicy"],
}

ALGORITHMS = {
    POLICIES["APPOTorchPolicy"]: "APPO",
    POLICIES["CQLTorchPolicy"]: "CQL",
    POLICIES["DQNTorchPolicy"]: "DQN",
    POLICIES["ImpalaTorchPolicy"]: "IMPALA",
    POLICIES["MARWILTorchPolicy"]: "MARWIL",
    POLICIES["PPOTorchPolicy"]: "PPO",
    POLICIES["SACTorchPolicy"]: "SAC",
}
"""Class of a policy -> the algorithm whose class it is; BC and Apex-DQN take another one's."""

_CONNECTORS = "ray.rllib.connectors"
CONNECTORS = {
    name: f"{_CONNECTORS}.{module}:{name}"
    for module, name in (
        ("agent.obs_preproc", "ObsPreprocessorConnector"),
        ("agent.clip_reward", "ClipRewardAgentConnector"),
        ("agent.state_buffer", "StateBufferConnector"),
        ("agent.view_requirement", "ViewRequirementAgentConnector"),
        ("agent.env_sampling", "EnvSamplingAgentConnector"),
        ("agent.mean_std_filter", "MeanStdObservationFilterAgentConnector"),
        ("agent.mean_std_filter", "ConcurrentMeanStdObservationFilterAgentConnector"),
        ("action.lambdas", "ConvertToNumpyConnector"),
        ("action.normalize", "NormalizeActionsConnector"),
        ("action.clip", "ClipActionsConnector"),
        ("action.immutable", "ImmutableActionsConnector"),
    )
}
"""Name -> import path of RLlib's own connectors of the old stack."""


ALGORITHM_NAMES = {"Impala": "IMPALA"}
"""Name of an Algorithm's class in earlier versions -> its name today."""


def _renamed(algorithm: str, old: str, new: str) -> tuple[str, str]:
    """Return the old and the new import path of a class in an algorithm's ``torch`` folder."""
    folder = f"{_ALGORITHMS}.{algorithm}.torch"
    return f"{folder}.{old}", f"{folder}.{new}"


MODULES = dict(
    (
        *(
            _renamed(
                name,
                f"{name}_torch_rl_module:{name.upper()}TorchRLModule",
                f"default_{name}_torch_rl_module:Default{name.upper()}TorchRLModule",
            )
            for name in ("appo", "bc", "cql", "ppo", "sac")
        ),
        _renamed(
            "dqn",
            "dqn_rainbow_torch_rl_module:DQNRainbowTorchRLModule",
            "default_dqn_torch_rl_module:DefaultDQNTorchRLModule",
        ),
        (
            # APPOCatalog derived from PPOCatalog and changed nothing (Ray 2.4 to 2.37).
            f"{_ALGORITHMS}.appo.appo_catalog:APPOCatalog",
            f"{_ALGORITHMS}.ppo.ppo_catalog:PPOCatalog",
        ),
        (
            # Since Ray 2.38 MARWIL has PPO's module, with the same networks.
            f"{_ALGORITHMS}.marwil.torch.marwil_torch_rl_module:MARWILTorchRLModule",
            f"{_ALGORITHMS}.ppo.torch.default_ppo_torch_rl_module:DefaultPPOTorchRLModule",
        ),
        (
            f"{_ALGORITHMS}.marwil.marwil_catalog:MARWILCatalog",
            f"{_ALGORITHMS}.ppo.ppo_catalog:PPOCatalog",
        ),
        (
            f"{_CONNECTORS}.common.frame_stacking:_FrameStacking",
            f"{_CONNECTORS}.common.frame_stacking:FrameStacking",
        ),
        (
            # Since Ray 2.52 the old path names a functools.partial of the class.
            f"{_CONNECTORS}.env_to_module.flatten_observations:FlattenObservations",
            f"{_CONNECTORS}.common.flatten_observations:FlattenObservations",
        ),
        (
            f"{_CONNECTORS}.env_to_module.prev_actions_prev_rewards:PrevActionsPrevRewardsConnector",
            f"{_CONNECTORS}.env_to_module.prev_actions_prev_rewards:PrevActionsPrevRewards",
        ),
        (
            f"{_ALGORITHMS}.dqn.dqn_rainbow_catalog:DQNRainbowCatalog",
            f"{_ALGORITHMS}.dqn.dqn_catalog:DQNCatalog",
        ),
    )
)
"""Classes of the new stack: import path in earlier versions -> import path in the newest one."""


def todays_path(path: str) -> str:
    """Return the import path that a class has in the newest supported Ray (2.60)."""
    return MODULES.get(path, path)
