"""What an opponent pool gives its env runners at their start: :class:`PoolSettings`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium as gym
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from policystore.errors import InvalidInputError
from policystore.store import PolicyStore

__all__ = ["EndedEpisode", "Outcome", "PoolSettings", "sides_of"]


@dataclass(frozen=True)
class EndedEpisode:
    """An episode that ended, in the same form for both API stacks.

    Attributes:
        episode_id: RLlib's id of the episode.
        returns: agent -> sum of its rewards in the whole episode, also where RLlib has cut the
            episode over several iterations. Agents that never appeared are absent.
        policies: agent -> id of the policy that played.
        length: number of steps of the environment.
        terminated: whether the environment ended the episode.
        truncated: whether the episode was cut off, such as by a limit on its steps.
        episode: RLlib's own object: of the new API stack the last chunk of the episode.
        chunks: RLlib's own earlier chunks of the episode, oldest first; empty on the old API stack.
    """

    episode_id: str
    returns: Mapping[Any, float]
    policies: Mapping[Any, str]
    length: int
    terminated: bool
    truncated: bool
    episode: Any
    chunks: tuple[Any, ...] = ()


Outcome: TypeAlias = Callable[[EndedEpisode], "Mapping[Any, float] | None"]
"""Returns a score for each agent, of which the higher one wins, and equal ones are a draw; None if
nobody wins or loses, and only the returns count."""


@dataclass(frozen=True)
class PoolSettings:
    """All that an env runner needs in order to draw, load and record opponents. It pickles.

    Attributes:
        store: the store that opponents are pulled from. Each process opens its own.
        league: name of the league.
        learners: ids of the policies in training that the pool finds opponents for.
        slots: kind -> ids of the frozen policies that opponents of this kind are loaded into. With
            as many slots as an episode has opponents, for each sub-environment, each
            sub-environment has slots of its own. With fewer, sub-environments share slots. A shared
            slot is loaded anew only when RLlib starts all sub-environments anew, because at all
            other times an episode plays with it.
        learner_agents: id of a learner -> the agents that it may play; for each episode one of them
            is drawn. A learner that is absent may play each agent.
        teams: agent -> team. The learner plays all agents of one team, and each other team has one
            opponent. An agent without a team plays alone.
        agents: the agents of the environment; empty to ask the environment.
        outcome: ``"returns"``: the higher return wins, and equal returns are a draw (the returns of
            a team are added). None: nobody wins. A function of an :class:`EndedEpisode`, which
            returns a score for each agent.
        env: id of the environment, for the records.
        env_digest: digest of the environment and its config, for the records.
        filters: as in ``load_local``: ``"refuse"``, or ``"ignore"`` to load opponents although
            their observations were normalised in another way.
        first_episodes: where RLlib starts all sub-environments anew for each sample (evaluation,
            and ``batch_mode="complete_episodes"``): record only the first ``first_episodes``
            episodes of each sub-environment after each reset; None to record all that end. RLlib
            drops the episodes that are unfinished when it has enough, and so favours short ones.
            The first episodes have no such bias if all of them end; those that did not are counted
            as ``"unfinished at a reset"``.
        restart_for_round: whether new tables restart all episodes under way, where sub-environments
            share slots: without it, ``batch_mode="truncate_episodes"`` would never give shared
            slots other opponents. The restarted episodes are counted as unfinished.
        cached_bytes: how many bytes of snapshots an env runner keeps in memory, beside those in its
            slots, so that opponents that return soon are not pulled again.
        max_records: how many records an env runner keeps for the driver at most.
    """

    store: PolicyStore
    league: str
    learners: tuple[str, ...]
    slots: Mapping[str, tuple[str, ...]]
    learner_agents: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    teams: Mapping[Any, str] = field(default_factory=dict)
    agents: tuple[Any, ...] = ()
    outcome: Outcome | str | None = "returns"
    env: str = ""
    env_digest: str = ""
    filters: str = "refuse"
    first_episodes: int | None = None
    restart_for_round: bool = False
    cached_bytes: int = 32 * 2**20
    max_records: int = 20_000

    def __post_init__(self) -> None:
        """Check what no caller's own checks can see later.

        Raises:
            InvalidInputError: a policy is a slot twice, or a learner and a slot; two agents have
                the same text; ``outcome`` or ``first_episodes`` is of another form.
        """
        every = [slot for slots in self.slots.values() for slot in slots]
        twice = sorted({slot for slot in every if every.count(slot) > 1 or slot in self.learners})
        if twice:
            raise InvalidInputError(
                f"{', '.join(map(repr, twice))}: a slot is a frozen policy with one kind, and no "
                "learner. Give each slot a policy id of its own."
            )
        if not self.learners:
            raise InvalidInputError("a pool needs a learner: the id of a policy in training")
        if not (self.outcome in ("returns", None) or callable(self.outcome)):
            raise InvalidInputError(
                "outcome is 'returns', None, or a function of the ended episode that returns a "
                f"score for each agent, not {self.outcome!r}"
            )
        if self.first_episodes is not None and (
            type(self.first_episodes) is not int or self.first_episodes < 1
        ):
            raise InvalidInputError(
                f"first_episodes is a whole number of at least 1, not {self.first_episodes!r}"
            )


def check_env(env: object) -> None:
    """Check that an environment, or a class of environments, has several agents.

    Args:
        env: the environment or class; anything else, such as a registered name, is let through.

    Raises:
        InvalidInputError: it is one of gymnasium's, and not RLlib's ``MultiAgentEnv``.
    """
    kind = env if isinstance(env, type) else type(env)
    if issubclass(kind, gym.Env) and not issubclass(kind, MultiAgentEnv):
        raise InvalidInputError(
            f"the environment {kind.__module__}.{kind.__qualname__} is for a single agent, and an "
            "opponent needs an agent of its own: an opponent pool takes a MultiAgentEnv of RLlib"
        )


def check_learner_agents(settings: PoolSettings, agents: Iterable[Any]) -> None:
    """Check that each learner has an agent to play, before the first episode.

    Args:
        settings: the settings.
        agents: what the environment calls its agents; nothing is checked if it does not say them.

    Raises:
        InvalidInputError: a learner may play only agents that there are not.
    """
    there = sorted(settings.agents or agents, key=str)
    for learner, own in settings.learner_agents.items():
        if there and own and not set(own) & set(there):
            raise InvalidInputError(
                f"learner_agents= lets {learner!r} play only {list(own)}, and the environment has "
                f"the agents {there}"
            )


def sides_of(settings: PoolSettings, agents: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Divide agents into sides: each team is one side, and so is each agent without a team.

    The order is that of the agents' text, so that it is the same in each process.

    Raises:
        InvalidInputError: two agents have the same text, such as ``1`` and ``"1"``: records would
            take one for the other.
    """
    sides: dict[tuple[str, str], list[Any]] = {}
    listed = sorted(agents, key=str)
    for one, next_one in itertools.pairwise(listed):
        if str(one) == str(next_one):
            raise InvalidInputError(
                f"the agents {one!r} and {next_one!r} have the same text, which is their role in "
                "the records of the league. Rename one of them in the environment."
            )
    for agent in listed:
        team = settings.teams.get(agent)
        key = ("agent", str(agent)) if team is None else ("team", team)
        sides.setdefault(key, []).append(agent)
    return [tuple(side) for side in sides.values()]
