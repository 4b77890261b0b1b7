"""Play a recorded match again, and check that it ends as it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, MatchError
from policystore.format.records.matches import Match
from policystore.league.tournament.playing.contenders import read_contender
from policystore.league.tournament.playing.env_source import EnvSource, env_source, known_name
from policystore.league.tournament.playing.groups import Group, GroupResult, Rules, Table
from policystore.league.tournament.playing.outcomes import judge_of
from policystore.league.tournament.records import Ledger, make_match
from policystore.league.tournament.video import check_video, write_video

__all__ = ["Replay", "replay"]


@dataclass(frozen=True)
class Replay:
    """A match that was played again, with the same returns.

    Attributes:
        match: the recorded match.
        returns: role -> the return of each episode.
        lengths: the steps of each episode.
    """

    match: Match
    returns: Mapping[str, tuple[float, ...]]
    lengths: tuple[int, ...]

    def to_records(self) -> list[dict[str, Any]]:
        """Return a dict for each episode: ``seed``, ``length``, ``return.ROLE`` for each role."""
        return [
            {
                "seed": seed,
                "length": self.lengths[number],
                **{f"return.{role}": each[number] for role, each in self.returns.items()},
            }
            for number, seed in enumerate(self.match.seeds)
        ]


def replay(
    league: Ledger,
    match: Match,
    *,
    env: object = None,
    outcome: Any = "returns",
    heuristics: Mapping[str, Any] | None = None,
    explore: bool | None = None,
    max_steps: int | None = None,
    trust: Any = (),
    video: str | PathLike[str] | None = None,
    video_episodes: int = 1,
) -> Replay:
    """Play a match again: the same players in the same roles, with the same seeds.

    The returns are the same bit for bit on the machine that played the match, and on others like
    it. A machine with another kind of processor, or other versions of torch or of the environment,
    may compute other numbers.

    Args:
        league: whose store has the policies.
        match: a match of ``league.matches()`` or of a report, with seeds.
        env: the environment, as for ``play``, with its config. May be left out if the match names
            an id of gymnasium or a name of RLlib's registry that this process knows, and no config.
        outcome, heuristics: as they were for ``play``; a match does not record them.
        explore, max_steps: as they were for ``play``; by default as the match says.
        trust: as for ``rebuild_player``.
        video: path of a film of the first episodes, ``*.mp4`` or ``*.gif``.
        video_episodes: how many episodes the film shows.

    Raises:
        InvalidInputError: the match has no seeds, such as one of an opponent pool; or a policy in
            training played in it; or the environment is not given and not known, or another one
            than that of the match.
        NotFoundError: the store does not have a policy.
        MatchError: the returns differ. The message names the first episode that differs, as far as
            the match says how each episode ended; the attribute ``seeds`` begins with its seed.
    """
    _check_replayable(match)
    source = _source_of(match, env)
    if video is not None:
        check_video(video, video_episodes)
        source = source.rendering("rgb_array")
    contenders = {
        player: read_contender(player, league.store, heuristics or {}, trust)
        for player in dict.fromkeys(match.players.values())
    }
    rules = Rules(
        source,
        contenders,
        judge_of(outcome, match.teams),
        explore=bool(match.explore) if explore is None else explore,
        max_steps=match.max_steps if max_steps is None else max_steps,
        film=video_episodes if video is not None else 0,
    )
    group = Group(dict(match.players), tuple(range(match.episodes)), match.seeds)
    table = Table(rules)
    try:
        roles = sorted(table.first_env().roles)
        if roles != sorted(match.players):
            raise InvalidInputError(
                f"the match has the roles {sorted(match.players)}, and the environment {roles}"
            )
        result = table.play(group)
        if video is not None:
            frames = [frame for episode in result.frames for frame in episode]
            write_video(video, frames, table.first_env().frames_per_second())
    finally:
        table.close()
    _compare(match, result, make_match(group, result, rules))
    return Replay(match, result.returns, result.lengths)


def _check_replayable(match: Match) -> None:
    if not isinstance(match, Match):
        raise InvalidInputError(f"replay takes a Match of a league, not {brief(match)}")
    if not match.seeds:
        raise InvalidInputError(
            "this match has no seeds, so it cannot be played again: it was played in a training, "
            "whose environments go on from one episode to the next, or recorded by hand. Matches "
            "of league.play() have seeds"
        )
    if match.played:
        raise InvalidInputError(
            f"the weights of {sorted(match.played)} changed during this match, because a training "
            "went on meanwhile, so it cannot be played again"
        )


def _source_of(match: Match, env: object) -> EnvSource:
    """Return the environment of a match: the given one, or the one that its id names here.

    An id from a store imports nothing.
    """
    if env is None and not known_name(match.env):
        raise InvalidInputError(
            f"pass env=: the match was played in {match.env or 'an unknown environment'!r}, which "
            "is neither an id of gymnasium nor a name of RLlib's registry in this process"
        )
    source = env_source(match.env if env is None else env)
    if match.env_digest and source.identity.digest != match.env_digest:
        raise InvalidInputError(
            f"the match was played in {match.env!r} with the digest {match.env_digest}, and this "
            f"is {source.identity.id!r} with {source.identity.digest}: pass env=(env, config) with "
            "the config of the match"
        )
    return source


def _compare(match: Match, result: GroupResult, again: Match) -> None:
    """Check that a match ended as before.

    Raises:
        MatchError: it did not.
    """
    for number, seed in enumerate(match.seeds):
        for role, returns in match.episode_returns.items():
            if returns[number] != result.returns[role][number]:
                raise MatchError(
                    f"episode {number} with the seed {seed} differs: {role} earned "
                    f"{returns[number]!r} when the match was recorded, and "
                    f"{result.returns[role][number]!r} in the replay. {_REASONS}",
                    seeds=(seed,),
                )
    for role, sums in match.returns.items():
        if sums.episodes == match.episodes and sums != again.returns[role]:
            raise MatchError(
                f"the returns of {role} differ: {float(sums.sum)!r} in all when the match was "
                f"recorded, and {float(again.returns[role].sum)!r} in the replay. The match does "
                f"not say how each episode ended. {_REASONS}",
                seeds=match.seeds,
            )
    before, now = (
        Counter({each.ranks: each.episodes for each in one.outcomes}) for one in (match, again)
    )
    if before != now:
        raise MatchError(
            f"the outcomes differ: {dict(before)} when the match was recorded, and {dict(now)} in "
            f"the replay, with the same returns: pass outcome= as it was for play. {_REASONS}",
            seeds=match.seeds,
        )


_REASONS = (
    "Either the environment draws random numbers that reset(seed=) does not set, or the "
    "environment, torch, the processor, explore= or max_steps= is another one"
)
