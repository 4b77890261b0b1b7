"""An old-stack policy built on the driver first, as workers will build it, now and later.

Workers that are restarted, policies that are swapped out (``policy_map_capacity``) and checkpoints
are made anew by RLlib from a policy's own state. What would fail then would end workers again and
again, with ``train()`` going on without them: it is found out here, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.registry import ALGORITHMS
from ray.rllib.connectors.agent.clip_reward import ClipRewardAgentConnector
from ray.rllib.connectors.agent.synced_filter import SyncedFilterAgentConnector
from ray.rllib.policy.policy import Policy, PolicySpec
from ray.rllib.utils.policy import create_policy_for_framework

from policystore.errors import InvalidInputError
from policystore.rllib.common.build_guard import guarded
from policystore.rllib.common.trust import Trust
from policystore.rllib.old_stack.config_restore import full_config
from policystore.rllib.old_stack.connectors import PIPELINES, default_connectors
from policystore.rllib.old_stack.rebuild import rebuild_policy
from policystore.rllib.old_stack.snapshot import policy_config_of
from policystore.rllib.worker_code.filters import policy_filter, read_old_filter
from policystore.rllib.worker_code.policies import build
from policystore.rllib.worker_code.weights import describe
from policystore.rllib_schema.config_keys import is_dropped
from policystore.snapshot import Snapshot

__all__ = ["check_supported", "job_of", "rehearse"]

_NOTHING = "Nothing was sent."


def job_of(algo: Algorithm, policy_id: str, snap: Snapshot, trust: Trust) -> dict[str, Any]:
    """What workers need to build a snapshot's policy (``worker_policies.build``).

    Raises:
        InvalidInputError: no snapshot of an old-stack policy, or the Algorithm is not of torch.
        MismatchError, FormatError, UntrustedError, NotFoundError: as ``rebuild_policy``.
    """
    spec = snap.spec
    if spec.stack != "old":
        raise InvalidInputError(
            f"{snap!r} is of stack {spec.stack!r}, and the Algorithm of RLlib's old API stack: "
            f"only a snapshot of an old-stack policy can become a policy there. {_NOTHING}"
        )
    running = algo.config.to_dict()
    if running["framework"] != "torch":
        raise InvalidInputError(
            f"the Algorithm's framework is {running['framework']!r}; policies that can be added "
            f"are of torch. {_NOTHING}"
        )
    # All that a snapshot may hold is checked by the way that needs no Algorithm.
    with guarded(f"building {snap!r}"):
        policy = rebuild_policy(snap, trust=trust)
        config = full_config(
            spec.config,
            algorithm=spec.algorithm,
            normalize_actions=spec.normalize_actions,
            clip_actions=spec.clip_actions,
            trust=trust,
        )
    forced = {"normalize_actions": spec.normalize_actions, "clip_actions": spec.clip_actions}
    connectors, name = _connectors(snap, policy)
    return {
        "pid": policy_id,
        "cls": type(policy),
        "spaces": (policy.observation_space, policy.action_space),
        "config": config,
        "running": [key for key in running if is_dropped(key)],
        "forced": {key: value for key, value in forced.items() if value is not None},
        "config_class": _config_class(spec.algorithm, config, running),
        "connectors": connectors,
        "filter": name,
        "filters": {policy_id: read_old_filter(policy)} if name != "NoFilter" else {},
        "exploration": dict(snap.state.get("exploration", {})),
    }


def _config_class(
    algorithm: str | None, config: Mapping[str, Any], running: Mapping[str, Any]
) -> Any:
    """Of a policy with a key that the running Algorithm's ``training()`` would not take."""
    if "replay_buffer_config" not in config or "replay_buffer_config" in running:
        return None
    if algorithm not in ALGORITHMS:
        return None
    return type(ALGORITHMS[algorithm]()[0].get_default_config())


