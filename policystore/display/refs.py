"""Shorten long names of policies, so that different names stay different."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from os.path import commonprefix

__all__ = ["shorten_names"]

_BEFORE = 3  # characters that are shown before the place where names differ


def shorten_names(names: Iterable[str], limit: int) -> dict[str, str]:
    """Return a short form of each name; different names have different short forms.

    A name that is too long keeps its beginning and its end: ``grid/PPO…12-05-03/default_policy``.
    If several names would look the same, each also keeps the place where they differ. A name for
    which that is not enough stays whole.

    Args:
        names: the names that stand in one table.
        limit: the characters of a short form, at least 16.
    """
    short: dict[str, str] = {}
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        short[name] = name if len(name) <= limit else _cut(name, limit)
        alike[short[name]].append(name)
    taken = {text for text, group in alike.items() if len(group) == 1}
    for group in alike.values():
        if len(group) > 1:
            place = max(0, len(commonprefix(group)) - _BEFORE)  # noqa: RUF071 (characters)
            pieces = [_cut_around(name, place, limit) for name in group]
            is_clear = len(set(pieces)) == len(pieces) and taken.isdisjoint(pieces)
            short.update(zip(group, pieces if is_clear else group, strict=True))
            taken.update(short[name] for name in group)
    return short


def _head(name: str, limit: int) -> str:
    """Return the first part of a name, and the start of the second."""
    return name[: min(name.find("/") + 4, limit // 3)] if "/" in name else name[: limit // 4]


def _cut(name: str, limit: int) -> str:
    head = _head(name, limit)
    return f"{head}…{name[len(head) + 1 - limit :]}"


def _cut_around(name: str, place: int, limit: int) -> str:
    """Return the beginning, the characters at a place, and the last part of a name."""
    head = _head(name, limit)
    last = name[name.rfind("/") :] if "/" in name else ""
    last = last if len(last) <= limit // 2 else last[-(limit // 2) :]
    room = limit - len(head) - len(last) - 2
    end = min(place + room, len(name) - len(last))
    start = max(end - room, len(head))
    middle = name[start:end]
    before = "" if start == len(head) else "…"
    after = "" if end == len(name) - len(last) else "…"
    return f"{head}{before}{middle}{after}{last}"
