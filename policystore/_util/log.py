"""The logger of this package, which imports :mod:`logging` at the first message."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

__all__ = ["logger"]


_MAX_REMEMBERED = 10_000  # subjects; after that many, a warning may be logged again
_REMEMBERED: set[Hashable] = set()


class _Logger:
    """Pass messages to the logger ``policystore`` of :mod:`logging`.

    The import of ``logging`` would take a tenth of the time of ``import policystore``, and most
    programs that import policystore log nothing. The methods take ``%``-style arguments, as the
    functions of ``logging`` do.
    """

    def __init__(self) -> None:
        self._listener: Callable[[str], None] | None = None

    @contextmanager
    def heard_by(self, listener: Callable[[str], None]) -> Iterator[None]:
        """Give the text of each message to a listener instead of :mod:`logging`, in all threads.

        Args:
            listener: takes the text; any thread may call it.
        """
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def warning(self, message: str, *args: object) -> None:
        """Log a warning: something failed, and the program can do without it."""
        if self._listener is not None:
            self._listener(message % args if args else message)
            return
        import logging

        logging.getLogger("policystore").warning(message, *args, stacklevel=2)

    def is_news(self, about: Hashable) -> bool:
        """Return whether this is the first call in this process with the same subject.

        So a warning that many calls would repeat is logged once.

        Args:
            about: the subject, such as a word for the kind of the warning and a name.
        """
        if about in _REMEMBERED:
            return False
        if len(_REMEMBERED) >= _MAX_REMEMBERED:
            _REMEMBERED.clear()
        _REMEMBERED.add(about)
        return True

    def error(self, message: str, *args: object) -> None:
        """Log an error: something that the user asked for was not done."""
        if self._listener is not None:
            self._listener(message % args if args else message)
            return
        import logging

        logging.getLogger("policystore").error(message, *args, stacklevel=2)


logger = _Logger()
