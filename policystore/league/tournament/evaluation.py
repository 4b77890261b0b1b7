"""Play one policy in an environment, and say what it earns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policystore._util.messages import brief, counted
from policystore.display.html import block, fields, line
from policystore.display.pretty import print_text
from policystore.errors import InvalidInputError
from policystore.format.records.matches import MAX_EPISODES, check_whole
from policystore.league.analysis.intervals import mean_interval
from policystore.league.env_identity import EnvIdentity
from policystore.league.tournament.plan import group_episodes
from policystore.league.tournament.playing.contenders import (
    by_player,
    read_contender,
    without_store,
)
from policystore.league.tournament.playing.env_source import env_source
from policystore.league.tournament.playing.groups import Group, GroupResult, Rules, Table
from policystore.league.tournament.playing.outcomes import Judge
from policystore.league.tournament.playing.seats import Contender
from policystore.league.tournament.playing.seeds import derive_seed
from policystore.league.tournament.playing.workers import Parallel, open_workers
from policystore.league.tournament.progress import EpisodeCounter, ShowProgress
from policystore.league.tournament.video import check_video, write_video
from policystore.store import PolicyStore

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What a policy earned in an environment.

    Attributes:
        player: ``blake3:…``, or ``heuristic:NAME``.
        ref: what the caller called the policy.
        env: id and digest of the environment.
        seed: the seed of the evaluation.
        seeds: the seed of each episode, as ``env.reset(seed=…)`` got it.
        returns: the return of each episode, float64: the sum of all rewards of the roles that the
            policy plays.
        lengths: the steps of each episode, int64.
        role_returns: role -> the return of each episode, for all roles.
        explore: whether the actions were sampled.
    """

    player: str
    ref: str
    env: EnvIdentity
    seed: int
    seeds: tuple[int, ...]
    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    role_returns: Mapping[str, NDArray[np.float64]]
    explore: bool = False

    @property
    def episodes(self) -> int:
        """The number of episodes."""
        return len(self.returns)

    @property
    def mean(self) -> float:
        """The mean return, from the exact sum: the same on every machine."""
        return float(sum(map(Fraction, self.returns), Fraction(0)) / self.episodes)

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the 95 % confidence interval of the mean return.

        It is Student's interval, from the mean and the standard deviation of the episodes, which
        are independent. It is exact for returns with a normal distribution. For others it is right
        for many episodes, from about 30, or more where a few episodes earn most of the return.
        Infinite for a single episode.
        """
        exact = [Fraction(value) for value in self.returns]
        total, squares = sum(exact, Fraction(0)), sum((each * each for each in exact), Fraction(0))
        _, low, high = mean_interval(self.episodes, total, squares)
        return low, high

    @property
    def low(self) -> float:
        """The lower end of :attr:`interval`."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """The upper end of :attr:`interval`."""
        return self.interval[1]

    def to_metrics(self, prefix: str = "eval_") -> dict[str, float]:
        """Return numbers for ``store.annotate(ref, metrics=…)``.

        ``eval_return`` is the mean, ``eval_return_low`` and ``eval_return_high`` are the ends of
        the interval (left out for a single episode), ``eval_return_min`` and ``eval_return_max``
        the least and the highest return, ``eval_length`` the mean length, ``eval_episodes`` and
        ``eval_seed`` integers.

        Args:
            prefix: what the names begin with.
        """
        low, high = self.interval
        metrics = {
            "return": self.mean,
            "return_low": low,
            "return_high": high,
            "return_min": float(self.returns.min()),
            "return_max": float(self.returns.max()),
            "length": float(self.lengths.mean()),
            "episodes": self.episodes,
            "seed": self.seed,
        }
        return {f"{prefix}{name}": value for name, value in metrics.items() if np.isfinite(value)}

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each episode: ``episode``, ``seed``, ``return``, ``length``.

        In a multi-agent environment also ``return.ROLE`` for each role.
        """
        by_role = self.role_returns if len(self.role_returns) > 1 else {}
        return [
            {
                "episode": number,
                "seed": self.seeds[number],
                "return": float(self.returns[number]),
                "length": int(self.lengths[number]),
                **{f"return.{role}": float(each[number]) for role, each in by_role.items()},
            }
            for number in range(self.episodes)
        ]

    def __repr__(self) -> str:
        return f"<Evaluation: {self._summary()}>"

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._described().items() if value]
        return "\n".join([self._summary(), *lines])

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        return block([line(self._summary(), heading=True), fields(self._described())]).source

    def _summary(self) -> str:
        low, high = self.interval
        name = self.ref or self.player[:19]
        return f"{name} in {self.env.id}: return {self.mean:.4g}, 95 % {low:.4g} to {high:.4g}"

    def _described(self) -> dict[str, str]:
        return {
            "episodes": f"{counted(self.episodes, 'episode')}, seed {self.seed}",
            "returns": f"{self.returns.min():.4g} to {self.returns.max():.4g}",
            "length": f"{self.lengths.mean():.4g} steps on average",
            "actions": "sampled" if self.explore else "deterministic",
            "player": self.player,
        }


