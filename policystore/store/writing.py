"""Push policies to a store, and move tags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, overload

from policystore._util.messages import brief
from policystore._util.progress import Meter, Progress
from policystore.errors import InvalidInputError
from policystore.format.records import TagMove, Version
from policystore.format.refs import check_name, check_tag
from policystore.repository.ref_like import RefLike, as_list, as_ref
from policystore.repository.tags import When
from policystore.repository.writer import PushNotes
from policystore.snapshot import Snapshot
from policystore.snapshot_advice import instead_of_snapshot
from policystore.store.base import StoreBase

__all__ = ["WritingCalls"]


class WritingCalls(StoreBase):
    """Add policies to a store, and move tags."""

    def push(
        self,
        snap: Snapshot,
        name: str | None = None,
        *,
        message: str = "",
        metrics: Mapping[Any, Any] | None = None,
        source: Mapping[Any, Any] | None = None,
        parents: Iterable[RefLike] = (),
        author: str | None = None,
        progress: Progress | None = None,
    ) -> Version:
        """Store a policy and, with a name, make the next version of that name.

        Large objects that the store has are not written again. The version appears last, when all
        bytes of the policy are durable. Each call with a name makes a new version, even if an
        earlier version has the same policy.

        Args:
            snap: the policy.
            name: such as ``"soccer/main"``; without a name, the policy is stored by its digest
                alone.
            message: why the policy is pushed.
            metrics: plain values to choose versions by, such as ``{"return": 21.5}``; 16 KiB at
                most. Of the result of ``algorithm.train()``, take the numbers that matter.
            source: where the policy comes from, as plain values; 16 KiB at most.
            parents: refs of the policies from which this policy was trained. The record keeps their
                digests.
            author: who pushes; by default ``$POLICYSTORE_AUTHOR`` or the name of the user.
            progress: a function of two numbers: how many bytes of the policy are stored so far, and
                how many bytes the policy has. It may be called from any thread, one call at a time.
                If the function raises, the push ends with that error.

        Raises:
            InvalidInputError: an argument of the wrong form; nothing was written.
            NotFoundError: a parent does not exist; nothing was written.
            ReadOnlyError: the store or its folder cannot be written.
            FormatError: the folder is not a store, or is a store of a newer format.
            StorageError: the storage failed, and no version was made. There is one exception: the
                version may exist if the record of the version was written and the flush after it
                failed, or if every answer to the write of the record was lost. Use :meth:`log` to
                find out.
        """
        if not isinstance(snap, Snapshot):
            raise instead_of_snapshot(snap).within("push")
        self._check_writable("push")
        notes = PushNotes(
            message=message,
            metrics={} if metrics is None else metrics,
            source={} if source is None else source,
            parents=tuple(as_list(parents, "parents")),
            author=author,
        )
        return self._writer.push(snap, name, notes, Meter(progress))

    @overload
    def tag(
        self, ref: RefLike, tag: str, *, author: str | None = None, force: bool = False
    ) -> Version: ...

    @overload
    def tag(
        self,
        ref: RefLike,
        tag: str,
        *,
        when: When,
        author: str | None = None,
        force: bool = False,
    ) -> Version | None: ...

    def tag(
        self,
        ref: RefLike,
        tag: str,
        *,
        when: When | None = None,
        author: str | None = None,
        force: bool = False,
    ) -> Version | None:
        """Move a tag to a version of a name, or create the tag. The store keeps all earlier moves.

        Args:
            ref: the version, such as ``"soccer/main@7"``, ``"soccer/main"`` (the newest version) or
                ``"soccer/main@best"`` (another tag).
            tag: a word such as ``"champion"``, with at least one character that is not a digit.
            when: a function that returns whether to move the tag. The function is called with the
                version that the tag points to, or with None if there is no such tag or its version
                was deleted. If another writer moves the tag at the same time, the function is
                called again. So if several writers each move the tag only to a better version, the
                tag points to the best version at the end.
            author: who moves the tag; by default ``$POLICYSTORE_AUTHOR`` or the name of the user.
            force: True to move the tag even if :meth:`protect` allows this only to others.

        Returns:
            The version that the tag points to after the call; None if there is no such tag because
            ``when`` returned False.

        Raises:
            InvalidInputError: a ref without a name, or a word that cannot be a tag.
            NotFoundError: no such version, or the version was deleted. If another process deletes
                the version during this call, the tag is moved back to where it pointed.
            ProtectedError: the tag is protected, and this author may not move it; the message says
                who protected the tag, when, and who may move it.
        """
        check_tag(tag)
        self._check_writable("tag")
        parsed = as_ref(ref.ref if isinstance(ref, Version) else ref)
        if not parsed.name:
            raise InvalidInputError(
                f"{ref} has no name, and a tag belongs to a name: tag 'name@number' instead"
            )
        target = self._version_of(ref)
        return self._writer.move_tag(parsed.name, tag, target, when, author, force)

    def untag(self, name: str, tag: str, *, author: str | None = None, force: bool = False) -> None:
        """Remove a tag. The store keeps all earlier moves, and the tag can be set again.

        Args:
            name: the name.
            tag: the tag.
            author, force: as in :meth:`tag`.

        Raises:
            NotFoundError: the name has no such tag.
            ProtectedError: as in :meth:`tag`.
        """
        check_name(name)
        check_tag(tag)
        self._check_writable("untag")
        self._resolver.last_move(name, tag)
        self._writer.move_tag(name, tag, None, author=author, force=force)

    def protect(
        self,
        name: str,
        tag: str,
        by: Iterable[str] | None = None,
        *,
        author: str | None = None,
        force: bool = False,
    ) -> TagMove:
        """Protect a tag: ask all authors, except those in ``by``, to leave the tag where it is.

        From then on, :meth:`tag` and :meth:`untag` raise an error for other authors, unless they
        give ``force=True``. This is advice, and no access control: everybody who may write to the
        store can give another name as the author, or ``force=True``. The protection stays when the
        tag is moved or removed, until :meth:`unprotect`. To check the protection costs no request.

        Args:
            name: the name.
            tag: a tag that is set.
            by: the authors who may move and remove the tag; None or an empty list for nobody.
            author: who protects the tag; by default ``$POLICYSTORE_AUTHOR`` or the name of the
                user. This author may not move the tag, unless ``by`` has the author, too.
            force: True to change the protection that another author has set.

        Returns:
            The record, which :meth:`tag_history` lists, too: its ``protected`` says who may move
            the tag.

        Raises:
            InvalidInputError: ``by`` is not a list of names.
            NotFoundError: the name has no such tag.
            ProtectedError: another author has protected the tag, and ``by`` of that protection does
                not have this author.
        """
        check_name(name)
        check_tag(tag)
        allowed = _check_authors(by)
        self._check_writable("protect")
        return self._writer.protect_tag(name, tag, allowed, author, force=force)

    def unprotect(
        self, name: str, tag: str, *, author: str | None = None, force: bool = False
    ) -> TagMove:
        """End the protection of a tag; the tag stays where it is.

        Args:
            name: the name.
            tag: the tag.
            author: who ends the protection: the author who protected the tag, or one of those who
                may move the tag.
            force: True to end the protection even if another author has set it.

        Returns:
            The record, as in :meth:`protect`.

        Raises:
            NotFoundError: the name has no such tag, or the tag is not protected.
            ProtectedError: another author has protected the tag, and this author may not move it.
        """
        check_name(name)
        check_tag(tag)
        self._check_writable("unprotect")
        return self._writer.protect_tag(name, tag, None, author, force=force)


def _check_authors(by: Iterable[str] | None) -> tuple[str, ...]:
    """Return the authors who may move a tag, each once and in order."""
    if by is None:
        return ()
    is_list = isinstance(by, Iterable) and not isinstance(by, (str, bytes))
    authors = list(by) if is_list else []
    if not is_list or not all(isinstance(each, str) and each for each in authors):
        raise InvalidInputError(f"by is a list of authors, such as ['ann', 'bob'], not {brief(by)}")
    return tuple(sorted(set(authors)))
