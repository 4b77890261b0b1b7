"""Play a recorded match again, and check that it ends as it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, MatchError
from policystore.format.records.matches import Match, Outcome, normal_match
from policystore.league.tournament.playing.contenders import (
    by_player,
    is_file_label,
    read_contender,
    read_contenders,
)
from policystore.league.tournament.playing.env_lookup import recorded_env
from policystore.league.tournament.playing.groups import Group, GroupResult, Rules, Table
from policystore.league.tournament.playing.outcomes import Judge, judge_of
from policystore.league.tournament.playing.seats import Contender
from policystore.league.tournament.records import Ledger, make_match
from policystore.league.tournament.video import check_video, write_video
from policystore.rllib_schema.trusted import listed

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
    players: Iterable[object] = (),
    outcome: Any = "recorded",
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

    Perhaps somebody else has written the match. Without ``trust``, the replay imports nothing that
    only the match names. But it passes the config of the match to the environment of this name that
    this process has registered or loaded. To pass a config of your own, give ``env=(env, config)``.

    Args:
        league: whose store has the policies.
        match: a match of ``league.matches()`` or of a report, with seeds.
        env: the environment, as for ``play``. If the match holds the config, ``env`` needs none.
            ``env`` may be left out if the match names an id of gymnasium or a name of RLlib's
            registry that this process knows, or a class of an environment that this process has
            imported, or if ``trust`` covers the import path in the match. It then gets the config
            of the match.
        players: exported files or players, which play in place of the policies of the store that
            have the same digests. If an exported file played in the match, give the file.
        outcome: as it was for ``play``. With ``"recorded"``, outcomes that follow from the returns
            are compared. Other outcomes are not, because a match does not record a function.
        heuristics: as they were for ``play``; a match does not record functions.
        explore, max_steps: as they were for ``play``; by default as the match says.
        trust: as for ``rebuild_player``; also for the environment that the match names. A prefix
            covers classes of environments, and functions, which are called with the config of the
            match. It covers no other classes.
        video: path of a film of the first episodes, ``*.mp4`` or ``*.gif``.
        video_episodes: how many episodes the film shows.

    Raises:
        InvalidInputError: the match has no seeds, such as one of an opponent pool; or a policy in
            training played in it; or the environment is not given and not known, or another one
            than that of the match; or the match does not hold the whole config of the environment.
            The message says which argument to pass.
        NotFoundError: the store does not have a policy, or a module that ``trust`` covers cannot be
            imported.
        MatchError: the returns differ. The message names the first episode that differs, as far as
            the match says how each episode ended; the attribute ``seeds`` begins with its seed.
    """
    _check_replayable(match)
    trust = listed(trust)
    source = recorded_env(match, env, trust)
    if video is not None:
        check_video(video, video_episodes)
        source = source.rendering("rgb_array")
    contenders = _contenders(league, match, players, heuristics or {}, trust)
    judge = _recorded_judge(match) if outcome == "recorded" else judge_of(outcome, match.teams)
    rules = Rules(
        source,
        contenders,
        judge,
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
    follows = judge.rule is not None or outcome is None or not match.outcomes
    _compare(match, result, make_match(group, result, rules), outcomes=follows)
    return Replay(match, result.returns, result.lengths)


def _contenders(
    league: Ledger,
    match: Match,
    players: Iterable[object],
    heuristics: Mapping[str, Any],
    trust: Any,
) -> dict[str, Contender]:
    """Return who played in a match, by player.

    Raises:
        InvalidInputError: a player is missing, or did not play.
        NotFoundError: the store does not have a policy.
    """
    read = read_contenders(players, league.store, heuristics, trust, "players")
    given = by_player(read.values())
    unknown = [each for name, each in given.items() if name not in match.players.values()]
    if unknown:
        raise InvalidInputError(
            f"players: {brief(unknown[0].ref or unknown[0].player)} did not play in this match"
        )
    contenders: dict[str, Contender] = {}
    for role, player in match.players.items():
        label = match.refs.get(role, "")
        if is_file_label(label) and player not in given:
            raise InvalidInputError(
                f"pass players=[…] with the exported file {brief(label)}, which played {role}: its "
                f"actions may differ in the last bits from those of the policy {player} in the "
                "store. To play the policy of the store all the same, pass its ref in players="
            )
        contenders[player] = (
            given.get(player)
            or contenders.get(player)
            or read_contender(player, league.store, heuristics, trust)
        )
    return contenders


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


def _recorded_judge(match: Match) -> Judge:
    """Return the usual judge if the outcomes follow from the returns, else one without a rule."""
    judge = judge_of("returns", match.teams)
    if not match.episode_returns or match.episode_returns.keys() != match.players.keys():
        return judge if match.outcomes else judge_of(None, match.teams)
    roles = sorted(match.players)
    ranks = [
        judge.ranks({role: match.episode_returns[role][number] for role in roles}, {})
        for number in range(match.episodes)
    ]
    outcomes = tuple(Outcome(each, 1) for each in ranks if each is not None)
    is_usual = normal_match(replace(match, outcomes=outcomes)).outcomes == match.outcomes
    return judge if is_usual else judge_of(None, match.teams)


def _compare(match: Match, result: GroupResult, again: Match, *, outcomes: bool) -> None:
    """Check that a match ended as before; ``outcomes`` says whether to compare who won.

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
    if outcomes and before != now:
        raise MatchError(
            f"the outcomes differ: {dict(before)} when the match was recorded, and {dict(now)} in "
            f"the replay, with the same returns: pass outcome= as it was for play. {_REASONS}",
            seeds=match.seeds,
        )


_REASONS = (
    "Either the environment draws random numbers that reset(seed=) does not set, or the "
    "environment, torch, the processor, explore= or max_steps= is another one"
)
