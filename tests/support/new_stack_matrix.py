"""The matrix of the new stack: one cell for each algorithm or module that is trained and kept.

``make`` runs in the parent process, and writes ``<name>.safetensors`` and ``<name>.expected`` for
each cell. ``new_stack_replay.py`` rebuilds all cells in one fresh process.
"""

from __future__ import annotations

import gc
import json
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tree
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.bc import BCConfig
from ray.rllib.algorithms.cql import CQLConfig
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.iql import IQLConfig
from ray.rllib.algorithms.marwil import MARWILConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.sac import SACConfig
from ray.rllib.algorithms.tqc import TQCConfig
from ray.rllib.connectors.env_to_module import (
    FlattenObservations,
    MeanStdFilter,
    PrevActionsPrevRewards,
)
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.examples.rl_modules.classes.random_rlm import RandomRLModule
from ray.rllib.examples.rl_modules.classes.rock_paper_scissors_heuristic_rlm import (
    BeatLastHeuristicRLM,
)
from ray.rllib.utils.spaces.space_utils import batch as batch_items

import tests.support.new_stack_modules as parts
from policystore.rllib.new_stack.snapshot import snapshot_from_algorithm, snapshot_module
from policystore.snapshot import Snapshot
from tests.support.rl_modules import (
    DefaultAPPOTorchRLModule,
    DefaultDQNTorchRLModule,
    DefaultPPOTorchRLModule,
    DQNCatalog,
    FrameStacking,
)

SMALL = {"fcnet_hiddens": [16, 16], "head_fcnet_hiddens": [16]}
TRUST = ["tests.support.new_stack_modules."]
THREE = Discrete(3)
VECTOR = Box(-1.0, 1.0, (4,), np.float32)
UNEVEN = Box(np.array([-2.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))
IMAGE = Box(0, 255, (84, 84, 4), np.uint8)
NESTED = Dict(
    {"a": Box(-5.0, 9.0, (3,), np.float32), "b": Tuple([Discrete(3), Box(0.0, 1.0, (2, 2))])}
)


def tiny(config: Any, **training: Any) -> Any:
    """Change a config so that an iteration takes little time."""
    return (
        config.env_runners(num_env_runners=0, rollout_fragment_length=20)
        .training(**training)
        .rl_module(model_config=SMALL)
        .reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=0)
        .debugging(seed=7)
    )


def trace(config: Any, observations: gym.Space, actions: gym.Space) -> Any:
    return config.environment(
        parts.TraceEnv, env_config={"observation_space": observations, "action_space": actions}
    )


def ppo(observations: gym.Space = VECTOR, actions: gym.Space = THREE) -> Any:
    config = tiny(PPOConfig(), train_batch_size=40, minibatch_size=20, num_epochs=1)
    return trace(config, observations, actions)


def behind(config: Any, *make_pieces: Callable[[], Any], **more: Any) -> Any:
    """Add env-to-module connectors to a config; each pipeline gets new ones."""
    return config.env_runners(
        env_to_module_connector=lambda env=None, spaces=None, device=None: [
            make() for make in make_pieces
        ],
        **more,
    )


def off_policy(config: Any, observations: gym.Space, actions: gym.Space, **training: Any) -> Any:
    config = tiny(
        config, train_batch_size=16, num_steps_sampled_before_learning_starts=16, **training
    )
    return trace(config, observations, actions)


def asynchronous(config: Any) -> Any:
    return trace(tiny(config, train_batch_size_per_learner=40), VECTOR, Discrete(3)).learners(
        num_learners=0
    )


def stacked() -> Any:
    frames = Box(-1.0, 1.0, (8, 8, 1), np.float32)
    config = behind(ppo(frames), lambda: FrameStacking(num_frames=3), episode_lookback_horizon=3)
    filters = [[4, 3, 2], [8, 3, 2]]
    return config.rl_module(
        model_config={"conv_filters": filters, "head_fcnet_hiddens": [8]}
    ).learners(learner_connector=lambda *_: FrameStacking(num_frames=3, as_learner_connector=True))