def evaluate(
    policy: object,
    env: object,
    episodes: int = 100,
    seed: int = 0,
    *,
    store: PolicyStore | None = None,
    roles: str | Iterable[str] | None = None,
    others: Mapping[Any, object] | object = None,
    heuristics: Mapping[str, Any] | None = None,
    parallel: Parallel = None,
    workers: int | None = None,
    num_cpus: float = 0.5,
    explore: bool = False,
    max_steps: int | None = None,
    trust: Any = (),
    batch_size: int = 32,
    video: str | PathLike[str] | None = None,
    video_episodes: int = 1,
    progress: ShowProgress = True,
) -> Evaluation:
    """Play a policy in an environment, and return what it earns.

    The episodes are the first ``episodes`` that begin, not the first that end: short episodes are
    not favoured. The seed of an episode follows from ``seed`` and the number of the episode alone,
    so that all policies that are evaluated with one seed begin with the same episodes.

    Args:
        policy: a Snapshot; a ref, Version or Digest, with ``store=``; a player of
            ``rebuild_player`` or ``policystore.play.load_player``; the path of an exported file;
            a function of an observation, or ``"random"``.
        env: an id of gymnasium, a name of RLlib's registry, a class, a function that makes the
            environment, or ``(env, config)``; of one agent or of several.
        episodes: how many episodes.
        seed: another seed gives other episodes.
        store: where refs are looked up.
        roles: the agents that the policy plays, in a multi-agent environment; by default all.
        others: who plays the other agents: one player, or role -> player; as ``policy``.
        heuristics: name -> function, for players ``"heuristic:NAME"``.
        parallel: None for this process, ``"processes"`` or ``"ray"``.
        workers: how many processes or tasks; by default as many as there are CPUs.
        num_cpus: how many CPUs Ray keeps for each task.
        explore: sample the actions instead of taking the deterministic ones.
        max_steps: cut an episode off after so many steps.
        trust: as for ``rebuild_player``.
        batch_size: how many episodes are played at the same time.
        video: path of a film of the first episodes, ``*.mp4`` or ``*.gif``. The environment has to
            render ``rgb_array``.
        video_episodes: how many episodes the film shows.
        progress: True for a line on a terminal; or a function of two numbers of episodes.

    Raises:
        InvalidInputError: an argument does not fit the environment, or the environment cannot
            render pictures.
        NotFoundError, AmbiguousError: a ref that means no policy, or several.
        MissingPackageError: ``video=`` needs imageio, the extra ``video``.
        MatchError: the policy or the environment raised; the message names the seed.
    """
    episodes = check_whole(episodes, "episodes", 1, MAX_EPISODES)
    batch_size = check_whole(batch_size, "batch_size", 1, MAX_EPISODES)
    seed = check_whole(seed, "seed", -(2**63), 2**63 - 1)
    if not isinstance(explore, bool):
        raise InvalidInputError(f"explore is True or False, not {explore!r}")
    source = plain_source = env_source(env)
    if video is not None:
        check_video(video, video_episodes)
        source = source.rendering("rgb_array")
    named = heuristics or {}
    main = read_contender(policy, store, named, trust)
    rules = Rules(source, {}, Judge(None), explore=explore, max_steps=max_steps)
    table = Table(rules)
    try:
        all_roles = table.first_env().roles
        played = _played_roles(roles, all_roles)
        lineup = dict.fromkeys(played, main)
        for role, ref in _given_others(others, all_roles, played).items():
            lineup[role] = read_contender(ref, store, named, trust)
        contenders = by_player(lineup.values())
        if parallel is not None and store is not None and store.url.startswith("memory:"):
            contenders = {name: without_store(each) for name, each in contenders.items()}
        rules = replace(rules, contenders=contenders)
        table.rules = rules
        by_role = {role: lineup[role].player for role in sorted(all_roles)}
        seeds = [derive_seed("evaluate", seed, number) for number in range(episodes)]
        groups = group_episodes(
            [(number, by_role, each) for number, each in enumerate(seeds)], batch_size
        )
        counter = EpisodeCounter(progress, "evaluate")
        counter.expect(episodes)
        results: dict[tuple[int, ...], GroupResult] = {}
        if video is not None:
            groups = _film(table, groups, results, counter, video, video_episodes)
            rules = replace(rules, env=plain_source)  # other processes make no pictures
        with open_workers(parallel, rules, table, workers=workers, num_cpus=num_cpus) as run:
            for group, result in run(groups):
                results[group.numbers] = result
                counter.add(len(group.seeds))
        counter.close()
    finally:
        table.close()
    return _collect(main, source.identity, seed, seeds, results, played, explore)


