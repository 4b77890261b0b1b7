"""Read stores with hostile bytes, keys and listings, and check what each call makes of them.

Each input is a small store of several names with one to three changes. Calls on that store must
return the right policy or raise a typed error, at bounded cost. A ref whose records and objects were
not changed must return its policy, whatever else is in the store.
"""

from __future__ import annotations

import datetime
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policystore import PolicyStore, PolicyStoreError, Snapshot
from policystore.backends.base import Entry, Problems
from policystore.backends.memory import MemoryBackend, _Space
from policystore.digest import Digest, digest_of
from policystore.errors import StorageError
from policystore.format import keys as k
from policystore.format.records import (
    Annotation,
    Hint,
    Kept,
    Mark,
    Span,
    TagHint,
    Version,
    pointer_bytes,
)
from policystore.testing import make_snapshot
from tests.support.hostile_bytes import mutated_object, mutated_record

__all__ = ["Figures", "HostileBackend", "Input", "base_store", "fuzz"]

SECONDS = 1.0  # of processor time, for one call, where times are measured
STUCK = 60.0  # the same where they are not: the call would never end in practice
LINUX = sys.platform == "linux"
MEMORY = 64 << 20  # above the memory before the call and the size of the store
TIME = datetime.datetime(2026, 11, 21, 1, 25, 37, 123, tzinfo=datetime.timezone.utc)
NONCE = "0123456789abcdef" * 2
JUNK = (
    "x", "readme.txt", "names/x", "names/a/x", "names/a/@versions/x.json", "names/a/@versions/",
    "names/a/@versions/0000000000.json", "names/a/@versions/1.json", "names/a/@x/0000000001.json",
    "names/a/@versions/9999999999.json", "names/a/@marks/0000000009.json", "names/../a/@hint",
    "names/con/@hint", "names/A/@versions/0000000001.json", "names/!!a/@hint", "names//@hint",
    "names/a/@tags/7/0000000001.json", "names/a/@tags/latest/0000000001.json",
    "names/a/@tags/t/0000000002.json", "names/a/@tags/champion/9999999999.json",
    "names/a/@copied/" + NONCE, "names/a/@copied/x", "names/a/@notes/0000000001/x.json",
    f"names/a/@notes/0000000001/{NONCE}.json", f"names/a/@notes/9999999999/{NONCE}.json",
    f"names/a/@notes/0000000000/{NONCE}.json", f"names/x/@notes/0000000001/{NONCE}.json",
    "deleted/a/@mark", "deleted/x", "deleted/../@mark", "kept/x", "kept/" + "0" * 64 + "/x.json",
    "kept/" + "0" * 64 + f"/{NONCE}.json", "trash/x", f"trash/00/{'0' * 64}/{NONCE}.safetensors",
    "objects/x", "objects/zz/" + "0" * 64 + ".safetensors", "objects/00/" + "0" * 64 + ".safetensors",
    "objects/00/" + "0" * 63 + "A.safetensors", "tmp/x", "leagues/x/@matches/1/w/0000000001.json",
    "policystore.json/x", "names/a/@hint/x", "\x1b[2J", "é", "names/" + "n" * 2_000 + "/@hint",
)  # fmt: skip


class HostileBackend(MemoryBackend):
    """Keep a store in memory; it may look remote, and its listings may lie.

    Args:
        data: the bytes of each key; the backend changes this dict.
        remote: whether requests seem to go through a network, several at once.
        lies: changes the entries of each listing, if given.
        name: the name of the place; a copy needs two places.
    """

    def __init__(
        self,
        data: dict[str, bytes],
        *,
        remote: bool = False,
        lies: Callable[[list[Entry]], list[Entry]] | None = None,
        name: str = "hostile",
    ) -> None:
        self._name = name
        self._space = _Space()
        self._space.data = data
        self._space.times = defaultdict(TIME.timestamp)
        self._remote, self._lies = remote, lies

    @property
    def is_remote(self) -> bool:
        return self._remote

    @property
    def parallel(self) -> int:
        return 4 if self._remote else 1

    def entries(self, prefix: str, *, problems: Problems | None = None) -> Iterator[Entry]:
        entries = list(super().entries(prefix))
        yield from entries if self._lies is None else self._lies(entries)


@dataclass(frozen=True)
class Base:
    """A store without faults, and what its refs mean.

    Attributes:
        data: the bytes of each key.
        means: ref -> the digest that it means, or the class of the error.
        needs: ref -> the starts of the keys that decide what the ref means.
    """

    data: dict[str, bytes]
    means: dict[str, Any]
    needs: dict[str, tuple[str, ...]]