ONLINE: dict[str, Callable[[], Any]] = {
    "ppo": ppo,
    "ppo-meanstd": lambda: behind(ppo(Box(-3.0, 40.0, (4,), np.float32)), MeanStdFilter),
    "ppo-flattened-meanstd": lambda: behind(
        ppo(NESTED), FlattenObservations, lambda: MeanStdFilter(clip_by_value=1.5)
    ),
    "ppo-lstm": lambda: ppo(VECTOR, UNEVEN).rl_module(
        model_config={**SMALL, "use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 5}
    ),
    "ppo-conv": lambda: behind(ppo(IMAGE), parts.ToUnit).rl_module(
        model_config={"conv_filters": [[4, 8, 8], [8, 4, 4]], "head_fcnet_hiddens": [8]}
    ),
    "ppo-box-free-log-std": lambda: ppo(VECTOR, UNEVEN).rl_module(
        model_config={**SMALL, "free_log_std": True, "vf_share_layers": False}
    ),
    "ppo-box-clipped": lambda: ppo(VECTOR, UNEVEN).environment(
        normalize_actions=False, clip_actions=True
    ),
    "ppo-multidiscrete": lambda: ppo(VECTOR, MultiDiscrete([3, 4])),
    "ppo-tuple-actions": lambda: ppo(VECTOR, Tuple([Discrete(3), UNEVEN])),
    "ppo-dict-actions": lambda: ppo(VECTOR, Dict({"x": Discrete(2), "y": UNEVEN})),
    "ppo-flattened-dict": lambda: behind(ppo(NESTED), FlattenObservations),
    "ppo-discrete-obs": lambda: behind(ppo(Discrete(5), UNEVEN), FlattenObservations),
    "ppo-frame-stacking": stacked,
    "ppo-previous-actions": lambda: behind(
        ppo(),
        lambda: PrevActionsPrevRewards(n_prev_actions=2, n_prev_rewards=3),
        FlattenObservations,
        episode_lookback_horizon=3,
    ),
    "ppo-own-connector": lambda: behind(ppo(), lambda: parts.Shifted(by=0.25)),
    "ppo-own-state": lambda: behind(ppo(VECTOR, UNEVEN), lambda: parts.Counting(by=0.5)),
    "appo": lambda: asynchronous(APPOConfig()),
    "impala": lambda: asynchronous(IMPALAConfig()),
    "dqn": lambda: off_policy(DQNConfig(), VECTOR, Discrete(3)),
    "dqn-plain": lambda: off_policy(
        DQNConfig(), VECTOR, Discrete(3), dueling=False, double_q=False
    ),
    "dqn-distributional": lambda: off_policy(
        DQNConfig(), VECTOR, Discrete(3), num_atoms=5, v_min=-2.0, v_max=2.0
    ),
    "sac-box": lambda: off_policy(SACConfig(), VECTOR, UNEVEN),
    "sac-discrete": lambda: off_policy(SACConfig(), VECTOR, Discrete(3)),
    "tqc": lambda: off_policy(TQCConfig(), VECTOR, UNEVEN),
}

OFFLINE: dict[str, tuple[type, gym.Space]] = {
    "bc": (BCConfig, Discrete(3)),
    "marwil": (MARWILConfig, Discrete(3)),
    "cql": (CQLConfig, UNEVEN),
    "iql": (IQLConfig, UNEVEN),
}


def _ppo_module(actions: gym.Space, **config: Any) -> RLModuleSpec:
    return RLModuleSpec(
        module_class=DefaultPPOTorchRLModule,
        observation_space=config.pop("observation_space", VECTOR),
        action_space=actions,
        inference_only=config.pop("inference_only", False),
        model_config=config.pop("model_config", {**SMALL, **config}),
        catalog_class=PPOCatalog,
    )


def _own(cls: type, **config: Any) -> RLModuleSpec:
    return RLModuleSpec(
        module_class=cls,
        observation_space=VECTOR,
        action_space=Discrete(3),
        model_config={"width": 6, **config},
    )


MODULES: dict[str, Callable[[], RLModuleSpec]] = {
    "module-discrete-shared": lambda: _ppo_module(Discrete(3), vf_share_layers=True),
    "module-discrete-separate": lambda: _ppo_module(Discrete(3), vf_share_layers=False),
    "module-box": lambda: _ppo_module(UNEVEN),
    "module-box-free-log-std": lambda: _ppo_module(UNEVEN, free_log_std=True),
    "module-multidiscrete": lambda: _ppo_module(MultiDiscrete([2, 5])),
    "module-tuple": lambda: _ppo_module(Tuple([Discrete(2), UNEVEN])),
    "module-dict": lambda: _ppo_module(Dict({"x": Discrete(2), "y": UNEVEN})),
    "module-conv": lambda: _ppo_module(Discrete(4), observation_space=IMAGE),
    "module-lstm-shared": lambda: _ppo_module(
        Discrete(3), use_lstm=True, lstm_cell_size=8, vf_share_layers=True
    ),
    "module-lstm-separate": lambda: _ppo_module(
        UNEVEN, use_lstm=True, lstm_cell_size=8, vf_share_layers=False
    ),
    "module-inference-only": lambda: _ppo_module(
        Discrete(3), vf_share_layers=False, inference_only=True
    ),
    "module-initializer": lambda: _ppo_module(
        Discrete(3),
        fcnet_kernel_initializer=torch.nn.init.orthogonal_,
        fcnet_kernel_initializer_kwargs={"gain": 0.5},
        fcnet_use_layernorm=True,
        fcnet_activation="silu",
    ),
    "module-dataclass-config": lambda: _ppo_module(
        Discrete(3), model_config=DefaultModelConfig(fcnet_hiddens=[8])
    ),
    "module-appo": lambda: RLModuleSpec(
        module_class=DefaultAPPOTorchRLModule,
        observation_space=VECTOR,
        action_space=Discrete(3),
        model_config={**SMALL, "vf_share_layers": False},
        catalog_class=PPOCatalog,
    ),
    "module-dqn-conv": lambda: RLModuleSpec(
        module_class=DefaultDQNTorchRLModule,
        observation_space=IMAGE,
        action_space=Discrete(4),
        model_config={
            "head_fcnet_hiddens": [8],
            "dueling": True,
            "double_q": True,
            "num_atoms": 1,
            "epsilon": [[0, 1.0], [10, 0.05]],
        },
        catalog_class=DQNCatalog,
    ),
    "module-own": lambda: _own(parts.Head),
    "module-batch-norm": lambda: _own(parts.BatchNormHead),
    "module-bf16": lambda: _own(parts.HalfHead),
    "module-tied": lambda: _own(parts.TiedHead),
    "module-random": lambda: RLModuleSpec(
        module_class=RandomRLModule, observation_space=VECTOR, action_space=Discrete(3)
    ),
    "module-heuristic": lambda: RLModuleSpec(
        module_class=BeatLastHeuristicRLM, observation_space=Discrete(4), action_space=Discrete(3)
    ),
}

NO_SAME_OUTPUT = {"module-random"}


def multi_agent(agents: list[Any], *, sizes: tuple[int, ...] = (4, 4), **config: Any) -> Any:
    return (
        tiny(PPOConfig(), train_batch_size=40, minibatch_size=20, num_epochs=1)
        .environment(parts.TwoAgents, env_config={"agents": agents, "sizes": list(sizes)})
        .multi_agent(
            policies={"first", "second"},
            policy_mapping_fn=lambda agent, *_, **__: "first" if agent == agents[0] else "second",
            **config,
        )
    )


def perturb(module: Any) -> None:
    """Give a module weights and buffers that no constructor makes.

    They are the same at each call, and tied weights stay tied. With these weights, different
    observations get different actions, as after long training.
    """
    if not isinstance(module, torch.nn.Module):
        return
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for tensor in {id(t): t for t in module.state_dict(keep_vars=True).values()}.values():
            if not tensor.is_floating_point():
                continue
            # Biases are small, so that outputs depend on the observations.
            scale = 0.7 if tensor.ndim > 1 else 0.05
            noise = (torch.randn(tensor.shape, generator=generator) * scale).to(tensor.dtype)
            # Variances, scales and limits stay positive.
            positive = bool((tensor > 0).all())
            tensor.copy_(tensor + noise.abs() if positive else noise)


def outputs(module: Any, observations: list[Any]) -> list[dict[str, Any]]:
    """Return the outputs of ``forward_inference``, over three steps if the module is recurrent."""
    batch: dict[str, Any] = {Columns.OBS: _tensors(batch_items(observations))}
    if not module.is_stateful():
        return [_arrays(module.forward_inference(batch))]
    count = len(observations)
    state = tree.map_structure(
        lambda value: torch.as_tensor(value).repeat(count, *[1] * np.ndim(value)),
        module.get_initial_state(),
    )
    found = []
    for _ in range(3):
        batch = {Columns.OBS: _tensors(batch_items(observations))[:, None], Columns.STATE_IN: state}
        out = module.forward_inference(batch)
        state = out[Columns.STATE_OUT]
        found.append(_arrays(out))
    return found


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_tensors(item) for item in value)
    array = np.asarray(value)
    # Pipelines hand images over as float32 (utils/torch_utils.py:convert_to_torch_tensor).
    return torch.as_tensor(array.astype(np.float32) if array.dtype == np.uint8 else array)


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        # Exact for every dtype that a module puts out, bf16 included.
        return value.detach().to(torch.float64).numpy()
    return np.asarray(value)


