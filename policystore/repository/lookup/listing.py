"""List names, and find the names that are close to a mistyped one with a few requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from functools import partial
from itertools import islice
from os.path import commonprefix

from policystore._util.concurrency import in_parallel, run_both
from policystore._util.log import logger
from policystore._util.near import close_names, did_you_mean
from policystore.backends.base import Backend, Problems
from policystore.errors import FormatError, IntegrityError, InvalidInputError, StorageError
from policystore.format.keys import (
    folder_prefix,
    name_of_deleted,
    name_of_folder,
    name_of_prefix,
    version_key,
)
from policystore.format.refs import check_name
from policystore.repository.lookup.state import read_state

__all__ = ["can_start_a_name", "list_names", "names_advice", "warn_of_no_names"]

_START = re.compile(r"[A-Za-z0-9._-]*\Z")
_SIBLINGS = 1000  # folders that a search for a mistyped name looks at; a page of a listing on S3
_DEEPEST = 4  # levels of folders of such a search
_SHOWN = 10  # names in a message
_FEW = 3  # folders that are looked into for a message


def list_names(backend: Backend, prefix: str, *, workers: int, deleted: bool = False) -> list[str]:
    """List the names that start with ``prefix`` and have a version that stands, in order.

    Only keys below the prefix are listed. Folders that this user may not list are left out, and the
    log says which. A name that had no standing version at some time costs a
    few requests more.

    Args:
        backend: the storage of the store.
        prefix: the beginning of the names.
        workers: how many requests to make at once.
        deleted: True to list the names of which no version stands, too.

    Raises:
        InvalidInputError: ``prefix`` is not text.
        StorageError: the storage failed.
    """
    if not isinstance(prefix, str):
        raise InvalidInputError(f"a prefix is a string, not {type(prefix).__qualname__}")
    if not can_start_a_name(prefix):
        return []
    if deleted:
        return sorted(_names_below(backend, prefix))
    names, fallen = run_both(
        partial(_names_below, backend, prefix),
        partial(_deleted_below, backend, prefix),
        at_once=backend.parallel > 1,
    )
    doubtful = sorted(names & fallen)
    states = in_parallel(partial(read_state, backend), doubtful, workers=workers)
    return sorted(names - {state.name for state in states if not state.stands})


def can_start_a_name(prefix: str) -> bool:
    """Return whether a name may start with ``prefix``; keys are only built of such a prefix.

    In a key ``!a`` stands for ``A``, so the key of the text ``!a`` would be that of another name.
    """
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


def warn_of_no_names(backend: Backend, prefix: str) -> None:
    """Log a warning that no name starts with a prefix, with near names, once for each prefix.

    The number of requests does not grow with the number of names.
    """
    if not logger.is_news(("prefix", backend.url, prefix)):
        return
    try:
        advice = (
            names_advice(backend, prefix.rstrip("/"))
            if can_start_a_name(prefix)
            else " A name has segments of ASCII letters, digits, '.', '_' and '-', with '/' between"
        )
    except StorageError as error:
        advice = f" The names of the store cannot be listed: {error}"
    logger.warning("no name in %s starts with %r.%s", backend.url, prefix, advice)


def names_advice(backend: Backend, name: str) -> str:
    """Return a sentence that names what is close to a name that does not exist.

    The number of requests does not grow with the number of names. The search goes down from the
    first folder, along the parts of the name or the parts that are close to them.

    Raises:
        StorageError: the storage failed.
    """
    folders, found, listed, place = [""], [""], set[str](), ""
    for part in name.split("/")[:_DEEPEST]:
        found = []
        for folder in folders:
            listed, place = _siblings(backend, folder, part), folder
            like = close_names(part, [path[len(folder) :] for path in listed])
            found += [f"{folder}{each}" for each in ([part] if folder + part in listed else like)]
        if not found:
            break
        folders = [f"{path}/" for path in found[:3]]
    close = [each for each in _as_names(backend, found[:3]) if each != name]
    if close:
        return did_you_mean(close)
    beside = sorted(listed)
    shown = _as_names(backend, beside[:_SHOWN])[:_SHOWN]
    if not shown:
        return " The store has no names."
    more = ", and more" if len(beside) > _SHOWN else ""
    below = f" below {place}" if place else ""
    return f" The names{below} are: {', '.join(shown)}{more}"


def _siblings(backend: Backend, folder: str, part: str) -> set[str]:
    """List paths directly below a folder: the first ones, and those that begin as ``part`` does."""
    listed = set(_paths(backend, folder))
    if len(listed) >= _SIBLINGS:
        start = part[: max(1, len(part) // 2)]
        listed |= set(_paths(backend, folder + start))
    return listed


def _paths(backend: Backend, start: str) -> Iterator[str]:
    if can_start_a_name(start):
        keys = islice(backend.prefixes(folder_prefix(start), "/"), _SIBLINGS)
        yield from (path for path in map(name_of_folder, keys) if path is not None)


def _as_names(backend: Backend, paths: list[str]) -> list[str]:
    """Return paths as names that stand, and a folder of names with a slash at its end.

    If there are few paths, some of what is directly in a folder stands in place of the folder.
    """
    shown: list[str] = []
    for path, kind in zip(paths, _kinds(backend, paths), strict=True):
        if kind is _Kind.STANDS:
            shown.append(path)
            continue
        if kind is _Kind.FOLDER and len(paths) > _FEW:
            shown.append(f"{path}/")
            continue
        inner = sorted(_paths(backend, f"{path}/"))[:_SHOWN]
        for each, inner_kind in zip(inner, _kinds(backend, inner), strict=True):
            if inner_kind is not _Kind.DELETED:
                shown.append(each if inner_kind is _Kind.STANDS else f"{each}/")
        if not inner and kind is _Kind.FOLDER:
            shown.append(f"{path}/")
    return shown


class _Kind(Enum):
    """What a path in a listing is."""

    STANDS = "a name with a version that stands"
    DELETED = "a name whose versions were all deleted"
    FOLDER = "a folder of names, and no name itself"


def _kinds(backend: Backend, paths: list[str]) -> list[_Kind]:
    """Return what each of a few paths of one listing is."""
    if not paths:
        return []
    looks = partial(in_parallel, partial(_is_name, backend), paths, workers=_SHOWN)
    start = commonprefix(paths)  # noqa: RUF071 (characters are meant, not parts of paths)
    fallen = partial(_fallen, backend, start)
    are_names, doubtful = run_both(looks, fallen, at_once=backend.parallel > 1)
    return [
        _Kind.FOLDER
        if not is_name
        else _Kind.STANDS
        if path not in doubtful or _stands(backend, path)
        else _Kind.DELETED
        for path, is_name in zip(paths, are_names, strict=True)
    ]


def _is_name(backend: Backend, path: str) -> bool:
    return backend.size(version_key(path, 1)) is not None


def _fallen(backend: Backend, prefix: str) -> set[str | None]:
    """Return the first names that start with a prefix and had no standing version at some time."""
    return {
        name_of_deleted(key)
        for key in islice(backend.keys(folder_prefix(prefix, deleted=True)), _SIBLINGS)
    }


def _stands(backend: Backend, name: str) -> bool:
    try:
        return bool(read_state(backend, name).stands)
    except (FormatError, IntegrityError):
        return True  # a damaged mark hides whether the name stands
