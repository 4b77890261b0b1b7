"""A store of format 1 in the repository, which every later release must read.

``python tests/format/test_golden_store.py`` writes the store again, if a format adds something to
it. Check afterwards that the files that are committed have not changed.
"""

from __future__ import annotations

import datetime
import shutil
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np

from policystore import Annotation, PolicyStore, Protection, Snapshot, Spec, TagMove
from policystore.digest import digest_of
from policystore.format.keys import annotation_key, tag_key
from policystore.repository import writer
from tests.support import DATA

STORE = DATA / "store-v1"

DIGESTS = DATA / "store-v1.digests"

TIME = datetime.datetime(2026, 11, 29, tzinfo=datetime.timezone.utc)


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
    assert (report.policies, report.tensors, report.versions, report.tags) == (2, 1, 3, 2)
    assert report.annotations == 1
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


def test_the_annotation_and_the_protected_tag_of_the_golden_store_read_back() -> None:
    store = PolicyStore(STORE, read_only=True)
    version = store.version("Soccer/main@guarded")
    assert version.tags == ("champion", "guarded")
    (annotation,) = version.annotations or ()
    assert (annotation.ref, annotation.author, annotation.note) == ("Soccer/main@1", "bob", "rated")
    assert annotation.digest == version.digest
    assert annotation.metrics["elo"] == 1200.0
    assert np.isnan(annotation.metrics["nan"])
    newest, first = store.tag_history("Soccer/main", "guarded")
    assert newest.protected == Protection(("ann", "bob"), "ann", TIME)
    assert first.protected is None
    for key, data in later_records().items():
        assert (STORE / key).read_bytes() == data


def test_todays_code_writes_the_same_digests() -> None:
    pinned = dict(line.split() for line in DIGESTS.read_text().splitlines())
    assert {key: str(snap.digest) for key, snap in snapshot_all().items()} == pinned


def later_records() -> dict[str, bytes]:
    """Return the records that were added to the store after it was written, by key."""
    digest, nonce = snapshot_all()["small"].digest, "0123456789abcdef" * 2
    note = Annotation("Soccer/main", 1, digest, TIME, "bob", {"elo": 1200.0, "nan": float("nan")},
                      "rated", nonce)  # fmt: skip
    set_ = TagMove("Soccer/main", "guarded", 1, 1, digest, None, TIME, "ann", nonce)
    guard = replace(set_, number=2, previous=digest_of(set_.to_bytes()),
                    protected=Protection(("ann", "bob"), "ann", TIME))  # fmt: skip
    return {
        annotation_key("Soccer/main", 1, nonce): note.to_bytes(),
        tag_key("Soccer/main", "guarded", 1): set_.to_bytes(),
        tag_key("Soccer/main", "guarded", 2): guard.to_bytes(),
    }


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
    for key, data in later_records().items():
        store._backend.create(key, data)
    (STORE / "tmp").rmdir()
    DIGESTS.write_text("".join(f"{key} {snap.digest}\n" for key, snap in made.items()))


if __name__ == "__main__":
    sys.exit(write())
