"""Write the keys of large stores for the benchmarks, without the calls of a store.

A store that is pushed policy by policy would take hours. :func:`fill` writes the same keys and
records, without hints, and without flushes if ``write`` does not flush.
"""

from __future__ import annotations

import datetime
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["NONCE", "TIME", "Shape", "Write", "files_below", "fill"]

NONCE = "0" * 32
TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

Write = Callable[[str, bytes], object]
"""A function that writes the bytes of a key."""


@dataclass(frozen=True)
class Shape:
    """Say what a store holds.

    Attributes:
        versions: how many versions it has in all.
        versions_of_a_name: how many versions a name has.
        objects_of_a_version: how many objects a version needs. Versions share no object.
        nbytes: the bytes of each object; 0 for real policies of one object each, which ``verify``
            can decode. Other objects are bytes whose digests are not those of the bytes, if
            ``nbytes`` is 8 or less, and else random bytes.
        deleted: which share of the versions of each name, from the first on, is deleted.
        minutes: how many minutes lie between the times of two versions of a name.
        with_objects: whether the objects are written; False where only records matter.
    """

    versions: int
    versions_of_a_name: int = 1000
    objects_of_a_version: int = 1
    nbytes: int = 0
    deleted: float = 0.0
    minutes: float = 1.0
    with_objects: bool = True


def fill(write: Write, shape: Shape) -> None:
    """Write a store. The names are ``n/0``, ``n/1``, …; each version has the metric ``return``."""
    from policystore.digest import digest_of
    from policystore.format.keys import MARKER, mark_key, object_key, version_key
    from policystore.format.records import Mark, Span, Version, marker_bytes

    write(MARKER, marker_bytes())
    policies = _policies(shape)
    previous = None
    for index in range(shape.versions):
        name = f"n/{index // shape.versions_of_a_name}"
        number = index % shape.versions_of_a_name + 1
        parts, objects = next(policies)
        for digest, data in objects.items() if shape.with_objects else ():
            write(object_key(digest), data)
        record = Version(
            name, number, *parts, {digest: len(data) for digest, data in objects.items()},
            None if number == 1 else previous,
            TIME + datetime.timedelta(minutes=shape.minutes * number), "ann", "",
            metrics={"return": float(index * 7919 % 10_007)}, nonce=NONCE,
        ).to_bytes()  # fmt: skip
        write(version_key(name, number), record)
        previous = digest_of(record)
        if number == 1 and shape.deleted:
            last = round(shape.deleted * shape.versions_of_a_name)
            mark = Mark(
                name, 1, "delete", ((1, last),), (Span(1, last, 1),), None, TIME, "", "", NONCE
            )
            write(mark_key(name, 1), mark.to_bytes())


def _policies(shape: Shape) -> Iterator[tuple[tuple, dict]]:  # type: ignore[type-arg]
    """Yield four digests of a policy and of its parts, and the bytes of its objects by digest."""
    import blake3

    from policystore import Digest
    from policystore.digest import digest_of

    if not shape.nbytes:
        yield from _real_policies(shape.versions)
        return
    for index in range(shape.versions):
        first = index * shape.objects_of_a_version
        if shape.nbytes <= 8:
            objects = {
                Digest(blake3.blake3(b"%d" % n).hexdigest()): b"8 bytes."[: shape.nbytes]
                for n in range(first, first + shape.objects_of_a_version)
            }
        else:
            each = (os.urandom(shape.nbytes) for _ in range(shape.objects_of_a_version))
            objects = {digest_of(data): data for data in each}
        yield (next(iter(objects)),) * 4, objects


def _real_policies(count: int) -> Iterator[tuple[tuple, dict]]:  # type: ignore[type-arg]
    """Yield policies of one number each, which stands in the last bytes of their files.

    Only the first is encoded by policystore, which would take minutes for a hundred thousand.
    ``verify`` finds a fault if a file is not as policystore encodes it.
    """
    from policystore import Snapshot, Spec
    from policystore.digest import digest_of
    from policystore.format.safetensors import encode_tensors

    first = Snapshot(weights={"w": np.array([0], "<i8")}, spec=Spec())
    policy, weights = (
        b"".join(chunks)[:-8]
        for chunks in (first._encode().policy.chunks, encode_tensors(first.weights, None).chunks)
    )
    for number in range(count):
        last = struct.pack("<q", number)
        digest, part = digest_of(policy, last), digest_of(weights, last)
        yield (digest, part, part, first.state_digest), {digest: policy + last}


def files_below(root: Path) -> Write:
    """Return a function that writes keys as files below a folder."""
    made: set[Path] = set()

    def write(key: str, data: bytes) -> None:
        path = root / key
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(data)

    return write
