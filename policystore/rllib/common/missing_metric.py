"""Decide whether a metric that a training result lacks can be in a later result.

What RLlib's results have was seen with Ray 2.40 and 2.60, with single agents and with several:

- New API stack: until the first episode has ended, ``env_runners`` lacks all ``episode_…`` values
  and the values for each module and agent. ``num_episodes`` is 0, or missing. Values of learners
  appear with the first update, which DQN and SAC make later.
- Old API stack: until the first episode has ended, the ``episode_…`` values are NaN, and
  ``policy_reward_mean`` and ``custom_metrics`` are empty. ``num_episodes`` is 0.
- Both: ``evaluation`` appears with the first evaluation.

This module does not know which values the user's callbacks add. These values have to be in each
result as soon as an episode has ended, and may be NaN. Before that, a name that seems misspelt may
be the name of such a value, so there is no error yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from policystore._util.near import close_names, close_paths, did_you_mean, number_paths

__all__ = ["Facts", "close_keys", "follow_path", "why_never"]

_RUNNERS, _EVALUATION = "env_runners", "evaluation"
_LEARNERS = ("learners", "info")  # new stack, old stack
_OF_EPISODES = [f"episode_{of}_{how}" for of in ("return", "len") for how in ("mean", "min", "max")]
_OF_POLICIES = {True: "module_episode_returns_mean", False: "policy_reward_mean"}  # by new_stack
# Groups of values by the id of a policy or agent, or of values that callbacks add to episodes.
_GROUPS = frozenset(
    [f"{of}_episode_return{s}_mean" for of in ("module", "agent") for s in ("", "s")]
    + [f"policy_reward_{how}" for how in ("mean", "min", "max")]
    + ["agent_steps", "custom_metrics"]
)
_SURE = 0.75  # how much a misspelt key has in common with the right key


@dataclass(frozen=True)
class Facts:
    """Hold what is known of the Algorithm that made a result.

    Attributes:
        policy_ids: the ids of its policies.
        new_stack: whether the Algorithm is of the new API stack.
        evaluates: whether the config asks for evaluations.
        is_offline: whether the Algorithm learns from recorded samples, without env runners.
    """

    policy_ids: Set[str]
    new_stack: bool
    evaluates: bool
    is_offline: bool = False


def follow_path(result: Mapping[str, Any], path: str) -> tuple[Any, list[str], str]:
    """Follow a path such as ``"env_runners/episode_return_mean"`` in nested results.

    A key of a result may have slashes itself. If several keys fit, the longest key is taken.

    Returns:
        The value where the path ends, the keys that lead there, and the rest of the path, for which
        there is no key; empty if the path was followed to its end.
    """
    place: Any = result
    done: list[str] = []
    rest = path
    while rest and isinstance(place, Mapping):
        parts = rest.split("/")
        heads = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        key = next((head for head in heads if head in place), None)
        if key is None:
            break
        place, rest = place[key], rest[len(key) + 1 :]
        done.append(key)
    return place, done, rest


def why_never(result: Mapping[str, Any], path: str, facts: Facts) -> str | None:
    """Return why no later result will have a metric that this one lacks; None if one may have it.

    Args:
        result: a training result without the metric.
        path: the path of the metric.
        facts: what is known of the Algorithm.

    Returns:
        A message that names the paths which are close to ``path``, or the keys that are there.
    """
    place, done, missing = follow_path(result, path)
    head = path.partition("/")[0]
    if head in _LEARNERS and _waits_for_learner(place, done, missing, facts):
        return None
    if head == _EVALUATION and not done and facts.evaluates:
        return None
    if done and done[-1] in _GROUPS:
        return None  # the policy has not played yet, or add_policy may add it
    if not _has_episodes(result, facts, evaluation=bool(done) and head == _EVALUATION):
        return None
    text = f"the training results have no metric {path!r}."
    known = sorted({*number_paths(result), *_expected_paths(facts)})
    if close := close_paths(path, known):
        text += did_you_mean(close)
    else:
        keys = ", ".join(sorted(map(str, place))[:30]) if isinstance(place, Mapping) else ""
        text += f" At {'/'.join(done)!r} they have" if done else " They have"
        text += f" {keys or 'nothing'}."
    return text + (
        " A value of your own has to be in each result: let a callback in publish(callbacks=…) add "
        "it, with NaN while there is no value."
    )


def close_keys(result: Mapping[str, Any], path: str, facts: Facts) -> list[str]:
    """Return the keys that the caller may have meant instead of one that does not exist.

    The keys are compared with the keys at the place where the path ends, and with those that appear
    when an episode has ended.
    """
    place, done, missing = follow_path(result, path)
    key = missing.partition("/")[0]
    here = {str(each) for each in place} if isinstance(place, Mapping) else set()
    if done and done[-1] in _GROUPS:
        known = here | set(facts.policy_ids)
    else:
        known = here.union(*(each.split("/") for each in _expected_paths(facts)))
    return [] if key in known else close_names(key, known, cutoff=_SURE)


def _expected_paths(facts: Facts) -> set[str]:
    """Return the paths that RLlib adds when an episode has ended, in training and evaluation."""
    group = _OF_POLICIES[facts.new_stack]
    paths = {*_OF_EPISODES, *(f"{group}/{policy_id}" for policy_id in facts.policy_ids)}
    places = [] if facts.is_offline else [_RUNNERS]
    places += [f"{_EVALUATION}/{_RUNNERS}"] if facts.evaluates else []
    return {f"{place}/{path}" for place in places for path in paths}


def _has_episodes(result: Mapping[str, Any], facts: Facts, *, evaluation: bool) -> bool:
    """Tell whether an episode has ended, in training or in evaluation."""
    if facts.is_offline and not evaluation:
        return True  # no episode will ever end
    runners, _, rest = follow_path(result, f"{_EVALUATION}/{_RUNNERS}" if evaluation else _RUNNERS)
    if rest or not isinstance(runners, Mapping):
        return True
    return any(runners.get(key, 0) > 0 for key in ("num_episodes", "num_episodes_lifetime"))


def _waits_for_learner(place: Any, done: list[str], missing: str, facts: Facts) -> bool:
    """Tell whether a learner has reported nothing yet, or has not yet updated the policy."""
    if not place or missing.partition("/")[0] in {*facts.policy_ids, *_LEARNERS, "learner"}:
        return True
    is_module = facts.new_stack and len(done) == 2 and isinstance(place, Mapping)
    return is_module and not place.get("num_module_steps_trained_lifetime")