def base_store() -> Base:
    """Make a store with every kind of key of format 1."""
    data: dict[str, bytes] = {}
    store = PolicyStore.over(HostileBackend(data))
    for seed in range(5):
        store.push(make_snapshot(seed), "a", metrics={"return": seed}, message="m", author="ann")
    for target, tag in ((1, "champion"), (4, "champion"), (2, "removed")):
        store.tag(f"a@{target}", tag)
    store.untag("a", "removed")
    store.protect("a", "champion", ["ann", "bob"], author="ann")
    for number, nonce in ((1, NONCE), (2, NONCE), (2, NONCE[::-1])):
        digest = store.resolve(f"a@{number}")
        note = Annotation("a", number, digest, TIME, "ann", {"elo": 1200.0}, "rated", nonce)
        data[k.annotation_key("a", number, nonce)] = note.to_bytes()
    for seed in range(3):
        store.push(make_snapshot(seed), "m", parents=["a@1"])
    for seed in range(2):
        store.push(make_snapshot(seed, large=True), "big")
        store.push(make_snapshot(seed + 3), "b/C")
    store.push(make_snapshot(9))
    keep = make_snapshot(9).digest
    size = len(data[k.object_key(keep)])
    data[k.kept_key(keep, NONCE)] = Kept(keep, {keep: size}, TIME, "ann", NONCE).to_bytes()
    data[k.trash_key(keep, NONCE)] = data[k.object_key(keep)]
    previous = None
    for number, action, changed, deleted in (
        (1, "delete", ((2, 3),), (Span(2, 3, 1),)),
        (2, "restore", ((3, 3),), (Span(2, 2, 1),)),
    ):
        mark = Mark(
            "m", number, action, changed, deleted, previous, TIME, "ann", "bad", NONCE,  # type: ignore[arg-type]
            force=action == "delete",
        )  # fmt: skip
        data[k.mark_key("m", number)] = mark.to_bytes()
        previous = digest_of(mark.to_bytes())
    data[k.hint_key("m")] = Hint(3, store.resolve("m@3"), 2, 3).to_bytes()
    data[k.tag_hint_key("a", "champion")] = TagHint(3, 4, store.resolve("a@4")).to_bytes()
    data[k.deleted_key("m")] = pointer_bytes()
    return describe(data, store)


def describe(data: dict[str, bytes], store: PolicyStore) -> Base:
    """Find out what the refs of a store without faults mean."""
    refs = [f"{name}{at}" for name in ("a", "m", "big", "b/C") for at in ("", "@1", "@2", "@3")]
    refs += ["a@4", "a@champion", "a@removed", "m@nix", "nix"]
    policies = {digest: f"blake3:{digest.hex}" for digest in map(store.resolve, ("a", "big@1"))}
    policies[make_snapshot(9).digest] = f"blake3:{make_snapshot(9).digest.hex[:10]}"
    means: dict[str, Any] = {}
    needs: dict[str, tuple[str, ...]] = {}
    for ref in [*refs, *policies.values()]:
        try:
            snap = store.pull(ref)
            means[ref] = snap.digest
            objects = tuple(k.object_key(digest) for digest in objects_of(snap))
        except PolicyStoreError as error:
            means[ref], objects = type(error), ()
        name, _, at = ref.partition("@")
        needs[ref] = objects
        if ref.startswith("blake3:"):
            needs[ref] += (
                () if len(ref) == 71 else (k.object_prefix(ref[7:]), k.trash_prefix(snap.digest))
            )
        else:
            needs[ref] += (k.versions_prefix(name), k.marks_prefix(name), k.MARKER)
            needs[ref] += (k.tags_prefix(name),) if at and not at.isdigit() else ()
    return Base(dict(data), means, needs)


def objects_of(snap: Snapshot) -> list[Digest]:
    return list(snap._encode().objects)


@dataclass
class Input:
    """A store with changes.

    Attributes:
        data: the bytes of each key.
        changed: the keys that were changed, added or removed.
        kind: the kind of the changes, for the figures.
        lies: changes the entries of listings, if they lie.
    """

    data: dict[str, bytes]
    changed: set[str] = field(default_factory=set)
    kind: str = ""
    lies: Callable[[list[Entry]], list[Entry]] | None = None

    def write(self, key: str, data: bytes | None) -> None:
        self.changed.add(key)
        self.data.pop(key, None)
        if data is not None:
            self.data[key] = data


