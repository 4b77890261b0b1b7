"""Play waves of episodes that the ledger does not have, beside other processes or alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence

from policystore.errors import IntegrityError
from policystore.format.records.matches import Match
from policystore.league.tournament.plan import Pairing, Plan, group_episodes
from policystore.league.tournament.playing.groups import Group, Rules
from policystore.league.tournament.playing.workers import PlayGroups
from policystore.league.tournament.progress import EpisodeCounter
from policystore.league.tournament.records import Recorder, is_of, make_match
from policystore.league.tournament.scores import Tally

__all__ = ["Hall"]

_Wave = Sequence[tuple[Pairing, range]]  # pairings, and the numbers of their episodes


class Hall:
    """Plays waves of episodes that are not known yet, and keeps all matches."""

    def __init__(
        self,
        plan: Plan,
        rules: Rules,
        run: PlayGroups,
        recorder: Recorder,
        batch_size: int,
        counter: EpisodeCounter,
    ) -> None:
        self.plan = plan
        self.counter = counter
        self.tally = Tally(plan.sides)
        self.matches: list[Match] = []
        self.played = 0
        self.known: dict[tuple[tuple[str, str], ...], list[Match]] = {}
        self._rules = rules
        self._run = run
        self._recorder = recorder
        self._batch_size = batch_size
        self._learned = 0  # matches that became known
        self._taken: set[int] = set()  # ids of known matches that count already
        self._elsewhere: dict[tuple[tuple[str, str], ...], set[int]] = {}  # seeds of others

    def play(self, wave: _Wave) -> None:
        """Play the episodes of a wave that the ledger does not have.

        Other processes may play the same wave at the same time. If another process has recorded an
        episode of a group first, nothing of the group is recorded. The episodes of this group that
        are still missing are then played again.
        """
        while True:
            groups = []
            for pairing, numbers in wave:
                each = self.plan.episodes(pairing, numbers)
                covered = self._take_known(each)
                missing = [episode for episode in each if episode[2] not in covered]
                groups += group_episodes(missing, self._batch_size)
            if not groups:
                return
            learned = self._learned
            self._play_groups(groups)
            if learned == self._learned:
                raise IntegrityError(
                    "no episode of this round could be recorded, as if all of them were recorded, "
                    "and the league does not show them. Call verify() of the store, which names "
                    "what is damaged"
                )

    def _play_groups(self, groups: Sequence[Group]) -> None:
        self.counter.expect(sum(len(group.seeds) for group in groups))
        # In the order of the plan, whatever the order in which they end.
        places = {id(group): place for place, group in enumerate(groups)}
        ended: dict[int, Match] = {}
        for group, result in self._run(self._left(groups)):
            match = make_match(group, result, self._rules)
            self._recorder.add(match)
            ended[places[id(group)]] = match
            self.counter.add(match.episodes)
        self._recorder.flush()
        recorded = {id(match) for match in self._recorder.recorded}
        self._recorder.recorded.clear()
        for _, match in sorted(ended.items()):
            if id(match) in recorded:
                self._know(match)
                self._taken.add(id(match))
                self._keep(match)
                self.played += match.episodes
        self._meet_others()

    def _left(self, groups: Sequence[Group]) -> Iterator[Group]:
        """Yield groups of which no other process has recorded an episode meanwhile.

        If other processes record, too, the order is random, so that all of them share the work.
        """
        left = list(reversed(groups))
        while left:
            self._meet_others()
            group = left.pop(secrets.randbelow(len(left)) if self._elsewhere else -1)
            if self._elsewhere.get(tuple(group.lineup.items()), set()).isdisjoint(group.seeds):
                yield group
            else:
                self.counter.add(len(group.seeds))

    def _meet_others(self) -> None:
        """Look at the matches that other processes have recorded."""
        while self._recorder.others:
            match = self._recorder.others.pop()
            if is_of(self._rules, match):
                self._know(match)
                lineup = tuple(sorted(match.players.items()))
                self._elsewhere.setdefault(lineup, set()).update(match.seeds)

    def _know(self, match: Match) -> None:
        self._learned += 1
        self.known.setdefault(tuple(sorted(match.players.items())), []).append(match)

    def _take_known(self, listed: Iterable[tuple[int, Mapping[str, str], int]]) -> set[int]:
        """Count the known matches of planned episodes, and return the seeds that they cover."""
        wanted: dict[tuple[tuple[str, str], ...], set[int]] = {}
        for _, lineup, seed in listed:
            wanted.setdefault(tuple(lineup.items()), set()).add(seed)
        covered: set[int] = set()
        for lineup_items, seeds in wanted.items():
            for match in self.known.get(lineup_items, ()):
                new = seeds & set(match.seeds) - covered
                if new:
                    covered |= set(match.seeds)
                    if id(match) not in self._taken:
                        self._taken.add(id(match))
                        self._keep(match)
        return covered

    def _keep(self, match: Match) -> None:
        self.matches.append(match)
        self.tally.add(match)
