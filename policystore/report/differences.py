"""Compare pairs of versions layer by layer, within a given number of bytes to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from policystore._util.concurrency import in_parallel
from policystore._util.progress import Meter
from policystore.diff import TensorDiff, diff_tensor
from policystore.digest import Digest
from policystore.format.arrays import Array
from policystore.format.keys import object_key
from policystore.format.metadata import External
from policystore.format.policy import decode_tensor
from policystore.format.records import Version
from policystore.report.content import NameContent
from policystore.report.lineage import Parent
from policystore.report.reading import ContentReader
from policystore.report.sizes import Sizes
from policystore.repository.objects import MIN_WORKERS, ObjectReader, StoredPolicy

__all__ = ["Comparison", "Pair", "compare_pairs", "plan_pairs"]

_STATE = "__state__/"


@dataclass(frozen=True)
class Pair:
    """Name two versions by their places on the page, and the reason to compare them."""

    before: int
    after: int
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Hold the differences of a pair.

    Attributes:
        pair: the two versions.
        layers: each tensor of either policy by name, arrays of the state included.
        same_spec: whether the specs are equal.
        same_state: whether the plain values of the states are equal.
    """

    pair: Pair
    layers: dict[str, TensorDiff]
    same_spec: bool
    same_state: bool


def plan_pairs(
    contents: list[NameContent],
    versions: list[Version],
    parents: list[list[Parent]],
    sizes: Sizes,
    *,
    count: int,
    nbytes: int,
) -> list[Pair]:
    """Choose the pairs to compare: the most interesting first, as many as the limits allow.

    First comes each newest version with the version before it, then each tagged version with the
    newest one, then versions with parents under other names, and then older neighbours, name by
    name in turn.

    Args:
        contents: what stands under each name.
        versions: all versions of the page.
        parents: the parents of each version.
        sizes: the objects of each policy.
        count: how many pairs to choose at most.
        nbytes: how many bytes the comparison of all pairs may read.
    """
    pairs: list[Pair] = []
    seen: set[tuple[int, int]] = set()
    left = nbytes
    for pair in _candidates(contents, versions, parents):
        if len(pairs) >= count:
            break
        key = (pair.before, pair.after)
        need = _bytes_to_read(versions[pair.before], versions[pair.after], sizes)
        if key in seen or need is None or need > left:
            continue
        seen.add(key)
        left -= need
        pairs.append(pair)
    return pairs


def _candidates(
    contents: list[NameContent], versions: list[Version], parents: list[list[Parent]]
) -> Iterator[Pair]:
    ranges, start = [], 0
    for content in contents:
        ranges.append(range(start, start + len(content.versions)))
        start += len(content.versions)
    for places in ranges:
        if len(places) > 1:
            yield Pair(places[-2], places[-1], "newest")
    for content, places in zip(contents, ranges, strict=True):
        at = {versions[place].number: place for place in places}
        for tag, target in content.current_tags().items():
            if target in at and at[target] != places[-1]:
                yield Pair(at[target], places[-1], f"tag {tag}")
    for child, its_parents in enumerate(parents):
        for parent in its_parents:
            if isinstance(parent, int) and versions[parent].name != versions[child].name:
                yield Pair(parent, child, "parent")
    for back in range(3, max((len(places) for places in ranges), default=0) + 1):
        for places in ranges:
            if back <= len(places):
                yield Pair(places[-back], places[-back + 1], "neighbours")


def _bytes_to_read(a: Version, b: Version, sizes: Sizes) -> int | None:
    """Return how many bytes a comparison reads: objects that both policies have are not read."""
    one, two = sizes.objects.get(a.digest), sizes.objects.get(b.digest)
    if one is None or two is None:
        return None
    either = {**one, **two}
    return sum(either[digest] for digest in one.keys() ^ two.keys())


def compare_pairs(
    pairs: list[Pair],
    versions: list[Version],
    records: ContentReader,
    objects: ObjectReader,
    meter: Meter,
) -> list[Comparison]:
    """Read the policies of all pairs, and compare them; damaged pairs are noted as problems."""

    def compare(pair: Pair) -> Comparison | None:
        a, b = versions[pair.before], versions[pair.after]
        place = f"the difference between {a.ref} and {b.ref}"
        result = records.attempt(place, partial(_compare, pair, a.digest, b.digest, objects))
        meter.add(1)
        return result

    meter.expect(len(pairs))
    workers = max(1, min(MIN_WORKERS, objects.backend.parallel))
    compared = in_parallel(compare, pairs, workers=workers)
    return [each for each in compared if each is not None]


def _compare(pair: Pair, a: Digest, b: Digest, objects: ObjectReader) -> Comparison:
    if a == b:
        return Comparison(pair, {}, same_spec=True, same_state=True)
    one, two = objects.policy(a), objects.policy(b)
    names = sorted(_names(one) | _names(two), key=lambda name: (name.startswith(_STATE), name))
    layers = {name: _compare_layer(name, one, two, objects) for name in names}
    return Comparison(
        pair,
        layers,
        same_spec=one.parsed.spec == two.parsed.spec,
        same_state=one.parsed.state == two.parsed.state,
    )


def _names(policy: StoredPolicy) -> set[str]:
    return policy.parsed.tensors.keys() | policy.parsed.external.keys()


def _compare_layer(
    name: str, one: StoredPolicy, two: StoredPolicy, objects: ObjectReader
) -> TensorDiff:
    left, right = one.parsed.external.get(name), two.parsed.external.get(name)
    if left is not None and left == right:
        text = f"{left.dtype}{list(left.shape)}"
        return TensorDiff("equal", text, text, 0.0, 0.0, 0.0)
    return diff_tensor(_array(name, one, left, objects), _array(name, two, right, objects))


def _array(
    name: str, policy: StoredPolicy, external: External | None, objects: ObjectReader
) -> Array | None:
    if external is None:
        return policy.parsed.tensors.get(name)
    data = objects.read(external.digest, size=external.size)
    return decode_tensor(data, external, objects.backend.location(object_key(external.digest)))
