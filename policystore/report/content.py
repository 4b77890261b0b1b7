"""Hold what a report reads from a store, name by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policystore.format.records import Mark, Span, TagMove, Version

__all__ = ["NameContent", "flat_versions"]


@dataclass
class NameContent:
    """Hold what a report has read of one name.

    Attributes:
        name: the name.
        newest: the newest number, whether this version stands or not.
        standing: how many versions stand.
        not_shown: how many of these versions are not read, because of the limit of the report.
        versions: the versions that stand and could be read, by number.
        tags: the moves of each tag that could be read, oldest first.
        deleted: the deleted versions.
        marks: the marks that deleted versions, by number, as far as they were read.
    """

    name: str
    newest: int
    standing: int
    not_shown: int = 0
    versions: list[Version] = field(default_factory=list)
    tags: dict[str, list[TagMove]] = field(default_factory=dict)
    deleted: tuple[Span, ...] = ()
    marks: Mapping[int, Mark] = field(default_factory=dict)

    def current_tags(self) -> dict[str, int]:
        """Return the number of the version that each tag points to now."""
        last = {tag: moves[-1].target for tag, moves in self.tags.items() if moves}
        return {tag: target for tag, target in last.items() if target is not None}


def flat_versions(contents: list[NameContent]) -> list[Version]:
    """Return the versions of all names, in the order in which the page numbers them."""
    return [version for content in contents for version in content.versions]
