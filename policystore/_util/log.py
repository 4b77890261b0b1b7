"""Lines in the log, for what went wrong without anybody being worse off than before."""

from __future__ import annotations

__all__ = ["warn"]


def warn(text: str, *details: object) -> None:
    """One warning of the logger ``policystore``; ``details`` fill the %s and %d of the text."""
    import logging  # late: it is a tenth of what importing this package takes

    logging.getLogger("policystore").warning(text, *details)
