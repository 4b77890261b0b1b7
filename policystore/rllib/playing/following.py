"""Change the policy of a player to what a ref means, in a thread."""

from __future__ import annotations

import atexit
import datetime
import os
import queue
import random
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from policystore._util.log import logger
from policystore.digest import Digest
from policystore.errors import IntegrityError, InvalidInputError, NotFoundError, StorageError
from policystore.format.records import Version
from policystore.rllib.playing.gate import Gate
from policystore.snapshot import Snapshot

__all__ = ["FollowSettings", "Following", "Playing"]

# Seconds until a policy is tried again after an error. A policy that cannot be fetched now may be
# fetched soon. Most other errors stay until the ref means another version.
_FIRST_RETRY, _LONGEST_RETRY, _LONGEST_RETRY_OF_OTHERS = 1.0, 60.0, 3600.0
_PASSING = (StorageError, IntegrityError, NotFoundError)
_PATIENCE_AT_EXIT = 5.0  # seconds that threads have to end when the interpreter ends


class Playing(NamedTuple):
    """Names the policy that a player plays.

    Attributes:
        digest: the digest of the snapshot.
        ref: the version, such as ``"soccer/main@7"``; None if the snapshot came from no name.
    """

    digest: Digest
    ref: str | None


class _Watch(Protocol):
    """What following needs of :class:`~policystore.repository.watching.Watch`."""

    ref: str
    checked: datetime.datetime | None
    error: Any

    def close(self) -> None: ...

    def __iter__(self) -> Iterator[Version]: ...

    def __next__(self) -> Version: ...


class Store(Protocol):
    """What following needs of a :class:`~policystore.PolicyStore`."""

    def watch(
        self,
        ref: str,
        *,
        interval: float,
        wait: bool,
        timeout: float | None,
        give_up_after: float | None,
        on_error: Callable[[Any], object] | None,
    ) -> _Watch: ...

    def pull(self, ref: Version) -> Snapshot: ...


class _Player(Protocol):
    """What following needs of a player."""

    digest: Digest
    _gate: Gate
    _snap: Snapshot
    _following: Following | None

    def _rebuild(self, snap: Snapshot) -> Any: ...

    def _adopt(self, other: Any, memory: Literal["keep", "reset"]) -> None: ...


@dataclass(frozen=True)
class FollowSettings:
    """Hold the arguments of :meth:`Player.follow`, which describes them.

    Raises:
        InvalidInputError: an argument of the wrong form.
    """

    interval: float
    memory: Literal["keep", "reset"]
    wait: bool
    on_change: Callable[[Version], object] | None
    on_error: Callable[[Exception], object] | None

    def __post_init__(self) -> None:
        if self.memory not in ("keep", "reset"):
            raise InvalidInputError(f"memory is 'keep' or 'reset', not {self.memory!r}")
        for name in ("on_change", "on_error"):
            call = getattr(self, name)
            if call is not None and not callable(call):
                raise InvalidInputError(
                    f"{name} is a function of one argument, or None, not {call!r}"
                )


class _Stop:
    """Tells a thread to end, and wakes it. :meth:`set` may be called by a finalizer."""

    def __init__(self) -> None:
        self.is_set = False
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._watch: _Watch | None = None

    def set(self) -> None:
        self.is_set = True
        self._wake.put(None)
        watch = self._watch
        if watch is not None:
            watch.close()

    def use(self, watch: _Watch) -> None:
        """Close this watch, too, when the thread is told to end."""
        self._watch = watch
        if self.is_set:
            watch.close()

    def wait(self, seconds: float) -> None:
        if not self.is_set:
            with suppress(queue.Empty):  # the time has passed
                self._wake.get(timeout=seconds)


class _Retry:
    """Says when to try again, after pauses that double with each failure."""

    def __init__(self) -> None:
        self._failures = 0
        self._due = 0.0  # on the clock of time.monotonic

    def failed(self, longest: float) -> None:
        """Note a failure; ``longest`` is the longest pause, in seconds, up to a quarter more."""
        pause = min(_FIRST_RETRY * 2.0 ** min(self._failures, 30), longest)
        self._due = time.monotonic() + pause * random.uniform(0.75, 1.25)  # noqa: S311
        self._failures += 1

    @property
    def left(self) -> float:
        """The seconds until the next try; 0 or less if it is time for it."""
        return self._due - time.monotonic()


