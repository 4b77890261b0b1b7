"""Whoever can write to a bucket cannot make a reader of leagues hang, run code or exhaust memory.

Each input is a store with two leagues, of which one is changed at one to three keys. Calls on that
league give numbers or a typed error. The other league keeps its numbers, whatever was changed.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from policystore import PolicyStore, PolicyStoreError
from policystore.format import league_keys as keys
from policystore.format.records import marker_bytes
from policystore.league import League, leagues
from tests.support.hostile_bytes import mutated_record
from tests.support.league_store import LEAGUE, WRITERS, delete_epoch, write_lists
from tests.support.store_fuzz import TIME, HostileBackend, lying

SECONDS = 60.0  # of processor time, for one call: it would never end in practice
NEW = {"players": {"red": "heuristic:x", "blue": "heuristic:y"}, "episodes": 1, "wins": {"red": 1}}
JUNK = (
    "leagues/x", "leagues/soccer/@seasons/0000000001.json", "leagues/con/@deleted/0000000001.json",
    "leagues/soccer/@matches/1/w/0000000001.json", "leagues/!!a/@matches/x", "leagues//@deleted/x",
    keys.batch_key(LEAGUE, 1, WRITERS[0], 9_999_999_999), keys.batch_key(LEAGUE, 1, "f" * 32, 7),
    keys.batch_key(LEAGUE, 9_999_999_999, WRITERS[0], 1), keys.deletion_key(LEAGUE, 9_999_999_999),
    keys.deletion_key(LEAGUE, 1), keys.deletion_key(LEAGUE, 3), keys.summary_key(LEAGUE, 1, 1),
    keys.summary_key(LEAGUE, 1, 9_999_999_999), keys.summary_key(LEAGUE, 2, 1),
    f"leagues/soccer/@bodies/{'0' * 64}.json", "leagues/soccer/@bodies/x", "leagues/é/@deleted/x",
)  # fmt: skip


def base_data() -> dict[str, bytes]:
    """Return a store with two leagues; one has an epoch that was deleted, and summaries."""
    data: dict[str, bytes] = {}
    store = PolicyStore.over(HostileBackend(data))
    backend = store._backend
    backend.replace("policystore.json", marker_bytes())
    write_lists(backend, (2,), epoch=1)
    delete_epoch(backend, 1)
    write_lists(backend, (9, 2), epoch=2)
    write_lists(backend, (3, 2), league="chess")
    for _ in range(2):
        League(store, LEAGUE).totals()  # writes a summary
    League(store, LEAGUE).record([NEW])
    return data


DATA = base_data()
CHESS = League(PolicyStore.over(HostileBackend(dict(DATA))), "chess").totals()


def make_input(chance: random.Random) -> tuple[dict[str, bytes], Any, str]:
    """Change the league at one to three keys; return the store, a lie of its listings, and why."""
    data, lies = dict(DATA), None
    ours = sorted(key for key in DATA if key.startswith(f"leagues/{LEAGUE}/"))
    kind = chance.choice(("record", "record", "record", "swap", "lost", "junk", "listing"))
    for _ in range(chance.choice((1, 1, 2, 3))):
        key = chance.choice(ours)
        if kind == "record":
            data[key] = mutated_record(chance, key, DATA[key])
        elif kind == "swap":
            data[key] = DATA[chance.choice(ours)]
        elif kind == "lost":
            data.pop(key, None)
        elif kind == "junk":
            data[chance.choice(JUNK)] = chance.choice((b"", b"x", DATA[chance.choice(ours)]))
        else:
            lies = lying(chance)
    return data, lies, kind


def check_chess(store: PolicyStore) -> str:
    """Return what is wrong with the league that was not changed; "" for nothing."""
    try:
        same = League(store, "chess").totals().matchups == CHESS.matchups
    except PolicyStoreError as error:
        return f"chess cannot be read: {error}"[:300]
    return "" if same else "chess has other numbers"


def calls(store: PolicyStore, chance: random.Random) -> list[Callable[[], Any]]:
    """Return calls that read or write the league, or look after the store."""
    league = League(store, LEAGUE)
    target = PolicyStore.over(HostileBackend({}, name="copy"))

    def collect() -> Any:
        for days in (30, 60):
            now = TIME.timestamp() + days * 86_400.0
            store._backend._space.clock = lambda now=now: now  # type: ignore[attr-defined]
            store.collect_garbage(dry_run=False)
        return check_chess(store)

    def copy() -> Any:
        store.copy_to(target)
        return check_chess(target)

    return [
        league.totals,
        lambda: list(league.matches(limit=chance.choice((1, 5, None)))),
        lambda: list(league.matches(player="heuristic:p1")),
        lambda: league.record([NEW]) and league.totals(),
        lambda: leagues(store),
        league.delete,
        league.seal,
        store.stats,
        lambda: store.collect_garbage(dry_run=True),
        collect,
        copy,
    ]


def fuzz(seed: int, count: int) -> tuple[Counter[str], list[str]]:
    """Try so many inputs; return how often each outcome came, and what must not happen."""
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for number in range(count):
        chance = random.Random(f"{seed}:{number}")
        data, lies, kind = make_input(chance)
        remote = chance.random() < 0.3
        store = PolicyStore.over(HostileBackend(data, remote=remote, lies=lies), cache=False)
        chosen = chance.sample(calls(store, chance), 3)
        chosen += [store.verify] if lies is None and chance.random() < 0.3 else []
        for call in chosen:
            began = time.process_time()
            try:
                result = call()
                outcome = "an answer"
                if isinstance(result, str) and result and lies is None:
                    faults.append(f"{seed}:{number} {kind}: {result}")
            except PolicyStoreError as error:
                outcome = type(error).__name__
                if len(str(error)) > 4_000:
                    faults.append(f"{seed}:{number} {kind}: {len(str(error))} characters")
            except (Exception, RecursionError) as error:
                outcome = "another error"
                faults.append(f"{seed}:{number} {kind}: {type(error).__name__}: {error}"[:300])
            if time.process_time() - began > SECONDS:
                faults.append(f"{seed}:{number} {kind}: {time.process_time() - began:.0f} s")
            outcomes[outcome] += 1
        if lies is None and (wrong := check_chess(store)):
            faults.append(f"{seed}:{number} {kind}: {wrong}")
    return outcomes, faults


def test_hostile_leagues_give_numbers_or_a_typed_error() -> None:
    outcomes, faults = fuzz(1, 40)
    assert faults == []
    assert outcomes["an answer"] > 40
    assert outcomes["FormatError"] > 10


@pytest.mark.long
def test_more_hostile_leagues() -> None:
    assert fuzz(2, 1_500)[1] == []
