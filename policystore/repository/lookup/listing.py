"""List names, and find the names that are close to a mistyped one with a few requests."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import partial
from itertools import islice

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.log import logger
from policystore.backends.base import Backend, Problems
from policystore.errors import InvalidInputError
from policystore.format.keys import (
    folder_prefix,
    name_of_deleted,
    name_of_folder,
    name_of_prefix,
    version_key,
)
from policystore.format.refs import check_name
from policystore.repository.lookup.state import read_state

__all__ = ["list_names", "names_advice"]

_START = re.compile(r"[A-Za-z0-9._-]*\Z")
_SIBLINGS = 1000  # folders that a search for a mistyped name looks at; a page of a listing on S3
_DEEPEST = 4  # levels of folders of such a search
_SHOWN = 10  # names in a message
_FEW = 3  # folders that are looked into for a message


def list_names(backend: Backend, prefix: str, *, workers: int) -> list[str]:
    """List the names that start with ``prefix`` and have a version that stands, in order.

    Only keys below the prefix are listed. Folders that this user may not list are left out, and the
    log says which. A name that had no standing version at some time costs a
    few requests more.

    Raises:
        InvalidInputError: ``prefix`` is not text.
        StorageError: the storage failed.
    """
    if not isinstance(prefix, str):
        raise InvalidInputError(f"a prefix is a string, not {type(prefix).__qualname__}")
    if not _can_start_a_name(prefix):
        return []
    names, deleted = run_both(
        partial(_names_below, backend, prefix),
        partial(_deleted_below, backend, prefix),
        at_once=backend.parallel > 1,
    )
    doubtful = sorted(names & deleted)
    states = in_parallel(partial(read_state, backend), doubtful, workers=workers)
    return sorted(names - {state.name for state in states if not state.stands})


def _can_start_a_name(prefix: str) -> bool:
    """Return whether a name may start with ``prefix``; keys are only built of such a prefix."""
    folder, separator, start = prefix.rpartition("/")
    if not _START.match(start) or start.startswith("."):
        return False
    if not separator:
        return True
    try:
        check_name(folder)
    except InvalidInputError:
        return False
    return True


def _names_below(backend: Backend, prefix: str) -> set[str]:
    problems: Problems = []
    keys = backend.prefixes(folder_prefix(prefix), "/@", problems=problems)
    names = {name for name in map(name_of_prefix, keys) if name and name.startswith(prefix)}
    if problems:
        logger.warning(
            "names below %d folders were left out, because this user may not list them: %s",
            len(problems),
            "; ".join(f"{place}: {problem}" for place, problem in problems[:3]),
        )
    return names


def _deleted_below(backend: Backend, prefix: str) -> set[str]:
    keys = backend.keys(folder_prefix(prefix, deleted=True))
    return {name for name in map(name_of_deleted, keys) if name and name.startswith(prefix)}


def names_advice(backend: Backend, name: str) -> str:
    """Return a sentence that names what is close to a name that does not exist.

    The number of requests does not grow with the number of names. The search goes down from the
    first folder, along the parts of the name or the parts that are close to them.

    Raises:
        StorageError: the storage failed.
    """
    folders, found, listed = [""], [""], set[str]()
    for part in name.split("/")[:_DEEPEST]:
        found = []
        for folder in folders:
            listed = _siblings(backend, folder, part)
            like = difflib.get_close_matches(part, [path[len(folder) :] for path in listed], n=3)
            found += [f"{folder}{each}" for each in ([part] if folder + part in listed else like)]
        if not found:
            break
        folders = [f"{path}/" for path in found[:3]]
    close = [each for each in _as_names(backend, found[:3]) if each != name]
    if close:
        return " Did you mean " + " or ".join(repr(each) for each in close[:3]) + "?"
    beside = sorted(listed)
    shown = _as_names(backend, beside[:_SHOWN])[:_SHOWN]
    if not shown:
        return " The store has no names."
    more = ", and more" if len(beside) > _SHOWN else ""
    return f" The names are: {', '.join(shown)}{more}"


def _siblings(backend: Backend, folder: str, part: str) -> set[str]:
    """List paths directly below a folder: the first ones, and those that begin as ``part`` does."""
    listed = set(_paths(backend, folder))
    if len(listed) >= _SIBLINGS:
        start = part[: max(1, len(part) // 2)]
        listed |= set(_paths(backend, folder + start))
    return listed


def _paths(backend: Backend, start: str) -> Iterator[str]:
    if _can_start_a_name(start):
        keys = islice(backend.prefixes(folder_prefix(start), "/"), _SIBLINGS)
        yield from (path for path in map(name_of_folder, keys) if path is not None)


def _as_names(backend: Backend, paths: list[str]) -> list[str]:
    """Return paths as names, and a folder of names with a slash at its end.

    If there are few paths, some of what is directly in a folder stands in place of the folder.
    """
    shown: list[str] = []
    for path, is_name in zip(paths, _are_names(backend, paths), strict=True):
        inner = [] if is_name or len(paths) > _FEW else sorted(_paths(backend, f"{path}/"))
        inner = inner[:_SHOWN]
        names = _are_names(backend, inner)
        shown += [each if name else f"{each}/" for each, name in zip(inner, names, strict=True)]
        if not inner:
            shown.append(path if is_name else f"{path}/")
    return shown


def _are_names(backend: Backend, paths: list[str]) -> list[bool]:
    return in_parallel(
        lambda path: backend.size(version_key(path, 1)) is not None, paths, workers=_SHOWN
    )
