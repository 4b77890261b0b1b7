"""Train with RLlib, push the policies, and play them from a fresh process on a busy cluster.

``./scripts/quickstart [STORE]`` runs this script. The exit status is 0 only if the rebuilt policies
took exactly the same actions as the trained policies.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it is imported

CPUS = 2
NEW, OLD = "cartpole/ppo", "duo"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart", description=__doc__.splitlines()[0])
    parser.add_argument(
        "store",
        nargs="?",
        default="quickstart-policies",
        help="folder of the policy store; made if absent (default: ./%(default)s)",
    )
    folder = Path(parser.parse_args().store).resolve()

    from policystore import PolicyStore, PolicyStoreError

    started = time.monotonic()
    try:
        store = PolicyStore(folder)
        store.names()  # fails before the training if the store cannot be read
        with (
            tempfile.TemporaryDirectory(prefix="policystore-quickstart-") as scratch,
            _stderr_into(Path(scratch) / "stderr.log"),
        ):
            same = _run(store, Path(scratch))
    except PolicyStoreError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return 1
    print()
    if not same:
        print("FAILED: the rebuilt policies did not do what the trained ones did (see above).")
        return 1
    print(f"All actions and returns are the same. {time.monotonic() - started:.0f} s in all.")
    print(f"The store stays in {folder}. What you would now write:\n")
    print(f"    store = PolicyStore({json.dumps(str(folder), ensure_ascii=False)})")
    print(f'    player = rebuild_player(store.pull("{NEW}"))')
    print("    action = player.act(observation)")
    return 0


def _run(store: Any, scratch: Path) -> bool:
    import ray

    head("1  A small Ray cluster")
    ray.init(
        address="local",
        num_cpus=CPUS,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        say(f"Ray {ray.__version__} with {CPUS} CPUs")
        expected = scratch / "expected.json"
        expected.write_text(json.dumps(_train_and_push(store)), encoding="utf-8")

        head("4  What the store has")
        for name in store.names():
            for version in store.log(name):
                say(str(version))

        head("5  A fresh process plays, while every CPU of the cluster is taken")
        return _play_while_busy(store, expected)
    finally:
        ray.shutdown()


def _train_and_push(store: Any) -> dict[str, Any]:
    """Train two Algorithms, push three policies, and return the episodes to play again."""
    import quickstart_train as training
    from quickstart_episodes import mean_return

    from policystore.rllib import snapshot

    head("2  New API stack: PPO on CartPole-v1")
    algorithm = training.new_stack_algorithm()
    trained = training.train(algorithm, 5, say)
    episodes = training.record_new_stack(algorithm)
    version = store.push(
        snapshot(algorithm),
        NEW,
        metrics={"return": round(mean_return(episodes), 2), "train_return": round(trained[""], 2)},
        message="quickstart, new stack",
    )
    algorithm.stop()
    say(f"pushed {version.ref}")
    expected: dict[str, Any] = {"alone": {"ref": version.ref, "episodes": episodes}, "together": {}}

    head("3  Old API stack: two policies of a two-agent CartPole, behind MeanStdFilter")
    algorithm = training.old_stack_algorithm()
    trained = training.train(algorithm, 3, say)
    by_agent = training.record_old_stack(algorithm)
    for agent, policy in training.AGENTS.items():
        returns = {"return": mean_return(by_agent[agent]), "train_return": trained[policy]}
        version = store.push(
            snapshot(algorithm, policy),
            f"{OLD}/{policy}",
            metrics={key: round(value, 2) for key, value in returns.items()},
            message="quickstart, old stack",
        )
        say(f"pushed {version.ref}")
        expected["together"][agent] = {"ref": version.ref, "episodes": by_agent[agent]}
    algorithm.stop()
    return expected


def _play_while_busy(store: Any, expected: Path) -> bool:
    import ray

    @ray.remote(num_cpus=1, max_concurrency=2)
    class Busy:
        """An actor that takes a CPU slot and keeps a CPU busy."""

        def __init__(self) -> None:
            self.rounds = 0

        def spin(self) -> None:
            while True:
                self.rounds += 1

        def count(self) -> int:
            return self.rounds

    actors = [Busy.remote() for _ in range(CPUS)]
    before = ray.get([actor.count.remote() for actor in actors])
    for actor in actors:
        actor.spin.remote()
    say(f"{CPUS} actors spin; CPUs free in the cluster: {_free_cpus(ray):g}\n")
    play = Path(__file__).with_name("quickstart_play.py")
    command = [sys.executable, str(play), store.url, str(expected)]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    sys.stdout.flush()
    finished = subprocess.run(command, env=environment, stderr=subprocess.STDOUT, check=False)
    free = _free_cpus(ray)
    counted = [
        after - first
        for after, first in zip(ray.get([a.count.remote() for a in actors]), before, strict=True)
    ]
    turned = " and ".join(f"{count / 1e6:.0f} million" for count in counted)
    say(f"meanwhile the actors turned {turned} rounds; CPUs free: {free:g}")
    return finished.returncode == 0 and free == 0 and min(counted) > 0


@contextlib.contextmanager
def _stderr_into(log: Path) -> Iterator[None]:
    """Write Ray's stderr (also of its C++ part) to a log; print the log after an error."""
    sys.stderr.flush()
    real = os.dup(2)
    with log.open("wb") as kept:
        os.dup2(kept.fileno(), 2)
    try:
        yield
    except BaseException:
        os.write(real, log.read_bytes()[-8000:])
        raise
    finally:
        sys.stderr.flush()
        os.dup2(real, 2)
        os.close(real)


def _free_cpus(ray: Any) -> float:
    return float(ray.available_resources().get("CPU", 0.0))


def head(title: str) -> None:
    print(f"\n{title}", flush=True)


def say(line: str) -> None:
    print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
