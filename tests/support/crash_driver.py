"""Kill processes during pushes. The crash tests run this file as a program, so that it may fork.

``steps FOLDER``: a push is killed at its 1st, 2nd, 3rd… call that changes the disk, until one gets
through. ``random FOLDER SEED COUNT``: COUNT writers are killed at random moments. After each kill,
``verify`` must find no fault, and the store must have all versions whose push had returned. The
program prints the number of kills.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from policystore import PolicyStore, Snapshot, Spec

CALLS = ("write", "fsync", "link", "replace", "unlink", "mkdir", "fchmod")


def snapshot(seed: int, large: bool) -> Snapshot:
    values = np.random.default_rng(seed).standard_normal(300)
    weights: dict[str, Any] = {"w": values}
    if large:
        weights["frozen"] = np.zeros((1024, 1024), np.float32)
        weights["head"] = np.tile(values, 250)
    return Snapshot(weights=weights, spec=Spec(config={"seed": seed}))


def check(root: Path, acknowledged: dict[int, str]) -> None:
    store = PolicyStore(root)
    if not (root / "policystore.json").exists():
        assert not acknowledged
        return
    report = store.verify()
    assert report.ok, str(report)
    for number, digest in acknowledged.items():
        assert str(store.resolve(f"a@{number}")) == digest, (number, digest)
    if acknowledged:
        assert len(store.log("a")) >= max(acknowledged)


def killed_at(step: int, root: Path, seed: int, what: str) -> bool:
    """Push in a child process; kill it before change ``step``. Return whether it was killed."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            return call

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        store = PolicyStore(root)
        if what == "tag":
            store.tag("a@1", "champion")
        else:
            store.push(snapshot(seed, what == "large"), "a")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def steps(folder: Path) -> int:
    kills = 0
    for what in ("small", "large", "tag"):
        for fresh in (True, False):
            if what == "tag" and fresh:
                continue
            root = folder / f"{what}-{fresh}"
            for step in range(1, 1000):
                shutil.rmtree(root, ignore_errors=True)
                acknowledged = {}
                if not fresh:
                    version = PolicyStore(root).push(snapshot(0, False), "a")
                    acknowledged = {version.number or 0: str(version.digest)}
                died = killed_at(step, root, step, what)
                check(root, acknowledged)
                # What the killed writer left does not disturb the next writer.
                version = PolicyStore(root).push(snapshot(-step % 1000, what == "large"), "a")
                acknowledged[version.number or 0] = str(version.digest)
                check(root, acknowledged)
                if not died:
                    break
                kills += 1
            assert step > 5
    return kills


def at_random(folder: Path, seed: int, count: int) -> int:
    chance = random.Random(seed)
    acknowledged: dict[int, str] = {}
    total = 0
    for kill in range(count):
        root = folder / f"store-{kill // 20}"
        if kill % 20 == 0:
            acknowledged = {}
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            store = PolicyStore(root)
            for push in range(1_000_000):
                version = store.push(snapshot(kill * 1000 + push, push % 4 == 3), "a")
                os.write(writer, f"{version.number} {version.digest}\n".encode())
        os.close(writer)
        if kill % 2:
            select.select([reader], [], [])  # wait for the first push, to kill a later push
        time.sleep(chance.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        text = b""
        while select.select([reader], [], [], 0)[0] and (piece := os.read(reader, 65536)):
            text += piece
        os.close(reader)
        lines = [line.split() for line in text.decode().splitlines()]
        acknowledged.update((int(number), digest) for number, digest in lines)
        total += len(lines)
        check(root, acknowledged)
    assert total >= count // 2, f"only {total} pushes were acknowledged: the kills came too early"
    return count


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        print(steps(Path(sys.argv[2])))
    else:
        print(at_random(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