def names(learned: Any) -> tuple[list[str], list[str]]:
    """Return the names of all weights of a learner's module, and of those that acting needs."""
    return sorted(learned.get_state()), sorted(learned.get_state(inference_only=True))


def freeze_filters(runner: Any) -> None:
    for piece in runner._env_to_module.connectors:
        if isinstance(piece, MeanStdFilter):
            piece._update_stats = False
        if isinstance(piece, parts.Counting):
            piece.frozen = True


def play(runner: Any, log: list[Any], steps: int = 24) -> list[Any]:
    """Let the Algorithm's env runner sample without exploration, and return ``TraceEnv.log``."""
    freeze_filters(runner)
    parts.TraceEnv.start_anew = True
    log.clear()
    runner.sample(num_timesteps=steps, explore=False, force_reset=True)
    return list(log)


def save(folder: Path, name: str, snap: Snapshot, **expected: Any) -> None:
    snap.save(folder / f"{name}.safetensors")
    (folder / f"{name}.expected").write_bytes(
        pickle.dumps({**expected, "digest": str(snap.digest)})
    )


def make_module(name: str, folder: Path) -> None:
    module = MODULES[name]().build()
    perturb(module)
    space = module.observation_space
    space.seed(1)
    observations = [space.sample() for _ in range(16)]
    if name == "module-heuristic":
        observations = [np.int64(index % 3) for index in range(16)]
    expected = None if name in NO_SAME_OUTPUT else outputs(module, observations)
    save(folder, name, snapshot_module(module), observations=observations, outputs=expected)


