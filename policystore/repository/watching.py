"""Watch what a ref means, and yield its version each time that the ref means another one."""

from __future__ import annotations

import contextlib
import datetime
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from policystore._util.log import logger
from policystore.errors import InvalidInputError, NotFoundError, PolicyStoreError
from policystore.format.records import Version
from policystore.format.refs import Ref
from policystore.repository.lookup.changes import ChangeDetector
from policystore.repository.ref_like import RefLike, as_ref
from policystore.repository.resolver import Resolver
from policystore.repository.stamp import now

__all__ = ["OnError", "Watch", "WatchSettings", "check_watched"]

OnError: TypeAlias = Callable[[PolicyStoreError], object]
"""Gets the error of each look that failed, and the NotFoundError of a ref that means nothing."""

_JITTER = 0.25  # part of the interval by which a pause may be shorter or longer
_LONGEST_BACKOFF = 60.0  # seconds between two looks that fail, if the interval is not longer


@dataclass(frozen=True)
class WatchSettings:
    """Hold the arguments of :meth:`PolicyStore.watch`, which describes them.

    Raises:
        InvalidInputError: an argument of the wrong form.
    """

    interval: float = 5.0
    present: bool = True
    wait: bool = False
    timeout: float | None = None
    give_up_after: float | None = 300.0
    on_error: OnError | None = None

    def __post_init__(self) -> None:
        _check_seconds("interval", self.interval, above=0.0)
        for name in ("timeout", "give_up_after"):
            value = getattr(self, name)
            if value is not None:
                _check_seconds(name, value)
        for name in ("present", "wait"):
            value = getattr(self, name)
            if type(value) is not bool:
                raise InvalidInputError(f"{name} is True or False, not {value!r}")
        if self.on_error is not None and not callable(self.on_error):
            raise InvalidInputError(
                f"on_error is a function of one error, or None, not {self.on_error!r}"
            )


def _check_seconds(name: str, value: object, above: float | None = None) -> None:
    number = isinstance(value, (int, float)) and type(value) is not bool
    if not number or not 0.0 <= value < float("inf") or value == above:  # type: ignore[operator]
        least = "more than 0" if above is not None else "at least 0"
        raise InvalidInputError(f"{name} is a number of seconds, {least}, not {value!r}")


def check_watched(ref: RefLike) -> Ref:
    """Return a ref that may mean another version later: a name, with or without a tag.

    Raises:
        InvalidInputError: not a ref, or one that always means the same policy.
    """
    parsed = as_ref(ref)
    if isinstance(ref, Version) or not parsed.name or parsed.number is not None:
        shown = ref.ref if isinstance(ref, Version) else ref
        raise InvalidInputError(
            f"{str(shown)!r} always means the same policy, so there is nothing to watch. Watch a "
            "name, such as 'soccer/main', or a tag, such as 'soccer/main@champion'"
        )
    return parsed


