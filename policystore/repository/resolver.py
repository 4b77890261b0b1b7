"""Resolve refs to versions and digests.

If a name, version or tag does not exist, the message of the error lists those that exist. If it was
deleted, the message says who deleted it, when and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.progress import Meter
from policystore.digest import Digest
from policystore.errors import (
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
)
from policystore.format.records import Hint, Mark, TagMove, Version, find_span
from policystore.format.refs import MAX_NUMBER, Ref
from policystore.repository.lookup.digests import find_digest, policy_by_digest
from policystore.repository.lookup.last_pulls import LastPulls, Pulled
from policystore.repository.lookup.listing import list_names
from policystore.repository.lookup.state import (
    NameState,
    deleted_error,
    find_state,
    newest_mark,
)
from policystore.repository.lookup.tag_moves import (
    last_move,
    list_tags,
    tag_history,
    tags_advice,
)
from policystore.repository.lookup.versions import (
    check_state,
    digest_in,
    named_state,
    read_version,
    read_versions,
    try_version,
    with_marks,
)
from policystore.repository.objects import ObjectReader, StoredPolicy
from policystore.repository.record_log import tag_log, version_log
from policystore.repository.ref_like import RefLike, as_ref
from policystore.snapshot import Snapshot

__all__ = ["Resolver"]

_Found = tuple[Version, StoredPolicy | None]


class Resolver:
    """Resolve names, tags, numbers and digests in one store.

    A resolver sees what other processes have written: what it remembers of the last pulls only
    says which requests to make first.

    Args:
        objects: reads the objects of the store.
    """

    def __init__(self, objects: ObjectReader) -> None:
        self.objects = objects
        self.backend = objects.backend
        self.workers = self.backend.parallel  # threads make short reads of a disk slower
        self._at_once = self.backend.parallel > 1
        self.last_pulls = LastPulls()
        self.has_found_store = False  # true as soon as a version was found or pushed

    def pull(self, ref: Ref, meter: Meter | None = None) -> Snapshot:
        """Pull the policy that a ref means now.

        A hint or a tag names a policy object. On a remote store, that object is fetched at the same
        time as the records which show whether it is the right object. So a pull needs two or three
        requests one after the other, however many versions the name has, and however many of them
        were deleted. If the same ref was pulled before, and means the same, no hint is needed, and
        all requests are made at the same time.

        Raises:
            NotFoundError: the ref means nothing in this store, or the version was deleted.
            IntegrityError: a record or an object that the store must have is damaged or missing.
            FormatError: a record or object is not of format 1.
            StorageError: the storage failed.
        """
        return self._pull(ref, meter)[0]

    def _pull(self, ref: Ref, meter: Meter | None) -> tuple[Snapshot, Version | None]:
        """Pull the policy that a ref means now; return the record of the version, too."""
        if not ref.name:
            found = policy_by_digest(self.objects, ref.digest)
            return self.objects.snapshot(found, meter)._pulled_as(str(found.digest)), None
        version, policy = self._look_up(ref, prefetch=True)
        self.has_found_store = True
        try:
            if policy is None or policy.digest != version.digest:
                policy = self.objects.policy(version.digest)
            return self.objects.snapshot(policy, meter)._pulled_as(version.ref), version
        except NotFoundError as error:
            raise IntegrityError(
                f"{error}, though {version.ref} needs the object: the store has lost it. Restore "
                "the object from a backup, or push the same policy again."
            ) from None

    def pull_given(self, ref: RefLike, meter: Meter | None = None) -> Snapshot:
        """Pull the policy of a ref in any form.

        A Version means its digest. If this store has that version, the snapshot gets its ref. The
        record that shows this is read at the same time as the policy.

        Raises:
            InvalidInputError: not a ref.
            AmbiguousError: a short digest fits several policies.
            NotFoundError, IntegrityError, FormatError, StorageError: as in :meth:`pull`.
        """
        return self.pull_recorded(ref, meter)[0]

    def pull_recorded(
        self, ref: RefLike, meter: Meter | None = None
    ) -> tuple[Snapshot, Version | None]:
        """Pull a policy as :meth:`pull_given` does, and return the record of its version, too.

        Returns:
            The policy, and the record that was read for it: without tags and annotations. None for
            the record: the policy was pulled by its digest.
        """
        pull = partial(self._pull, as_ref(ref), meter)
        if not isinstance(ref, Version) or ref.name is None or ref.number is None:
            return pull()
        look = partial(try_version, self.backend, ref.name, ref.number)
        (snap, _), found = run_both(pull, look, at_once=self._at_once)
        if found is None or found.digest != ref.digest:
            return snap, None
        return snap._pulled_as(ref.ref), found

    def version(self, ref: Ref) -> Version:
        """Return the version that a ref with a name means now.

        Raises:
            NotFoundError: no such name, version or tag; the message lists those that exist. Or the
                version was deleted; the message says by whom.
            IntegrityError: a record is missing, though later ones exist.
            FormatError: a record is damaged.
        """
        version, _ = self._look_up(ref, prefetch=False)
        self.has_found_store = True
        return version

    def resolve(self, ref: RefLike) -> Digest:
        """Return the digest of the policy that a ref means now.

        Raises:
            InvalidInputError: not a ref.
            AmbiguousError: a short digest fits several policies.
            NotFoundError, IntegrityError, FormatError: as in :meth:`version`.
        """
        parsed = as_ref(ref)
        if parsed.name:
            return self.version(parsed).digest
        return find_digest(self.objects, parsed.digest)

    def _look_up(self, ref: Ref, *, prefetch: bool) -> _Found:
        """Return the version of a ref, and a policy object that probably belongs to this version.

        Args:
            ref: a ref with a name.
            prefetch: whether to fetch the policy object that the hint or the tag names, at the same
                time as the records, if that saves time. The caller must compare the digests.
        """
        prefetch = prefetch and self._at_once
        if ref.number is not None:
            return self._by_number(ref.name, ref.number, prefetch)
        last = self.last_pulls.get(ref) if prefetch else None
        if last is not None:
            version, policy = self._at_same_time(
                partial(last.confirm, self.backend, ref, closely=self.last_pulls.is_turn(ref)),
                partial(self._prefetch, last.digest),
            )
            if version is not None:
                return version, policy
        if ref.tag is not None:
            return self._by_tag(ref, ref.tag, prefetch)
        return self._by_name(ref, prefetch)

    def _by_number(self, name: str, number: int, prefetch: bool) -> _Found:
        version, hint = run_both(
            partial(self.read_version, name, number), self._hint_reader(name), at_once=self._at_once
        )
        mark, policy = self._at_same_time(
            self._mark_finder(name, hint), prefetch and partial(self._prefetch, version.digest)
        )
        self._check_standing(name, number, mark)
        return version, policy

    def _by_tag(self, ref: Ref, tag: str, prefetch: bool) -> _Found:
        name = ref.name
        tag_hint, hint = run_both(
            tag_log(self.backend, name, tag).read_hint,
            self._hint_reader(name),
            at_once=self._at_once,
        )
        target = None if tag_hint is None else tag_hint.target
        digest = None if tag_hint is None else tag_hint.digest
        move, mark, version, policy = self._at_same_time(
            partial(last_move, self.backend, name, tag, tag_hint),
            self._mark_finder(name, hint),
            target is not None
            and self._at_once
            and partial(try_version, self.backend, name, target),
            digest is not None and prefetch and partial(self._prefetch, digest),
        )
        if move is None or move.digest is None:
            raise self._no_tag(name, tag)
        try:
            self._check_standing(name, move.target, mark)
        except NotFoundError as error:
            raise NotFoundError(f"the tag {tag!r} points to a deleted version: {error}") from None
        version = self._target_version(move, version)
        if prefetch:
            self.last_pulls.note(ref, Pulled(version, move, 0 if mark is None else mark.number))
        return version, policy

    def _by_name(self, ref: Ref, prefetch: bool) -> _Found:
        name = ref.name
        hint, first = version_log(self.backend, name).first_look()
        likely = None if first is None else digest_in(first.data)
        number = 0  # an older version than the newest one, if that is the one that stands
        if hint is not None:
            likely = hint.digest
            number = 0 if hint.stands == hint.number else hint.stands or 0
        state, policy, version = self._at_same_time(
            partial(find_state, self.backend, name, hint, first),
            likely is not None and prefetch and partial(self._prefetch, likely),
            number and self._at_once and partial(try_version, self.backend, name, number),
        )
        check_state(self.backend, state)
        if version is None or version.number != state.stands:
            is_newest = state.stands == state.newest.number
            data = state.newest.data if is_newest else None
            version = read_version(self.backend, name, state.stands, data)
        if prefetch and state.stands == state.newest.number:
            marks = 0 if state.mark is None else state.mark.number
            self.last_pulls.note(ref, Pulled(version, None, marks))
        return version, policy

    def _at_same_time(self, *calls: Any) -> list[Any]:
        """Make several calls, at the same time if requests are slow; a false value is no call."""
        return in_parallel(
            lambda call: call() if call else None, calls, workers=self.backend.parallel
        )

    def _hint_reader(self, name: str) -> Callable[[], Hint | None]:
        return version_log(self.backend, name).read_hint

    def _mark_finder(self, name: str, hint: Hint | None) -> Callable[[], Mark | None]:
        return partial(newest_mark, self.backend, name, 0 if hint is None else hint.marks)

    def _check_standing(self, name: str, number: int | None, mark: Mark | None) -> None:
        """Raise NotFoundError if the newest mark of a name says that a version was deleted."""
        span = None if mark is None or number is None else find_span(mark.deleted, number)
        if mark is not None and number is not None and span is not None:
            raise deleted_error(self.backend, name, number, span, mark)

    def _prefetch(self, digest: Digest) -> StoredPolicy | None:
        try:
            return self.objects.policy(digest)
        except PolicyStoreError:
            return None  # if the policy is needed, it is read again, and that read raises the error

    # Names and versions

    def names(self, prefix: str) -> list[str]:
        """List the names that start with ``prefix`` and have a version that stands, in order.

        Raises:
            InvalidInputError: ``prefix`` is not text.
        """
        return list_names(self.backend, prefix, workers=self.workers)

    def state(self, name: str, *, standing: bool = True) -> NameState:
        """Return which versions of a name stand; arguments and errors as in :func:`named_state`."""
        return named_state(self.backend, name, standing=standing)

    def newest_mark(self, name: str) -> Mark | None:
        """Read the newest mark of a name; None if no version of the name was ever deleted."""
        return self._mark_finder(name, self._hint_reader(name)())()

    def read_version(self, name: str, number: int) -> Version:
        """Read one version record, whether the version stands or not.

        Raises:
            NotFoundError, IntegrityError, FormatError: as in :func:`versions.read_version`.
        """
        return read_version(self.backend, name, number)

    def read_versions(self, name: str, numbers: Iterable[int]) -> Iterator[Version]:
        """Read the records of several versions, in order; errors as in :meth:`read_version`."""
        return read_versions(self.backend, name, numbers, workers=self.workers)

    def log(self, name: str, limit: int | None, *, deleted: bool = False) -> list[Version]:
        """Read the versions of a name that stand, newest first.

        Args:
            name: the name.
            limit: how many versions to read at most; None for all.
            deleted: whether to read the deleted versions, too, with the marks that deleted them.

        Raises:
            InvalidInputError: ``limit`` is not a number of versions.
            NotFoundError: no such name, or no version of it stands.
        """
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidInputError(
                f"limit is a number of versions, a whole number of at least 0, not {limit!r}"
            )
        most = None if limit is None else min(limit, MAX_NUMBER)
        state = self.state(name, standing=not deleted)
        if not deleted:
            return list(self.read_versions(name, islice(state.numbers(), most)))
        numbers = islice(range(state.newest.number, 0, -1), most)
        return with_marks(self.backend, state, self.read_versions(name, numbers), self.workers)

    # Tags

    def tags(self, name: str) -> dict[str, Version]:
        """Return the tags of a name, in order, with the versions that they point to.

        A tag on a deleted version is left out.

        Raises:
            NotFoundError: no such name, or no version of it stands.
        """
        state, moves = run_both(
            partial(self.state, name), partial(self.last_moves, name), at_once=self._at_once
        )
        kept = {tag: move for tag, move in moves.items() if state.span(move.target or 0) is None}
        versions = in_parallel(self._target_version, kept.values(), workers=self.workers)
        return dict(zip(kept, versions, strict=True))

    def last_moves(self, name: str) -> dict[str, TagMove]:
        """Return the last move of each tag of a name that was not removed, by tag, in order."""
        return list_tags(self.backend, name, workers=self.workers)

    def last_move(self, name: str, tag: str) -> TagMove:
        """Return the last move of a tag, also if it points to a deleted version.

        Raises:
            NotFoundError: no such name, or the name has no such tag.
        """
        move = last_move(self.backend, name, tag, tag_log(self.backend, name, tag).read_hint())
        if move is None or move.target is None:
            raise self._no_tag(name, tag)
        return move

    def tag_history(self, name: str, tag: str) -> list[TagMove]:
        """Return all moves of a tag, newest first.

        Raises:
            NotFoundError: no such name, or the name never had such a tag.
        """
        history = tag_history(self.backend, name, tag, workers=self.workers)
        if not history:
            raise self._no_tag(name, tag)
        return history

    def _no_tag(self, name: str, tag: str) -> NotFoundError:
        """Build the error for a tag that does not exist; the message lists tags that exist."""
        self.state(name, standing=False)  # raises another error if the name does not exist
        return NotFoundError(
            f"{name!r} has no tag {tag!r} in {self.backend.url}."
            + tags_advice(self.backend, name, tag)
        )

    def _target_version(self, move: TagMove, version: Version | None = None) -> Version:
        """Read the version that a move points to, if it was not read, and compare the digests."""
        name, tag, target = move.name, move.tag, move.target
        if version is None or version.number != target:
            version = self.read_version(name, target or 0)
        if version.digest != move.digest:
            raise FormatError(
                f"the tag {tag!r} of {name!r} and version {target} name different digests: "
                "a record was changed; verify() tells which"
            )
        return version

    def target_of(self, move: TagMove) -> Version | None:
        """Return the version that a move points to; None if it removed the tag, or is deleted."""
        if move.target is None:
            return None
        mark = self.newest_mark(move.name)
        if mark is not None and find_span(mark.deleted, move.target) is not None:
            return None
        return self._target_version(move)