def make_input(base: Base, chance: random.Random) -> Input:
    """Change a store at one to three keys."""
    made = Input(dict(base.data))
    keys = sorted(base.data)
    records = [key for key in keys if not key.endswith(".safetensors")]
    made.kind = chance.choice(
        ("record", "record", "record", "object", "object at its address", "swap", "lost", "junk",
         "listing", "far number")
    )  # fmt: skip
    for _ in range(chance.choice((1, 1, 2, 3))):
        key = chance.choice(records)
        if made.kind == "record":
            made.write(key, mutated_record(chance, key, base.data[key]))
        elif made.kind == "object":
            key = chance.choice([key for key in keys if key.endswith(".safetensors")])
            made.write(key, mutated_record(chance, key, base.data[key]))
        elif made.kind == "object at its address":
            forge_object(base, made, chance)
        elif made.kind == "swap":
            made.write(key, base.data[chance.choice(keys)])
        elif made.kind == "lost":
            made.write(chance.choice(keys), None)
        elif made.kind == "junk":
            junk = chance.choice(JUNK)
            made.write(junk, chance.choice((b"", b"x", base.data[chance.choice(keys)])))
        elif made.kind == "far number":
            forge_far(base, made, chance)
        else:
            made.lies = lying(chance)
    return made


def forge_object(base: Base, made: Input, chance: random.Random) -> None:
    """Store a hostile object under its true digest, and let a version and a hint name it."""
    objects = [
        key for key in base.data if key.startswith("objects/") and len(base.data[key]) < 10_000
    ]
    data = mutated_object(chance, base.data[chance.choice(sorted(objects))])
    digest = digest_of(data)
    made.write(k.object_key(digest), data)
    number = chance.randrange(1, 6)
    record = json.loads(base.data[k.version_key("a", number)])
    record["digest"], record["objects"] = str(digest), {str(digest): len(data)}
    record = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    made.write(k.version_key("a", number), record.encode())
    if chance.random() < 0.5:
        made.write(k.hint_key("a"), Hint(number, digest).to_bytes())


def forge_far(base: Base, made: Input, chance: random.Random) -> None:
    """Let a record, mark, move or hint stand far ahead of the others."""
    number = chance.choice((7, 300, 2**31, 9_999_999_998, 9_999_999_999))
    record = base.data[k.version_key("a", 5)].replace(b'"number":5', b'"number":%d' % number)
    move = base.data[k.tag_key("a", "champion", 3)]
    mark = base.data[k.mark_key("m", 2)].replace(b'"number":2', b'"number":%d' % number)
    digest = Version.from_bytes(base.data[k.version_key("a", 5)], "").digest
    for key, data in chance.sample(
        [
            (k.version_key("a", number), record),
            (k.hint_key("a"), Hint(number, digest).to_bytes()),
            (k.hint_key("m"), Hint(3, digest, number, chance.choice((0, 3, number))).to_bytes()),
            (k.mark_key("m", number), mark),
            (
                k.tag_key("a", "champion", number),
                move.replace(b'"number":3', b'"number":%d' % number),
            ),
            (k.tag_key("a", "champion", 4), move.replace(b'"target":4', b'"target":%d' % number)),
            (k.tag_hint_key("a", "champion"), TagHint(number, number, digest).to_bytes()),
        ],
        chance.randrange(1, 4),
    ):
        made.write(key, data)


def lying(chance: random.Random) -> Callable[[list[Entry]], list[Entry]]:
    """Return a function that changes a listing: junk, repeats, wrong sizes and times."""
    kind = chance.randrange(6)
    extra = chance.choice(JUNK)
    size = chance.choice((-1, 0, 2**63, 10**30))
    moment = chance.choice((None, 0.0, -1e9, 1e12, 1e300, float("inf"), float("nan")))

    def lie(entries: list[Entry]) -> list[Entry]:
        if kind == 0:
            return entries * 3
        if kind == 1:
            return [*entries, *(Entry(f"{extra}{n}", 1, 0.0) for n in range(2_000))]
        if kind == 2:
            return [Entry(entry.key, size, entry.time) for entry in entries]
        if kind == 3:
            return [Entry(entry.key, entry.nbytes, moment) for entry in entries]
        if kind == 4:
            return entries[::2]
        return [*reversed(entries), Entry(extra, size, moment)]

    return lie


