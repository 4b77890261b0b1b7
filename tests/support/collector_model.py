"""Actors and stores of the model check of the collector, and ways to break its rules."""

from __future__ import annotations

import contextlib
import datetime
import functools
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from policystore import NotFoundError, PolicyStore, Snapshot, Version
from policystore._util import concurrency
from policystore._util.progress import Meter
from policystore.backends.base import Entry
from policystore.digest import Digest
from policystore.format import policy as policy_format
from policystore.format.keys import (
    NAMES,
    OBJECTS,
    TRASH,
    digest_of_key,
    digest_of_trash,
    mark_key,
    object_key,
    parse_name_key,
    tag_key,
    trash_key,
    version_key,
)
from policystore.format.metadata import TENSOR
from policystore.format.records import Kept, Mark, TagMove, find_span
from policystore.format.safetensors import encode_tensors
from policystore.repository import freshness, stamp, tags
from policystore.repository.collect import collector, sweep
from policystore.repository.collect.sweep import Sweep
from policystore.repository.deletion import delete as delete_module
from policystore.repository.deletion import prune as prune_module
from policystore.repository.deletion.restore import bring_back
from policystore.repository.freshness import Freshness
from policystore.repository.objects import ObjectReader
from tests.support.collecting import EPOCH, write_mark
from tests.support.interleavings import Act, Contents, Ended, Explorer, Storage

HOUR = 3600.0
GRACE = 2 * HOUR
START = EPOCH.timestamp()
Clock = Callable[[], float]

_FIXED_TIME = SimpleNamespace(
    datetime=SimpleNamespace(now=lambda zone: EPOCH), timezone=datetime.timezone
)


@functools.cache
def small_policies() -> list[Snapshot]:
    """Return two policies of one object each. All objects of the model are in one part of a store,
    which saves listings."""
    return [snap for snap in map(_one_object, range(2000)) if _in_part(snap.digest)][:2]


@functools.cache
def split_policies() -> list[Snapshot]:
    """Return two policies of two objects each, which share one of the objects."""
    tensors = (np.full(16, float(seed)) for seed in range(2000))
    shared = next(
        array for array in tensors if _in_part(encode_tensors({TENSOR: array}, None).digest)
    )
    policies = (
        Snapshot(weights={"shared": shared, "own": np.array([seed])}) for seed in range(2000)
    )
    return [snap for snap in policies if _in_part(snap.digest)][:2]


def _one_object(seed: int) -> Snapshot:
    return Snapshot(weights={"w": np.array([seed])})


def _in_part(digest: Digest) -> bool:
    return digest.hex.startswith("00")


@contextlib.contextmanager
def model_rules() -> Iterator[None]:
    """Let records have one fixed time, so that an actor makes the same requests in each run, and
    let the split rule apply to small policies."""
    with (
        mock.patch.object(stamp, "datetime", _FIXED_TIME),
        mock.patch.object(policy_format, "SPLIT_TOTAL", 64),
        mock.patch.object(policy_format, "SPLIT_TENSOR", 64),
        mock.patch.object(concurrency, "_start_threads", return_value=[]),
    ):
        yield


# Actors


def opened(backend: Any, clock: Clock) -> PolicyStore:
    store = PolicyStore.over(backend, cache=False)
    store._writer._clock = clock
    return store


def push(snap: Snapshot, name: str | None = "a") -> Act:
    return lambda backend, clock: opened(backend, clock).push(snap, name, author="")


def tag(ref: str, word: str) -> Act:
    return lambda backend, clock: opened(backend, clock).tag(ref, word)


def pull(ref: str, expected: Snapshot) -> Act:
    """Pull a policy that must be there at all times."""

    def act(backend: Any, clock: Clock) -> None:
        try:
            assert opened(backend, clock).pull(ref) == expected
        except (NotFoundError, OSError) as error:
            raise AssertionError(f"a reader of {ref} lost it: {error}") from None

    return act


def collect(backend: Any, clock: Clock) -> None:
    collector.collect_garbage(
        ObjectReader(backend),
        grace=datetime.timedelta(seconds=GRACE),
        dry_run=False,
        exclusive=GRACE < 2 * HOUR,  # only where the check is to find that this grace is too short
        meter=Meter(None),
        clock=clock,
    )