def _connectors(snap: Snapshot, policy: Policy) -> tuple[dict[str, list[Any]], str]:
    """Makers with their arguments and options by pipeline, and what RLlib calls the filter."""
    recorded = snap.spec.connectors
    if not recorded:
        config = policy_config_of(policy)
        made: Mapping[str, list[Any]] = default_connectors(
            preprocess=not config["_disable_preprocessor_api"]
            and config["preprocessor_pref"] is not None,
            normalize_actions=bool(config["normalize_actions"]),
            clip_actions=bool(config["clip_actions"]),
        )
        return {
            pipeline: [(cls, (), {}) for cls in made[pipeline]] for pipeline in made
        }, "NoFilter"
    found: dict[str, list[Any]] = {}
    name = "NoFilter"
    pipelines = (policy.agent_connectors.connectors, policy.action_connectors.connectors)
    for pipeline, connectors in zip(PIPELINES, pipelines, strict=True):
        states = snap.state.get("connectors", {}).get(pipeline, {})
        found[pipeline] = []
        for entry, connector in zip(recorded[pipeline], connectors, strict=True):
            cls = type(connector)
            if cls is ClipRewardAgentConnector:
                continue
            options = {}
            if isinstance(connector, SyncedFilterAgentConnector):
                name = (
                    "ConcurrentMeanStdFilter" if "Concurrent" in cls.__name__ else "MeanStdFilter"
                )
                given = connector.filter
                options = {key: getattr(given, key) for key in ("demean", "destd", "clip")}
            own = not cls.__module__.startswith("ray.rllib.")
            found[pipeline].append(
                (cls.from_state, (states.get(entry["name"]),), options)
                if own
                else (cls, (), options)
            )
    return found, name


class _One(dict[str, Policy]):
    """A policy map of one policy."""

    capacity = 1


class _Alone:
    """A worker of one policy."""

    def __init__(self, policy_id: str, policy: Policy, decide: Any) -> None:
        self.policy_map = _One({policy_id: policy})
        self.is_policy_to_train = decide


def rehearse(
    local: Any, job: Mapping[str, Any], snap: Snapshot, to_train: Any
) -> tuple[Policy, dict[str, Any]]:
    """Build a policy on the driver, and make it anew in the ways that RLlib does.

    Args:
        local: the local worker of the training group.
        job: of :func:`job_of`.
        snap: whose.
        to_train: policies to train from now on, or None.

    Returns:
        The policy with random weights, and what is to be known of it (``worker_side.look``).

    Raises:
        InvalidInputError: RLlib could not build it, or not make it anew.
    """
    policy_id = job["pid"]
    with guarded(f"building {snap!r} for this Algorithm"):
        policy: Policy = build(local, job)
    decide = local.is_policy_to_train if to_train is None else to_train
    if decide is not None and not callable(decide):
        named = frozenset(decide)

        def decide(pid: str, batch: Any = None) -> bool:
            return pid in named

    described = _described(_Alone(policy_id, policy, decide), policy_id)
    try:
        # Through the object store, as where policies are swapped out (policy/policy_map.py:141).
        state = ray.get(ray.put(policy.get_state()))
        spec = PolicySpec.deserialize(state["policy_spec"])
        for made in (spec, _merged(local, policy_id, spec)):
            with torch.random.fork_rng(devices=[]):
                again = create_policy_for_framework(
                    policy_id,
                    made.policy_class,
                    made.config,
                    made.observation_space,
                    made.action_space,
                )
            again.set_state(state)
            found = _described(_Alone(policy_id, again, decide), policy_id)
            if found["tensors"] != described["tensors"]:
                raise InvalidInputError("it would have another network")
            if policy_filter(again) != policy_filter(policy):
                raise InvalidInputError("it would have another observation filter")
    except Exception as error:
        raise InvalidInputError(
            f"{snap!r} as policy {policy_id!r}: RLlib could not make it anew from its own state, "
            "as it does for workers that are restarted and from checkpoints: "
            f"{type(error).__name__}: {error}. {_NOTHING}"
        ) from error
    return policy, described


