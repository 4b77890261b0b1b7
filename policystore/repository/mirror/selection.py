"""Choose what a copy takes: all names, names below a prefix, versions, and policies by digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policystore.backends.base import Backend
from policystore.digest import Digest
from policystore.errors import InvalidInputError, NotFoundError, StorageError
from policystore.format.keys import MARKER, NAMES, name_of_prefix, version_key
from policystore.format.records import Version
from policystore.format.refs import check_name
from policystore.repository.ref_like import as_list, as_ref
from policystore.repository.resolver import Resolver

__all__ = ["Selection", "select"]


@dataclass(frozen=True)
class Selection:
    """What a copy takes.

    Attributes:
        everything: whether it takes the whole store, also policies without a name and leagues.
        names: the names whose lists of versions are copied, in order.
        versions: single versions of other names, by name and number.
        digests: policies that are copied by their digests alone.
        unknown: starts of keys below ``names/`` that are not names.
    """

    everything: bool
    names: tuple[str, ...]
    versions: dict[str, tuple[int, ...]]
    digests: tuple[Digest, ...]
    unknown: tuple[str, ...]


def select(resolver: Resolver, items: str | Iterable[str]) -> Selection:
    """Find in a store what a caller has asked for.

    Args:
        resolver: reads the source.
        items: an item or a list of items. An item is ``""`` for everything, a prefix that ends with
            ``/``, a name, a ref of a version, or a digest.

    Raises:
        InvalidInputError: an item of another form.
        NotFoundError: the source has nothing of that name, prefix, version or digest.
        StorageError: the storage failed, or cannot be listed.
    """
    wanted = [items] if isinstance(items, str) else as_list(items, "names")
    whole: set[str] = set()
    versions: dict[str, set[int]] = {}
    digests: set[Digest] = set()
    known: list[str] | None = None
    unknown: list[str] = []
    for item in wanted:
        if isinstance(item, str) and (item == "" or item.endswith("/")):
            if item:
                _check_prefix(item)
            if known is None:
                known, unknown = _list_names(resolver.backend)
            below = [name for name in known if name.startswith(item)]
            if item and not below:
                raise NotFoundError(f"{resolver.backend.url} has no names that begin with {item!r}")
            whole.update(below)
            continue
        # A Version means the version under its name here, so that its list can be continued.
        ref = as_ref(item.ref if isinstance(item, Version) else item)
        if not ref.name:
            digests.add(resolver.resolve(item))
        elif ref.number is None and ref.tag is None:
            # A name whose versions are all deleted is copied too, with its deletions.
            if resolver.backend.size(version_key(ref.name, 1)) is None:
                resolver.version(ref)  # raises the error that lists the names
            whole.add(ref.name)
        else:
            version = resolver.version(ref)
            versions.setdefault(ref.name, set()).add(version.number or 0)
    return Selection(
        everything="" in wanted,
        names=tuple(sorted(whole)),
        versions={n: tuple(sorted(versions[n])) for n in sorted(versions) if n not in whole},
        digests=tuple(sorted(digests)),
        unknown=tuple(unknown) if "" in wanted else (),
    )


def _list_names(backend: Backend) -> tuple[list[str], list[str]]:
    """List all names in order, also those whose versions are deleted; and what is not a name.

    Raises:
        StorageError: the storage cannot be listed.
    """
    names, unknown = [], []
    for prefix in backend.prefixes(NAMES, "/@"):
        name = name_of_prefix(prefix)
        if name is None:
            unknown.append(prefix)
        else:
            names.append(name)
    if not names and not unknown:
        # Many web servers list nothing, or write keys in a form of their own.
        listed = next(iter(backend.keys(NAMES)), None)
        if listed is not None or MARKER not in backend.keys(""):
            raise StorageError(
                f"the names in {backend.url} cannot be listed: the server returns no listings, or "
                "returns them in a form that policystore does not read. Say which names to copy."
            )
    return sorted(names), sorted(unknown)


def _check_prefix(item: str) -> None:
    try:
        check_name(item[:-1])
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{item!r} is not a prefix such as 'soccer/': {error}. Use '' for the whole store."
        ) from None