class _Pieces:
    """A backend whose listing of all names takes a request for each kind of record."""

    def __init__(self, inner: Any, kinds: tuple[str, ...]) -> None:
        self._inner, self._kinds = inner, kinds

    def entries(self, prefix: str, **options: Any) -> Iterator[Entry]:
        prefixes = [f"names/a/@{kind}/" for kind in self._kinds] if prefix == NAMES else [prefix]
        for each in prefixes:
            yield from self._inner.entries(each, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def collect_in_pieces(*kinds: str) -> Act:
    """Collect, while the listing of names shows different moments of its parts."""
    return lambda backend, clock: collect(_Pieces(backend, kinds), clock)


def delete(ref: str) -> Act:
    return lambda backend, clock: opened(backend, clock).delete(ref, author="")


def prune(name: str) -> Act:
    return lambda backend, clock: opened(backend, clock).prune(name, keep_last=1, author="")


def restore(ref: str) -> Act:
    def act(backend: Any, clock: Clock) -> None:
        with mock.patch.dict(_FRESHNESS, clock=clock):
            opened(backend, clock).restore(ref, author="")

    return act


def mark_before_objects(name: str, number: int, snap: Snapshot) -> Act:
    """Restore a version in the wrong order."""

    def act(backend: Any, clock: Clock) -> None:
        write_mark(backend, name, "restore", [(number, number)])
        bring_back(ObjectReader(backend), {snap.digest: backend_size(snap)}, "the version")

    return act


def backend_size(snap: Snapshot) -> int:
    return snap._encode().policy.size


_FRESHNESS: dict[str, Any] = Freshness.__init__.__kwdefaults__  # type: ignore[assignment]


# Stores


def make_store(steps: Callable[[PolicyStore, Storage, Callable[[float], None]], None]) -> Contents:
    """Make the storage at the start of a scenario.

    Args:
        steps: a function of a store, of its backend, and of a function that lets time pass.
    """
    now = [START - 1000 * HOUR]
    backend = Storage("the start of a scenario")
    backend._space.data, backend._space.times = {}, {}
    backend._space.clock = lambda: now[0]

    def wait(seconds: float) -> None:
        now[0] += seconds

    with model_rules():
        steps(PolicyStore.over(backend, cache=False), backend, wait)
    space = backend._space
    return {key: (data, space.times[key]) for key, data in space.data.items()}


# What must hold in each state


class Invariant:
    """Check that nothing is lost now, and after two collections that come a grace later each.

    Every version that stands, every target of a tag and every push without a name has its objects
    in ``objects/`` or in the trash.
    """

    def __init__(self) -> None:
        self._backend = Storage("the storage of the invariant")
        self.collections = 0

    def __call__(self, contents: Contents, now: float) -> None:
        check_reachable({key: data for key, (data, _) in contents.items()})
        space = self._backend._space
        space.data = {key: data for key, (data, _) in contents.items()}
        space.times = {key: time for key, (_, time) in contents.items()}
        for _ in range(2):
            now += GRACE
            time = now
            space.clock = lambda: time  # noqa: B023
            collect(self._backend, lambda: time)  # noqa: B023
            self.collections += 1
            check_reachable(space.data)
        for name, number, snap_digest in standing_versions(space.data):
            assert PolicyStore.over(self._backend, cache=False).pull(
                f"{name}@{number}"
            ).digest == Digest(snap_digest)


def standing_versions(data: dict[str, bytes]) -> Iterator[tuple[str, int, str]]:
    """Yield the name, the number and the digest of each version that must be there."""
    for key in data:
        parsed = parse_name_key(key) if key.startswith(NAMES) else None
        if parsed is not None and parsed.kind == "version":
            marks = 0
            while mark_key(parsed.name, marks + 1) in data:
                marks += 1
            deleted = (
                Mark.from_bytes(data[mark_key(parsed.name, marks)], "it").deleted if marks else ()
            )
            if find_span(deleted, parsed.number) is None:
                version = _version(data[key])
                yield parsed.name, parsed.number, version.digest.hex


@functools.lru_cache(10_000)
def _version(record: bytes) -> Version:
    return Version.from_bytes(record, "it")


def check_reachable(data: dict[str, bytes]) -> None:
    stored = {
        digest
        for key in data
        if key.startswith((OBJECTS, TRASH))
        for digest in (digest_of_key(key) or digest_of_trash(key),)
    }
    for name, number, _ in standing_versions(data):
        for digest in _version(data[version_key(name, number)]).objects or ():
            assert digest in stored, f"{name}@{number} has lost {digest.short}"
    for key, record in data.items():
        parsed = parse_name_key(key) if key.startswith(NAMES) else None
        if key.startswith("kept/"):
            for digest in Kept.from_bytes(record, "it").objects or ():
                assert digest in stored, f"{key} has lost {digest.short}"
        elif parsed is not None and parsed.kind == "tag":
            move = TagMove.from_bytes(record, "it")
            if tag_key(parsed.name, parsed.tag, parsed.number + 1) not in data and move.digest:
                assert move.digest in stored, f"the tag {parsed.tag} has lost {move.digest.short}"


# Scenarios


Wait = Callable[[float], None]


def unneeded(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Version 1 was deleted long ago, and its object is still in ``objects/``."""
    store.push(small_policies()[0], "a")
    write_mark(backend, "a", "delete", [(1, 1)])
    wait(100 * HOUR)


def unneeded_tensor(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Version 1, of two objects, was deleted long ago."""
    store.push(split_policies()[0], "a")
    write_mark(backend, "a", "delete", [(1, 1)])
    wait(100 * HOUR)


def in_trash(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Version 1 was deleted long ago, and its object is only in the trash, as old as the grace."""
    unneeded(store, backend, wait)
    collect(backend, backend._space.clock)
    wait(900 * HOUR - GRACE)


def put_back(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Version 1 was restored while a collector moved its object to the trash, long ago."""
    in_trash(store, backend, wait)
    write_mark(backend, "a", "restore", [(1, 1)])


def with_old_copy(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Version 1 was deleted long ago; its object is in ``objects/``, and an old copy in the trash."""
    unneeded(store, backend, wait)
    digest = small_policies()[0].digest
    backend.copy(object_key(digest), trash_key(digest, "0" * 32))


def standing(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Version 1 stands."""
    store.push(small_policies()[0], "a")
    wait(100 * HOUR)


_BOTH: dict[str, Act] = {"first": collect, "second": collect}


def two_standing(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Versions 1 and 2 stand."""
    for snap in small_policies():
        store.push(snap, "a")
    wait(100 * HOUR)


def tagged(store: PolicyStore, backend: Storage, wait: Wait) -> None:
    """Versions 1 and 2 stand, and a tag points to version 1."""
    for snap in small_policies():
        store.push(snap, "a")
    store.tag("a@1", "best")
    wait(100 * HOUR)


@dataclass(frozen=True)
class Scenario:
    """Actors that work on one store at the same time.

    Attributes:
        setup: makes the store.
        actors: the actors, by name.
        jumps: how many seconds the clock jumps, one jump after another, each at any time.
    """

    setup: Callable[[PolicyStore, Storage, Wait], None]
    actors: dict[str, Act]
    jumps: tuple[float, ...] = (GRACE,)


def scenarios() -> dict[str, Scenario]:
    """Return all scenarios by name."""
    one, two = small_policies()
    with model_rules():
        split = split_policies()
    slow = (0.45 * HOUR, 0.45 * HOUR, GRACE)
    return {
        "push, its object is there": Scenario(unneeded, {"push": push(one), **_BOTH}),
        "slow push": Scenario(unneeded, {"push": push(one), "first": collect}, slow),
        "push without a name": Scenario(unneeded, {"push": push(one, None), **_BOTH}),
        "push of new bytes": Scenario(unneeded, {"push": push(two), **_BOTH}),
        "push, one of two objects is there": Scenario(
            unneeded_tensor, {"push": push(split[1]), "first": collect}
        ),
        "push, an old copy is in the trash": Scenario(with_old_copy, {"push": push(one), **_BOTH}),
        "restore": Scenario(unneeded, {"restore": restore("a@1"), **_BOTH}),
        "slow restore": Scenario(unneeded, {"restore": restore("a@1"), "first": collect}, slow),
        "restore out of the trash": Scenario(in_trash, {"restore": restore("a@1"), **_BOTH}),
        "delete, and push of the same": Scenario(
            standing, {"delete": delete("a@1"), "push": push(one), "first": collect}, (GRACE, GRACE)
        ),
        "tag, and delete": Scenario(
            standing, {"tag": tag("a@1", "best"), "delete": delete("a@1"), "first": collect}
        ),
        "pages from versions to marks": Scenario(
            tagged,
            {
                "tag": tag("a@2", "best"),
                "delete": delete("a@1"),
                "first": collect_in_pieces("versions", "tags", "marks"),
            },
            (GRACE, GRACE),
        ),
        "pages from marks to versions": Scenario(
            tagged,
            {
                "tag": tag("a@2", "best"),
                "delete": delete("a@1"),
                "first": collect_in_pieces("marks", "tags", "versions"),
            },
            (GRACE, GRACE),
        ),
        "tag, and prune": Scenario(
            two_standing, {"tag": tag("a@1", "best"), "prune": prune("a"), "first": collect}
        ),
        "reader, put back": Scenario(put_back, {"reader": pull("a@1", one), **_BOTH}),
        "reader, push": Scenario(
            put_back, {"reader": pull("a@1", one), "push": push(one), "first": collect}
        ),
    }


def explore(scenario: Scenario, most: int = sys.maxsize) -> Explorer:
    """Visit the states of a scenario, ``most`` at most.

    Raises:
        LostError: something is lost; the message says by which steps.
    """
    start = make_store(scenario.setup)
    explorer = Explorer(start, START, scenario.actors, scenario.jumps, Invariant(), most)
    with model_rules():
        explorer.explore()
    return explorer


# Tags against deletions


def tag_scenarios() -> dict[str, Scenario]:
    """Return scenarios in which a tag is moved to a version while the version is deleted."""
    first, second = tag("a@1", "best"), tag("a@2", "best")

    def delete_name(backend: Any, clock: Clock) -> None:
        opened(backend, clock).delete_name("a", author="")

    return {
        "first tag, delete": Scenario(two_standing, {"tag": first, "delete": delete("a@1")}),
        "first tag, prune": Scenario(two_standing, {"tag": first, "prune": prune("a")}),
        "first tag, delete_name": Scenario(two_standing, {"tag": first, "delete": delete_name}),
        "moved tag, delete": Scenario(tagged, {"tag": second, "delete": delete("a@2")}),
        "tag left, delete": Scenario(tagged, {"tag": second, "delete": delete("a@1")}),
    }


def check_tags(contents: Contents, now: float, ends: dict[str, Ended]) -> None:
    """Check that no tag is on a deleted version after the next prune, whoever has died until now.

    A tag whose call has ended well is on its version, and this version stands. A deletion of this
    version and the tag do not both end well. If the tag was refused, its version stays deleted.
    """
    backend = Storage("the storage of the tags")
    space = backend._space
    space.data = {key: data for key, (data, _) in contents.items()}
    space.times = {key: time for key, (_, time) in contents.items()}
    store = PolicyStore.over(backend, cache=False)
    before = {version.number for version in store.log("a", deleted=True) if not version.deleted}
    with contextlib.suppress(NotFoundError):  # nothing stands, and no tag
        store.prune("a", keep_last=1000, author="")
    moves = store._resolver.last_moves("a")
    standing = {version.number for version in store.log("a", deleted=True) if not version.deleted}
    for move in moves.values():
        assert move.target in standing, f"the tag {move.tag} has lost its version {move.target}"
    tagging, deletion = ends.get("tag"), ends.get("delete")
    if tagging is not None and tagging.error is None:
        target = tagging.result.number
        assert moves["best"].target == target, f"the tag has lost its version {target}"
        deleted = deletion is not None and deletion.error is None
        assert not (deleted and before != standing), f"the deletion of {target} has lost its effect"
    elif tagging is not None:
        assert before == standing, "a deletion has lost its effect to a tag that was refused"


def explore_tags(scenario: Scenario) -> Explorer:
    """Visit all states of a scenario with a tag; raises LostError as :func:`explore` does."""
    explorer = Explorer(
        make_store(scenario.setup),
        START,
        scenario.actors,
        (),
        lambda contents, now: check_reachable({key: data for key, (data, _) in contents.items()}),
        check_ends=check_tags,
    )
    with model_rules():
        explorer.explore()
    return explorer


def broken_tag_rules() -> dict[str, tuple[Scenario, Any]]:
    """Return each rule that tags and deletions keep, with a scenario and a patch that breaks it."""
    there = tag_scenarios()
    nothing = mock.Mock(return_value={})
    return {
        "a deletion that was cut off is not made up for": (
            there["first tag, prune"],
            mock.patch.object(prune_module, "restore_dangling", nothing),
        ),
        "the tags are not read again after the mark": (
            there["first tag, delete"],
            mock.patch.object(delete_module, "restore_tagged", nothing),
        ),
        "the marks are not read after a tag": (
            there["first tag, delete"],
            mock.patch.object(tags._Mover, "deleted_error", mock.Mock(return_value=None)),
        ),
    }


# Rules to break


def _always_old_in_trash(sweep_: Sweep, entry: Entry) -> bool:
    return entry.key.startswith(TRASH) or _IS_OLD(sweep_, entry)


def _old_by_the_present_time(sweep_: Sweep, entry: Entry) -> bool:
    now = sweep_._backend.server_time()
    return entry.time is not None and entry.time <= now - GRACE


def _delete_first(sweep_: Sweep, entry: Entry, asked: float) -> None:
    backend, key = sweep_._backend, trash_key(digest_of_key(entry.key), secrets.token_hex(16))  # type: ignore[arg-type]
    data = bytes(backend.get(entry.key))
    backend.delete(entry.key)
    backend.put(key, [data])


def _one_look(objects: ObjectReader, digest: Digest, *args: Any) -> Any:
    try:
        return objects._fetch_key(object_key(digest), digest, *args)
    except NotFoundError:
        data = objects._fetch_trash(digest, args[0])
        if data is None:
            raise
        return data


@contextlib.contextmanager
def _never_late(*_: Any) -> Iterator[None]:
    yield


_IS_OLD = Sweep._is_old


def _asked_after_the_roots(sweep_: Sweep, backend: Any, *args: Any) -> None:
    _INIT(sweep_, backend, *args)
    sweep_._before = backend.server_time() - GRACE


def _not_asked_again(sweep_: Sweep, part: str, digests: list[Digest], listed: Any) -> None:
    for digest in digests:
        sweep_._move(listed[digest], sweep_._clock())


_INIT = Sweep.__init__


def broken_rules() -> dict[str, tuple[Scenario, Any]]:
    """Return each rule of the collector, with a scenario and a patch that breaks the rule."""
    there = scenarios()
    push_hit = there["push, its object is there"]
    mark_first = mark_before_objects("a", 1, small_policies()[0])
    slow = Scenario(push_hit.setup, push_hit.actors, (0.45 * HOUR, 0.45 * HOUR))
    patched = mock.patch.object
    return {
        "copies in the trash are removed while young": (
            push_hit,
            patched(Sweep, "_is_old", _always_old_in_trash),
        ),
        "copies are old by the present time": (
            push_hit,
            patched(Sweep, "_is_old", _old_by_the_present_time),
        ),
        "the time is asked after the roots are read": (
            push_hit,
            patched(Sweep, "__init__", _asked_after_the_roots),
        ),
        "all copies of an object have one key": (
            there["push, an old copy is in the trash"],
            patched(sweep, "trash_key", lambda digest, _: trash_key(digest, "0" * 32)),
        ),
        "an object is deleted long after it was copied": (
            push_hit,
            patched(sweep, "deadline", _never_late),
        ),
        "an object is deleted before it is copied": (
            push_hit,
            patched(Sweep, "_move", _delete_first),
        ),
        "the objects of a push are not checked again": (
            push_hit,
            patched(freshness, "deadline", _never_late),
        ),
        "the objects of a restore are not checked again": (
            there["restore"],
            patched(freshness, "deadline", _never_late),
        ),
        "a restore writes its mark first": (
            replace(there["restore out of the trash"], actors={"restore": mark_first, **_BOTH}),
            contextlib.nullcontext(),
        ),
        "the grace is shorter than a push and a move take": (
            slow,
            patched(sys.modules[__name__], "GRACE", 0.9 * HOUR),
        ),
        "a reader looks once": (
            there["reader, put back"],
            patched(ObjectReader, "_fetch", _one_look),
        ),
    }
