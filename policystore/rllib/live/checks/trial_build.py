"""Build an old-stack policy on the driver, as a test of the builds on workers.

RLlib builds policies again from their own state: on workers that are restarted, for policies that
are swapped out (``policy_map_capacity``), and from checkpoints. If such a build failed, workers
would end again and again, and ``train()`` would continue without them. The test on the driver finds
such a failure before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import ray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.connectors.agent.clip_reward import ClipRewardAgentConnector
from ray.rllib.connectors.agent.synced_filter import SyncedFilterAgentConnector
from ray.rllib.policy.policy import Policy, PolicySpec
from ray.rllib.utils.policy import create_policy_for_framework

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.stacks import conversion_advice
from policystore.rllib.common.trust import Trust
from policystore.rllib.old_stack.config_restore import full_config
from policystore.rllib.old_stack.connectors import PIPELINES, default_connectors
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import policy_config_of
from policystore.rllib.worker_code.filters import policy_filter, read_old_filter
from policystore.rllib.worker_code.messages.answers import PolicyInfo
from policystore.rllib.worker_code.messages.requests import PolicyRecipe
from policystore.rllib.worker_code.policies import build
from policystore.rllib.worker_code.weights import describe
from policystore.rllib.workers.compat import complete_spec, has_multi_gpu_thread
from policystore.rllib_schema.config_keys import is_dropped
from policystore.snapshot import Snapshot
from policystore.torch.random_numbers import own_random_numbers

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

    from policystore.rllib.worker_code.messages.answers import ToTrain

__all__ = ["build_on_driver", "check_supported", "recipe_of"]

_NOTHING = "Nothing was sent."


def recipe_of(
    algo: Algorithm,
    policy_id: str,
    snap: Snapshot,
    trust: Trust,
    overrides: Mapping[str, Any] | None = None,
) -> PolicyRecipe:
    """Return the recipe by which workers build a snapshot's policy.

    Args:
        algo: the Algorithm.
        policy_id: id of the new policy.
        snap: its snapshot.
        trust: classes that the snapshot may name.
        overrides: values of the config that replace those of the snapshot.

    Raises:
        InvalidInputError: not a snapshot of an old-stack policy, or the Algorithm does not use
            torch.
        MismatchError, FormatError, UntrustedError, NotFoundError: as ``rebuild_policy``.
    """
    spec = snap.spec
    if spec.stack != "old":
        raise InvalidInputError(
            f"{snap!r} is of stack {spec.stack!r}, and the Algorithm is of RLlib's old API stack: "
            f"only a snapshot of an old-stack policy can be added to it. {_NOTHING}"
            + conversion_advice(spec.stack, "old")
        )
    running = algo.config.to_dict()
    if running["framework"] != "torch":
        raise InvalidInputError(
            f"the Algorithm's framework is {running['framework']!r}; only policies of torch can be "
            f"added. {_NOTHING}"
        )
    # rebuild_policy checks everything in the snapshot, and needs no Algorithm.
    with guarded(f"building {snap!r}"):
        policy = rebuild_policy(snap, trust=trust)
        config = full_config(
            spec.config,
            algorithm=spec.algorithm,
            normalize_actions=spec.normalize_actions,
            clip_actions=spec.clip_actions,
            trust=trust,
        )
    unknown = sorted(set(overrides or {}) - config.keys())
    if unknown:
        raise InvalidInputError(
            f"config_overrides of {policy_id!r}: the policy's config has no {unknown}. {_NOTHING}"
        )
    config.update(overrides or {})
    forced = {"normalize_actions": spec.normalize_actions, "clip_actions": spec.clip_actions}
    connectors, filter_name = _connectors(snap, policy)
    return PolicyRecipe(
        policy_id=policy_id,
        cls=type(policy),
        spaces=(policy.observation_space, policy.action_space),
        config=config,
        running_keys=[key for key in running if is_dropped(key)],
        forced={key: value for key, value in forced.items() if value is not None},
        config_class=_config_class(spec.algorithm, config, running),
        connectors=connectors,
        filter_name=filter_name,
        filters={policy_id: read_old_filter(policy)} if filter_name != "NoFilter" else {},
        exploration=dict(snap.state.get("exploration", {})),
    )


def _config_class(
    algorithm: str | None, config: Mapping[str, Any], running: Mapping[str, Any]
) -> type[AlgorithmConfig] | None:
    """Return the config class of the snapshot's algorithm, or None if it is not needed.

    The class is needed if the policy's config has a key that ``training()`` of the running
    Algorithm's config does not take.
    """
    if "replay_buffer_config" not in config or "replay_buffer_config" in running:
        return None
    if algorithm not in ALGORITHMS:
        return None
    return type(ALGORITHMS[algorithm]()[0].get_default_config())


def _connectors(
    snap: Snapshot, policy: Policy
) -> tuple[dict[str, list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]], str]:
    """Return connector makers with arguments and options by pipeline, and RLlib's filter name."""
    recorded = snap.spec.connectors
    if not recorded:
        config = policy_config_of(policy)
        defaults: Mapping[str, list[Any]] = default_connectors(
            preprocess=not config["_disable_preprocessor_api"]
            and config["preprocessor_pref"] is not None,
            normalize_actions=bool(config["normalize_actions"]),
            clip_actions=bool(config["clip_actions"]),
        )
        return {name: [(cls, (), {}) for cls in defaults[name]] for name in defaults}, "NoFilter"
    makers: dict[str, list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]] = {}
    filter_name = "NoFilter"
    pipelines = (policy.agent_connectors.connectors, policy.action_connectors.connectors)
    for pipeline, connectors in zip(PIPELINES, pipelines, strict=True):
        states = snap.state.get("connectors", {}).get(pipeline, {})
        makers[pipeline] = []
        for entry, connector in zip(recorded[pipeline], connectors, strict=True):
            cls = type(connector)
            if cls is ClipRewardAgentConnector:
                continue
            options = {}
            if isinstance(connector, SyncedFilterAgentConnector):
                is_concurrent = "Concurrent" in cls.__name__
                filter_name = "ConcurrentMeanStdFilter" if is_concurrent else "MeanStdFilter"
                own = connector.filter
                options = {key: getattr(own, key) for key in ("demean", "destd", "clip")}
            if cls.__module__.startswith("ray.rllib."):
                makers[pipeline].append((cls, (), options))
            else:
                makers[pipeline].append((cls.from_state, (states.get(entry["name"]),), options))
    return makers, filter_name


