"""Compare the records of a league with what the environments of ``league_arena`` saw.

Only the environments' own records and the snapshots of the store are read. Nothing of
``policystore.league`` runs here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from policystore import Snapshot
from policystore.format.policy import part_digest
from policystore.format.records.matches import Match
from tests.support.league_arena import fingerprint

__all__ = ["Acted", "Seen", "Verdict", "compare", "player_prints", "read_log"]

Ranking = Callable[[Mapping[str, float], Mapping[str, str]], dict[str, Any] | None]


@dataclass
class Acted:
    """What one agent did in an episode.

    Attributes:
        ret: its return.
        prints: the fingerprint of its weights at each of its steps.
        first, last: whether it acted at the first and at the last step of the episode.
        policy: id of its policy.
    """

    ret: float
    prints: list[str]
    first: bool
    last: bool
    policy: str = ""


@dataclass
class Seen:
    """One episode, as its environment saw it.

    Attributes:
        key: the environment, and the number of its episode.
        tag: the number that the extra reward of this episode tells.
        end: ``over``, ``left`` (a reset came first), ``broken``, or empty for one under way.
        id: RLlib's id.
        ended: whether RLlib called ``on_episode_end``.
        evaluation: whether an evaluation worker played the episode.
        worker: index of the worker.
        agents: agent -> what it did; filled for ``over`` alone.
    """

    key: tuple[int, int]
    tag: int
    end: str = ""
    id: str = ""
    ended: bool = False
    evaluation: bool = False
    worker: int = -1
    agents: dict[str, Acted] = field(default_factory=dict)


@dataclass
class Verdict:
    """What :func:`compare` found.

    Attributes:
        faults: differences between the records and the truth; empty if all is right.
        recorded: episodes that were recorded.
        finished: episodes that ended, by the word of environment and RLlib.
        missing: episodes that ended and were not recorded.
        mixed: ids of the episodes in which an opponent's weights changed.
    """

    faults: list[str]
    recorded: int
    finished: int
    missing: list[Seen]
    mixed: set[str]


def read_log(folder: Path | str) -> list[Seen]:
    """Return all episodes of the environments that wrote into a folder."""
    episodes: dict[tuple[int, int], Seen] = {}
    for file in sorted(Path(folder).glob("*.jsonl")):
        for line in file.read_text().splitlines():
            note = json.loads(line)
            key = (note["key"], note["episode"])
            seen = episodes.setdefault(key, Seen(key, note["tag"]))
            what = note["what"]
            if what in ("over", "left", "broken"):
                assert not seen.end, f"{key} ended twice"
                seen.end = what
            if what == "over":
                for agent, told in note["agents"].items():
                    assert len(told["prints"]) == told["acted"], (key, agent, told)
                    seen.agents[agent] = Acted(
                        float.fromhex(told["return"]), told["prints"], *told["from_first_to_last"]
                    )
            if what in ("started", "ended"):
                seen.id, seen.worker = note["id"], note["worker"]
                seen.evaluation = note["evaluation"]
            if what == "ended":
                assert not seen.ended, f"{key} ended twice"
                seen.ended = True
                for agent, policy in note["policies"].items():
                    seen.agents[agent].policy = policy
    return list(episodes.values())


def player_prints(snaps: Iterable[Snapshot]) -> dict[str, str]:
    """Return the fingerprint of the acting weights of each player: digest -> fingerprint."""
    found = {"heuristic:fixed": "fixed"}
    for snap in snaps:
        names = snap.spec.acting or list(snap.weights)
        found[str(snap.digest)] = fingerprint({name: snap.weights[name] for name in names})
    return found


def by_return(returns: Mapping[str, float], teams: Mapping[str, str]) -> dict[str, Any] | None:
    """Rank roles by their return, or by the sum of their team's returns; the highest is best."""
    scores = {
        role: sum(value for each, value in returns.items() if teams.get(each, each) == team)
        for role in returns
        for team in [teams.get(role, role)]
    }
    order = sorted(set(scores.values()), reverse=True)
    return {role: order.index(score) for role, score in scores.items()}


