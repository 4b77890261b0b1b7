"""Find the names that a caller may have meant, for messages about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

__all__ = ["close_names", "close_paths", "did_you_mean", "number_paths"]

_MAX_PATHS = 10_000  # of a result that are looked at
_MAX_NESTING = 6


def close_names(
    name: str, known: Iterable[str], *, count: int = 3, cutoff: float = 0.6
) -> list[str]:
    """Return the names that are most like a name, the closest first.

    Capitals and small letters count as the same, so ``Main`` is close to ``main``.

    Args:
        name: the name that does not exist.
        known: the names that exist.
        count: how many names to return at most.
        cutoff: how similar two names are at least, from 0 for names without a common letter to 1
            for equal names.
    """
    by_small: dict[str, str] = {}
    for each in known:
        by_small.setdefault(each.lower(), each)
    close = get_close_matches(name.lower(), by_small, n=count, cutoff=cutoff)
    return [by_small[each] for each in close]


def did_you_mean(close: Sequence[str]) -> str:
    """Return the question for the end of a message, such as ``Did you mean 'a' or 'b'?``.

    Returns:
        The question, of three names at most, with a space before it; empty if there is no name.
    """
    return f" Did you mean {' or '.join(map(repr, close[:3]))}?" if close else ""


def number_paths(result: Mapping[Any, Any]) -> list[str]:
    """Return the paths of all numbers in nested results, with slashes between the keys, sorted.

    The config that Tune and RLlib put into a result is left out.
    """
    paths: set[str] = set()

    def collect(inner: Mapping[Any, Any], prefix: str, depth: int) -> None:
        for key, value in inner.items():
            if len(paths) >= _MAX_PATHS or not isinstance(key, str):
                return
            if isinstance(value, Mapping) and depth < _MAX_NESTING and key != "config":
                collect(value, f"{prefix}{key}/", depth + 1)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                paths.add(prefix + key)

    collect(result, "", 0)
    return sorted(paths)


def close_paths(path: str, known: Iterable[str]) -> list[str]:
    """Return the paths that a caller may have meant, three at most, the closest first.

    Such a path has the same last key as ``path``, or a similar one, or the whole paths are similar.

    Args:
        path: a path of keys with slashes between them, such as ``"episode_return_mean"``.
        known: the paths that exist.
    """
    paths = sorted(known)
    wanted = _last_part(path)
    last_keys = {_last_part(each) for each in paths}
    keys = {wanted} if wanted in last_keys else set(close_names(wanted, sorted(last_keys)))
    meant = [each for each in paths if _last_part(each) in keys]
    return close_names(path, meant, cutoff=0.0) if meant else close_names(path, paths, cutoff=0.8)


def _last_part(path: str) -> str:
    """Return the last key of a path, under the name that RLlib uses since Ray 2.10.

    Since then, ``episode_reward_mean`` is ``episode_return_mean``.
    """
    return path.rpartition("/")[2].replace("episode_reward_", "episode_return_")
