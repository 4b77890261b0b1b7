"""The calls by which a player follows a ref, and says what it plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.rllib.playing.following import Following, FollowSettings, Playing, Store
from policystore.rllib.playing.gate import Gate
from policystore.snapshot import Snapshot

__all__ = ["Followed"]

_Self = TypeVar("_Self", bound="Followed")


class Followed:
    """The calls of a player that change its policy, or that name the policy.

    Attributes:
        digest: the digest of the snapshot that plays.
    """

    digest: Digest
    _snap: Snapshot

    def __init__(self) -> None:
        self._gate = Gate()
        self._following: Following | None = None

    def _rebuild(self, snap: Snapshot) -> Any:
        """Return a fresh player of a snapshot, with the arguments of this player."""
        raise NotImplementedError

    def _adopt(self, other: Any, memory: Literal["keep", "reset"]) -> None:
        """Play the policy of another player from the next call on."""
        raise NotImplementedError

    @property
    def ref(self) -> str | None:
        """The version that plays, such as ``"soccer/main@7"``.

        None if the snapshot was neither pulled by a name nor pushed under a name.
        """
        return self._snap.ref

    @property
    def following(self) -> Following | None:
        """How the player follows a ref, or followed it last; None before :meth:`follow`."""
        return self._following

    def follow(
        self: _Self,
        store: Store,
        ref: str,
        *,
        interval: float = 5.0,
        memory: Literal["keep", "reset"] = "keep",
        wait: bool = False,
        on_change: Callable[[Version], object] | None = None,
        on_error: Callable[[Exception], object] | None = None,
    ) -> _Self:
        """Play the policy that a ref means, and each new policy that the ref means later.

        When the call returns, the player plays what the ref means now. After that, a thread asks
        the store about once in ``interval`` seconds, with one or two requests for small records
        (:meth:`PolicyStore.watch <policystore.PolicyStore.watch>`). If the ref means a new policy,
        the thread pulls and rebuilds the policy, while calls go on with the old policy. Then the
        thread exchanges the policies between two calls. Each call plays one policy from its
        beginning to its end. The new policy is built with the arguments of this player, such as
        ``trust=`` and ``env_spaces=``. Until the exchange, both policies are in memory.

        If the new policy cannot be fetched or does not fit (other spaces, the other API stack, a
        class that is not trusted), the player goes on with the old policy, and the error is
        reported. A failed request is tried again after pauses of up to a minute, and any other
        failure after pauses that double from a second up to an hour. Meanwhile the looks go on: if
        the ref means another version, the thread tries that version at once. If the tag is removed,
        or its version deleted, the player goes on with the old policy, too.

        The thread ends with :meth:`unfollow`, with the ``with`` block of the player, when the
        player is freed, and at the end of the program. A copy of the player, also in a forked
        process, does not follow. A second ``follow`` replaces the first one.

        Args:
            store: the store: a :class:`~policystore.PolicyStore`.
            ref: a name or a tag, such as ``"soccer/main"`` or ``"soccer/main@champion"``.
            interval: about how many seconds lie between two looks.
            memory: for policies with memory. ``"keep"``: episodes and sessions go on with what the
                old policy remembers of them, and a new policy that remembers in another form does
                not fit. ``"reset"``: each change begins all episodes anew.
            wait: whether to return although the ref means nothing yet, or the store does not
                answer. The player then plays its own policy until the ref means a policy.
            on_change: called with the new version after each change, in the thread.
            on_error: called with each error, in the thread, also if the same error comes again.
                None: the log gets a warning instead, once for each version that cannot be played,
                and once when looks begin to fail.

        Returns:
            This player.

        Raises:
            InvalidInputError: an argument of the wrong form, a ref that always means the same
                policy, or a call inside of :meth:`pinned`.
            PolicyStoreError: what the first look, ``pull`` or ``rebuild_player`` raises, or
                MismatchError for a policy of other spaces. The player has not changed, and still
                follows the ref that it followed before.
        """
        if not (hasattr(store, "watch") and hasattr(store, "pull")):
            raise InvalidInputError(f"follow takes a PolicyStore and a ref, not {store!r}")
        settings = FollowSettings(interval, memory, wait, on_change, on_error)
        Following(self, store, ref, settings).start()
        return self

    def unfollow(self) -> None:
        """Stop following. The player keeps the policy that it plays now."""
        following = self._following
        if following is not None:
            following.stop()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unfollow()

    @contextmanager
    def pinned(self) -> Iterator[Playing]:
        """Play one policy in all calls of a ``with`` block, and say which policy.

        If the player follows a ref, a change of its policy waits until all such blocks have ended.
        Blocks that begin while a change waits begin after the change. So keep the block short::

            with player.pinned() as playing:
                actions = player.act_batch(observations)
            answer = {"actions": actions, "policy": str(playing.digest)}
        """
        with self._gate.block():
            yield Playing(self.digest, self.ref)
