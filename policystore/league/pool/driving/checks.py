"""Check an Algorithm before the first sample: everything that is wrong, in one list."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.replay_buffers.episode_replay_buffer import EpisodeReplayBuffer
from ray.rllib.utils.replay_buffers.multi_agent_episode_buffer import MultiAgentEpisodeReplayBuffer

from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.league.pool.driving.architecture import differences
from policystore.league.pool.driving.policies import parts_of_agents, snapshot_of
from policystore.rllib.live.checks.filters import has_filter
from policystore.rllib.worker_code.compat import is_multi_agent
from policystore.rllib.workers.compat import actor_manager, groups_of, is_new_stack
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["Checked", "check_algorithm"]

_OF_SNAPSHOT = re.compile(r"\b(agent_ids|omit|from_runner)=")


@dataclass
class Checked:
    """What a check found.

    Attributes:
        problems: what is wrong, each with what to do.
        warnings: what works, but not as a user may expect.
        slots: kind -> what a slot of this kind holds at the start.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    slots: dict[str, Snapshot] = field(default_factory=dict)

    def raise_if_bad(self, description: str) -> None:
        """Raise one error with all problems.

        Raises:
            InvalidInputError: there are problems.
        """
        if self.problems:
            listed = "\n".join(f"  - {each}" for each in self.problems)
            raise InvalidInputError(f"{description} cannot begin:\n{listed}")


def check_algorithm(
    algorithm: Algorithm,
    *,
    store: PolicyStore,
    learners: Sequence[str],
    slots: Mapping[str, tuple[str, ...]],
    heuristics: Mapping[str, str],
    filters: str,
    mapping: type,
    opponents: int,
) -> Checked:
    """Check that an Algorithm fits a pool.

    Args:
        algorithm: the Algorithm, before its first sample.
        store: the store of the league.
        learners: ids of the policies in training.
        slots: kind -> ids of the slots.
        heuristics: name -> id of the policy.
        filters: ``"refuse"`` or ``"ignore"``.
        mapping: the class of the pool's mapping function.
        opponents: how many opponents an episode has; 0 if that is not known.
    """
    checked = Checked()
    config = algorithm.config
    if not is_multi_agent(config):
        checked.problems.append(
            "the config is for a single agent, and an opponent needs an agent of its own: "
            "config.multi_agent(policies=…, policy_mapping_fn=pool.policy_mapping_fn), with a "
            "multi-agent environment"
        )
        return checked
    every_slot = [each for ids in slots.values() for each in ids]
    known = _ids(config)
    _check_ids(checked, known, learners, every_slot, heuristics)
    if checked.problems:
        return checked
    _check_training(checked, config, learners, [*every_slot, *heuristics.values()])
    if not isinstance(config.policy_mapping_fn, mapping):
        checked.problems.append(
            "the config's policy_mapping_fn is not the pool's, so no agent would play a drawn "
            "opponent: config.multi_agent(policy_mapping_fn=pool.policy_mapping_fn), or "
            "pool.configure(config)"
        )
    _check_filters(checked, algorithm, filters)
    _check_replay(checked, algorithm)
    _check_runners(checked, algorithm, store, slots, opponents)
    _check_architectures(checked, algorithm, learners, slots)
    return checked


def _ids(config: Any) -> list[str]:
    policies = config.policies or {}
    return sorted(policies)


def _check_ids(
    checked: Checked,
    known: list[str],
    learners: Sequence[str],
    slots: Sequence[str],
    heuristics: Mapping[str, str],
) -> None:
    for label, ids in (
        ("learner", learners),
        ("slot", slots),
        ("heuristic", [*heuristics.values()]),
    ):
        for pid in ids:
            if pid not in known:
                checked.problems.append(
                    f"the config has no policy {pid!r}, which is a {label} of the pool; it has "
                    f"{', '.join(map(repr, known))}.{did_you_mean(close_names(pid, known))}"
                )


def _check_training(
    checked: Checked, config: Any, learners: Sequence[str], frozen: Iterable[str]
) -> None:
    for pid in learners:
        if _is_trained(config, pid) is False:
            checked.problems.append(
                f"the learner {pid!r} is not trained: add it to policies_to_train=[…]"
            )
    trained = [pid for pid in frozen if _is_trained(config, pid)]
    if trained:
        checked.problems.append(
            f"{', '.join(map(repr, trained))} would be trained: name only the learners in "
            f"policies_to_train={list(learners)!r}"
        )


def _is_trained(config: Any, pid: str) -> bool | None:
    """Tell whether the config trains a policy; None if only RLlib can tell, batch by batch."""
    chosen = config.policies_to_train
    if chosen is None:
        return True
    if not callable(chosen):
        return pid in chosen
    try:
        return bool(chosen(pid, None))
    except Exception:
        return None  # the user's own function, made for a batch


