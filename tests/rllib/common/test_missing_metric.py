"""Which metrics that the first results lack may still come, and which are mistakes.

The results have the keys that Ray 2.60 (and 2.40) really gives, before and after an episode ended.
"""

from __future__ import annotations

from typing import Any

import pytest

from policystore.rllib.common.missing_metric import Facts, close_keys, follow_path, why_never

NAN = float("nan")
STEPS = {"num_env_steps_sampled": 100, "sample": 0.3, "weights_seq_no": 0.0}
LEARNED = {"main": {"total_loss": 9.1, "num_module_steps_trained_lifetime": 150.0},
           "foe": {"num_trainable_parameters": 3}}  # fmt: skip
EPISODES = {"episode_return_mean": 3.0, "episode_len_mean": 9.0, "num_episodes": 2,
            "module_episode_returns_mean": {"main": 1.0}, "agent_episode_returns_mean": {"a": 1.0}}  # fmt: skip
NEW = {
    "before": {"env_runners": {**STEPS, "num_episodes": 0}, "learners": LEARNED, "done": False},
    "before, 2.40": {"env_runners": STEPS, "learners": LEARNED},
    "after": {"env_runners": {**STEPS, **EPISODES}, "learners": LEARNED},
}
OLD = {
    "before": {"env_runners": {"episode_reward_mean": NAN, "episode_return_mean": NAN, "num_episodes": 0,
                               "policy_reward_mean": {}, "custom_metrics": {}}, "info": {"learner": {}}},
    "after": {"env_runners": {"episode_reward_mean": 1.0, "episode_return_mean": 1.0, "num_episodes": 2,
                              "policy_reward_mean": {"main": 1.0}, "custom_metrics": {}},
              "info": {"learner": {"main": {"learner_stats": {"total_loss": 1.0}}}}},
}  # fmt: skip
FACTS = {stack: Facts({"main", "foe"}, stack == "new", evaluates=True) for stack in ("new", "old")}
RESULTS = {"new": NEW, "old": OLD}

MAY_COME = [
    # An episode has to end first; any name may then be there, also one of the user's.
    ("new", "before", "env_runners/episode_return_mean"),
    ("new", "before, 2.40", "env_runners/module_episode_returns_mean/main"),
    ("new", "before", "env_runners/episode_return_median"),
    ("new", "before", "score"),
    ("old", "before", "env_runners/policy_reward_mean/main"),
    ("old", "before", "env_runners/custom_metrics/goals_mean"),
    # A policy, or an agent, that has not played; or that add_policy adds later.
    ("new", "after", "env_runners/module_episode_returns_mean/foe"),
    ("new", "after", "env_runners/module_episode_returns_mean/opponent_10"),
    ("new", "after", "env_runners/agent_episode_returns_mean/b"),
    ("old", "after", "env_runners/policy_reward_mean/foe"),
    ("old", "after", "env_runners/custom_metrics/goals_mean"),
    # A learner that has not updated the policy.
    ("new", "after", "learners/foe/total_loss"),
    ("new", "after", "learners/foe"),
    ("old", "before", "info/learner/main/learner_stats/total_loss"),
    ("old", "after", "info/learner/foe/learner_stats/total_loss"),
    # The first evaluation is later.
    ("new", "after", "evaluation/env_runners/episode_return_mean"),
    ("old", "after", "evaluation/env_runners/episode_return_mean"),
]


@pytest.mark.parametrize(("stack", "when", "path"), MAY_COME)
def test_what_may_come(stack: str, when: str, path: str) -> None:
    assert why_never(RESULTS[stack][when], path, FACTS[stack]) is None


NEVER = [
    ("new", "env_runners/epsode_return_mean", "Did you mean 'env_runners/episode_return_mean'"),
    ("new", "env_runners/episode_reward_mean", "Did you mean 'env_runners/episode_return_mean'"),
    ("new", "episode_return_mean", "Did you mean 'env_runners/episode_return_mean'"),
    ("new", "env_runner/episode_return_mean", "Did you mean 'env_runners/episode_return_mean'"),
    ("new", "env_runners/module_episode_return_mean/main", "'env_runners/module_episode_returns_me"),
    ("new", "env_runners/policy_reward_mean/main", "'env_runners/module_episode_returns_mean/main'"),
    ("new", "learners/main/total_los", "Did you mean 'learners/main/total_loss'"),
    ("new", "xyz", "They have done, env_runners, learners. A value of your own"),
    ("new", "env_runners/xyz", "At 'env_runners' they have agent_episode_returns_mean, "),
    ("new", "learners/main/total_loss/x", "Did you mean 'learners/main/total_loss'"),
    ("old", "env_runners/module_episode_returns_mean/main", "'env_runners/policy_reward_mean/main'"),
    ("old", "info/learner/main/learner_stats/loss", "'info/learner/main/learner_stats/total_loss'"),
]  # fmt: skip


@pytest.mark.parametrize(("stack", "path", "words"), NEVER)
def test_what_never_comes_once_an_episode_has_ended(stack: str, path: str, words: str) -> None:
    result = {"done": False, **RESULTS[stack]["after"]}
    told = why_never(result, path, FACTS[stack])
    assert told is not None
    assert f"no metric {path!r}" in told
    assert words in told


def test_the_evaluation_of_a_config_without_evaluation() -> None:
    facts = Facts({"main"}, new_stack=True, evaluates=False)
    path = "evaluation/env_runners/episode_return_mean"
    assert why_never(NEW["before"], path, facts) is None  # the user's own evaluation, perhaps
    told = why_never(NEW["after"], path, facts)
    assert told is not None
    assert "Did you mean 'env_runners/episode_return_mean'" in told


def test_an_evaluation_counts_its_own_episodes() -> None:
    path = "evaluation/env_runners/episode_retrun_mean"
    none_ended = {**NEW["after"], "evaluation": {"env_runners": STEPS}}
    assert why_never(none_ended, path, FACTS["new"]) is None
    some_ended = {**NEW["before"], "evaluation": NEW["after"]}
    assert why_never(some_ended, path, FACTS["new"]) is not None


def test_offline_algorithms_have_no_episodes() -> None:
    facts = Facts({"main"}, new_stack=True, evaluates=True, is_offline=True)
    result = {"learners": LEARNED}
    told = why_never(result, "env_runners/episode_return_mean", facts)
    assert told is not None
    assert "Did you mean 'evaluation/env_runners/episode_return_mean'" in told
    assert why_never(result, "evaluation/env_runners/episode_return_mean", facts) is None


@pytest.mark.parametrize(
    ("path", "close"),
    [
        ("env_runners/epsode_return_mean", ["episode_return_mean"]),
        ("env_runner/episode_return_mean", ["env_runners"]),
        ("env_runners/episode_return_mean", []),
        ("env_runners/module_episode_returns_mean/mian", ["main"]),
        ("score", []),
    ],
)
def test_what_seems_to_be_misspelt(path: str, close: list[str]) -> None:
    result = NEW["after" if "module_" in path else "before"]
    assert close_keys(result, path, FACTS["new"])[:1] == close


def test_a_path_is_followed_along_the_longest_keys() -> None:
    result: dict[str, Any] = {"a": {"b/c": {"d": 3}, "b": {"c": 4}}}
    assert follow_path(result, "a/b/c/d") == (3, ["a", "b/c", "d"], "")
    assert follow_path(result, "a/x/y") == (result["a"], ["a"], "x/y")
    assert follow_path(result, "a/b/c/d/e") == (3, ["a", "b/c", "d"], "e")
    assert follow_path(3, "a") == (3, [], "a")
