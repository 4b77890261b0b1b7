"""Check policystore with other Rays, each of which is installed in a separate environment.

    ./.venv/bin/python scripts/tools/check_ray.py 2.40.0 [2.9.3 ...] [--folder FOLDER]

takes any Ray from 2.0 on. For each version the script makes an environment (some minutes and 2 GB;
FOLDER keeps the environments for the next run). There it trains a small PPO of each API stack and
saves it. "There" is the other environment, "here" the present one. The script checks
  here:  read_checkpoint returns the weights of the policy that was saved there, bit for bit, and
         rebuild_policy or rebuild_module makes a policy of it that gives the same outputs;
  there, with a Ray that policystore.rllib supports (2.40 on): after push, pull and rebuild, the
         policy gives the live policy's outputs; read_checkpoint returns the live policy's weights;
  here:  a policy that was pushed there and is pulled here is the one of the checkpoint.
The policy of the old stack has a MeanStdFilter. Its observations are filtered by hand, with the
statistics that the snapshot holds. Ray before 2.4 has no new stack. Until api_stack() came, after
Ray 2.20, the new stack was a hybrid: RLModules in the rollout workers of the old stack.

Ray before 2.6 needs Python 3.9, any other Ray Python 3.11. The script looks for them as
other_versions.py does: on PATH, among the versions of pyenv, and in POLICYSTORE_PYTHON_3_9.
"""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from other_versions import ROOT, TORCH, find_python

NEAR = 1e-5
SECONDS = 300
"""Time that a Ray gets to train and save. The start of Ray 2.0 hangs now and then."""
TRIES = 3
POLICY = "default_policy"
HIDDEN = [16]
SETTINGS = {
    "train_batch_size": 64,
    "train_batch_size_per_learner": 64,
    "rollout_fragment_length": 32,
    # Names of the same two settings in different versions.
    "sgd_minibatch_size": 32,
    "mini_batch_size_per_learner": 32,
    "minibatch_size": 32,
    "num_sgd_iter": 1,
    "num_epochs": 1,
}

NEEDED = ["numpy", "blake3", "ml_dtypes", "filelock", "msgpack", "gymnasium"]
"""What policystore needs beside Ray."""

# Rays before 2.40 do not name the versions that they work with. So pip gets exact ones.
UNPINNED = """
    lz4 msgpack typer rich PyYAML requests jsonschema filelock click packaging aiosignal frozenlist
    fsspec
"""
FROM_2_6 = """
    jax-jumpy farama-notifications cloudpickle typing_extensions numpy==1.26.4 pandas==2.2.3 pytz
    scipy==1.14.1 scikit-image==0.24.0 matplotlib==3.9.4 contourpy==1.3.0 pyarrow==17.0.0
    dm-tree==0.1.8 setuptools==68.2.2 tensorboardX==2.6.2.2 ormsgpack==1.7.0
"""
FROM_2_0 = """
    numpy==1.23.5 scipy==1.10.1 pandas==1.5.3 protobuf==3.20.1 grpcio==1.51.3
    redis==4.3.6 dm-tree==0.1.8 tensorboardX==2.5.1 scikit-image==0.19.3 matplotlib==3.9.4 lz4
    tabulate virtualenv==20.21.1 aiohttp==3.13.5 aiosignal frozenlist attrs click==8.1.8 filelock
    jsonschema msgpack PyYAML requests typing_extensions importlib_resources pyarrow==11.0.0
"""
GYM = ["gym==0.23.1", "pygame==2.5.2"]
GYMNASIUM = ["gymnasium==0.26.3", "gymnasium-notices", "typer", "rich"]