def compare(
    matches: Iterable[Match],
    log: Path | str,
    players: Mapping[str, str],
    *,
    learners: Mapping[str, Sequence[str]],
    unknown: int = 0,
    lost: bool = False,
    teams: Mapping[str, str] | None = None,
    role_of: Callable[[str], str] = str,
    ranking: Ranking = by_return,
    history: Mapping[str, Sequence[str]] | None = None,
    evaluation: bool | None = None,
) -> Verdict:
    """Compare the matches of a ledger with what the environments saw.

    Args:
        matches: all matches, one episode each.
        log: folder of the environments' records.
        players: :func:`player_prints` of all snapshots.
        learners: policy id in training -> digests of its snapshots, the oldest first.
        unknown: number of episodes that the ledger counts as unknown.
        lost: whether actors were killed, so that ``unknown`` may be larger than what is missing.
        teams: role -> team.
        role_of: agent -> role.
        ranking: what the ranks should be; it returns None for no outcome.
        history: policy id in training -> fingerprints of its weights after each update; with them
            the lineage is checked.
        evaluation: True or False to expect the episodes of evaluation, or of training, alone.
    """
    episodes = read_log(log)
    finished = [s for s in episodes if s.ended and evaluation in (None, s.evaluation)]
    by_tag = {seen.tag: seen for seen in episodes}
    assert len(by_tag) == len(episodes), "two episodes with one tag: play again"
    digests = _acting_digests(Path(log))
    faults: list[str] = []
    counted: Counter[tuple[int, int]] = Counter()
    for match in matches:
        seen = _episode_of(match, by_tag, faults)
        if seen is None:
            continue
        counted[seen.key] += 1
        if not seen.ended:
            faults.append(f"{seen.id or seen.key} is recorded, and has not ended: {seen.end!r}")
        elif evaluation not in (None, seen.evaluation):
            faults.append(f"{seen.id} is of evaluation={seen.evaluation}")
        else:
            wrong = _check(match, seen, players, learners, digests, history)
            wrong += _check_outcome(match, seen, teams or {}, role_of, ranking)
            faults += [f"{seen.id} {each}" for each in wrong]
    faults += [f"{key} is recorded {n} times" for key, n in counted.items() if n > 1]
    missing = [seen for seen in finished if not counted[seen.key]]
    if len(missing) > unknown or (len(missing) < unknown and not lost):
        faults.append(
            f"{len(missing)} of {len(finished)} ended episodes are not recorded, and {unknown} are "
            "said to be unknown"
        )
    mixed = {seen.id for seen in finished if _is_mixed(seen, learners, players)}
    return Verdict(faults, len(counted), len(finished), missing, mixed)


def _episode_of(match: Match, by_tag: Mapping[int, Seen], faults: list[str]) -> Seen | None:
    if match.episodes != 1:
        faults.append(f"a match of {match.episodes} episodes cannot be compared: {match}")
        return None
    tags = {
        Fraction(each.sum - each.sum.__floor__()) * 2**40 for each in match.returns.values()
    } or {Fraction(-1)}
    seen = by_tag.get(int(max(tags))) if len(tags) == 1 else None
    if seen is None:
        faults.append(f"no environment saw this match: tags {sorted(map(float, tags))}, {match}")
    return seen