def make_online(name: str, folder: Path) -> None:
    algorithm = ONLINE[name]().build_algo()
    algorithm.train()
    runner = algorithm.env_runner
    learned = algorithm.learner_group._learner.module["default_policy"]
    perturb(learned)
    # The snapshot is taken from the learner. The weights of the runner may be older.
    runner.module.load_state_dict(learned.state_dict(), strict=False)
    freeze_filters(runner)
    snap = snapshot_from_algorithm(algorithm)
    from tests.support.checkpoint_compare import (
        check_checkpoint,  # imported here, because the fresh process does not need it
    )

    check_checkpoint(algorithm, snap)
    events = play(runner, parts.TraceEnv.log)
    space = learned.observation_space
    space.seed(1)
    observations = [space.sample() for _ in range(16)]
    save(
        folder,
        name,
        snap,
        observations=observations,
        outputs=outputs(learned, observations),
        trace=events,
        names=names(learned),
    )
    algorithm.stop()


def write_recordings(path: Path, actions: gym.Space) -> None:
    """Write 64 random steps in RLlib's column format."""
    VECTOR.seed(0)
    actions.seed(0)
    path.mkdir(parents=True)
    rows = []
    obs = VECTOR.sample()
    for step in range(64):
        following = VECTOR.sample()
        rows.append(
            {
                "eps_id": str(step // 16),
                "obs": obs.tolist(),
                "actions": np.asarray(actions.sample()).tolist(),
                "rewards": 1.0,
                "new_obs": following.tolist(),
                "terminateds": step % 16 == 15,
                "truncateds": False,
            }
        )
        obs = following
    (path / "data.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_offline(name: str, folder: Path) -> None:
    cls, actions = OFFLINE[name]
    write_recordings(folder / f"{name}-data", actions)
    config = (
        trace(cls(), VECTOR, actions)
        .environment(observation_space=VECTOR, action_space=actions)
        .offline_data(
            input_=[str(folder / f"{name}-data")],
            input_read_method="read_json",
            input_read_schema={},
            dataset_num_iters_per_learner=1,
            map_batches_kwargs={"concurrency": 1, "num_cpus": 0.5},
            iter_batches_kwargs={"prefetch_batches": 0},
        )
        .evaluation(evaluation_interval=1000, evaluation_num_env_runners=0)
        .training(train_batch_size_per_learner=16)
        .rl_module(model_config=SMALL)
        .reporting(min_time_s_per_iteration=0)
        .debugging(seed=7)
    )
    if name == "cql":
        # RLlib's CQL takes neither `lr` nor a single iteration (algorithms/cql/cql.py:309-328).
        config.training(lr=None, actor_lr=1e-3, critic_lr=1e-3, alpha_lr=1e-3)
        config.offline_data(dataset_num_iters_per_learner=2)
    algorithm = config.build_algo()
    algorithm.train()
    learned = algorithm.learner_group._learner.module["default_policy"]
    perturb(learned)
    runner = algorithm.eval_env_runner_group.local_env_runner
    runner.module.load_state_dict(learned.state_dict(), strict=False)
    observations = [VECTOR.sample() for _ in range(16)]
    save(
        folder,
        name,
        snapshot_from_algorithm(algorithm),
        observations=observations,
        outputs=outputs(learned, observations),
        trace=play(runner, parts.TraceEnv.log),
        names=names(learned),
    )
    algorithm.stop()
    # Ray Data's iterators complain if they are collected only after Ray has stopped.
    del algorithm
    gc.collect()


def make_multi_agent(name: str, folder: Path) -> None:
    """Make cells of two agents: a filter for each agent, a trained and an untrained module."""
    agents = [0, 1]
    config = behind(
        multi_agent(agents, policies_to_train=["first"]), lambda: MeanStdFilter(multi_agent=True)
    ).rl_module(
        rl_module_spec=MultiRLModuleSpec(
            rl_module_specs={"first": RLModuleSpec(), "second": RLModuleSpec()}
        ),
        model_config=SMALL,
    )
    algorithm = config.build_algo()
    algorithm.train()
    runner = algorithm.env_runner
    multi = algorithm.learner_group._learner.module
    for module_id in ("first", "second"):
        perturb(multi[module_id])
        runner.module[module_id].load_state_dict(multi[module_id].state_dict(), strict=False)
    freeze_filters(runner)
    snaps = {
        agent: snapshot_from_algorithm(algorithm, module_id, agent_ids=[agent])
        for agent, module_id in zip(agents, ("first", "second"), strict=True)
    }
    both = snapshot_from_algorithm(algorithm, "first", agent_ids=agents)
    events = play(runner, parts.TwoAgents.log)
    for agent, snap in snaps.items():
        module = multi["first" if agent == 0 else "second"]
        observations = [module.observation_space.sample() for _ in range(16)]
        save(
            folder,
            f"{name}-{agent}",
            snap,
            observations=observations,
            outputs=outputs(module, observations),
            trace=_of_agent(events, agent),
        )
    save(folder, f"{name}-both", both, trace=_of_agent(events, 0), player={"agent": 0})
    algorithm.stop()


def _of_agent(events: list[Any], agent: Any) -> list[Any]:
    return [(event[0], *[part[agent] for part in event[1:]]) for event in events]


MULTI_AGENT = {"multi-agent": ["multi-agent-0", "multi-agent-1", "multi-agent-both"]}
ALL = [*ONLINE, *OFFLINE, *MODULES, *(cell for cells in MULTI_AGENT.values() for cell in cells)]


def make(wanted: Collection[str], folder: Path) -> dict[str, str]:
    """Make the wanted cells, and return the error of each cell that failed."""
    makers = (
        (ONLINE, make_online),
        (OFFLINE, make_offline),
        (MODULES, make_module),
        (MULTI_AGENT, make_multi_agent),
    )
    failed: dict[str, str] = {}
    for cells, maker in makers:
        for name in cells:
            if not set(MULTI_AGENT.get(name, [name])).isdisjoint(wanted):
                failed |= _attempt(maker, name, folder)
    return failed


def _attempt(maker: Callable[[str, Path], None], name: str, folder: Path) -> dict[str, str]:
    try:
        maker(name, folder)
    except Exception as error:  # the test of that cell reports the error
        why = f"{type(error).__name__}: {error}"
        return dict.fromkeys(MULTI_AGENT.get(name, [name]), why)
    return {}
