"""Every real checkpoint: what it lists, and its weights bit for bit, with nothing but the core."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from policystore import PolicyStore
from policystore.checkpoints import inspect_checkpoint, read_checkpoint
from tests.support.checkpoint_corpus import Given, broken, experiments, given, named

ALL = pytest.mark.parametrize("one", given(), ids=named)


def test_all_of_them_are_here() -> None:
    assert (len(given()), len(broken()), len(experiments())) == (112, 18, 7)
    assert {one.version for one in given()} == {
        "1.13.0", "2.0.1", "2.2.0", "2.4.0", "2.9.3", "2.10.0", "2.24.0", "2.37.0", "2.40.0",
        "2.51.2", "2.60.0",
    }  # fmt: skip


@ALL
def test_weights_bit_for_bit(one: Given) -> None:
    snaps = read_checkpoint(one.path)
    assert list(snaps) == sorted(one.about["policies"])
    for policy_id, snap in snaps.items():
        wanted = one.weights(policy_id)
        assert snap.weights.keys() == wanted.keys()
        for name, array in wanted.items():
            assert snap.weights[name].dtype == array.dtype
            assert snap.weights[name].shape == array.shape
            assert snap.weights[name].tobytes() == array.tobytes(), name
        assert snap.spec.stack == one.stack
        assert snap.spec.cls is not None
        if one.kind != "ppo_old_policy":  # alone, a policy knows of no Algorithm
            assert snap.spec.algorithm == one.about["algo"]
        assert any("optimizer" in place for place in snap.spec.omitted)


@ALL
def test_what_it_lists(one: Given) -> None:
    found = inspect_checkpoint(one.path)
    assert found.stack == one.stack
    assert found.ray_version == one.version
    assert found.kind == ("policy" if one.kind == "ppo_old_policy" else "algorithm")
    assert list(found.sizes) == sorted(one.about["policies"])
    for policy_id, size in found.sizes.items():
        stored = sum(array.nbytes for array in one.weights(policy_id).values())
        assert size > stored
    assert named(one).split("_")[0].split("-")[1] in str(found).lower() or found.algorithm is None


def test_pickle_and_msgpack_of_one_policy_are_one_snapshot() -> None:
    by = {named(one): one for one in given()}
    both = [(by[name], by[f"{name}_msgpack"]) for name in by if f"{name}_msgpack" in by]
    assert len(both) >= 5
    for plain, packed in both:
        one, other = read_checkpoint(plain.path), read_checkpoint(packed.path)
        for policy_id, snap in one.items():
            same = other[policy_id]
            if plain.weights(policy_id).keys() == packed.weights(policy_id).keys() and all(
                np.array_equal(plain.weights(policy_id)[k], packed.weights(policy_id)[k])
                for k in plain.weights(policy_id)
            ):
                assert snap.weights_digest == same.weights_digest
            assert snap.spec.replace(omitted={}) == same.spec.replace(omitted={})


def test_a_snapshot_out_of_one_goes_into_a_store(tmp_path: Path) -> None:
    one = next(one for one in given() if one.kind == "ppo_old_multi")
    snap = read_checkpoint(one.path, ["p1"])["p1"]
    store = PolicyStore(tmp_path)
    assert store.pull(store.push(snap, "soccer/main")) == snap


def test_neither_ray_nor_torch_nor_gymnasium_is_needed() -> None:
    """In a process where importing them fails, each digest is the same as here."""
    program = """
        import sys

        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("ray", "torch", "gymnasium", "tree", "fsspec"):
                    raise ImportError(f"{name} is not installed")

        sys.meta_path.insert(0, Blocked())
        from policystore.checkpoints import inspect_checkpoint, read_checkpoint

        for path in sys.argv[1:]:
            assert inspect_checkpoint(path).sizes
            for policy_id, snap in read_checkpoint(path).items():
                print(policy_id, snap.digest)
        """
    paths = [str(one.path) for one in given()]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *paths],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    here = [
        f"{policy_id} {snap.digest}"
        for path in paths
        for policy_id, snap in read_checkpoint(path).items()
    ]
    assert done.stdout.splitlines() == here