def _film(
    table: Table,
    groups: list[Group],
    results: dict[tuple[int, ...], GroupResult],
    counter: EpisodeCounter,
    path: str | PathLike[str],
    episodes: int,
) -> list[Group]:
    """Play the first groups in this process, write their film, and return the other groups."""
    plain = table.rules
    frames: list[Any] = []
    fps = table.first_env().frames_per_second()
    while groups and episodes > 0:
        group, *groups = groups
        table.rules = replace(plain, film=episodes)
        result = table.play(group)
        frames += [frame for episode in result.frames for frame in episode]
        episodes -= len(group.seeds)
        results[group.numbers] = replace(result, frames=())
        counter.add(len(group.seeds))
    table.rules = plain
    write_video(path, frames, fps)
    return groups


def _played_roles(roles: str | Iterable[str] | None, all_roles: tuple[str, ...]) -> list[str]:
    if roles is None:
        return list(all_roles)
    chosen = [roles] if isinstance(roles, str) else [str(role) for role in roles]
    unknown = [role for role in chosen if role not in all_roles]
    if unknown or not chosen:
        raise InvalidInputError(
            f"roles: expected some of {list(all_roles)}, found {brief(unknown or chosen)}"
        )
    return chosen


def _given_others(others: Any, all_roles: tuple[str, ...], played: list[str]) -> dict[str, object]:
    """Return the player of each role that the policy does not play."""
    left = [role for role in all_roles if role not in played]
    if isinstance(others, Mapping):
        given = {str(role): ref for role, ref in others.items()}
    else:
        given = {} if others is None else dict.fromkeys(left, others)
    if set(given) != set(left):
        raise InvalidInputError(
            f"others: expected a player for each of {left}, which the policy does not play; found "
            f"{brief(sorted(given))}. roles= says which ones the policy plays"
        )
    return given


def _collect(
    main: Contender,
    env: EnvIdentity,
    seed: int,
    seeds: list[int],
    results: Mapping[tuple[int, ...], GroupResult],
    played: list[str],
    explore: bool,
) -> Evaluation:
    """Put the results of all groups in the order of the episodes."""
    order = [number for numbers in results for number in numbers]
    places = np.argsort(order)
    roles = next(iter(results.values())).returns
    by_role = {
        role: np.array([value for each in results.values() for value in each.returns[role]],
                       np.float64)[places]
        for role in roles
    }  # fmt: skip
    lengths = np.array([value for each in results.values() for value in each.lengths], np.int64)
    returns = np.zeros(len(seeds), np.float64)
    for role in sorted(played):  # sums of floats have an order
        returns = returns + by_role[role]
    return Evaluation(
        main.player, main.ref, env, seed, tuple(seeds), returns, lengths[places], by_role, explore
    )