class Following:
    """Says how a player follows a ref: ``player.following``.

    The attributes change while the player follows.

    Attributes:
        ref: the ref that is followed.
        version: the version of the ref that plays; None if no version of the ref has played yet.
        changes: how many times the player has taken over another policy.
    """

    def __init__(self, player: _Player, store: Store, ref: str, settings: FollowSettings) -> None:
        self._store, self._settings = store, settings
        self._stop = _Stop()
        self._watch = self._new_watch(ref, wait=settings.wait)
        self.ref = self._watch.ref
        self.version: Version | None = None
        self.changes = 0
        self._checked: datetime.datetime | None = None
        self._failure: Exception | None = None  # why the version of the ref does not play
        self._failed: Version | None = None
        self._retry = _Retry()  # of the version that has failed
        self._process = os.getpid()
        self._player = weakref.ref(player, _stopper(self._stop))
        self._thread = threading.Thread(
            target=self._run, name=f"policystore follows {self.ref}", daemon=True
        )

    def __repr__(self) -> str:
        version = "nothing yet" if self.version is None else self.version.ref
        state = f"plays {version}" if self.running else f"ended, played {version}"
        error = "" if self.error is None else f", {type(self.error).__name__}: {self.error}"
        return f"<Following {self.ref!r}: {state}{error}>"

    @property
    def running(self) -> bool:
        """Whether the player still follows. A copy of a player in a forked process does not."""
        return self._process == os.getpid() and not self._stop.is_set and self._thread.is_alive()

    @property
    def checked(self) -> datetime.datetime | None:
        """When the store answered last, by this machine's clock, in UTC; None before an answer."""
        return self._watch.checked or self._checked

    @property
    def error(self) -> Exception | None:
        """Why the player does not play what the ref means now; None if the player plays that.

        Either the last look at the ref failed, or the ref means nothing, or the version of the ref
        cannot be fetched or played.
        """
        watched: Exception | None = self._watch.error
        return self._failure if watched is None else watched

    def start(self) -> None:
        """Let the player play what the ref means now, and begin to follow.

        The player then follows nothing else any more.

        Raises:
            PolicyStoreError: the ref means nothing, or the player cannot play its policy. The
                player has not changed.
        """
        player = self._player()
        assert player is not None  # noqa: S101 (its own method calls this one)
        if self._settings.wait:
            with player._gate.change():
                self._claim(player)
        else:
            self._take_over(player, next(iter(self._watch)))
        _FOLLOWINGS.add(self)
        self._thread.start()

    def _claim(self, player: _Player) -> None:
        """Become what the player follows; the caller is in a change of the gate."""
        before = player._following
        if before is not self:
            player._following = self
            if before is not None:
                before._stop.set()

    def stop(self) -> None:
        """Follow no longer. When this call has returned, the player does not change any more."""
        self._stop.set()
        player = self._player()
        if player is not None and threading.current_thread() is not self._thread:
            with player._gate.block():
                pass  # a change that had begun has ended

    def _new_watch(self, ref: str, *, wait: bool, timeout: float | None = None) -> _Watch:
        watch = self._store.watch(
            ref,
            interval=self._settings.interval,
            wait=wait,
            timeout=timeout,
            give_up_after=None,
            on_error=None if self._settings.on_error is None else self._call_on_error,
        )
        self._stop.use(watch)
        return watch

    def _run(self) -> None:
        """Follow the ref until the player is gone or :meth:`stop` is called."""
        looking = _Retry()
        while not self._stop.is_set:
            try:
                for version in self._watch:
                    looking = _Retry()
                    if version != self._failed:
                        self._retry = _Retry()
                    if self._retry.left <= 0.0 and not self._change_to(version):
                        break
            except Exception as error:
                self._report(error, f"following {self.ref}")
                looking.failed(_LONGEST_RETRY)
                self._stop.wait(looking.left)
            if not self._stop.is_set:
                self._checked = self.checked
                # A new watch yields a version again. Until it is time to try that version again,
                # the ref may mean another one, which is tried at once.
                left = self._retry.left
                timeout = left if left > 0.0 else None
                self._watch = self._new_watch(self.ref, wait=True, timeout=timeout)

    def _change_to(self, version: Version) -> bool:
        """Let the player play a version; return False if that should be tried again later."""
        player = self._player()
        if player is None:
            return True
        try:
            changed = self._take_over(player, version)
        except Exception as error:
            if self._stop.is_set:
                return True  # such as errors of a storage at the end of the interpreter
            _release_frames(error)
            self._tell_of(error, version, player)
            passes = isinstance(error, _PASSING)
            self._retry.failed(_LONGEST_RETRY if passes else _LONGEST_RETRY_OF_OTHERS)
            return False
        finally:
            del player
        if changed and self._settings.on_change is not None:
            self._call("on_change", self._settings.on_change, version)
        return True

    def _tell_of(self, error: Exception, version: Version, player: _Player) -> None:
        """Tell that a version cannot be played; in the log, only once for each kind of error."""
        is_news = self._failed != version or type(error) is not type(self._failure)
        self._failure, self._failed = error, version
        if is_news or self._settings.on_error is not None:
            playing = player._snap.ref or player.digest.short
            said = f"{self.ref} means {version.ref}, which cannot be played; the player goes on "
            self._report(error, f"{said}with {playing}")

    def _take_over(self, player: _Player, version: Version) -> bool:
        """Let the player play a version, between two calls; return whether its policy changed.

        Raises:
            PolicyStoreError: the policy cannot be fetched, or does not fit. Nothing has changed.
        """
        if version.digest != player.digest:
            snap = self._store.pull(version)
            fresh = player._rebuild(snap._pulled_as(version.ref))
            with player._gate.change():
                if self._stop.is_set:
                    return False
                player._adopt(fresh, self._settings.memory)
                self._took(version, player)
                self.changes += 1
            return True
        with player._gate.change():
            if not self._stop.is_set:
                player._snap = player._snap._pulled_as(version.ref)
                self._took(version, player)
        return False

    def _took(self, version: Version, player: _Player) -> None:
        self._claim(player)
        self.version, self._failure, self._failed = version, None, None
        self._retry = _Retry()

    def _report(self, error: Exception, said: str) -> None:
        """Tell of an error by the caller's function, or in the log."""
        if self._settings.on_error is None:
            logger.warning("%s: %s: %s", said, type(error).__name__, error)
        else:
            self._call_on_error(error)

    def _call_on_error(self, error: Exception) -> None:
        assert self._settings.on_error is not None  # noqa: S101 (callers have checked it)
        self._call("on_error", self._settings.on_error, error)

    def _call(self, name: str, function: Callable[[Any], object], argument: object) -> None:
        """Call a function of the caller. An error of it must not end the thread, and is logged."""
        try:
            function(argument)
        except Exception as error:
            logger.error(
                "following %s: the function %s= has raised %s: %s",
                self.ref,
                name,
                type(error).__name__,
                error,
            )


def _stopper(stop: _Stop) -> Callable[[object], None]:
    """Return the function that ends the thread of a player that is freed."""
    return lambda _: stop.set()


def _release_frames(error: BaseException | None) -> None:
    """Free the local variables of an error's frames: they hold the player, and a rebuilt policy."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


_FOLLOWINGS: weakref.WeakSet[Following] = weakref.WeakSet()


def _end_all() -> None:
    """End all threads, because the interpreter ends: torch must not run in a thread then."""
    followings = list(_FOLLOWINGS)
    for following in followings:
        following._stop.set()
    end = time.monotonic() + _PATIENCE_AT_EXIT
    for following in followings:
        if following._thread.is_alive():
            following._thread.join(max(0.0, end - time.monotonic()))


atexit.register(_end_all)
