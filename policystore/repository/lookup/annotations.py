"""List and read the annotations of versions.

The keys of annotations have random nonces in place of numbers. So a listing finds the annotations.
A reader reads a bounded number of annotations for each version, however many keys there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from policystore._util.batches import batches
from policystore._util.concurrency import in_parallel
from policystore._util.log import logger
from policystore.backends.base import Backend
from policystore.errors import FormatError, NotFoundError
from policystore.format.keys import (
    MAX_RECORD,
    annotation_key,
    annotation_of_key,
    annotations_prefix,
)
from policystore.format.records import Annotation

__all__ = [
    "MAX_ANNOTATIONS",
    "Annotations",
    "ListedAnnotations",
    "PackedAnnotations",
    "list_annotations",
    "parse_annotation",
    "read_annotations",
]

MAX_ANNOTATIONS = 1000
"""How many annotations of one version a reader reads. If there are more, the reader reads the
newest ones by the times of the storage, and logs a warning."""

Annotations: TypeAlias = dict[int, tuple[Annotation, ...]]
"""Number of a version -> its annotations, oldest first by the clocks of their writers."""

_PAGE = 1024  # records that are read before the next ones are begun

_NUMBER, _NONCE = 8, 16  # bytes


class PackedAnnotations:
    """Hold the numbers and nonces of many annotations of one name, 24 bytes each."""

    __slots__ = ("_packed",)

    def __init__(self) -> None:
        self._packed = bytearray()

    def add(self, number: int, nonce: str) -> None:
        """Add an annotation of a listing."""
        self._packed += number.to_bytes(_NUMBER, "big") + bytes.fromhex(nonce)

    def __len__(self) -> int:
        return len(self._packed) // (_NUMBER + _NONCE)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for start in range(0, len(self._packed), _NUMBER + _NONCE):
            middle = start + _NUMBER
            number = int.from_bytes(self._packed[start:middle], "big")
            yield number, self._packed[middle : middle + _NONCE].hex()


@dataclass(frozen=True)
class ListedAnnotations:
    """Hold the annotations that a listing shows for a name, or for one version.

    Attributes:
        name: the name.
        nonces: number of a version -> the nonces of its annotations, at most
            :data:`MAX_ANNOTATIONS`.
        omitted: number of a version -> how many older annotations are left out.
    """

    name: str
    nonces: dict[int, list[str]]
    omitted: dict[int, int]


def list_annotations(backend: Backend, name: str, number: int | None = None) -> ListedAnnotations:
    """List the annotations of a name, or of one version.

    The time of the call is in proportion to the number of keys. Its memory is bounded for each
    version. Keys of another form are left out; ``verify`` reports them.

    Args:
        backend: the storage of the store.
        name: the name.
        number: the number of the version; None for all versions of the name.

    Raises:
        StorageError: the storage failed.
    """
    newest: dict[int, list[tuple[float, str]]] = {}
    omitted: dict[int, int] = {}
    for entry in backend.entries(annotations_prefix(name, number)):
        place = annotation_of_key(entry.key, name)
        if place is None:
            continue
        # An annotation without a time, or with a time that is no number, counts as old.
        time = entry.time if entry.time is not None and entry.time == entry.time else 0.0
        heap = newest.setdefault(place[0], [])
        if len(heap) < MAX_ANNOTATIONS:
            heapq.heappush(heap, (time, place[1]))
        else:
            heapq.heappushpop(heap, (time, place[1]))
            omitted[place[0]] = omitted.get(place[0], 0) + 1
    # A listing that repeats a key shows one annotation.
    nonces = {at: sorted({nonce for _, nonce in heap}) for at, heap in newest.items()}
    return ListedAnnotations(name, nonces, omitted)


def read_annotations(
    backend: Backend, listed: ListedAnnotations, numbers: Iterable[int], *, workers: int
) -> Annotations:
    """Read the annotations of versions, several at once.

    Args:
        backend: the storage of the store.
        listed: the annotations of the name.
        numbers: the versions.
        workers: how many records to read at once.

    Returns:
        Number of each version -> its annotations, oldest first by the clocks of their writers.

    Raises:
        FormatError: an annotation is damaged, or belongs to another key.
        StorageError: the storage failed.
    """
    found: dict[int, list[Annotation]] = {number: [] for number in numbers}
    for number in found:
        if number in listed.omitted:
            logger.warning(
                "%s@%d in %s has more than %d annotations; the %d oldest ones were not read",
                listed.name,
                number,
                backend.url,
                MAX_ANNOTATIONS,
                listed.omitted[number],
            )

    def read(place: tuple[int, str]) -> Annotation | None:
        try:
            data = backend.get(annotation_key(listed.name, *place), limit=MAX_RECORD)
        except NotFoundError:
            return None  # somebody has removed the record by hand since the listing
        return parse_annotation(backend, listed.name, *place, data)

    places = ((number, nonce) for number in found for nonce in listed.nonces.get(number, ()))
    for page in batches(places, _PAGE):
        for annotation in in_parallel(read, page, workers=workers):
            if annotation is not None:
                found[annotation.number].append(annotation)
    return {
        number: tuple(sorted(each, key=lambda annotation: (annotation.time, annotation.nonce)))
        for number, each in found.items()
    }


def parse_annotation(
    backend: Backend, name: str, number: int, nonce: str, data: bytes | memoryview
) -> Annotation:
    """Parse the bytes of an annotation.

    Raises:
        FormatError: the record is damaged, or belongs to another key.
    """
    location = backend.location(annotation_key(name, number, nonce))
    annotation = Annotation.from_bytes(data, location)
    if (annotation.name, annotation.number, annotation.nonce) != (name, number, nonce):
        raise FormatError(
            f"{location}: the record belongs to another key: it was moved or copied to this key"
        )
    return annotation
