"""Measure what publishing costs a training, with a store that takes 2 s for each request.

    ./.venv/bin/python scripts/benchmarks/bench_publish.py [--s3] [--stack new|old] [--rounds N]
        [--delay SECONDS]

Two Algorithms have the same config, and one of them also has ``publish(…, interval=1)``. The
Algorithms train one iteration each in turn. The script prints the median time of an iteration of
both Algorithms, and the ratio, which noise of the machine changes by some percent. The script also
prints two times of publishing itself, which noise hardly changes: the time of the callback, and the
processor time of the uploading thread, which shares one interpreter with the training. At the end a
store without delays pulls all versions that the training results reported as pushed. The script
fails if one of these versions is missing or differs.

The store is a folder with a backend that sleeps before each call. With ``--s3`` the store is a
bucket on moto's server in a separate process, which sleeps before it answers.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads these when it is imported
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"

BUCKET = "bench"
NAME = "bench/main"
METRIC = "env_runners/episode_return_mean"
WARM_UP = 5


def serve(delay: float) -> None:
    """Serve a slow S3 in this process, and print its port first."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)

    def slowly(environ: dict[str, Any], start: Any) -> Any:
        time.sleep(delay)
        return app(environ, start)

    server = make_server("127.0.0.1", 0, slowly, threaded=True)
    print(server.port, flush=True)
    server.serve_forever()


@contextmanager
def s3_store(delay: float) -> Iterator[tuple[Any, Any]]:
    """Yield a slow store in a bucket, and a second store object to read the bucket afterwards."""
    from policystore import PolicyStore

    command = [sys.executable, __file__, "--serve", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = int(server.stdout.readline() if server.stdout else 0)
            endpoint = f"http://127.0.0.1:{port}"
            # s3fs reads the secrets from the environment, because options pickle without secrets.
            os.environ.update(dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "any"))
            boto3: Any = importlib.import_module("boto3")
            s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
            s3.create_bucket(Bucket=BUCKET)
            url = f"s3://{BUCKET}/policies"
            options = {"endpoint_url": endpoint}
            yield (
                PolicyStore(url, storage_options=options),
                PolicyStore(url, storage_options=options),
            )
        finally:
            server.terminate()


class Slow:
    """A backend that sleeps for a given time before each call."""

    def __init__(self, inner: Any, delay: float) -> None:
        self._inner = inner
        self._delay = delay

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def call(*args: Any, **kwargs: Any) -> Any:
            time.sleep(self._delay)
            return found(*args, **kwargs)

        return call


@contextmanager
def folder_store(delay: float) -> Iterator[tuple[Any, Any]]:
    """Yield a slow store in a folder, and the same store without delays."""
    from policystore import PolicyStore

    class SlowStore(PolicyStore):
        def __init__(self, url: str) -> None:
            super().__init__(url)
            slow: Any = Slow(self._backend, delay)
            self._use(slow)

        def __reduce__(self) -> tuple[Any, ...]:
            return (SlowStore, (self.url,))

    with tempfile.TemporaryDirectory() as folder:
        yield SlowStore(folder), PolicyStore(folder)


def built(stack: str, steps: int, callbacks: Any = None) -> Any:
    from ray.rllib.algorithms.ppo import PPOConfig

    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .debugging(seed=0, log_level="ERROR")
    )
    if stack == "old":
        config.api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        config.training(train_batch_size=steps, minibatch_size=128, num_epochs=6)
    else:
        config.training(train_batch_size_per_learner=steps, minibatch_size=128, num_epochs=6)
    if callbacks is not None:
        config.callbacks(callbacks)
    return config.build_algo()