def _check_filters(checked: Checked, algorithm: Algorithm, filters: str) -> None:
    if filters == "ignore":
        return
    if has_filter(algorithm):
        where = "env_to_module_connector=" if is_new_stack(algorithm) else "observation_filter="
        checked.problems.append(
            "the env runners normalise observations with a MeanStdFilter. RLlib merges its "
            "statistics over all env runners, so an opponent cannot have the statistics of its "
            f"training. Leave the filter out of {where} and normalise in the environment, or "
            "pass filters='ignore': opponents then see observations that are normalised with the "
            "statistics of this training, and on the new API stack snapshots have no statistics"
        )
        return
    parts = parts_of_agents(algorithm)
    if parts:
        checked.problems.append(
            f"the connectors {', '.join(parts)} have a state that belongs to agents, and agents "
            "play another policy in each episode, so an opponent cannot have the state of its "
            "training. Leave these connectors out of the config, or pass filters='ignore': "
            "opponents then play with the state of this training, and snapshots have none"
        )


def _check_replay(checked: Checked, algorithm: Algorithm) -> None:
    """Refuse the default buffer of DQN and SAC, with which the first update fails.

    If a config sets another ``type``, RLlib drops all default values of the buffer's config, also
    ``alpha`` and ``beta`` (``algorithms/dqn/dqn.py:361``).
    """
    buffer = getattr(algorithm, "local_replay_buffer", None)
    if isinstance(buffer, EpisodeReplayBuffer) and not isinstance(
        buffer, MultiAgentEpisodeReplayBuffer
    ):
        checked.problems.append(
            f"the replay buffer {type(buffer).__name__} is for a single agent: set config.training("
            "replay_buffer_config={'type': 'MultiAgentEpisodeReplayBuffer', 'capacity': …}), or "
            "'MultiAgentPrioritizedEpisodeReplayBuffer' and also 'alpha' and 'beta'"
        )


def _check_runners(
    checked: Checked,
    algorithm: Algorithm,
    store: PolicyStore,
    slots: Mapping[str, tuple[str, ...]],
    opponents: int,
) -> None:
    config = algorithm.config
    envs = int(getattr(config, "num_envs_per_env_runner", 1) or 1)
    fewest = min(map(len, slots.values()))
    needed = envs * max(1, opponents)
    if fewest < needed:
        checked.warnings.append(
            f"{fewest} slots, and each env runner plays {envs} episodes at once with "
            f"{max(1, opponents)} opponents each: slots are shared, and are loaded anew only when "
            f"RLlib starts all sub-environments anew. With {needed} slots each episode has an "
            "opponent of its own."
        )
    if config.batch_mode == "complete_episodes" and envs > 1:
        checked.warnings.append(
            f"batch_mode='complete_episodes' with {envs} sub-environments drops the episodes that "
            "are unfinished when there are enough steps, so short episodes are counted more often "
            "than long ones. first_episodes=1 records without this bias; the weights of the "
            "training samples stay biased."
        )
    remote = any(actor_manager(group).actors() for _, group in groups_of(algorithm))
    if remote and store.url.startswith("memory:"):
        checked.problems.append(
            f"the store {store.url} is in the memory of this process, and env runners in other "
            "processes cannot pull from it: use a folder that all nodes share, or a bucket"
        )
    count = len(config.policies or ())
    capacity = getattr(config, "policy_map_capacity", count)
    if not is_new_stack(algorithm) and capacity < count:
        checked.problems.append(
            f"policy_map_capacity={capacity}, and the config has {count} policies: RLlib would "
            f"stash policies and make them anew. Set policy_map_capacity={count} or more."
        )


def _check_architectures(
    checked: Checked,
    algorithm: Algorithm,
    learners: Sequence[str],
    slots: Mapping[str, tuple[str, ...]],
) -> None:
    """Take a snapshot of each policy, and compare slots of a kind, and learners with the slots."""
    snaps: dict[str, Snapshot] = {}
    for pid in [*learners, *(each for ids in slots.values() for each in ids)]:
        snap = _snapshot_or_problem(checked, algorithm, pid)
        if snap is None:
            return
        snaps[pid] = snap
    for kind, ids in slots.items():
        checked.slots[kind] = snaps[ids[0]]
        for pid in ids[1:]:
            found = differences(snaps[pid], snaps[ids[0]])
            if found:
                checked.problems.append(
                    f"the slots {ids[0]!r} and {pid!r} differ: {'; '.join(found)}. Slots of other "
                    "kinds are given apart: slots={'a': […], 'b': […]}"
                )
    for pid in learners:
        wrong = {kind: differences(snaps[pid], slot) for kind, slot in checked.slots.items()}
        if all(wrong.values()):
            kind, found = next(iter(wrong.items()))
            checked.problems.append(
                f"the learner {pid!r} fits no slot, so its snapshots could not play: "
                f"{'; '.join(found)} (slot {slots[kind][0]!r})"
            )


def _snapshot_or_problem(checked: Checked, algorithm: Algorithm, pid: str) -> Snapshot | None:
    try:
        return snapshot_of(algorithm, pid)
    except PolicyStoreError as error:
        text = f"no snapshot of {pid!r} can be made: {error}"
        if _OF_SNAPSHOT.search(text):
            text += " (A pool takes no such arguments of snapshot(): change the config.)"
        checked.problems.append(text)
        return None