class _PolicyMap(dict[str, Policy]):
    """A policy map of one policy."""

    capacity = 1


class _SinglePolicy:
    """A worker of one policy."""

    def __init__(self, policy_id: str, policy: Policy, decide: Callable[..., bool] | None) -> None:
        self.policy_map = _PolicyMap({policy_id: policy})
        self.is_policy_to_train = decide


def build_on_driver(
    local: RolloutWorker, recipe: PolicyRecipe, snap: Snapshot, policies_to_train: ToTrain | None
) -> tuple[Policy, PolicyInfo]:
    """Build a policy on the driver, and build it again from its state in the ways of RLlib.

    Args:
        local: the local worker of the training group.
        recipe: the recipe of :func:`recipe_of`.
        snap: the snapshot of the recipe.
        policies_to_train: the new choice; None keeps the present choice.

    Returns:
        The policy, with random weights, and its description.

    Raises:
        InvalidInputError: RLlib cannot build the policy, or cannot build it again from its state.
    """
    policy_id = recipe.policy_id
    with guarded(f"building {snap!r} for this Algorithm"), own_random_numbers():
        policy: Policy = build(local, recipe)
    decide = local.is_policy_to_train if policies_to_train is None else policies_to_train
    if decide is not None and not callable(decide):
        named = frozenset(decide)

        def decide(pid: str, batch: Any = None) -> bool:
            return pid in named

    try:
        info = _describe(policy_id, policy, decide)
    except Exception as error:
        raise InvalidInputError(f"{type(error).__name__}: {error}. {_NOTHING}") from error
    try:
        # RLlib puts swapped-out policies into the object store, too (policy/policy_map.py:141).
        state = ray.get(ray.put(policy.get_state()))
        spec = PolicySpec.deserialize(state["policy_spec"])
        plain = PolicySpec(
            spec.policy_class, spec.observation_space, spec.action_space, spec.config
        )
        for way in (spec, complete_spec(local, policy_id, plain)):
            with own_random_numbers():
                again = create_policy_for_framework(
                    policy_id,
                    way.policy_class,
                    way.config,
                    way.observation_space,
                    way.action_space,
                )
            again.set_state(state)
            if _describe(policy_id, again, decide).tensors != info.tensors:
                raise InvalidInputError("the policy would have another network")
            if policy_filter(again) != policy_filter(policy):
                raise InvalidInputError("the policy would have another observation filter")
    except Exception as error:
        raise InvalidInputError(
            f"{snap!r} as policy {policy_id!r}: RLlib could not build the policy again from its "
            "own state, as it does on restarted workers and from checkpoints: "
            f"{type(error).__name__}: {error}. {_NOTHING}"
        ) from error
    return policy, info