def numbers(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version.

    Raises:
        RuntimeError: not a version of Ray from 2.0 on.
    """
    found = re.match(r"(\d+)\.(\d+)(\.|$)", version)
    if found is None or int(found[1]) < 2:
        raise RuntimeError(f"{version!r} is not a version of Ray from 2.0 on")
    return int(found[1]), int(found[2])


def is_supported(version: str) -> bool:
    """Return whether policystore.rllib supports this Ray; older checkpoints can be read as well."""
    return numbers(version) >= (2, 40)


def recipe(version: str) -> tuple[str, list[list[str]]]:
    """Return the Python that this Ray needs, and what pip installs, in order."""
    ray = ["--no-deps", f"ray=={version}"]
    if numbers(version) < (2, 6):
        # gym 0.23 is built from its source, which later setuptools and pip refuse. torch 1.12 is
        # the last one of that time that comes without packages for CUDA.
        first = ["pip<24", "setuptools<66", "wheel<0.39"]
        gym = GYM if numbers(version) < (2, 3) else GYMNASIUM
        return "3.9", [first, ["--no-deps", "torch==1.12.1"], [*FROM_2_0.split(), *gym], ray]
    if is_supported(version):
        return "3.11", [[TORCH], [f"ray[rllib]=={version}", TORCH, *NEEDED]]
    late = ["gymnasium==0.28.1", "protobuf==4.25.9"]
    if numbers(version) < (2, 7):
        late = ["gymnasium==0.26.3", "gymnasium-notices", "grpcio<1.60", "protobuf<4"]
    # Named beside the other packages, today's torch would refuse a setuptools with pkg_resources.
    return "3.11", [[TORCH], [*FROM_2_6.split(), *late, *UNPINNED.split()], ray]


def environment(folder: Path, version: str) -> Path:
    """Return the Python of an environment with that Ray; make the environment if there is none.

    Raises:
        RuntimeError: the Python that this Ray needs is missing, or a command failed.
    """
    program, steps = recipe(version)
    python, marker = folder / "bin" / "python", folder / "complete"
    if marker.exists() and marker.read_text(encoding="utf-8") == repr(steps):
        return python
    try:
        found = find_python(program)
    except RuntimeError as error:
        raise RuntimeError(f"Ray {version} needs Python {program}: {error}") from None
    commands = [[found, "-m", "venv", "--clear", str(folder)]]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-input"]
    pip.append("--no-compile")  # most of torch and Ray is never imported
    for command in [*commands, *([*pip, *step] for step in steps)]:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            output = (ran.stdout + ran.stderr).strip()[-3000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{output}")
    marker.write_text(repr(steps), encoding="utf-8")
    return python


# What follows, up to there(), runs with every Ray, on Python 3.9 as well, and without policystore.


def choose_stack(config: Any, new: bool) -> str | None:
    """Choose the API stack of a config; return its name, or None if this Ray has no new stack."""
    if hasattr(config, "api_stack"):
        config.api_stack(enable_rl_module_and_learner=new, enable_env_runner_and_connector_v2=new)
        return "new" if new else "old"
    if "_enable_new_api_stack" in vars(config):
        config.experimental(_enable_new_api_stack=new)
    elif "_enable_learner_api" in vars(config):
        config.rl_module(_enable_rl_module_api=new)
        config.training(_enable_learner_api=new)
    elif new:
        return None
    return "hybrid" if new else "old"


def build(new: bool) -> tuple[str | None, Any]:
    """Build a small PPO; return the name of its API stack, and the Algorithm."""
    from ray.rllib.algorithms.ppo import PPOConfig

    warnings.filterwarnings("ignore")  # once more: importing Ray makes its warnings visible again
    config = PPOConfig().environment(env="CartPole-v1").framework("torch")
    stack = choose_stack(config, new)
    if stack is None:
        return None, None
    runners, count = "rollouts", "num_rollout_workers"
    if hasattr(config, "env_runners"):
        runners, count = "env_runners", "num_env_runners"
    getattr(config, runners)(
        **{count: 0}, observation_filter="MeanStdFilter" if stack == "old" else "NoFilter"
    )
    for name, value in SETTINGS.items():
        # -1 and "DEPRECATED_VALUE" stand for a setting that this Ray refuses.
        if name in vars(config) and vars(config)[name] not in (-1, "DEPRECATED_VALUE"):
            setattr(config, name, value)
    if stack != "old":
        if "num_learners" in vars(config):
            config.learners(num_learners=0)
        elif "num_learner_workers" in vars(config):
            config.resources(num_learner_workers=0)
    choose_model(config, stack)
    return stack, config.build_algo() if hasattr(config, "build_algo") else config.build()


def choose_model(config: Any, stack: str) -> None:
    """Give a config a small model, in the way that its API stack takes it."""
    model = {"fcnet_hiddens": HIDDEN}
    if stack != "old" and hasattr(config, "_model_config"):
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

        config.rl_module(model_config=DefaultModelConfig(**model))
        return
    config.training(model=model)
    if stack != "old" and "model_config_dict" in inspect.signature(config.rl_module).parameters:
        config.rl_module(model_config_dict=model)


def live(stack: str, algorithm: Any) -> Any:
    """Return the policy or RLModule that has just been trained."""
    if stack == "old":
        return algorithm.get_policy()
    if stack == "hybrid":
        return algorithm.get_policy().model
    learner = algorithm.learner_group._learner
    multi = getattr(learner, "module", None)
    return (learner._module if multi is None else multi)[POLICY]


def live_weights(stack: str, algorithm: Any) -> dict[str, Any]:
    """Return copies of the weights, by name."""
    if stack == "new":
        found = live(stack, algorithm).get_state()
    else:
        found = algorithm.get_policy().get_weights()
    return {
        name: np.array(value.detach().cpu() if hasattr(value, "detach") else value)
        for name, value in found.items()
    }


def live_filter(algorithm: Any) -> Any:
    """Return the MeanStdFilter of the old stack."""
    pipeline = getattr(algorithm.get_policy(), "agent_connectors", None)
    for connector in getattr(pipeline, "connectors", ()):
        if hasattr(connector, "filter"):
            return connector.filter
    return algorithm.workers.local_worker().filters[POLICY]  # before there were connectors


def outputs(stack: str, policy: Any, observations: Any) -> Any:
    """Return what a policy or RLModule computes: the inputs of its action distribution."""
    import torch

    if stack == "old":
        _, _, extra = policy.compute_actions(observations, explore=False)
        return extra["action_dist_inputs"]
    batch: Any = {"obs": torch.from_numpy(observations)}
    with torch.no_grad():
        try:
            found = policy.forward_inference(batch)
        except AttributeError:  # the first hybrids take a dict of their own
            from ray.rllib.utils.nested_dict import NestedDict

            batch = NestedDict(batch)
            found = policy.forward_inference(batch)
        if "action_dist_inputs" not in found:
            # Ray 2.4 returns distributions, and the one for inference holds just an action.
            return policy.forward_exploration(batch)["action_dist"].logits.numpy()
    return found["action_dist_inputs"].numpy()


def save(folder: Path, stack: str, algorithm: Any) -> None:
    """Save an Algorithm, and beside it what its policy holds and computes.

    The file beside it has raw observations, what the policy is given after the filter, the outputs
    that it computes of them, and its weights.
    """
    observations = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    given = observations
    if stack == "old":
        used = live_filter(algorithm)
        given = np.stack([used(each, update=False) for each in observations]).astype(np.float32)
    expected = outputs(stack, live(stack, algorithm), given)
    weights = {f"weights/{k}": v for k, v in live_weights(stack, algorithm).items()}
    np.savez(
        folder / f"{stack}.npz", observations=observations, given=given, outputs=expected, **weights
    )
    algorithm.save(str(folder / f"{stack}-checkpoint"))


def there(folder: Path, version: str) -> None:
    """Train and save with the other Ray; if policystore supports it, push and rebuild as well."""
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=150 << 20,
    )
    for new in (False, True):
        stack, algorithm = build(new)
        if stack is None:
            print(f"  Ray {ray.__version__} has no new stack", flush=True)
            continue
        algorithm.train()
        if is_supported(version):
            push_and_rebuild(folder, stack, algorithm)
        else:
            save(folder, stack, algorithm)
            print(f"  Ray {ray.__version__}, {stack} stack: saved", flush=True)
        algorithm.stop()
    ray.shutdown()


def push_and_rebuild(folder: Path, stack: str, algorithm: Any) -> None:
    """Save and push a policy; check the pulled, read and rebuilt ones in the same environment."""
    import ray

    from policystore import PolicyStore
    from policystore.rllib import read_checkpoint, snapshot

    snap = snapshot(algorithm)
    save(folder, stack, algorithm)
    store = PolicyStore(folder / "policies")
    store.push(snap, stack)
    (read,) = read_checkpoint(folder / f"{stack}-checkpoint").values()
    same(read.weights_digest, snap.weights_digest, "read_checkpoint there: other weights")
    same(read.state_digest, snap.state_digest, "read_checkpoint there: other state")
    for each in (store.pull(stack), read):
        check(stack, each, folder)
    print(f"  Ray {ray.__version__}, {stack} stack: pushed, pulled, rebuilt, read: the same",
          flush=True)  # fmt: skip


def same(one: object, other: object, what: str) -> None:
    if one != other:
        raise AssertionError(f"{what}: {one}, not {other}")


SMALL = (1e-6, 1e-8)
"""What RLlib's filter adds to a standard deviation; which of them depends on the version."""


def check(stack: str, snap: Any, folder: Path) -> None:
    """Compare a snapshot, and the policy that is rebuilt from it, with the live policy.

    Raises:
        AssertionError: they differ.
    """
    from policystore.rllib import rebuild_module, rebuild_policy

    with np.load(folder / f"{stack}.npz") as opened:
        truth = dict(opened)
    weights = {k.split("/", 1)[1]: v for k, v in truth.items() if k.startswith("weights/")}
    same(sorted(snap.weights), sorted(weights), "other names of weights")
    for name, wanted in weights.items():
        found = snap.weights[name]
        same((found.dtype, found.shape), (wanted.dtype, wanted.shape), f"{name}: other arrays")
        if found.tobytes() != wanted.tobytes():
            raise AssertionError(f"{name}: other weights, by up to {np.abs(found - wanted).max()}")
    same(snap.spec.stack, "old" if stack == "old" else "new", "another API stack")
    given = truth["observations"]
    if stack == "old":
        both = [filtered(snap, given, small) for small in SMALL]
        given = min(both, key=lambda each: np.abs(each - truth["given"]).max())
    np.testing.assert_allclose(given, truth["given"], rtol=NEAR, atol=NEAR)
    policy = rebuild_policy(snap) if stack == "old" else rebuild_module(snap)
    found, wanted = outputs("old" if stack == "old" else "new", policy, given), truth["outputs"]
    np.testing.assert_allclose(found, wanted, atol=NEAR)


def filtered(snap: Any, observations: Any, small: float) -> Any:
    """Filter observations with the statistics of a snapshot, without any code of RLlib."""
    (state,) = snap.state["connectors"]["agent"].values()
    (stats,) = state["running_stats"]
    std = np.sqrt(stats["sum_sq_diff"] / (stats["count"] - 1))
    return ((observations - stats["mean"]) / (std + small)).astype(np.float32)


def here(folder: Path) -> None:
    """Read and rebuild with the Ray that is installed here."""
    import ray

    from policystore import PolicyStore
    from policystore.checkpoints import inspect_checkpoint, read_checkpoint

    pushed = PolicyStore(folder / "policies").names() if (folder / "policies").exists() else []
    for stack in [each for each in ("old", "hybrid", "new") if (folder / f"{each}.npz").exists()]:
        path = folder / f"{stack}-checkpoint"
        numbered = list(path.glob("checkpoint_*"))  # so saves Ray up to 2.6
        if numbered:
            (path,) = numbered
        (read,) = read_checkpoint(path).values()
        check(stack, read, folder)
        told = "saved"
        if stack in pushed:
            pulled = PolicyStore(folder / "policies").pull(stack)
            same(read.weights_digest, pulled.weights_digest, "read_checkpoint here: other weights")
            check(stack, pulled, folder)
            told = "saved and pushed"
        version = inspect_checkpoint(path).ray_version
        print(f"  Ray {ray.__version__}, {stack} stack: what {version} {told}: the same")


def run_there(python: Path, version: str, work: Path) -> Path:
    """Run :func:`there` in the other environment; return the folder with the results.

    Raises:
        RuntimeError: the run failed, or took too long several times.
    """
    settings = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "RAY_ADDRESS")}
    if is_supported(version):
        settings["PYTHONPATH"] = str(ROOT)
    for count in range(TRIES):
        folder = work / str(count)
        folder.mkdir()
        command = [str(python), __file__, version, "--there", str(folder)]
        try:
            if subprocess.run(command, env=settings, timeout=SECONDS, check=False).returncode:
                raise RuntimeError(f"Ray {version} could not train, save or rebuild")
        except subprocess.TimeoutExpired:
            print(f"  Ray {version} did not end in {SECONDS} s", flush=True)
        else:
            return folder
    raise RuntimeError(f"Ray {version} did not end in {TRIES} tries")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+", help="such as 2.40.0", metavar="VERSION")
    parser.add_argument("--folder", type=Path, help="where the environments are kept")
    parser.add_argument("--there", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if given.there is not None:
        there(given.there, given.versions[0])
        return 0
    sys.path.insert(0, str(ROOT))
    failed = []
    for version in given.versions:
        print(f"Ray {version}", flush=True)
        try:
            folder = (given.folder or Path(tempfile.gettempdir())) / f"policystore-ray-{version}"
            python = environment(folder.resolve(), version)
            with tempfile.TemporaryDirectory() as work:
                here(run_there(python, version, Path(work)))
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed.append(version)
        except Exception:  # the other versions are still to be checked
            traceback.print_exc()
            print(f"error: Ray {version}: see above", file=sys.stderr, flush=True)
            failed.append(version)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
