"""Measure how many bytes each version takes, and how many bytes shared objects save."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from policystore.digest import Digest
from policystore.format.records import Version
from policystore.report.content import NameContent, flat_versions
from policystore.report.reading import ContentReader
from policystore.repository.objects import ObjectReader

__all__ = ["Sizes", "measure"]


@dataclass
class Sizes:
    """Hold the sizes of the versions of a report, in bytes.

    Attributes:
        objects: the objects of each policy with their sizes, by the digest of the policy. A policy
            whose list of objects cannot be read is absent.
        whole: the size of each version with all its objects, in the order of the page.
        added: how many bytes of each version no earlier version of the report had.
        stored: the size of all objects of these versions; each object counts once.
    """

    objects: dict[Digest, Mapping[Digest, int]] = field(default_factory=dict)
    whole: list[int] = field(default_factory=list)
    added: list[int] = field(default_factory=list)
    stored: int = 0

    @property
    def saved(self) -> int:
        """How many more bytes the versions would take if each had objects of its own."""
        return sum(self.whole) - self.stored


def measure(contents: list[NameContent], records: ContentReader, objects: ObjectReader) -> Sizes:
    """Measure all versions of a report.

    The records list the objects. If a policy has more than 256 objects, its record has no list, and
    the policy object is read.
    """
    sizes = Sizes()
    versions = flat_versions(contents)
    for version in versions:
        if version.digest not in sizes.objects:
            listed = _objects_of(version, records, objects)
            if listed is not None:
                sizes.objects[version.digest] = listed
    sizes.whole = [sum(sizes.objects.get(version.digest, {}).values()) for version in versions]
    sizes.added = [0] * len(versions)
    seen: set[Digest] = set()
    for index in sorted(range(len(versions)), key=lambda at: (versions[at].time, at)):
        for digest, nbytes in sizes.objects.get(versions[index].digest, {}).items():
            if digest not in seen:
                seen.add(digest)
                sizes.added[index] += nbytes
    sizes.stored = sum(sizes.added)
    return sizes


def _objects_of(
    version: Version, records: ContentReader, objects: ObjectReader
) -> Mapping[Digest, int] | None:
    if version.objects is not None:
        return version.objects
    policy = records.attempt(
        f"the objects of {version.ref}", lambda: objects.policy(version.digest)
    )
    if policy is None:
        return None
    listed = {item.digest: item.size for item in policy.parsed.external.values()}
    return {**listed, version.digest: policy.nbytes}
