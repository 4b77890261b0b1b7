"""Watch a name or a tag."""

from __future__ import annotations

from policystore.repository.ref_like import RefLike
from policystore.repository.watching import OnError, Watch, WatchSettings, check_watched
from policystore.store.base import StoreBase

__all__ = ["WatchingCalls"]


class WatchingCalls(StoreBase):
    """Wait for other versions: a part of the calls of a store."""

    def watch(
        self,
        ref: RefLike,
        *,
        interval: float = 5.0,
        present: bool = True,
        wait: bool = False,
        timeout: float | None = None,
        give_up_after: float | None = 300.0,
        on_error: OnError | None = None,
    ) -> Watch:
        """Yield the version that a ref means, and then each new version that the ref means.

        A tag means a new version when the tag moves. A name means a new version when a version is
        pushed, or when the newest version is deleted or restored. The watch asks the store about
        once in ``interval`` seconds: this is called a look. If the ref changes several times
        between two looks, only the last version is yielded; :meth:`tag_history` and :meth:`log`
        list all changes.

        A look is one or two requests for small records, which ask whether the next record exists.
        If something has changed, the look needs up to twenty requests more to find the version.
        The pauses between looks differ by up to a quarter of the interval, and the first pause is a
        random part of the interval, so that many processes do not ask at the same moment.

        If the ref means nothing for a while, because the tag was removed or the version was
        deleted, the watch reports this once and goes on. If the version of a tag is deleted, the
        watch may need ten looks to notice.

        No request is made before the first version is taken. A forked process should make its own
        watch.

        Args:
            ref: a name or a tag, such as ``"soccer/main"`` or ``"soccer/main@champion"``.
            interval: about how many seconds lie between two looks.
            present: whether to yield the version that the ref means at the start. False: yield only
                later versions.
            wait: whether to wait if the first look finds that the ref means nothing yet, or if the
                storage fails. False: the first look raises its error.
            timeout: after how many seconds the iteration ends; None for never.
            give_up_after: for how many seconds looks may fail one after the other before their
                error is raised; None for ever. The pauses between looks that fail double, up to a
                minute.
            on_error: called with the error of each look that fails, and with a NotFoundError each
                time that the ref begins to mean nothing. None: the log gets a warning instead, and
                no second one until a look has succeeded. If the function raises an error, the
                iteration raises this error.

        Returns:
            An iterator over versions. Its ``close()`` ends the iteration, and may be called from
            any thread.

        Raises:
            InvalidInputError: an argument of the wrong form, or a ref that always means the same
                policy: a number or a digest. All other errors are raised by the iteration:
            NotFoundError: the ref means nothing at the start.
            FormatError, IntegrityError, StorageError: a record is damaged or missing, or the
                storage failed, at the start or for longer than ``give_up_after``.
        """
        settings = WatchSettings(interval, present, wait, timeout, give_up_after, on_error)
        return Watch(self._resolver, check_watched(ref), settings)