def timed(what: Any, name: str, clock: Any, into: list[float]) -> None:
    """Make an object's method append the time of each later call to a list."""
    inner = getattr(what, name)

    @functools.wraps(inner)
    def call(*args: Any, **kwargs: Any) -> Any:
        start = clock()
        try:
            return inner(*args, **kwargs)
        finally:
            into.append(clock() - start)

    setattr(what, name, call)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--s3", action="store_true", help="a bucket on moto's server")
    parser.add_argument("--stack", choices=["new", "old"], default="new")
    parser.add_argument("--rounds", type=int, default=60, help="iterations of each Algorithm")
    parser.add_argument("--steps", type=int, default=1000, help="environment steps in each")
    parser.add_argument("--delay", type=float, default=2.0, help="seconds for a request")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return 0

    import ray

    from policystore.rllib import publish
    from policystore.rllib.callbacks.publish import Publish
    from policystore.rllib.callbacks.upload_queue import Uploader

    warnings.simplefilter("ignore")
    callback: list[float] = []
    uploads: list[float] = []
    timed(Publish, "on_train_result", time.perf_counter, callback)
    timed(Uploader, "_upload", time.thread_time, uploads)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with (s3_store if given.s3 else folder_store)(given.delay) as (slow, plain_way):
        made = publish(slow, {"default_policy": NAME}, metric=METRIC, timeout=600)
        ways = {"plain": built(given.stack, given.steps)}
        ways["publish"] = built(given.stack, given.steps, made)
        times: dict[str, list[float]] = {way: [] for way in ways}
        reported: list[dict[str, Any]] = []
        for turn in range(WARM_UP + given.rounds):
            for way in list(ways) if turn % 2 else list(reversed(ways)):
                start = time.perf_counter()
                result = ways[way].train()
                times[way].append(time.perf_counter() - start)
                if way == "publish":
                    reported.append(result["policystore"]["publish"]["default_policy"])
        start = time.perf_counter()
        for algo in ways.values():
            algo.stop()
        ended = time.perf_counter() - start
        wrong = check(plain_way, reported)
        pushed = len(plain_way.log(NAME))

    medians = {way: statistics.median(taken[WARM_UP:]) for way, taken in times.items()}
    own = statistics.median(callback[WARM_UP:])
    beside = sum(uploads) / len(times["publish"])
    where = "S3 (moto)" if given.s3 else "a folder"
    print(
        f"{given.stack} API stack, {where}, {given.delay:g} s for a request, "
        f"{given.rounds} iterations each"
    )
    for way, median in medians.items():
        print(f"  {way:8} {1000 * median:9.1f} ms, median of an iteration")
    print(f"  ratio    {medians['publish'] / medians['plain']:9.4f}")
    print(f"  of it    {1000 * own:9.2f} ms in the callback, median of an iteration")
    print(f"           {1000 * beside:9.2f} ms of processor time beside it, mean of an iteration")
    print(f"  so       {1 + (own + beside) / medians['plain']:9.4f}  at the most, by these two")
    last = reported[-1]
    print(
        f"  pushed {pushed}, skipped {last['skipped']}, failed {last['failed']}; "
        f"the end took {ended:.0f} s"
    )
    told = {each["pushed"] for each in reported} - {None}
    print(f"  reported as pushed: {len(told)}; not there: {wrong or 'none'}")
    ray.shutdown()
    return 1 if wrong else 0


def check(store: Any, reported: list[dict[str, Any]]) -> list[str]:
    """Return the versions that were reported as pushed, and are missing or differ."""
    wrong = []
    versions = {version.number: version for version in store.log(NAME)}
    for number, digest in {(each["pushed"], each["digest"]) for each in reported}:
        if number is None:
            continue
        version = versions.get(number)
        if version is None or str(version.digest) != digest:
            wrong.append(f"{NAME}@{number}")
        elif str(store.pull(f"{NAME}@{number}").digest) != digest:
            wrong.append(f"{NAME}@{number}: another policy")
    bests = {each["best"] for each in reported} - {None}
    return wrong + [f"{NAME}@{number}, the best" for number in bests - versions.keys()]


if __name__ == "__main__":
    sys.exit(main())