@dataclass
class Figures:
    """What came out of the inputs.

    Attributes:
        inputs: how many there were.
        kinds: how many of each kind.
        outcomes: how often each outcome came out of a call.
        slowest: the longest call, in seconds of processor time, and its input.
        peak: the most memory of one input above the memory before it, and the input.
        faults: what must not happen, each with its input.
    """

    inputs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    peak: tuple[int, str] = (0, "")
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{self.inputs:,} inputs, {self.outcomes.total():,} calls"]
        lines += [f"  input {kind}: {count:,}" for kind, count in sorted(self.kinds.items())]
        lines += [f"  outcome {kind}: {count:,}" for kind, count in self.outcomes.most_common()]
        lines += [
            f"slowest call: {self.slowest[0]:.3f} s ({self.slowest[1]})",
            f"most memory of an input: {self.peak[0] / 2**20:.1f} MiB ({self.peak[1]})",
            f"{len(self.faults)} faults",
        ]
        return "\n".join([*lines, *self.faults[:50]])


def fuzz(seed: int, numbers: range, *, measure: bool = False) -> Figures:
    """Try the inputs of these numbers; an input depends on the seed and its number alone.

    Args:
        seed: the seed.
        numbers: the numbers of the inputs.
        measure: whether to measure the time and the memory of each input (memory on Linux alone).
            Times mean something only where the machine does nothing else.
    """
    base, figures = base_store(), Figures()
    for number in numbers:
        chance = random.Random(f"{seed}:{number}")
        made = make_input(base, chance)
        label = f"--seed {seed} --first {number} --count 1: {made.kind}, {sorted(made.changed)[:3]}"
        label = label.encode("ascii", "backslashreplace").decode()
        before = reset_peak() if measure and LINUX else 0
        try_input(base, made, chance, figures, label, SECONDS if measure else STUCK)
        if measure and LINUX:
            used = peak() - before
            figures.peak = max(figures.peak, (used, label))
            if used > MEMORY + sum(map(len, made.data.values())):
                figures.faults.append(f"{used / 2**20:.0f} MiB: {label}")
        figures.inputs += 1
        figures.kinds[made.kind] += 1
    return figures


def try_input(
    base: Base, made: Input, chance: random.Random, figures: Figures, label: str, seconds: float
) -> None:
    """Make several calls on one input, of so many seconds of processor time at most."""
    remote, data = chance.random() < 0.3, dict(made.data)

    def fresh() -> PolicyStore:
        """Open the store as it is before the calls."""
        backend = HostileBackend(dict(data), remote=remote, lies=made.lies)
        return PolicyStore.over(backend, cache=False)

    store = fresh()
    names = {ref.partition("@")[0] for ref in base.means}
    near = [name for name in names if any(f"/{name.lower()[-1]}/" in key for key in made.changed)]
    refs = chance.sample(sorted(base.means), 3)
    refs += [ref for ref in base.means if ref.partition("@")[0] in near][: chance.choice((2, 9))]
    calls: list[tuple[str, Callable[[], Any]]] = [
        (ref, lambda ref=ref: store.pull(ref)) for ref in refs
    ]
    others = other_calls(store, fresh, chance)
    calls += [("", call) for call in chance.sample(others, 2)]
    if chance.random() < 0.03:
        calls.append(("", store.verify))
    for ref, call in calls:
        began = time.process_time()
        try:
            result = call()
            outcome = check(base, made, ref, result)
        except PolicyStoreError as error:
            outcome = type(error).__name__
            if len(str(error)) > 4_000:
                outcome = f"FAULT a message of {len(str(error))} characters"
            if ref and not affected(base, made, ref) and base.means[ref] is not type(error):
                outcome = f"FAULT {ref} was not changed, and raises {type(error).__name__}: {error}"
        except (Exception, RecursionError) as error:
            outcome = f"FAULT {type(error).__name__}: {error}"[:300]
        took = time.process_time() - began
        figures.slowest = max(figures.slowest, (took, label))
        if took > seconds:
            outcome = f"FAULT {took:.1f} s"
        if outcome.startswith("FAULT"):
            figures.faults.append(f"{outcome}: {label}, ref {ref!r}")
            outcome = "FAULT"
        figures.outcomes[outcome] += 1