def _check(
    match: Match,
    seen: Seen,
    players: Mapping[str, str],
    learners: Mapping[str, Sequence[str]],
    digests: Mapping[str, str],
    history: Mapping[str, Sequence[str]] | None,
) -> list[str]:
    """Return what is wrong with players and weights of a match."""
    if set(match.players) != set(seen.agents):
        return [f"has the roles {sorted(match.players)}, and {sorted(seen.agents)} acted"]
    wrong = []
    for agent, acted in seen.agents.items():
        player, prints = match.players[agent], acted.prints
        if player not in players:
            wrong.append(f"{agent}: unknown player {player}")
            continue
        lineage = learners.get(acted.policy)
        if lineage is None:
            if set(prints) != {players[player]}:
                wrong.append(
                    f"{agent}: {player} is recorded, whose weights are {players[player]}; "
                    f"{list(dict.fromkeys(prints))} acted"
                )
            if agent in match.played and set(match.played[agent]) != {digests.get(prints[0])}:
                wrong.append(f"{agent}: an opponent with played={match.played[agent]}")
            continue
        if player not in lineage:
            wrong.append(f"{agent}: {player} is no snapshot of {acted.policy}")
        truth = (digests[prints[0]], digests[prints[-1]])
        if agent not in match.played and set(prints) != {players[player]}:
            wrong.append(f"{agent}: no weights are recorded, and not {player}'s weights acted")
        elif agent in match.played and not all(
            told == right or not exact
            for told, right, exact in zip(
                match.played[agent], truth, (acted.first, acted.last), strict=True
            )
        ):
            wrong.append(f"{agent}: played={match.played[agent]}, and {truth} acted first and last")
        elif history is not None:
            told = history[acted.policy]
            # Else the learner joined later, or had its own weights, of before RLlib's first sync.
            if acted.first and prints[0] in told:
                made = {digest: told.index(players[digest]) for digest in lineage}
                now = max(at for at, each in enumerate(told) if each == prints[0])
                wrong += _check_lineage(agent, made.get(player), now, made, seen.evaluation)
    return wrong


def _check_lineage(
    agent: str, booked: int | None, now: int, made: Mapping[str, int], evaluation: bool
) -> list[str]:
    """Check that an episode is booked under the latest snapshot not after its start.

    Args:
        agent: the agent.
        booked: the update of which the snapshot is.
        now: the update with which the episode started.
        made: all snapshots, and the update of which each is.
        evaluation: whether it may have started before the snapshot of this update was taken.
    """
    right = {max(at for at in made.values() if at <= now)}
    if evaluation:
        right.add(max((at for at in made.values() if at < now), default=0))
    if booked not in right:
        return [
            f"{agent}: booked under the snapshot of update {booked}, not {sorted(right)}; the "
            f"episode started with update {now}"
        ]
    return []


def _check_outcome(
    match: Match,
    seen: Seen,
    teams: Mapping[str, str],
    role_of: Callable[[str], str],
    ranking: Ranking,
) -> list[str]:
    wrong = []
    returns = {role_of(agent): acted.ret for agent, acted in seen.agents.items()}
    for role, value in returns.items():
        told = match.returns.get(role)
        exact = Fraction(value)
        if told is None or (told.episodes, told.sum, told.squares) != (1, exact, exact * exact):
            wrong.append(f"{role}: return {told}, and {value} was paid")
    if dict(match.teams) != {role: team for role, team in teams.items() if role in returns}:
        wrong.append(f"teams {dict(match.teams)}")
    expected = ranking(returns, teams)
    if expected is None:
        return [*wrong, f"outcomes {match.outcomes}"] if match.outcomes else wrong
    if len(match.outcomes) != 1 or match.outcomes[0].episodes != 1:
        return [*wrong, f"outcomes {match.outcomes}"]
    if len(match.outcomes[0].ranks) != len(match.players):
        return [*wrong, f"{match.outcomes} for {list(match.players)}"]
    told_ranks = dict(zip(match.players, match.outcomes[0].ranks, strict=True))
    if _dense(told_ranks) != _dense(expected):
        wrong.append(f"ranks {told_ranks}, and {expected} is right")
    return wrong


def _dense(ranks: Mapping[str, Any]) -> dict[str, Any]:
    order = sorted({rank for rank in ranks.values() if rank is not None})
    return {role: None if rank is None else order.index(rank) for role, rank in ranks.items()}


def _is_mixed(seen: Seen, learners: Collection[str], players: Mapping[str, str]) -> bool:
    known = set(players.values())
    return any(
        len(set(acted.prints)) > 1 or acted.prints[0] not in known
        for acted in seen.agents.values()
        if acted.policy not in learners
    )


def _acting_digests(log: Path) -> dict[str, str]:
    """Return the digest, as the store makes it, of each fingerprint's weights."""
    found = {}
    for file in (log / "weights").glob("*.npz"):
        if file.name.count(".") == 1:
            with np.load(file) as arrays:
                found[file.stem] = str(part_digest({name: arrays[name] for name in arrays.files}))
    return found
