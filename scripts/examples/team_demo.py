"""Show two people on one bucket: push, tag, pull, move the tag, and a key that may only read.

    ./.venv/bin/python scripts/examples/team_demo.py

Ann and Ben each have a home and a cache, and each step runs in a new process. By default the bucket
is on moto's server, which checks keys as S3 does. There Ann and Ben have the rights of a writer,
and Cleo has the rights of a reader, as docs/how-to/team.md shows them. These variables name another
bucket:

    POLICYSTORE_DEMO_BUCKET                a bucket that exists; the demo uses a new prefix in it
    POLICYSTORE_DEMO_ENDPOINT              the server's URL, if it is not AWS
    AWS_ACCESS_KEY_ID, …                   as usual
    POLICYSTORE_DEMO_READER_KEY, …_SECRET  a read-only key; without it the last step is left out
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "team.md"
ALL = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}],
}


@contextlib.contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on the terminal, and yield the callback that moves the bar."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("  {task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as shown:
        task = shown.add_task(what)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def policy(seed: int) -> Any:
    """Return a policy with a frozen encoder of 48 MiB, which all policies share, and a head."""
    from policystore import Snapshot, Spec

    frozen, head = np.random.default_rng(0), np.random.default_rng(seed)
    return Snapshot(
        weights={
            "encoder.weight": frozen.standard_normal((12, 1 << 20), dtype=np.float32),
            "head.weight": head.standard_normal((8, 64), dtype=np.float32),
        },
        spec=Spec(),
    )


def ann_pushes(store: Any) -> None:
    for seed in (1, 2):
        with bar(f"push {seed}") as progress:
            version = store.push(
                policy(seed),
                "soccer/main",
                metrics={"return": 10.0 * seed},
                message=f"run {seed}",
                progress=progress,
            )
        print(f"  {version.ref}  {version.digest.short}  return {version.metrics['return']}")
    store.tag("soccer/main@1", "champion")
    print("  champion -> soccer/main@1")


def pulls_champion(store: Any) -> None:
    began = time.monotonic()
    with bar("pull") as progress:
        snap = store.pull("soccer/main@champion", progress=progress)
    version = next(v for v in store.log("soccer/main") if v.digest == snap.digest)
    print(f"  champion is {version.ref} by {version.author}, in {time.monotonic() - began:.2f} s")
    folder = Path.home() / ".cache" / "policystore" / "objects"
    kept = [path.stat().st_size for path in folder.rglob("*.safetensors")]
    print(f"  in {Path.home().name}'s cache: {len(kept)} objects, {sum(kept) / 2**20:.0f} MiB")


def ben_moves(store: Any) -> None:
    better = max(store.log("soccer/main"), key=lambda version: version.metrics["return"])
    store.tag(better, "champion")
    print(f"  champion -> {better.ref}")


def reads_only(store: Any) -> None:
    print(f"  names: {store.names()}, versions: {len(store.log('soccer/main'))}")
    print(f"  {store.verify()}")
    refused("push", lambda: store.push(policy(3), "soccer/main"))
    refused("tag", lambda: store.tag("soccer/main@1", "champion"))
    print(f"  versions: {len(store.log('soccer/main'))}, as before")


def refused(what: str, call: Callable[[], Any]) -> None:
    from policystore import ReadOnlyError

    try:
        call()
    except ReadOnlyError as error:
        print(f"  {what}: ReadOnlyError: {str(error).partition(': ')[2]}")
    else:
        raise SystemExit(f"error: {what} with a key that may only read went through")


STEPS = {step.__name__: step for step in (ann_pushes, pulls_champion, ben_moves, reads_only)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    # The arguments of the process of one step: name of the step, store, store options as JSON.
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step is not None:
        from policystore import PolicyStore

        step, url, options = given.step
        STEPS[step](PolicyStore(url, storage_options=json.loads(options)))
        return 0
    with contextlib.ExitStack() as stack:
        homes = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bucket = os.environ.get("POLICYSTORE_DEMO_BUCKET")
        if bucket:
            endpoint = os.environ.get("POLICYSTORE_DEMO_ENDPOINT")
            options = {"endpoint_url": endpoint} if endpoint else {}
            team: dict[str, str] = {}
            reader = {
                "key": os.environ.get("POLICYSTORE_DEMO_READER_KEY", ""),
                "secret": os.environ.get("POLICYSTORE_DEMO_READER_SECRET", ""),
            }
        else:
            bucket = "team"
            options, team, reader = stack.enter_context(moto(bucket))
        url = f"s3://{bucket}/policies/demo-{uuid.uuid4().hex[:8]}"

        def run(who: str, what: str, step: str, keys: dict[str, str]) -> None:
            print(f"\n{who} {what}", flush=True)
            home = homes / who
            home.mkdir(exist_ok=True)
            env = {**os.environ, "HOME": str(home), "POLICYSTORE_AUTHOR": who}
            for name in ("POLICYSTORE_CACHE", "XDG_CACHE_HOME"):
                env.pop(name, None)
            asked = [step, url, json.dumps({**options, **keys})]
            command = [sys.executable, __file__, "--step", *asked]
            subprocess.run(command, env=env, check=True)

        print(f"The store is {url}")
        run("ann", "pushes two versions and names the champion", "ann_pushes", team)
        run("ben", "pulls the champion, with nothing in the cache", "pulls_champion", team)
        run("ben", "pulls it again", "pulls_champion", team)
        run("ben", "finds a better one", "ben_moves", team)
        run("ann", "pulls the champion", "pulls_champion", team)
        run("ben", "pulls it: the encoder is there already", "pulls_champion", team)
        if reader["key"]:
            run("cleo", "has a key that may only read", "reads_only", reader)
    return 0


def rights(role: str) -> dict[str, Any]:
    """Return the policy of IAM that docs/how-to/team.md shows for a role."""
    (block,) = re.findall(rf"```json {role}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return dict(json.loads(block))


@contextlib.contextmanager
def moto(bucket: str) -> Iterator[tuple[dict[str, str], dict[str, str], dict[str, str]]]:
    """Run moto's server with a bucket during the block, in a separate process.

    The context yields the storage options, the key of a writer, and the key of a reader.

    The server checks keys from the fifth request on. The first four requests make the bucket and an
    administrator.
    """
    import boto3

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        endpoint = f"http://127.0.0.1:{port}"
        await_port(port, server)

        def client(service: str, keys: dict[str, str]) -> Any:
            return boto3.client(
                service,
                endpoint_url=endpoint,
                aws_access_key_id=keys["key"],
                aws_secret_access_key=keys["secret"],
                region_name="us-east-1",
            )

        def user(iam: Any, name: str, rights: dict[str, Any]) -> dict[str, str]:
            iam.create_user(UserName=name)
            iam.put_user_policy(
                UserName=name, PolicyName="rights", PolicyDocument=json.dumps(rights)
            )
            made = iam.create_access_key(UserName=name)["AccessKey"]
            return {"key": made["AccessKeyId"], "secret": made["SecretAccessKey"]}

        nobody = {"key": "x", "secret": "x"}
        client("s3", nobody).create_bucket(Bucket=bucket)
        admin = client("iam", user(client("iam", nobody), "admin", ALL))
        team = user(admin, "team", rights("writer"))
        reader = user(admin, "reader", rights("reader"))
        yield {"endpoint_url": endpoint}, team, reader
    finally:
        server.kill()
        server.wait()


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as made:
        return int(made.getsockname()[1])


def await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    import socket

    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        if server.poll() is not None or time.monotonic() > end:
            raise SystemExit("error: moto's server did not start")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
