"""A store of format 1 in the repository, which every later release must read.

``python tests/format/test_golden_store.py`` writes the store again, if a format adds something to
it. Check afterwards that the files that are committed have not changed.
"""

from __future__ import annotations

import datetime
import shutil
import sys

import ml_dtypes
import numpy as np

from policystore import PolicyStore, Snapshot, Spec
from policystore.repository import writer
from tests.support import DATA

STORE = DATA / "store-v1"

DIGESTS = DATA / "store-v1.digests"


def snapshot_all() -> dict[str, Snapshot]:
    return {
        "small": Snapshot(
            weights={
                "pi/w": np.arange(6, dtype=np.float32).reshape(2, 3),
                "pi/b": np.array([1.5, -0.0, np.inf], ml_dtypes.bfloat16),
                "ünï": np.array(True),
                "empty": np.zeros((0, 3), np.int8),
            },
            spec=Spec(
                stack="old",
                algorithm="PPO",
                cls="ray.rllib.algorithms.ppo.ppo_torch_policy:PPOTorchPolicy",
                observation_space={"type": "Box"},
                config={"lr": 0.001, "hiddens": (64, 64), 0: float("inf")},
                acting=["pi/w", "pi/b"],
                normalize_actions=True,
                omitted={"optimizer": "not kept"},
            ),
            state={"MeanStdFilter": {0: {"mean": np.arange(3.0), "n": 7}}},
        ),
        "large": Snapshot(
            weights={"w": np.tile(np.arange(256, dtype=np.uint8), 1 << 14), "b": np.ones(2)},
        ),
    }


def test_the_golden_store_reads_back_unchanged() -> None:
    store = PolicyStore(STORE, read_only=True)
    expected = snapshot_all()
    report = store.verify()
    assert report.ok, str(report)
    assert (report.policies, report.tensors, report.versions, report.tags) == (2, 1, 3, 1)
    assert store.names() == ["Soccer/main", "big"]
    pinned = dict(line.split() for line in DIGESTS.read_text().splitlines())
    for ref, key in {
        "Soccer/main@1": "small",
        "Soccer/main@champion": "small",
        "big": "large",
    }.items():
        snap = store.pull(ref)
        assert str(snap.digest) == pinned[key]
        assert snap == expected[key]
        assert snap.spec == expected[key].spec
        for name, array in expected[key].weights.items():
            found = snap.weights[name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert found.tobytes() == array.tobytes()
    state = store.pull("Soccer/main").state["MeanStdFilter"][0]
    assert (state["n"], state["mean"].tolist()) == (7, [0.0, 1.0, 2.0])
    first = store.log("Soccer/main")[-1]
    assert first.time == datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc)
    assert (first.message, first.metrics["return"], first.author) == ("first", 21.5, "ann")
    assert store.log("Soccer/main")[0].parents == (first.digest,)


def test_todays_code_writes_the_same_digests() -> None:
    pinned = dict(line.split() for line in DIGESTS.read_text().splitlines())
    assert {key: str(snap.digest) for key, snap in snapshot_all().items()} == pinned


def write() -> None:
    shutil.rmtree(STORE, ignore_errors=True)
    writer._now = lambda: datetime.datetime(2026, 11, 21, tzinfo=datetime.timezone.utc)
    writer.secrets.token_hex = lambda _: "0123456789abcdef" * 2
    store = PolicyStore(STORE)
    made = snapshot_all()
    first = store.push(made["small"], "Soccer/main", message="first", author="ann",
                       metrics={"return": 21.5, "nan": float("nan")})  # fmt: skip
    store.push(made["small"], "Soccer/main", author="bob", parents=[first], source={"it": 3})
    store.push(made["large"], "big", author="ann")
    writer._default_author = lambda: "ann"
    store.tag("Soccer/main@1", "champion")
    (STORE / "tmp").rmdir()
    DIGESTS.write_text("".join(f"{key} {snap.digest}\n" for key, snap in made.items()))


if __name__ == "__main__":
    sys.exit(write())