def _describe(policy_id: str, policy: Policy, decide: Callable[..., bool] | None) -> PolicyInfo:
    return describe(_SinglePolicy(policy_id, policy, decide), None, 0.0).policies[policy_id]


def check_supported(
    algo: Algorithm, local: RolloutWorker, policy_id: str, policy: Policy, info: PolicyInfo
) -> None:
    """Refuse a policy that would work now, and later raise in ``train()`` or end workers.

    Args:
        algo: an Algorithm of the old stack.
        local: the local worker of the Algorithm's training group.
        policy_id: id of the new policy.
        policy: the policy, as :func:`build_on_driver` built it.
        info: description of the policy.

    Raises:
        InvalidInputError: the policy is not supported; the message says what would fail, and what
            to do.
    """
    config = algo.config
    trained = info.trained
    description = f"policy {policy_id!r} cannot be added"
    if trained and not isinstance(policy, _trainable(algo, local)):
        raise InvalidInputError(
            f"{description}: {type(algo).__name__} cannot train a "
            f"{type(policy).__name__}. Pass policies_to_train= without this policy, and the policy "
            f"plays without training. {_NOTHING}"
        )
    if trained and has_multi_gpu_thread(algo):
        raise InvalidInputError(
            f"{description}: with simple_optimizer=False the learner thread ends if a batch has no "
            "samples of a policy in training. Pass policies_to_train= without this policy, or "
            f"build the Algorithm with simple_optimizer=True. {_NOTHING}"
        )
    size, length = getattr(config, "minibatch_size", None), _sequence_length(policy)
    if trained and config.simple_optimizer and type(size) is int and length > size:
        raise InvalidInputError(
            f"{description}: it is recurrent, and its max_seq_len {length} is above the "
            f"minibatch_size {size}, so train() would fail. Pass policies_to_train= without this "
            f"policy, or build the Algorithm with a larger minibatch_size. {_NOTHING}"
        )
    if config.checkpoint_trainable_policies_only and not trained:
        raise InvalidInputError(
            f"{description}: the policy is not trained, and the config has "
            "checkpoint_trainable_policies_only, so restarted workers would not get the policy, "
            f"and end. Build the Algorithm without this setting, or train the policy. {_NOTHING}"
        )
    if config.policy_states_are_swappable:
        policies = local.policy_map
        other = policies[next(iter(policies.keys()))]
        if _form(other) != _form(policy):
            raise InvalidInputError(
                f"{description}: it has another class, network or space than the present policies, "
                "and the config has policy_states_are_swappable: workers would die as they sample. "
                f"Build the Algorithm without that. {_NOTHING}"
            )


def _trainable(algo: Algorithm, local: RolloutWorker) -> tuple[type, ...]:
    """Return the policy classes that an Algorithm trains: its default class, and those in use."""
    decide = local.is_policy_to_train
    classes = [type(algo).get_default_policy_class(algo.config)]
    for pid, spec in local.policy_dict.items():
        try:
            if decide is None or decide(pid, None):
                classes.append(spec.policy_class)
        except Exception:  # noqa: S112, PERF203 (the user's own function, made for a batch)
            continue
    return tuple(cls for cls in classes if isinstance(cls, type))


def _sequence_length(policy: Policy) -> int:
    """Return the length of sequences that a recurrent policy is trained on (utils/sgd.py:116)."""
    return int(policy_config_of(policy)["model"]["max_seq_len"]) if policy.is_recurrent() else 0


def _form(policy: Policy) -> tuple[Any, ...]:
    """Return what two policies must share so that RLlib can swap their states."""
    model = getattr(policy, "model", None)
    shapes = {} if model is None else {n: tuple(t.shape) for n, t in model.state_dict().items()}
    return type(policy), policy.observation_space, policy.action_space, shapes
