"""The logger of this package, which imports :mod:`logging` at the first message."""

from __future__ import annotations

__all__ = ["logger"]


class _Logger:
    """Pass messages to the logger ``policystore`` of :mod:`logging`.

    The import of ``logging`` would take a tenth of the time of ``import policystore``, and most
    programs that import policystore log nothing. The methods take ``%``-style arguments, as the
    functions of ``logging`` do.
    """

    def warning(self, message: str, *args: object) -> None:
        """Log a warning: something failed, and the program can do without it."""
        import logging

        logging.getLogger("policystore").warning(message, *args, stacklevel=2)

    def error(self, message: str, *args: object) -> None:
        """Log an error: something that the user asked for was not done."""
        import logging

        logging.getLogger("policystore").error(message, *args, stacklevel=2)


logger = _Logger()
