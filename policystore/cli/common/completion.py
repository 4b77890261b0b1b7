"""Complete names, tags and refs in a shell, from a store on the disk of this machine.

A store in a bucket is not asked, because the shell would wait for the network at each Tab.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

import typer

from policystore.backends.base import Backend
from policystore.backends.factory import open_backend
from policystore.cli.common.settings import find_place
from policystore.errors import PolicyStoreError
from policystore.format.keys import folder_prefix, name_of_prefix, tag_of_prefix, tags_prefix
from policystore.format.refs import check_name

__all__ = ["complete_names", "complete_refs", "complete_tags"]

_MOST = 1000  # folders that are looked at for one completion
_START = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*(?:[A-Za-z0-9_-][A-Za-z0-9._-]*)?\Z")


def complete_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names that start with a text."""
    return _quietly(_names(ctx, incomplete))


def complete_refs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names that start with a text or, after an ``@``, the tags of a name."""
    name, at, start = incomplete.partition("@")
    if not at:
        return _quietly(_names(ctx, incomplete))
    return _quietly(f"{name}@{tag}" for tag in _tags(ctx, name, start))


def complete_tags(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the tags of the name that stands before the tag in the command line."""
    words = [value for key, value in ctx.params.items() if key in ("name", "ref") and value]
    return _quietly(_tags(ctx, str(words[0]).partition("@")[0], incomplete)) if words else []


def _quietly(found: Iterable[str]) -> list[str]:
    """Return what was found; nothing if the store cannot be read, as a shell shows no message."""
    try:
        return sorted(found)
    except (PolicyStoreError, OSError):
        return []


def _backend(ctx: typer.Context) -> Backend | None:
    """Return the storage of the store that a command line means, if it is on this machine."""
    contexts = [each for each in (ctx, ctx.parent) if each is not None]
    url = next((each.params["store"] for each in contexts if each.params.get("store")), None)
    backend = open_backend(find_place(url, None).url)
    return None if backend.is_remote else backend


def _names(ctx: typer.Context, start: str) -> Iterator[str]:
    backend = _backend(ctx)
    if backend is not None and _START.match(start):
        for key in islice(backend.prefixes(folder_prefix(start), "/@"), _MOST):
            name = name_of_prefix(key)
            if name is not None and name.startswith(start):
                yield name


def _tags(ctx: typer.Context, name: str, start: str) -> Iterator[str]:
    backend = _backend(ctx)
    if backend is not None:
        for key in islice(backend.prefixes(tags_prefix(check_name(name)), "/"), _MOST):
            tag = tag_of_prefix(key, name)
            if tag is not None and tag.startswith(start):
                yield tag
