"""Read a store in small pieces, so that one damaged record hides nothing else.

The calls of PolicyStore raise the first error that they meet. These functions name what is damaged
through the session, and return everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from policystore._util.concurrency import in_parallel
from policystore.cache import open_cache
from policystore.cli.common.exit_codes import Code, code_of
from policystore.cli.common.session import Session
from policystore.errors import NotFoundError, PolicyStoreError
from policystore.format.keys import (
    MAX_RECORD,
    annotation_key,
    folder_prefix,
    name_of_prefix,
    tag_of_prefix,
    tags_prefix,
    version_key,
)
from policystore.format.records import Annotation, TagMove, Version
from policystore.format.refs import MAX_NUMBER
from policystore.repository.lookup.annotations import list_annotations, parse_annotation
from policystore.repository.lookup.listing import names_advice
from policystore.repository.lookup.marker import require_store
from policystore.repository.lookup.state import NameState
from policystore.repository.lookup.tag_moves import last_move
from policystore.repository.lookup.versions import with_marks
from policystore.repository.objects import ObjectReader
from policystore.repository.record_log import tag_log
from policystore.repository.resolver import Resolver

__all__ = ["NameRow", "StoreReader"]


@dataclass(frozen=True)
class NameRow:
    """Hold what ``ls`` tells of one name.

    Attributes:
        name: the name.
        standing: how many versions stand; None if a damaged mark hides this number.
        newest: the newest version that stands; None if its record is damaged.
        number: the number of that version; None if a damaged mark hides this number.
        tags: tag -> number of the version that it points to.
    """

    name: str
    standing: int | None
    newest: Version | None
    number: int | None
    tags: dict[str, int]


class StoreReader:
    """Read names, versions and tags of the store of a session.

    Args:
        session: names what is damaged.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.backend = session.backend
        cache = open_cache(None, remote=self.backend.is_remote)
        self.resolver = Resolver(ObjectReader(self.backend, cache))
        self._workers = self.backend.parallel

    def names(self, prefix: str) -> list[str]:
        """List the names below a prefix that have a version that stands.

        Raises:
            NotFoundError: there is no store, or no name below the prefix; the message lists names
                that are close.
            FormatError: the folder is not a store.
        """
        try:
            names = self.resolver.names(prefix)
        except PolicyStoreError as error:
            if code_of(error) is not Code.FAULTS:
                raise
            # A mark that would tell whether a name stands is damaged.
            self._session.fault("names", str(error))
            listed = map(name_of_prefix, self.backend.prefixes(folder_prefix(prefix), "/@"))
            names = sorted({each for each in listed if each and each.startswith(prefix)})
        if not names:
            require_store(self.backend)
            if prefix:
                raise NotFoundError(
                    f"no name starts with {prefix!r} in {self.backend.url}."
                    + names_advice(self.backend, prefix.rstrip("/"))
                )
        return names

    def rows(self, names: Iterable[str]) -> list[NameRow]:
        """Read what ``ls`` tells of each name."""
        return in_parallel(self._row, names, workers=self._workers)

    def _row(self, name: str) -> NameRow:
        state = self.state(name)
        newest = None if state is None else self.version(name, state.stands)
        standing = None if state is None else sum(b - a + 1 for a, b in state.standing())
        number = None if state is None else state.stands
        return NameRow(name, standing, newest, number, self.tags(name, state))

    def state(self, name: str) -> NameState | None:
        """Read which versions of a name stand; None if a record is damaged that says this."""
        return self._session.attempt(name, partial(self.resolver.state, name))

    def version(self, name: str, number: int) -> Version | None:
        """Read the record of a version; None if it is damaged or missing."""
        place = self.backend.location(version_key(name, number))
        return self._session.attempt(place, partial(self.resolver.read_version, name, number))

    def log(
        self, name: str, limit: int | None, *, deleted: bool = False
    ) -> tuple[list[Version], list[int]]:
        """Read the versions of a name with tags and annotations, newest first.

        Returns:
            The versions, and the numbers of those whose records are damaged.
        """
        state = self.resolver.state(name, standing=not deleted)
        every = iter(range(state.newest.number, 0, -1)) if deleted else state.numbers()
        numbers = list(islice(every, None if limit is None else min(limit, MAX_NUMBER)))
        read = in_parallel(partial(self.version, name), numbers, workers=self._workers)
        versions = [each for each in read if each is not None]
        lost = [number for number, each in zip(numbers, read, strict=True) if each is None]
        if deleted:
            marked = partial(with_marks, self.backend, state, versions, self._workers)
            versions = self._session.attempt(f"marks of {name}", marked) or versions
        return self.filled(name, versions), lost

    def filled_names(self, versions: Sequence[Version]) -> list[Version]:
        """Return versions of several names with their tags and annotations, in the same order.

        For each name, the call makes two listings, and three requests for each tag. It makes a
        request for each annotation of the versions. Tags and annotations that a search has read
        already are not read again.
        """
        by_name: dict[str, list[Version]] = {}
        order = [(each.name or "", each.number) for each in versions]
        for version in versions:
            by_name.setdefault(version.name or "", []).append(version)
        read = in_parallel(lambda item: self.filled(*item), by_name.items(), workers=self._workers)
        known = {(each.name or "", each.number): each for part in read for each in part}
        return [known[place] for place in order]

    def filled(self, name: str, versions: list[Version]) -> list[Version]:
        """Return versions of one name with their tags and annotations, as far as they lack them."""
        tags: dict[int, list[str]] = {}
        if any(version.tags is None for version in versions):
            for tag, number in self.tags(name, None).items():
                tags.setdefault(number, []).append(tag)
        bare = [version.number or 0 for version in versions if version.annotations is None]
        places: list[tuple[int, str]] = []
        if bare:
            listed = list_annotations(self.backend, name, bare[0] if len(bare) == 1 else None)
            places = [(number, nonce) for number in bare for nonce in listed.nonces.get(number, ())]
        read = in_parallel(partial(self._annotation, name), places, workers=self._workers)
        notes: dict[int, list[Annotation]] = {}
        for annotation in sorted(filter(None, read), key=lambda each: (each.time, each.nonce)):
            notes.setdefault(annotation.number, []).append(annotation)
        return [
            replace(
                version,
                tags=tuple(tags.get(version.number or 0, ()))
                if version.tags is None
                else version.tags,
                annotations=tuple(notes.get(version.number or 0, ()))
                if version.annotations is None
                else version.annotations,
            )
            for version in versions
        ]

    def _annotation(self, name: str, place: tuple[int, str]) -> Annotation | None:
        key = annotation_key(name, *place)

        def read() -> Annotation:
            data = self.backend.get(key, limit=MAX_RECORD)
            return parse_annotation(self.backend, name, *place, data)

        return self._session.attempt(self.backend.location(key), read)

    def tags(self, name: str, state: NameState | None) -> dict[str, int]:
        """Read where each tag of a name points to.

        Args:
            name: the name.
            state: which versions stand; tags of other versions are left out. None: keep all tags.
        """
        targets = {tag: moves[0].target for tag, moves in self.moves(name).items()}
        return {
            tag: target
            for tag, target in targets.items()
            if target is not None and (state is None or state.span(target) is None)
        }

    def moves(self, name: str, tag: str = "", *, history: bool = False) -> dict[str, list[TagMove]]:
        """Read the last move of each tag of a name, also of removed tags.

        Args:
            name: the name.
            tag: only this tag; empty for all tags.
            history: whether to read all moves, newest first.
        """

        def read(each: str) -> list[TagMove]:
            if history:
                return self.resolver.tag_history(name, each)
            move = last_move(
                self.backend, name, each, tag_log(self.backend, name, each).read_hint()
            )
            return [] if move is None else [move]

        def attempt(each: str) -> list[TagMove] | None:
            return self._session.attempt(f"tag {each} of {name}", partial(read, each))

        keys = self.backend.prefixes(tags_prefix(name), "/")
        found = sorted(filter(None, (tag_of_prefix(key, name) for key in keys)))
        tags = [each for each in found if each == (tag or each)]
        read_moves = in_parallel(attempt, tags, workers=self._workers)
        return {each: moves for each, moves in zip(tags, read_moves, strict=True) if moves}
