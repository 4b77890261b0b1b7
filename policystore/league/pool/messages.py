"""What the driver of an opponent pool tells the env runners, and what the env runners answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policystore.format.records.matches import Match

__all__ = ["Candidate", "DrawTable", "Draws", "EpisodeRecord", "RunnerAnswer", "RunnerRequest"]


@dataclass(frozen=True)
class Candidate:
    """An opponent that may be drawn.

    Attributes:
        player: digest of a stored policy, ``blake3:…``, or ``heuristic:NAME``; for another policy
            in training, the digest of its latest snapshot.
        ref: what reports call the opponent, such as ``soccer/main@17``.
        kind: the kind of slots that the opponent fits, a key of ``slots=``; ``""`` if there is one
            kind only.
        policy_id: a policy of the config that plays as it is, without a load: a heuristic, or
            another policy in training; ``""`` for a stored policy that is loaded into a slot.
    """

    player: str
    ref: str
    kind: str = ""
    policy_id: str = ""


@dataclass(frozen=True)
class DrawTable:
    """The candidates of one learner, from which env runners draw until the next table comes.

    Attributes:
        candidates: the opponents.
        weights: one probability for each candidate; they add up to 1.
        sequence: indices into ``candidates`` that were drawn by the driver, for samplers that
            return one choice; the env runner walks along it. Empty if ``weights`` are used.
    """

    candidates: tuple[Candidate, ...]
    weights: tuple[float, ...] = ()
    sequence: tuple[int, ...] = ()


@dataclass(frozen=True)
class Draws:
    """What an env runner needs in order to draw opponents by itself, episode by episode.

    The same seed, round, env runner, sub-environment and number of the episode give the same draw.

    Attributes:
        round: number of the tables; grows by one each time the driver makes new tables.
        seed: seed of all draws.
        tables: id of a learner -> its table.
        shares: id of a learner -> share of the episodes in which this learner plays.
        players: id of a learner -> the player that its episodes are booked under: the digest of
            its latest snapshot.
        same_for_all: whether all env runners draw one choice per round.
        refs: id of a learner -> what reports call its latest snapshot, such as ``soccer/main@17``.
    """

    round: int
    seed: int
    tables: Mapping[str, DrawTable]
    shares: Mapping[str, float]
    players: Mapping[str, str]
    same_for_all: bool = False
    refs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeRecord:
    """One finished episode, as the env runner saw it.

    Attributes:
        episode_id: RLlib's id of the episode. On the old API stack a restarted env runner gives
            other episodes the same ids again if the config has a seed
            (``evaluation/episode_v2.py:48``), so the driver counts by life and number.
        match: players, outcome, returns, weights played.
        evaluation: whether an evaluation worker played the episode.
    """

    episode_id: str
    match: Match
    evaluation: bool


@dataclass(frozen=True)
class RunnerRequest:
    """What the driver sends an env runner once an iteration.

    Attributes:
        draws: the tables from now on; None to leave those there are.
        received: number of the last record that the driver has; the env runner forgets the records
            up to this number, and answers with all later ones.
        life: id of the env runner's life that ``received`` belongs to; "" if unknown.
    """

    draws: Draws | None
    received: int = 0
    life: str = ""


@dataclass(frozen=True)
class RunnerAnswer:
    """What an env runner answers.

    ``started`` is always the sum of three numbers: the records since the start of this life, the
    episodes in ``unknown``, and ``ongoing``.

    Attributes:
        life: random id of this life of the env runner; a restarted one has another. "" if the env
            runner has no pool: it has no environment, or its callbacks are not those of the pool.
        first: number of the first record in ``records``.
        records: the records that the driver does not have, in their order.
        unknown: episodes since the start of this life that could not be recorded: the opponent's
            weights changed under way, or were not known, or the episode was cut off. Reason ->
            number; ``runner/reasons.py`` has the reasons.
        started: episodes that started in this life.
        swaps: how often this life loaded weights into a slot.
        holding: slot -> what it holds, such as ``soccer/main@17``.
        round: number of the tables that the env runner draws from; None before the first ones.
        ongoing: episodes that are under way.
        failed: how often this life could not load an opponent.
        notes: warnings of this life in words, each once.
        error: what went wrong in this call, in words; "" if nothing did. The records are kept.
    """

    life: str
    first: int
    records: tuple[EpisodeRecord, ...]
    unknown: Mapping[str, int] = field(default_factory=dict)
    started: int = 0
    swaps: int = 0
    holding: Mapping[str, str] = field(default_factory=dict)
    round: int | None = None
    ongoing: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""
