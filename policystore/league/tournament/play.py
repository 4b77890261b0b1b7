"""Play a tournament between stored policies, and record its matches in a league."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from policystore._util.messages import brief
from policystore.errors import InvalidInputError
from policystore.format.records.matches import MAX_EPISODES, MAX_ROLES, check_whole
from policystore.league.tournament.hall import Hall
from policystore.league.tournament.pairings import against_anchors, round_robin, swiss_round
from policystore.league.tournament.plan import Pairing, Plan, Sides, make_sides
from policystore.league.tournament.playing.contenders import (
    by_player,
    read_contenders,
    without_store,
)
from policystore.league.tournament.playing.env_source import env_source
from policystore.league.tournament.playing.groups import Rules, Table
from policystore.league.tournament.playing.outcomes import judge_of
from policystore.league.tournament.playing.seats import Contender
from policystore.league.tournament.playing.workers import Parallel, open_workers
from policystore.league.tournament.progress import EpisodeCounter, ShowProgress
from policystore.league.tournament.records import Ledger, Recorder, known_matches
from policystore.league.tournament.report import TournamentReport

__all__ = ["play"]


def play(
    league: Ledger,
    refs: Iterable[object],
    *,
    env: object,
    episodes: int,
    seed: int = 0,
    parallel: Parallel = None,
    workers: int | None = None,
    num_cpus: float = 0.5,
    pairing: Literal["round-robin", "anchors", "swiss"] = "round-robin",
    against: Iterable[object] = (),
    rounds: int | None = None,
    until: float | None = None,
    roles: Mapping[Any, str | Iterable[str]] | None = None,
    players_per_match: int | None = None,
    teams: Mapping[Any, str] | None = None,
    outcome: Any = "returns",
    heuristics: Mapping[str, Any] | None = None,
    explore: bool = False,
    max_steps: int | None = None,
    trust: Any = (),
    batch_size: int = 32,
    progress: ShowProgress = True,
) -> TournamentReport:
    """Play a tournament, and record its matches.

    The seed of each episode follows from the tournament's seed, the players and the number of the
    episode. The results follow from the seeds and ``batch_size`` alone: they are the same bit for
    bit with any number of workers. A call that was killed and is made again plays only what the
    ledger does not have: episodes of the same environment, players, roles and seeds are known. Any
    number of processes may make the call at the same time: each episode is recorded once.

    Args:
        league: where the matches are recorded, and whose store has the policies.
        refs: the players: refs of the store, versions, snapshots, players of ``rebuild_player`` or
            ``policystore.play.load_player``, paths of exported files, ``"random"``,
            ``"heuristic:NAME"``, or functions. Refs of one policy are one player.
        env: the environment: an id of gymnasium, a name of RLlib's registry, a class, a function
            that makes it, or ``(env, config)``. It may be a MultiAgentEnv of RLlib, or an AEC or
            parallel environment of PettingZoo.
        episodes: how many episodes the players of each pairing play; each sits on each side
            equally often, as far as the number allows.
        seed: other seeds give other episodes.
        parallel: None to play in this process, ``"processes"`` for processes of this machine,
            ``"ray"`` for tasks on the cluster that this process is connected to.
        workers: how many processes or tasks; by default as many as there are CPUs.
        num_cpus: how many CPUs Ray keeps for each task.
        pairing: ``"round-robin"``: everyone meets everyone. ``"anchors"``: everyone meets each of
            ``against``. ``"swiss"``: players of like scores meet, in ``rounds`` rounds.
        against: the anchors, as ``refs``.
        rounds: of a Swiss tournament; by default as many as find a winner, ``log2`` of the number
            of players.
        until: go on with the pairings whose win rate is less certain than this: ``episodes`` more
            at a time until the 95 % interval is at most ``± until``. 0.05 takes up to 400 episodes.
        roles: ref -> the role or roles that it may play, or the teams; others may play all.
        players_per_match: how many players meet; by default one for each side. If there are fewer
            players than sides, they take the sides in turn.
        teams: role -> team. One player plays all roles of a team.
        outcome: ``"returns"``: the higher return wins, equal ones are a draw. None: nobody wins, as
            in a cooperative environment. Or a function of ``{role: return}`` and
            ``{role: last info}`` that returns ``{role: rank}``, 0 for the best.
        heuristics: name -> a function of an observation; or of observation, action space and a
            ``numpy.random.Generator``; or a class whose instances have ``act(observation)``, made
            anew for each episode.
        explore: sample the actions of policies, from seeds of their own, instead of taking the
            deterministic ones.
        max_steps: cut an episode off after so many steps.
        trust: as for ``rebuild_player``.
        batch_size: how many episodes are played at the same time. The batches of a network follow
            from it, so another size may change the last bits of its outputs.
        progress: True for a line on a terminal; or a function of the number of episodes that are
            played and of all episodes.

    Raises:
        InvalidInputError: an argument does not fit the environment or the others.
        NotFoundError, AmbiguousError: a ref that means no policy, or several.
        MatchError: a player or the environment raised. The message names players and seed. All
            groups of episodes that ended are recorded.
        StorageError: the ledger cannot be written.
    """
    episodes = check_whole(episodes, "episodes", 1, MAX_EPISODES)
    batch_size = check_whole(batch_size, "batch_size", 1, MAX_EPISODES)
    seed = check_whole(seed, "seed", -(2**63), 2**63 - 1)
    if not isinstance(explore, bool):
        raise InvalidInputError(f"explore is True or False, not {explore!r}")
    if until is not None and not (_is_number(until) and 0.001 <= until < 0.5):
        raise InvalidInputError(f"until is a number from 0.001 to 0.5, not {until!r}")
    for argument, value in (("heuristics", heuristics), ("roles", roles), ("teams", teams)):
        if value is not None and not isinstance(value, Mapping):
            raise InvalidInputError(f"{argument}: expected a dict, found {brief(value)}")
    named = heuristics or {}
    given = read_contenders(refs, league.store, named, trust, "refs")
    anchors = read_contenders(against, league.store, named, trust, "against")
    contenders = by_player((*given.values(), *anchors.values()))
    source = env_source(env)
    team_of = _teams(teams or {})
    rules = Rules(
        source, contenders, judge_of(outcome, team_of), explore=explore, max_steps=max_steps
    )
    table = Table(rules)
    try:
        sides = make_sides(table.first_env().roles, team_of)
        plan = Plan(
            seed,
            sides,
            _allowed(roles or {}, given, anchors, sides, team_of),
            (explore, rules.max_steps),
        )
        size = _players_per_match(players_per_match, sides)
        players = {each.player for each in given.values()}
        if parallel is not None and league.store.url.startswith("memory:"):
            held = {name: without_store(each) for name, each in contenders.items()}
            rules = replace(rules, contenders=held)  # no other process has this memory
        with (
            open_workers(parallel, rules, table, workers=workers, num_cpus=num_cpus) as run,
            Recorder(league, rules, (seed, *plan.salt)) as recorder,
        ):
            hall = Hall(plan, rules, run, recorder, batch_size, EpisodeCounter(progress, "play"))
            hall.known = known_matches(league, rules, recorder.earlier)
            if pairing == "swiss":
                resting = _play_swiss(hall, players, size, episodes, _rounds(rounds, players))
            else:
                resting = []
                meetings = _pairings(pairing, players, anchors, size)
                _play_all(hall, _seatable(plan, meetings), episodes, until)
            hall.counter.close()
            return TournamentReport(
                tuple(hall.matches),
                hall.played,
                sum(match.episodes for match in hall.matches) - hall.played,
                {name: each.ref for name, each in contenders.items()},
                source.identity.id,
                sides,
                tuple(map(tuple, resting)),
            )
    finally:
        table.close()


def _play_all(hall: Hall, meetings: Sequence[Pairing], episodes: int, until: float | None) -> None:
    """Play all pairings; then go on with those whose win rates are too uncertain."""
    first = 0
    while meetings:
        hall.play([(each, range(first, first + episodes)) for each in meetings])
        first += episodes
        if until is None:
            return
        meetings = [each for each in meetings if hall.tally.widest(each) > until]


def _play_swiss(
    hall: Hall, players: set[str], size: int, episodes: int, rounds: int
) -> list[list[str]]:
    """Play the rounds of a Swiss tournament; return who had no match in each of them."""
    if len(players) < size:
        raise InvalidInputError(f"a match has {size} players, and there are {len(players)}")
    met: dict[frozenset[str], int] = {}
    byes: dict[str, int] = {}
    resting: list[list[str]] = []
    for number in range(rounds):
        scores = {player: hall.tally.score(player, players - {player}) or 0.0 for player in players}
        meetings, rest = swiss_round(
            players, scores, met, byes, size=size, number=number, seed=hall.plan.seed
        )
        wave = []
        for each in _seatable(hall.plan, meetings):
            times = met.get(frozenset(each), 0)
            met[frozenset(each)] = times + 1
            wave.append((each, range(times * episodes, (times + 1) * episodes)))
        for player in rest:
            byes[player] = byes.get(player, 0) + 1
        resting.append(rest)
        hall.play(wave)
    return resting


def _pairings(
    pairing: object, players: set[str], anchors: Mapping[object, Contender], size: int
) -> list[Pairing]:
    if pairing == "round-robin":
        return round_robin(players, size)
    if pairing != "anchors":
        raise InvalidInputError(
            f"pairing is 'round-robin', 'anchors' or 'swiss', not {brief(pairing)}"
        )
    if not anchors:
        raise InvalidInputError("pairing='anchors' needs the anchors: against=[ref, …]")
    return against_anchors(players, {each.player for each in anchors.values()}, size)


def _seatable(plan: Plan, meetings: Iterable[Pairing]) -> list[Pairing]:
    """Return the pairings whose players have roles that they may play.

    Raises:
        InvalidInputError: there is no such pairing.
    """
    seatable = [each for each in meetings if plan.lineups(each)]
    if not seatable:
        raise InvalidInputError(
            "there is no match to play: a match needs as many different players as the game has "
            f"sides ({len(plan.sides)}), and each of them a role that roles= lets it play"
        )
    return seatable


def _players_per_match(given: int | None, sides: Sides) -> int:
    if len(sides) < 2:
        raise InvalidInputError(
            "this environment has one side only, so nobody plays against anybody: "
            "policystore.evaluate plays one policy in it"
        )
    if given is None:
        return len(sides)
    if check_whole(given, "players_per_match", 2, MAX_ROLES) > len(sides):
        raise InvalidInputError(
            f"players_per_match={given}, and the environment has {len(sides)} sides"
        )
    return given


def _rounds(given: int | None, players: set[str]) -> int:
    if given is None:
        return max(1, (len(players) - 1).bit_length())
    return check_whole(given, "rounds", 1, MAX_EPISODES)


def _allowed(
    roles: Mapping[Any, Any],
    given: Mapping[object, Contender],
    anchors: Mapping[object, Contender],
    sides: Sides,
    teams: Mapping[str, str],
) -> dict[str, frozenset[int]]:
    """Return player -> the sides that it may play.

    Raises:
        InvalidInputError: a ref is not among the players, or a role does not exist.
    """
    names = {name: index for index, side in enumerate(sides) for name in _names(side, teams)}
    allowed = {}
    for ref, chosen in roles.items():
        contender = given.get(ref) or anchors.get(ref)
        if contender is None:
            raise InvalidInputError(f"roles: {brief(ref)} is not among the players")
        if not isinstance(chosen, Iterable):
            raise InvalidInputError(
                f"roles[{brief(ref)}]: expected a role or several, found {brief(chosen)}"
            )
        listed = [chosen] if isinstance(chosen, str) else [str(each) for each in chosen]
        unknown = [name for name in listed if name not in names]
        if unknown:
            raise InvalidInputError(
                f"roles: there is no role or team {unknown[0]!r}; there are {sorted(names)}"
            )
        allowed[contender.player] = frozenset(names[name] for name in listed)
    return allowed


def _teams(teams: Mapping[Any, str]) -> dict[str, str]:
    """Return role -> team, without teams of one role, as records have them."""
    listed = list(teams.values())
    return {str(role): team for role, team in teams.items() if listed.count(team) > 1}


def _names(side: Sequence[str], teams: Mapping[str, str]) -> Iterator[str]:
    yield from side
    if side[0] in teams:
        yield teams[side[0]]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
