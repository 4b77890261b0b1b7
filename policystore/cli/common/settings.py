"""Find the store that a command works on: by option, environment or ``pyproject.toml``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policystore._util import files
from policystore._util.messages import brief
from policystore.cli.common.values import refuse_secrets
from policystore.errors import InvalidInputError

__all__ = ["VARIABLE", "Place", "expanded", "find_place"]

VARIABLE = "POLICYSTORE_URL"
_FILE = "pyproject.toml"
_SECTION = "[tool.policystore]"
_KEYS = {"store", "storage_options"}


@dataclass(frozen=True)
class Place:
    """Name the store that a command works on.

    Attributes:
        url: the folder or URL.
        options: the options for the filesystem; None for none.
        origin: what named the store, such as ``--store``.
    """

    url: str
    options: Mapping[str, Any] | None = field(default=None, repr=False)
    origin: str = "--store"


def find_place(url: str | None, options: Mapping[str, Any] | None) -> Place:
    """Return the store that was named first: by the option, the environment, or a file.

    Args:
        url: the value of ``--store``; None if it was not given.
        options: the values of ``--option``. They replace those of the file, one by one. The search
            for ``pyproject.toml`` begins in the working directory.

    Raises:
        InvalidInputError: nothing names a store, or the file is wrong.
    """
    if url:
        return Place(url, options or None)
    if from_environment := os.environ.get(VARIABLE):
        return Place(from_environment, options or None, f"${VARIABLE}")
    place = _place_in_file()
    if place is None:
        raise InvalidInputError(
            f"no store was named: give --store FOLDER-OR-URL, set ${VARIABLE}, or write "
            f'store = "…" below {_SECTION} in a {_FILE} of this folder or a folder above it'
        )
    merged = {**(place.options or {}), **(options or {})}
    return Place(place.url, merged or None, place.origin)


def _place_in_file() -> Place | None:
    """Return the store that the nearest ``pyproject.toml`` with the section names."""
    try:
        folder = Path.cwd()
    except OSError:
        return None  # the working directory was removed
    for parent in (folder, *folder.parents):
        section = _section(parent / _FILE)
        if section is not None:
            return _place_of(section, parent)
    return None


def _section(path: Path) -> Mapping[str, Any] | None:
    """Return the section of a file; None if there is no such file, or no such section in it."""
    try:
        data = bytes(files.read_file(path))
        if b"policystore" not in data:
            return None
        text = data.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} cannot be read: {error}. Give --store instead.") from None
    if sys.version_info >= (3, 11):
        import tomllib  # late: most commands need no file
    else:  # pragma: no cover - tests run on 3.11 and newer, and the extra cli brings tomli
        import tomli as tomllib
    try:
        section = tomllib.loads(text).get("tool", {}).get("policystore")
    except (ValueError, RecursionError, AttributeError) as error:
        raise InvalidInputError(
            f"{path} is no valid TOML: {error}. Correct the file, or give --store."
        ) from None
    if section is not None and not isinstance(section, Mapping):
        raise InvalidInputError(
            f"{path}: expected that {_SECTION} is a table, found {brief(section)}. Correct the "
            "file, or give --store."
        )
    return section


def _place_of(section: Mapping[str, Any], folder: Path) -> Place:
    """Return the store that a section names; a relative folder begins at the folder of the file."""
    origin = f"{_SECTION} in {folder / _FILE}"
    unknown = sorted(set(section) - _KEYS)
    if unknown:
        raise InvalidInputError(
            f"{origin}: unknown keys {', '.join(map(brief, unknown))}; the keys are "
            f"{' and '.join(sorted(_KEYS))}"
        )
    url, options = section.get("store"), section.get("storage_options")
    if not isinstance(url, str) or not url:
        raise InvalidInputError(
            f"{origin}: expected the folder or URL of a store as the key store, found {brief(url)}"
        )
    if options is not None:
        refuse_secrets(options, f"{origin}: storage_options")
    if "://" not in url:
        url = str(folder / expanded(url))
    return Place(url, options or None, origin)


def expanded(text: str) -> Path:
    """Return a path in which ``~`` or ``~ann`` at the beginning is the home folder of that user.

    Raises:
        InvalidInputError: there is no such user, or the user has no home folder.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidInputError(f"{brief(text)}: {error}") from None
