"""Build errors that show where an expression is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from policystore._util import near
from policystore._util.messages import columns_of
from policystore.errors import InvalidInputError

__all__ = ["did_you_mean", "error_at"]

_BEFORE, _AFTER = 60, 20  # characters that a message shows around the place of an error


def error_at(text: str, place: int, problem: str) -> InvalidInputError:
    """Build the error for an expression, with a line that points to the place of the error.

    Args:
        text: the whole expression.
        place: the index of the character where the error is.
        problem: what was expected, and what was found.
    """
    start = max(0, place - _BEFORE)
    shown = "".join(c if c.isprintable() else " " for c in text[start : place + _AFTER])
    dots = "..." if start else ""
    blanks = " " * (len(dots) + columns_of(shown[: place - start]))
    after = "..." if place + _AFTER < len(text) else ""
    return InvalidInputError(f"{problem} (column {place + 1})\n  {dots}{shown}{after}\n  {blanks}^")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a sentence with known words that are similar to a word; empty if there are none."""
    candidates = sorted(set(known))
    close = near.close_names(word, candidates)
    if not close:  # a part of the name: 'return' for 'env_runners/episode_return_mean'
        close = [each for each in candidates if len(word) > 2 and word.lower() in each.lower()][:3]
    return near.did_you_mean(close)
