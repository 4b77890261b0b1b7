"""Real files with bytes changed: data or a typed error, and no other exception."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policystore import PolicyStoreError
from policystore.checkpoints import inspect_checkpoint, read_checkpoint
from tests.support.checkpoint_corpus import Given

GIVEN = [
    Given("2.4.0", "dqn_old"), Given("2.10.0", "ppo_new"), Given("2.24.0", "ppo_old_msgpack"),
    Given("2.40.0", "ppo_new"), Given("2.60.0", "ppo_old_policy"), Given("2.60.0", "ppo_new_msgpack"),
    Given("1.13.0", "ppo_old_meanstd"), Given("2.0.1", "dqn_old"), Given("2.2.0", "ppo_old_meanstd"),
    Given("2.9.3", "ppo_new_er"), Given("2.37.0", "ppo_new_meanstd"), Given("2.51.2", "ppo_new_lstm"),
]  # fmt: skip
QUICK, ALL = 25, 8500  # mutations of each: 300 always, 102,000 with the long ones


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A few bytes flipped, overwritten, taken out, repeated or put in; most often early ones,
    where a file says what it is."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 5, 20))):
        if not found:
            break
        at = min(int(dice.expovariate(4) * len(found)), len(found) - 1)
        count = dice.choice((1, 1, 2, 4, 9, 100))
        kind = dice.randrange(6)
        if kind == 0:
            found[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            found[at : at + count] = dice.randbytes(count)
        elif kind == 2:
            del found[at : at + count]
        elif kind == 3:
            found[at:at] = found[at : at + count]
        elif kind == 4:
            found[at:at] = dice.choice((b"\xff" * count, b"\0" * count, b"R", b"b", b"(", b"u", b"t",
                                        b"\x93", b"\x81", b"h\x05", b"N", b"."))  # fmt: skip
        else:
            del found[at:]
    return bytes(found)


def fuzz(one: Given, there: Path, seed: int, count: int) -> None:
    shutil.copytree(one.path, there)
    files = sorted(
        path for path in there.rglob("*")
        if path.is_file() and path.stat().st_size and "optimizer" not in str(path)
        and path.name != ".tune_metadata" and "learner/state" not in str(path)
    )  # fmt: skip
    wanted = [path for path in files if "policies" in str(path) or "default_policy" in str(path)]
    dice = random.Random(seed)
    calls: list[Callable[[Any], Any]] = [read_checkpoint] * 9 + [inspect_checkpoint]
    for _ in range(count):
        path = dice.choice(wanted if wanted and dice.random() < 0.7 else files)
        data = path.read_bytes()
        path.write_bytes(mutated(data, dice))
        try:
            dice.choice(calls)(there)
        except PolicyStoreError as error:
            assert str(there) in str(error) or "spec" in str(error)
        finally:
            path.write_bytes(data)


@pytest.mark.parametrize("one", GIVEN, ids=str)
def test_some_mutations(one: Given, tmp_path: Path) -> None:
    fuzz(one, tmp_path / "checkpoint", 0, QUICK)


@pytest.mark.long
@pytest.mark.parametrize("one", GIVEN, ids=str)
def test_many_mutations(one: Given, tmp_path: Path) -> None:
    fuzz(one, tmp_path / "checkpoint", 1, ALL)
