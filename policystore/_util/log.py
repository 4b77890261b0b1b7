"""The logger of this package, which imports :mod:`logging` at the first message."""

from __future__ import annotations

__all__ = ["logger"]


class _Logger:
    """Pass messages to the logger ``policystore`` of :mod:`logging`.

    ``logging`` takes a tenth of the time that importing this package takes, and most programs that
    import it log nothing. The functions take ``%``-style arguments, as those of ``logging`` do.
    """

    def warning(self, message: str, *args: object) -> None:
        """Log a warning: something failed, and the program goes on as well as without it."""
        import logging

        logging.getLogger("policystore").warning(message, *args, stacklevel=2)

    def error(self, message: str, *args: object) -> None:
        """Log an error: something that the user asked for was not done."""
        import logging

        logging.getLogger("policystore").error(message, *args, stacklevel=2)


logger = _Logger()