class Watch(Iterator[Version]):
    """Yields the version of a ref, and then each new version that the ref means.

    :meth:`PolicyStore.watch` makes a Watch. One thread at a time may take versions from a Watch.
    Any thread may call :meth:`close` and read the attributes. A ``with`` block closes the Watch at
    its end. A Watch has no thread of its own, and holds nothing that has to be released.

    Attributes:
        ref: the ref that is watched.
        checked: when the store answered last, by this machine's clock, in UTC; None before an
            answer.
        error: why the last look failed, or why the ref means nothing now; None if the last look
            succeeded and the ref means a version.
    """

    def __init__(self, resolver: Resolver, ref: Ref, settings: WatchSettings) -> None:
        self.ref = ref.name if ref.tag is None else f"{ref.name}@{ref.tag}"
        self.checked: datetime.datetime | None = None
        self.error: PolicyStoreError | None = None
        self._resolver, self._parsed, self._settings = resolver, ref, settings
        self._detector = ChangeDetector(resolver.backend, ref)
        self._is_closed = False
        # A finalizer may put into this queue, even during a call of this thread to the same queue.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._last: Version | None = None  # what was yielded last
        self._began: float | None = None  # when the first version was asked for
        self._gap: NotFoundError | None = None  # why the ref means nothing
        self._failing_since: float | None = None
        self._failures = 0  # one after the other
        self._looks = 0

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else f"every {self._settings.interval:g} s"
        return f"<Watch of {self.ref!r}, {state}>"

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iteration. A thread that waits for the next version stops waiting at once.

        A request that is under way is not cut off: the iteration ends when the request has ended.
        """
        self._is_closed = True
        self._wake.put(None)

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Version:
        """Wait until the ref means another version than the one that was returned last.

        Raises:
            StopIteration: the Watch was closed, or its timeout has passed.
            NotFoundError: at the first look, the ref means nothing.
            PolicyStoreError: the first look failed, or looks have failed for too long.
        """
        if self._began is None:
            self._began = time.monotonic()
        while self._pause():
            version = self._look()
            if version is not None and not self._is_closed:
                return version
        self.close()
        raise StopIteration

    def _pause(self) -> bool:
        """Wait until it is time for the next look; return False if there will be none."""
        delay, is_last = self._delay(), False
        if self._settings.timeout is not None and self._began is not None and self._looks:
            left = self._began + self._settings.timeout - time.monotonic()
            delay, is_last = min(delay, max(0.0, left)), left <= delay
        if delay and not self._is_closed:
            with contextlib.suppress(queue.Empty):  # nobody has closed the watch meanwhile
                self._wake.get(timeout=min(delay, threading.TIMEOUT_MAX))
        return not self._is_closed and not is_last

    def _delay(self) -> float:
        """Return the seconds until the next look.

        The parts that are drawn at random keep many watches, which were made at the same moment,
        from asking at the same moments.
        """
        interval = self._settings.interval
        if not self._looks:
            return 0.0
        if self._looks == 1 and not self._failures:
            return interval * random.random()  # noqa: S311
        longest = max(interval, _LONGEST_BACKOFF)
        delay = min(interval * 2.0 ** min(self._failures, 30), longest)
        return delay * random.uniform(1.0 - _JITTER, 1.0 + _JITTER)  # noqa: S311

    def _look(self) -> Version | None:
        """Ask the store once; return the version to yield, if there is one."""
        is_first = not self._looks
        self._looks += 1
        try:
            if not self._detector.look(closely=self._gap is not None):
                self._succeeded()
                return None
            seen = self._detector.read()
            version = self._find()
            self._detector.seen = seen
        except PolicyStoreError as error:
            if is_first and not self._settings.wait:
                self.close()
                raise
            self._failed(error)
            return None
        if isinstance(version, NotFoundError):
            self._means_nothing(version, is_first)
            return None
        was_answered = self.checked is not None
        self._gap = None
        self._succeeded()
        last, self._last = self._last, version
        if last is None:
            return version if self._settings.present or was_answered else None
        is_same = (version.number, version.digest) == (last.number, last.digest)
        return None if is_same else version

    def _find(self) -> Version | NotFoundError:
        """Return the version of the ref, or the reason why the ref means nothing."""
        try:
            return self._resolver.version(self._parsed)
        except NotFoundError as error:
            return error

    def _means_nothing(self, error: NotFoundError, is_first: bool) -> None:
        """Tell once that the ref means nothing now."""
        if is_first and not self._settings.wait:
            self.close()
            raise error
        is_news, self._gap = self._gap is None, error
        self._succeeded()
        if is_news:
            self._tell(error, f"watching {self.ref}: the ref means nothing now")

    def _succeeded(self) -> None:
        self.checked, self.error = now(), self._gap
        self._failures, self._failing_since = 0, None

    def _failed(self, error: PolicyStoreError) -> None:
        """Tell of a look that failed; raise its error if looks have failed for too long."""
        moment = time.monotonic()
        if self._failing_since is None:
            self._failing_since = moment
        self._failures += 1
        self.error = error
        patience = self._settings.give_up_after
        if patience is not None and moment - self._failing_since >= patience:
            self.close()
            raise error
        if self._failures == 1 or self._settings.on_error is not None:
            self._tell(error, f"watching {self.ref}: a look failed, and will be tried again")

    def _tell(self, error: PolicyStoreError, said: str) -> None:
        if self._settings.on_error is None:
            logger.warning("%s: %s", said, error)
        else:
            self._settings.on_error(error)