def _described(alone: _Alone, policy_id: str) -> dict[str, Any]:
    answer = describe(alone, None, 0.0)
    if "error" in answer:
        raise InvalidInputError(f"{answer['error']}. {_NOTHING}")
    found: dict[str, Any] = answer["policies"][policy_id]
    return found


def _merged(local: Any, policy_id: str, spec: Any) -> Any:
    """As a restarted worker would merge it into its own config (rollout_worker.py:1417-1435)."""
    given = PolicySpec(spec.policy_class, spec.observation_space, spec.action_space, spec.config)
    setup, _ = local.config.get_multi_agent_setup(
        policies={policy_id: given},
        env=local.env,
        spaces=local.spaces,
        default_policy_class=local.default_policy_class,
    )
    before = dict(local.preprocessors)
    try:
        return local._get_complete_policy_specs_dict(setup)[policy_id]
    finally:
        local.preprocessors.clear()
        local.preprocessors.update(before)


def check_supported(
    algo: Algorithm, local: Any, policy_id: str, policy: Policy, described: Mapping[str, Any]
) -> None:
    """Refuse what would work now, and raise in ``train()`` or end workers later.

    Raises:
        InvalidInputError: says which, and what to do.
    """
    config = algo.config
    trained = described["trained"]
    kind = type(policy).__name__
    what = f"policy {policy_id!r} cannot be added"
    if trained and not isinstance(policy, _trainable(algo, local)):
        raise InvalidInputError(
            f"{what}: {type(algo).__name__} cannot train a {kind}. Pass policies_to_train= without "
            f"it, and it plays as it is. {_NOTHING}"
        )
    if trained and type(getattr(algo, "_learner_thread", None)).__name__ == "MultiGPULearnerThread":
        raise InvalidInputError(
            f"{what}: the learner thread of an Algorithm with simple_optimizer=False dies of a "
            "trained policy that its next batch lacks. Pass policies_to_train= without it, or "
            f"build the Algorithm with simple_optimizer=True. {_NOTHING}"
        )
    size, length = getattr(config, "minibatch_size", None), _longest(policy)
    if trained and config.simple_optimizer and type(size) is int and length > size:
        raise InvalidInputError(
            f"{what}: it is recurrent, and its max_seq_len {length} is above the minibatch_size "
            f"{size}: train() would raise. Pass policies_to_train= without it, or build the "
            f"Algorithm with a larger one. {_NOTHING}"
        )
    if config.checkpoint_trainable_policies_only and not trained:
        raise InvalidInputError(
            f"{what}: it is not trained, and the config has checkpoint_trainable_policies_only: "
            "restarted workers would not get it, and die. Build the Algorithm without that, or "
            f"train the policy. {_NOTHING}"
        )
    if config.policy_states_are_swappable:
        policies = local.policy_map
        other = policies[next(iter(policies.keys()))]
        if _form(other) != _form(policy):
            raise InvalidInputError(
                f"{what}: it has another class, network or space than the policies there are, and "
                "the config has policy_states_are_swappable: workers would die as they sample. "
                f"Build the Algorithm without that. {_NOTHING}"
            )


def _trainable(algo: Algorithm, local: Any) -> tuple[type, ...]:
    """Classes of policies that an Algorithm trains: its default one, and those it does train."""
    decide = local.is_policy_to_train
    found = [type(algo).get_default_policy_class(algo.config)]
    for pid, spec in local.policy_dict.items():
        try:
            if decide is None or decide(pid, None):
                found.append(spec.policy_class)
        except Exception:  # noqa: S112, PERF203 (the user's own function, made for a batch)
            continue
    return tuple(cls for cls in found if isinstance(cls, type))


def _longest(policy: Policy) -> int:
    """The sequences that a recurrent policy is trained on (utils/sgd.py:116)."""
    return int(policy_config_of(policy)["model"]["max_seq_len"]) if policy.is_recurrent() else 0


def _form(policy: Policy) -> tuple[Any, ...]:
    model = getattr(policy, "model", None)
    shapes = {} if model is None else {n: tuple(t.shape) for n, t in model.state_dict().items()}
    return type(policy), policy.observation_space, policy.action_space, shapes
