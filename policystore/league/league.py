"""Keep the matches of a league, and see what they say of its players."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import PathLike
from typing import TYPE_CHECKING, Any

from policystore.digest import Digest
from policystore.display.pretty import Printer
from policystore.errors import PolicyStoreError
from policystore.format.canonical_json import Json
from policystore.format.records.match_summary import LeagueDeletion
from policystore.format.records.matches import (
    MAX_EPISODES,
    Match,
    check_label,
    check_whole,
    is_player,
)
from policystore.format.refs import MAX_NUMBER, check_name
from policystore.repository.matches.epochs import delete_league, league_names
from policystore.repository.matches.ledger import MAX_NEW, Ledger
from policystore.repository.matches.match_input import make_matches
from policystore.repository.matches.match_writer import MatchWriter
from policystore.repository.matches.shared_list import SharedList, list_of
from policystore.repository.matches.totals import RecordedBatch, Totals
from policystore.repository.ref_like import RefLike, as_ref
from policystore.repository.search.query import Since, check_since
from policystore.repository.stamp import default_author, now
from policystore.store import PolicyStore

if TYPE_CHECKING:
    from policystore.league.analysis import MetaStrategy, Payoffs, Ratings
    from policystore.league.tournament.replay import Replay
    from policystore.league.tournament.report import TournamentReport

__all__ = ["League", "leagues"]


class League:
    """Keep the matches of a league in a store: who played, how it ended, with which returns.

    Matches are recorded in batches that nobody changes afterwards. Each process that calls
    :meth:`record` writes a list of its own. All processes that play the same tournament share one
    list, and each of them adds only episodes that the list does not have. So any number of
    processes may record at once. Nothing is lost or counted twice, also after forks, crashes and
    resumed trials. All readers get the same, exact totals.

    A League can be pickled and copied; each copy records into a list of its own. Several threads
    may use one League.

    Args:
        store: the store, or its path or URL.
        name: the name of the league, with the form of the name of a policy, such as ``"soccer"``.
        author: who records; None for ``$POLICYSTORE_AUTHOR`` or the name of the user.

    Raises:
        InvalidInputError: not a name.
    """

    def __init__(
        self, store: PolicyStore | str | PathLike[str], name: str, *, author: str | None = None
    ) -> None:
        self._store = store if isinstance(store, PolicyStore) else PolicyStore(store)
        self._name = check_name(name)
        self._author = author
        backend = self._store._backend
        self._ledger = Ledger(backend, name, may_write=not self._store._read_only)
        self._writer = MatchWriter(backend, name, self._store._writer.prepare)
        self._unsummarised = 0
        self._digests: dict[str, tuple[str, str]] = {}

    @property
    def name(self) -> str:
        """The name of the league."""
        return self._name

    @property
    def store(self) -> PolicyStore:
        """The store that holds the league."""
        return self._store

    def __repr__(self) -> str:
        return f"League({self._store!r}, {self._name!r})"

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        # IPython asks for one screen by this name. repr() itself asks the storage nothing, because
        # debuggers and logs call it.
        from policystore.league.showing import league_text  # late: few programs show a league

        printer.text(league_text(repr(self), self.totals))

    def _repr_html_(self) -> str:
        from policystore.league.showing import league_html

        return league_html(f"League {self._name} in {self._store.url}", self.totals)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy gets a list of its own, and none of the matches that are still being written.
        return (_open_league, (self._store, self._name, self._author))

    def record(self, matches: Iterable[Match | Mapping[str, Any]]) -> RecordedBatch:
        """Record matches; they are durable when the call returns.

        Matches are :class:`Match` values, or dicts with these keys:

        - ``players``: role -> ref, digest, Version, or ``"heuristic:NAME"`` for a player without
          weights. Refs are looked up now; the record keeps the digest, and the ref as a label.
        - ``episodes``: how many episodes were played.
        - ``wins``: role or team -> number of episodes that it won; ``draws``: number of episodes in
          which all sides drew. Or ``outcomes``: a list such as
          ``[{"ranks": {"red": 0, "blue": 1, "green": 1}, "episodes": 3}]``; 0 is the best rank.
          Neither for a cooperative environment.
        - ``teams``: role -> team, for roles that play together.
        - ``returns``: role -> list of returns, or ``{"sum": …, "squares": …}`` with the sum of
          their squares. Sums of floats are kept exactly.
        - ``env``, ``env_digest``: id of the environment, and digest of its id and config; ``env``
          may also be an EnvIdentity.
        - ``seeds``: one for each episode. ``iteration``: of a training. ``explore``: whether the
          policies sampled their actions. ``max_steps``: after which episodes were cut off.
        - ``env_config``: the config of the environment, as canonical JSON; see ``docs/format.md``.
        - ``episode_returns``: role -> the return of each episode, which ``replay`` compares.
        - ``played``: role -> digests of the acting weights at the first and at the last step, for
          a policy in training. ``refs``: role -> label.

        If the call raises StorageError, the matches may be recorded or not. Call it again with the
        same matches: they are then recorded once.

        Args:
            matches: the matches.

        Returns:
            Where the matches were recorded.

        Raises:
            InvalidInputError: a value that a match cannot have; the message names match and field.
                Nothing was recorded.
            NotFoundError, AmbiguousError: a ref means no policy, or several. Nothing was recorded.
            ReadOnlyError: the store was opened read-only, or this user may not write.
            StorageError: the storage failed.
        """
        self._store._check_writable("record")
        moving: dict[str, tuple[str, str]] = {}  # refs that may mean another policy tomorrow
        made = make_matches(matches, lambda ref: self._resolve(ref, moving))
        batch = self._writer.record(made, self._who())
        self._unsummarised += batch.batches
        if self._unsummarised >= MAX_NEW:
            self._unsummarised = 0
            with suppress(PolicyStoreError):  # the matches are recorded; a reader finds the error
                self._ledger.refresh()
        return batch

    def unknown(self, reason: str, episodes: int = 1) -> None:
        """Count episodes that were played and are not recorded; the next batch holds the number.

        Args:
            reason: why, such as ``"the opponent's weights changed"``.
            episodes: how many.

        Raises:
            InvalidInputError: a reason of another form, or a number below 1 or above a billion.
        """
        self._writer.add_unknown(
            check_label(reason), check_whole(episodes, "episodes", 1, MAX_EPISODES)
        )

    def totals(self) -> Totals:
        """Return the exact sums of all matches that were recorded before the call.

        A League remembers what it has read, so a second call reads only new batches.

        Raises:
            IntegrityError, FormatError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        return self._ledger.totals()

    def matches(
        self,
        player: RefLike | None = None,
        since: Since | None = None,
        limit: int | None = None,
    ) -> Iterator[Match]:
        """Yield matches, the newest first by the clocks of their writers. The call reads batches.

        For a few matches, it reads only lists that were written lately. So a match whose writer's
        clock was more than five minutes ahead of the storage's may come later.

        Args:
            player: only matches of this player: a ref, or ``"heuristic:NAME"``.
            since: only matches that were recorded at this time or later: a time with its zone, or
                a duration before now.
            limit: how many matches to yield at most.

        Raises:
            InvalidInputError: an argument has another form.
            NotFoundError, AmbiguousError: the ref means no policy, or several.
            IntegrityError, FormatError: a record is damaged or missing.
            StorageError: the storage failed.
        """
        wanted = None if player is None else self._player(player)
        if limit is not None:
            limit = check_whole(limit, "limit", 0, MAX_NUMBER)
        return self._ledger.matches(wanted, check_since(since, now()), limit)

    def seal(self) -> bool:
        """End the list of this process, so that readers look for no more records in it.

        Call it when a program has recorded its last match. A later match begins a new list. A list
        that is not ended is ended after a day of rest by a process that reads the league.

        Returns:
            Whether there was a list to end.
        """
        return self._writer.seal(self._who())

    def delete(self, message: str = "") -> LeagueDeletion:
        """Delete all matches of the league. Matches that are recorded later begin it anew.

        No call brings the matches back. The collector removes their bytes later.

        Args:
            message: why.

        Raises:
            NotFoundError: the league has no matches.
            ReadOnlyError: the store was opened read-only, or this user may not write.
            StorageError: the storage failed.
        """
        self._store._check_writable("delete")
        self._store._writer.prepare()
        return delete_league(
            self._store._backend, self._name, time=now(), author=self._who(), message=message
        )

    def _shared_list(self, identity: Json) -> SharedList:
        """Return the list that is shared by all processes with the same ``identity``."""
        prepare = self._store._writer.prepare
        return SharedList(self._store._backend, self._name, list_of(identity), prepare)

    def payoffs(self, env: str | None = None, **options: Any) -> Payoffs:
        """Return how often each player beat each other one, with intervals.

        Args:
            env: id or digest of the environment; None for all matches.
            options: as in :func:`policystore.league.analysis.payoffs`.
        """
        from policystore.league.analysis import payoffs

        totals = self.totals()
        return payoffs(totals.matchups, env=env, refs=totals.refs, **options)

    def ratings(
        self,
        model: str = "bradley-terry",
        anchor: Mapping[str, float] | None = None,
        env: str | None = None,
        **options: Any,
    ) -> Ratings:
        """Return how strong each player is: one number on the Elo scale, with a standard error.

        Args:
            model: ``"bradley-terry"``, or ``"openskill"``.
            anchor: player -> rating, for players whose rating is fixed.
            env: id or digest of the environment; None for all matches.
            options: as in :func:`policystore.league.analysis.ratings`.
        """
        from policystore.league.analysis import ratings

        totals = self.totals()
        return ratings(
            totals.matchups, model=model, anchor=anchor, env=env, refs=totals.refs, **options
        )

    def meta_strategy(
        self,
        kind: str = "nash",
        env: str | None = None,
        *,
        players: Sequence[str] | None = None,
        by_role: bool = False,
        **options: Any,
    ) -> MetaStrategy:
        """Return a probability for each player, computed from the payoffs.

        Args:
            kind: ``"nash"``, ``"alpharank"`` or ``"uniform"``.
            env: id or digest of the environment; None for all matches.
            players, by_role: as in :func:`policystore.league.analysis.payoffs`.
            options: as in :func:`policystore.league.analysis.meta_strategy`.
        """
        from policystore.league.analysis import meta_strategy

        table = self.payoffs(env, players=players, by_role=by_role)
        return meta_strategy(table, kind=kind, **options)

    def play(self, refs: Iterable[object], **options: Any) -> TournamentReport:
        """Play matches between players, and record them.

        Args:
            refs: the players.
            options: ``env``, ``episodes``, ``seed``, ``parallel``, ``pairing``, ``until`` and
                others, as in :func:`policystore.league.tournament.play.play`.
        """
        from policystore.league.tournament.play import play

        self._store._check_writable("play")
        return play(self, refs, **options)

    def replay(self, match: Match, **options: Any) -> Replay:
        """Play a recorded match again, from its digests, environment and seeds, and compare.

        The config of the match, which may be somebody else's, is passed to the environment of this
        name that this process has registered or loaded. ``env=(env, config)`` gives another config.

        Args:
            match: a match of :meth:`play`, as :meth:`matches` yields it.
            options: ``env``, ``video`` and others, as in
                :func:`policystore.league.tournament.replay.replay`.
        """
        from policystore.league.tournament.replay import replay

        return replay(self, match, **options)

    def _who(self) -> str:
        return default_author() if self._author is None else self._author

    def _player(self, player: RefLike) -> str:
        text = str(player)
        if isinstance(player, (str, Digest)) and is_player(text):
            return text
        return self._resolve(player, {})[0]

    def _resolve(self, given: RefLike, moving: dict[str, tuple[str, str]]) -> tuple[str, str]:
        """Return the digest that a ref means, and its label.

        Args:
            given: the ref.
            moving: what refs mean that may mean another policy later. Refs with a number are kept
                by the League.
        """
        ref = as_ref(given)
        if not ref.name:
            return str(self._store.resolve(given)), ""
        key = str(given)
        fixed = self._digests if ref.number is not None else moving
        if key not in fixed:
            version = self._store.version(given, tags=False, annotations=False)
            fixed[key] = str(version.digest), version.ref
        return fixed[key]


def _open_league(store: PolicyStore, name: str, author: str | None) -> League:
    return League(store, name, author=author)


def leagues(store: PolicyStore | str | PathLike[str]) -> list[str]:
    """List the leagues of a store that have matches, sorted.

    Args:
        store: the store, or its path or URL.

    Raises:
        StorageError: the storage failed.
    """
    opened = store if isinstance(store, PolicyStore) else PolicyStore(store)
    return league_names(opened._backend)
