"""Stores that reports are made of: one like a real league of a thousand versions, and odd ones."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from policystore import PolicyStore, Snapshot, Spec, Version

START = datetime.datetime(2026, 8, 3, 9, 0, tzinfo=datetime.timezone.utc)
MADE = datetime.datetime(2026, 11, 29, 12, 0, tzinfo=datetime.timezone.utc)

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'></script>"
    "<!--<script>\u2028\u2029\u202e{{data}} &lt;b&gt; ${1} `'\" javascript:window.hacked=3\x00\x1b[31m"
)


class Clock:
    """The clock of the writers of a store; it goes on only when it is told."""

    def __init__(self, time: datetime.datetime = START) -> None:
        self.time = time

    def __call__(self) -> datetime.datetime:
        return self.time

    def wait(self, hours: float) -> None:
        self.time += datetime.timedelta(hours=hours)


@contextlib.contextmanager
def written_at(clock: Clock) -> Iterator[None]:
    """Let all records be written at the time of a clock."""
    with contextlib.ExitStack() as stack:
        for module in ("writer", "deletion.marking", "annotations"):
            stack.enter_context(mock.patch(f"policystore.repository.{module}.now", clock))
        yield


class League:
    """Makes versions of policies that learn.

    Args:
        store: where they go.
        clock: the clock of the writers.
        seed: of the noise.
    """

    def __init__(self, store: PolicyStore, clock: Clock, seed: int = 0) -> None:
        self.store, self.clock = store, clock
        self.random = np.random.default_rng(seed)
        self.encoder = self.random.standard_normal((1024, 1024)).astype(np.float32)
        self.weights: dict[str, dict[str, Any]] = {}

    def train(self, name: str, like: str | None = None, *, large: bool = False) -> Snapshot:
        """Return the next snapshot of a name, or the first one, which begins like another name."""
        weights = self.weights.get(name) or (dict(self.weights[like]) if like else {})
        if not weights:
            shapes = {
                "encoder.net.0.weight": (16, 8), "encoder.net.0.bias": (16,),
                "encoder.net.2.weight": (16, 16), "encoder.net.2.bias": (16,),
                "pi.net.0.weight": (4, 16), "pi.net.0.bias": (4,),
                "vf.net.0.weight": (1, 16), "vf.net.0.bias": (1,),
            }  # fmt: skip
            weights = {
                key: self.random.standard_normal(shape).astype(np.float32)
                for key, shape in shapes.items()
            }
            if large:
                weights["vision.trunk.weight"] = self.encoder  # an object of its own, shared
        moved = {}
        for at, (key, array) in enumerate(weights.items()):
            frozen = key.startswith("vision") or (large and key.startswith("encoder.net.0"))
            scale = 0 if frozen else 0.03 * 0.4**at + 1e-4
            noise = self.random.standard_normal(array.shape).astype(np.float32) if scale else 0
            moved[key] = array + np.float32(scale) * noise if scale else array
        self.weights[name] = moved
        return Snapshot(weights=moved, spec=Spec())

    def push(
        self,
        name: str,
        *,
        step: int,
        total: int,
        parents: list[Version] | None = None,
        like: str | None = None,
        large: bool = False,
        hours: float = 2.0,
        author: str = "ann",
        message: str = "",
        metrics: dict[str, Any] | None = None,
    ) -> Version:
        """Push the next version of a name, with curves of training as metrics."""
        self.clock.wait(hours * (0.4 + 1.2 * self.random.random()))
        progress = step / max(1, total)
        noise = self.random.standard_normal(4)
        curve: dict[str, Any] = {
            "return": float(24 / (1 + math.exp(-8 * (progress - 0.45))) + noise[0] * 0.9 - 2),
            "episode_len": float(180 + 220 * progress + 12 * noise[1]),
            "loss/policy": float(0.4 * math.exp(-3 * progress) + 0.02 * abs(noise[2])),
            "loss/value": float(40 * math.exp(-2 * progress) + 1.5 * abs(noise[3])),
            "entropy": float(1.4 * (1 - 0.8 * progress) + 0.03 * noise[1]),
            "kl": float(0.01 + 0.004 * abs(noise[0])),
        }
        if step % 5 == 0:
            curve["win_rate"] = float(np.clip(0.3 + 0.55 * progress + 0.05 * noise[2], 0, 1))
        if step in (17, 18, 19):
            curve["loss/value"] = math.nan
        source = {"trial": f"PPO_{name.replace('/', '_')}", "iteration": 10 * step, "lr": 3e-4}
        return self.store.push(
            self.train(name, like, large=large),
            name,
            message=message or f"iteration {10 * step}",
            metrics={**curve, **(metrics or {})},
            source=source,
            parents=parents or (),
            author=author,
        )


def league_store(store: PolicyStore, versions: int = 1000, seed: int = 0) -> PolicyStore:
    """Fill a store with a league: a main policy, exploiters that branch off, and other projects.

    Args:
        store: an empty store.
        versions: how many versions to push, about.
        seed: of the noise.
    """
    clock = Clock()
    with written_at(clock):
        league = League(store, clock, seed)
        main = _train_main(league, int(versions * 0.42))
        _branch(league, "soccer/exploiter", main, int(versions * 0.16), [0.25, 0.5, 0.8])
        _branch(league, "soccer/league-exploiter", main, int(versions * 0.08), [0.6])
        vision = []
        clock.time = START + datetime.timedelta(days=6)
        for step in range(total := int(versions * 0.14)):
            parents = vision[-1:]
            vision.append(
                league.push("vision/grasp", step=step, total=total, parents=parents, large=True,
                            hours=14, author="chen", message="frozen trunk, new head")
            )  # fmt: skip
        for tag, at in (("stable", 0.3), ("stable", 0.55), ("stable", 0.9), ("demo", 0.7)):
            store.tag(vision[int(at * len(vision))], tag, author="chen")
        _branch(league, "vision/grasp-real", vision, int(versions * 0.06), [0.7], large=True)
        for at, name in enumerate(("control/cartpole", "control/pendulum", "control/walker")):
            clock.time = START + datetime.timedelta(days=20 + 11 * at)
            count = max(3, int(versions * (0.06, 0.05, 0.03)[at]))
            versions_of = []
            for step in range(count):
                versions_of.append(
                    league.push(name, step=step, total=count, parents=versions_of[-1:], hours=6,
                                author=("bo", "ann", "dana")[at])
                )  # fmt: skip
            store.tag(versions_of[-1], "best", author="dana")
        _annotate(store, main, clock)
        store.protect("soccer/main", "champion", by=["ann"], author="ann")
        store.delete("control/walker@2", message="trained on a broken env")
    return store


def _train_main(league: League, total: int) -> list[Version]:
    store, main = league.store, list[Version]()
    for step in range(total):
        parents = main[-1:]
        message = ""
        if step == int(total * 0.62):  # went wrong: back to an older version
            parents, message = [main[int(total * 0.5)]], "back to an older version, lower lr"
        main.append(
            league.push("soccer/main", step=step, total=total, parents=parents, hours=5,
                        message=message, metrics={"elo": 1000 + 500 * step / total})
        )  # fmt: skip
        if step and step % max(1, total // 12) == 0:
            store.tag(main[-1], "champion", author="ann")
        if step == total // 3:
            store.tag(main[-1], "league-seed", author="ann")
    store.tag(main[-1], "candidate", author="bo")
    store.tag(main[total // 2], "old-rules", author="ann")
    store.untag("soccer/main", "old-rules", author="ann")
    return main


def _annotate(store: PolicyStore, main: list[Version], clock: Clock) -> None:
    """Say something of versions after their push."""
    for at in range(0, len(main), max(1, len(main) // 25)):
        clock.wait(1)
        elo = 1000 + 480 * at / len(main) + 7 * (at % 5)
        store.annotate(main[at], metrics={"rating": elo, "games": 200}, author="evaluator")
    clock.wait(30)
    store.annotate(main[-1], note="beats the champion 61 : 39 in 400 games", author="ann")
    store.annotate(
        main[len(main) // 2],
        note="do not use: trained with the old rules,\nthe ball was too light",
        metrics={"reviewed": "no"},
        author="dana",
    )


def _branch(
    league: League,
    name: str,
    main: list[Version],
    total: int,
    starts: list[float],
    *,
    large: bool = False,
) -> None:
    """Push versions that begin from versions of another name, one after the other."""
    pushed: list[Version] = []
    for step in range(total):
        part = step * len(starts) // total
        is_first = step == 0 or part != (step - 1) * len(starts) // total
        parents = pushed[-1:]
        if is_first:
            parent = main[int(starts[part] * (len(main) - 1))]
            league.clock.time = parent.time
            league.weights.pop(name, None)
            parents = [parent]
        pushed.append(
            league.push(name, step=step, total=total, parents=parents, like=parents[0].name,
                        large=large, hours=3, author="bo", message="" if step % 7 else "against the champion")
        )  # fmt: skip
    league.store.tag(pushed[-1], "strongest", author="bo")


def hostile_store(store: PolicyStore) -> PolicyStore:
    """Fill a store with texts that attack the page, in every place that takes text."""
    snap = Snapshot(weights={HOSTILE[:200].replace("\x00", ""): np.zeros(3, np.float32)})
    other = Snapshot(weights={HOSTILE[:200].replace("\x00", ""): np.ones(3, np.float32)})
    with written_at(Clock()):
        for each in (snap, other):
            store.push(
                each,
                "evil/name",
                message=HOSTILE,
                author=HOSTILE[:100],
                metrics={HOSTILE: 1.5, "text": HOSTILE, "__proto__": 2.0, "constructor": 3.0},
                source={HOSTILE: HOSTILE, "__proto__": {"polluted": HOSTILE}},
            )
        store.annotate(
            "evil/name@1", note=HOSTILE, metrics={HOSTILE: 1.0, "t": HOSTILE}, author=HOSTILE[:90]
        )
        store.tag("evil/name@1", "__proto__")
        store.tag("evil/name@2", "constructor")
    return store
