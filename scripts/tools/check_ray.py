"""Check policystore with another Ray, which is installed in a separate environment.

    ./.venv/bin/python scripts/tools/check_ray.py 2.40.0 [--folder FOLDER]

makes an environment with that Ray and policystore (some minutes and 2 GB; FOLDER keeps the
environment for the next run), and trains a small Algorithm of each API stack there. "There" is the
new environment, "here" the present one. The script checks
  there: after push, pull and rebuild_policy or rebuild_module, the rebuilt policy gives the live
         policy's outputs; read_checkpoint returns the live policy's weights;
  here:  policies that were saved there and read with read_checkpoint, or pushed there and pulled
         here, are rebuilt and give the same outputs.
policystore.rllib does not support a Ray before 2.40. With such a Ray, an Algorithm of the old stack
is saved there, and its checkpoint is read here.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
TORCH = os.environ.get("POLICYSTORE_TORCH") or "torch==2.13.0"
NEAR = 1e-5
NEEDED = ["numpy", "blake3", "ml_dtypes", "filelock", "msgpack", "gymnasium"]


def environment(folder: Path, version: str) -> Path:
    """Return the Python of an environment with that Ray; make the environment if there is none."""
    python = folder / "bin" / "python"
    marker = folder / "complete"
    if not marker.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, TORCH], check=True)
        needed = NEEDED if is_supported(version) else ["numpy<2", "setuptools<81", "pyarrow<16"]
        subprocess.run([*pip, f"ray[rllib]=={version}", *needed], check=True)
        marker.touch()
    return python


def is_supported(version: str) -> bool:
    """Return whether policystore.rllib supports this Ray; older checkpoints can be read as well."""
    return tuple(map(int, version.split(".")[:2])) >= (2, 40)


def earlier(folder: Path) -> None:
    """Train and save with a Ray before 2.40, without policystore."""
    import ray
    from ray.rllib.algorithms.ppo import PPOConfig

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    observations = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    config = PPOConfig().environment("CartPole-v1").framework("torch")
    runners = "env_runners" if hasattr(config, "env_runners") else "rollouts"
    count = "num_env_runners" if runners == "env_runners" else "num_rollout_workers"
    config = getattr(config, runners)(**{count: 0}, observation_filter="MeanStdFilter")
    algorithm = config.training(train_batch_size=64, sgd_minibatch_size=32, num_sgd_iter=1).build()
    algorithm.train()
    expected = outputs("old", algorithm.get_policy(), observations)
    np.savez(folder / "old.npz", observations=observations, outputs=expected)
    algorithm.save(str(folder / "old-checkpoint"))
    algorithm.stop()
    print(f"  Ray {ray.__version__}, old stack: saved")
    ray.shutdown()


def configs() -> dict[str, Any]:
    from ray.rllib.algorithms.ppo import PPOConfig

    filters = {False: "MeanStdFilter", True: "NoFilter"}

    def tiny(new: bool) -> Any:
        return (
            PPOConfig()
            .api_stack(enable_rl_module_and_learner=new, enable_env_runner_and_connector_v2=new)
            .environment("CartPole-v1")
            .framework("torch")
            .env_runners(num_env_runners=0, observation_filter=filters[new])
            .training(train_batch_size=64, minibatch_size=32, num_epochs=1)
        )

    return {"old": tiny(False), "new": tiny(True)}


def outputs(stack: str, policy: Any, observations: Any) -> Any:
    import torch

    if stack == "old":
        _, _, extra = policy.compute_actions(observations, explore=False)
        return extra["action_dist_inputs"]
    with torch.no_grad():
        found = policy.forward_inference({"obs": torch.from_numpy(observations)})
    return found["action_dist_inputs"].numpy()


def live(stack: str, algorithm: Any) -> Any:
    if stack == "old":
        return algorithm.get_policy()
    return algorithm.learner_group._learner.module["default_policy"]


def same(one: object, other: object, what: str) -> None:
    if one != other:
        raise SystemExit(f"error: {what}: {one}, not {other}")


def rebuilt(stack: str, snap: Any) -> Any:
    from policystore.rllib import rebuild_module, rebuild_policy

    return rebuild_policy(snap) if stack == "old" else rebuild_module(snap)


def there(folder: Path) -> None:
    """Train, save, push and rebuild with the other Ray."""
    import ray

    from policystore import PolicyStore
    from policystore.rllib import read_checkpoint, snapshot

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    store = PolicyStore(folder / "policies")
    observations = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    for stack, config in configs().items():
        algorithm = config.build() if not hasattr(config, "build_algo") else config.build_algo()
        algorithm.train()
        snap = snapshot(algorithm)
        expected = outputs(stack, live(stack, algorithm), observations)
        np.savez(folder / f"{stack}.npz", observations=observations, outputs=expected)
        store.push(snap, stack)
        algorithm.save(str(folder / f"{stack}-checkpoint"))
        algorithm.stop()
        pulled = store.pull(stack)
        np.testing.assert_allclose(outputs(stack, rebuilt(stack, pulled), observations), expected,
                                   atol=NEAR)  # fmt: skip
        (read,) = read_checkpoint(folder / f"{stack}-checkpoint").values()
        same(read.weights_digest, snap.weights_digest, "read_checkpoint there: other weights")
        same(read.state_digest, snap.state_digest, "read_checkpoint there: other state")
        np.testing.assert_allclose(outputs(stack, rebuilt(stack, read), observations), expected,
                                   atol=NEAR)  # fmt: skip
        print(f"  Ray {ray.__version__}, {stack} stack: pushed, pulled, rebuilt, read: the same")
    ray.shutdown()


def here(folder: Path) -> None:
    """Read and rebuild with the Ray that is installed here."""
    import ray

    from policystore import PolicyStore
    from policystore.checkpoints import inspect_checkpoint, read_checkpoint

    store = PolicyStore(folder / "policies")
    pushed = store.names()
    for stack in pushed or ["old"]:
        with np.load(folder / f"{stack}.npz") as truth:
            observations, expected = truth["observations"], truth["outputs"]
        path = folder / f"{stack}-checkpoint"
        (read,) = read_checkpoint(path).values()
        pulled = store.pull(stack) if pushed else read
        same(read.weights_digest, pulled.weights_digest, "read_checkpoint here: other weights")
        for snap in (read, pulled):
            found = outputs(stack, rebuilt(stack, snap), observations)
            np.testing.assert_allclose(found, expected, atol=NEAR)
        version = inspect_checkpoint(path).ray_version
        print(f"  Ray {ray.__version__}, {stack} stack: what {version} wrote and pushed: the same")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="such as 2.40.0")
    parser.add_argument("--folder", type=Path, help="where the environment is kept")
    parser.add_argument("--there", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if given.there is not None:
        (there if is_supported(given.version) else earlier)(given.there)
        return
    folder = given.folder or Path(tempfile.gettempdir()) / f"policystore-ray-{given.version}"
    python = environment(folder, given.version)
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(
            [str(python), __file__, given.version, "--there", work],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
        )
        sys.path.insert(0, str(ROOT))
        here(Path(work))


if __name__ == "__main__":
    main()
