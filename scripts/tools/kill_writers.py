"""Kill writers at random moments with SIGKILL, and check the store after each kill.

    ./.venv/bin/python scripts/tools/kill_writers.py [--kills 200] [--seed 0] [KIND…]

tries pushes, tags, deletions, collections and copies, in a folder that is removed afterwards. With
POLICYSTORE_TEST_S3 in the environment (scripts/tools/ceph.py sets it) the script also tries them in
a bucket of that server; --moto starts a server of moto. The script prints the figures, and ends
with an error if a store has lost anything that was acknowledged.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support import kill_driver, s3_server  # noqa: E402

KINDS = ("push", "tag", "delete", "collect", "copy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--moto", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kill(folder, "", given)
    endpoint = os.environ.get("POLICYSTORE_TEST_S3", "")
    with ExitStack() as servers:
        if given.moto:
            endpoint = servers.enter_context(moto())
        if endpoint:
            os.environ.update(
                AWS_ACCESS_KEY_ID=s3_server.KEY,
                AWS_SECRET_ACCESS_KEY=s3_server.SECRET,
                AWS_DEFAULT_REGION="us-east-1",
            )
            bucket = f"t{uuid.uuid4().hex}"
            s3_server.client(endpoint).create_bucket(Bucket=bucket)
            kill(f"s3://{bucket}", endpoint, given)


@contextmanager
def moto() -> Iterator[str]:
    """Run a server of moto in a process of its own, because this process forks."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.support.s3_server import moto_server\n"
        "with moto_server() as url: print(url, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(ROOT)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        # The server ends when its input is closed.
        yield server.stdout.readline().strip() if server.stdout else ""


def kill(url: str, endpoint: str, given: argparse.Namespace) -> None:
    for kind in given.kinds:
        began = time.monotonic()
        calls = kill_driver.run(url, endpoint, kind, given.seed, given.kills)
        seconds = time.monotonic() - began
        print(
            f"{url.partition('/')[0] or 'folder'} {kind}: {given.kills} kills, {calls:,} calls "
            f"acknowledged, nothing lost, {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