def affected(base: Base, made: Input, ref: str) -> bool:
    """Return whether a change may rightly change what a ref means."""
    if made.lies is not None and ref.startswith("blake3:") and len(ref) < 71:
        return True
    starts = base.needs[ref]
    return any(key.startswith(starts) for key in made.changed)


def check(base: Base, made: Input, ref: str, result: Any) -> str:
    """Return the outcome of a call that returned something."""
    if isinstance(result, Changed):
        return check_changed(base, made, result)
    if not isinstance(result, Snapshot):
        return "an answer"
    if not affected(base, made, ref):
        expected = base.means[ref]
        return "exact" if result.digest == expected else f"FAULT {result.digest}, not {expected}"
    # A forged record may name any policy of the store, and the policy must be what it says.
    if result._encode().policy.digest != result.digest:
        return "FAULT the arrays are not those of the digest"
    places = (k.object_key(result.digest), k.trash_prefix(result.digest))
    if not any(key.startswith(places) for key in made.data):
        return "FAULT a policy that the store does not have"
    return "exact" if result.digest == base.means[ref] else "another policy of the store"


def check_changed(base: Base, made: Input, changed: Changed) -> str:
    """Return the outcome of a collection or a copy: versions that were not changed are there."""
    for ref, meaning in base.means.items():
        # Calls before this one may have made versions and moved tags.
        is_number = "@" in ref and ref[-1].isdigit()
        if not is_number or isinstance(meaning, type) or affected(base, made, ref):
            continue
        try:
            digest: Any = changed.store.pull(ref).digest
        except PolicyStoreError as error:
            return f"FAULT {ref} after the call: {type(error).__name__}: {error}"
        if digest != meaning:
            return f"FAULT {ref} after the call is {digest}"
    return "collected or copied"


def other_calls(
    store: PolicyStore, fresh: Callable[[], PolicyStore], chance: random.Random
) -> list[Callable[[], Any]]:
    """Return calls that do not pull, each for a random name."""
    name = chance.choice(("a", "m", "big", "b/C"))
    number = chance.randrange(1, 6)
    snap = make_snapshot(chance.randrange(20))

    def push_and_pull() -> str:
        version = store.push(snap, name)
        assert store.pull(version.ref) == snap, "a pushed version is another policy"
        return "pushed"

    return [
        lambda: store.resolve(name),
        lambda: store.log(name, limit=20),
        lambda: store.tags(name),
        store.names,
        lambda: store.find_acting(snap.acting_digest),
        push_and_pull,
        lambda: store.tag(f"{name}@{number}", "champion", force=number > 2),
        lambda: store.untag(name, "champion"),
        lambda: store.protect(name, "champion", force=number > 2),
        lambda: store.annotate(f"{name}@{number}", metrics={"elo": 1}),
        lambda: store.annotations(f"{name}@{number}"),
        lambda: store.version(chance.choice((name, f"{name}@{number}", f"{name}@champion"))),
        lambda: store.log(name, deleted=True, tags=True, annotations=True),
        lambda: store.delete(f"{name}@{number}", force=number > 2),
        lambda: store.delete_name(name, force=number > 2),
        lambda: store.restore(f"{name}@{number}"),
        lambda: store.restore(name),
        lambda: store.prune(name, keep_last=number),
        lambda: store.prune(name, keep_best=("return", "max", 2)),
        lambda: store.log(name, deleted=True, limit=20),
        lambda: store.tag_history(name, "champion"),
        store.stats,
        lambda: store.stats("b/"),
        lambda: store.collect_garbage(dry_run=True),
        *[lambda: collect(fresh()), lambda: copy(fresh())] * 2,
    ]


@dataclass
class Changed:
    """A store after a collection or a copy, whose versions must be those from before.

    Attributes:
        store: the store.
    """

    store: PolicyStore


def collect(store: PolicyStore) -> Changed:
    """Collect three times, a month apart."""
    for month in (1, 2, 3):
        now = TIME.timestamp() + month * 30 * 86_400.0
        store._backend._space.clock = lambda now=now: now
        store.collect_garbage(dry_run=False)
    return Changed(store)


def copy(store: PolicyStore) -> Changed:
    """Copy a store to an empty one."""
    target = PolicyStore.over(HostileBackend({}, name="copy"))
    store.copy_to(target)
    return Changed(target)


def reset_peak() -> int:
    """Forget the most memory that this process has had, and return what it has now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """Return the most memory that this process has had since :func:`reset_peak`, in bytes."""
    return status("VmHWM")


def status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise StorageError(f"/proc/self/status has no {name}")
