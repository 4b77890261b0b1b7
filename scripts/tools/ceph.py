"""Run a command while a real S3 server runs: one node of Ceph, in memory, on this machine.

    ./.venv/bin/python scripts/tools/ceph.py COMMAND…

starts the server and its gateway, runs the command with the gateway's address in
POLICYSTORE_TEST_S3, and stops the server again. To install Ceph on Debian: apt-get install
--no-install-recommends radosgw ceph-mon ceph-osd ceph-mgr ceph-common
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

KEY, SECRET = "AKIDOFTHETESTS", "SECRETOFTHETESTS"  # the tests use the same
LOOPBACK = "127.0.0.1"
BYTES = 6 << 30
SECONDS = 120
PROGRAMS = ("ceph", "ceph-mon", "ceph-mgr", "ceph-osd", "ceph-authtool", "monmaptool", "radosgw",
            "radosgw-admin")  # fmt: skip
CAPS = {
    "mon.": ("mon", "allow *"),
    "client.admin": ("mon", "allow *", "osd", "allow *", "mgr", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd"),
    "mgr.x": ("mon", "allow profile mgr", "osd", "allow *"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"),
}
CONFIG = """
[global]
fsid = {fsid}
keyring = {folder}/keyring
mon host = [v2:{loopback}:{mon2},v1:{loopback}:{mon1}]
public addr = {loopback}
cluster addr = {loopback}
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon warn on pool no redundancy = false
mon data avail crit = 1
mon data avail warn = 2
run dir = {folder}/run
admin socket = {folder}/run/$name.$pid.asok
pid file =
log file = {folder}/log/$name.log
osd objectstore = memstore
memstore device bytes = {size}
osd data = {folder}/osd
mon data = {folder}/mon
mgr data = {folder}/mgr
[client.rgw]
rgw frontends = beast endpoint={loopback}:{port} tcp_nodelay=1
rgw data = {folder}/rgw
rgw enable usage log = false
"""


@contextmanager
def gateway() -> Iterator[str]:
    """Run a gateway during the block, and yield its URL; then end the daemons by their handles."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise SystemExit(f"error: {', '.join(missing)} not found. {__doc__}")
    folder = Path(tempfile.mkdtemp(prefix="ceph-"))
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        yield start(folder, daemons)
    except subprocess.SubprocessError:
        for log in sorted((folder / "log").glob("*")):
            print(f"=== {log.name}", *log.read_text().splitlines()[-20:], sep="\n", file=sys.stderr)
        raise
    finally:
        for daemon in reversed(daemons):
            daemon.kill()  # all data is in memory, so nothing has to be saved
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, daemons: list[subprocess.Popen[bytes]]) -> str:
    """Start all daemons with their files in a folder, and append them to ``daemons``."""
    for name in ("mon", "mgr", "osd", "rgw", "run", "log"):
        (folder / name).mkdir()
    mon2, mon1, port = free_ports(3)
    fsid = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(CONFIG.format(folder=folder, fsid=fsid, loopback=LOOPBACK, mon1=mon1,
                                    mon2=mon2, port=port, size=BYTES))  # fmt: skip
    keyring, monmap = str(folder / "keyring"), str(folder / "monmap")

    def run(*command: str) -> None:
        subprocess.run(command, check=True, timeout=SECONDS, stdout=subprocess.DEVNULL)

    def ceph(*command: str) -> None:
        run("ceph", "-c", str(config), *command)

    def daemon(*command: str) -> None:
        program, *rest = command
        daemons.append(
            subprocess.Popen([program, "-f", "-c", str(config), *rest], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )  # fmt: skip

    run("ceph-authtool", "--create-keyring", keyring)
    for name, caps in CAPS.items():
        pairs = zip(caps[::2], caps[1::2], strict=True)
        options = [word for what, how in pairs for word in ("--cap", what, how)]
        run("ceph-authtool", keyring, "--gen-key", "-n", name, *options)
    address = f"[v2:{LOOPBACK}:{mon2},v1:{LOOPBACK}:{mon1}]"
    run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
    mon = ("-i", "a", "--monmap", monmap, "--keyring", keyring)
    run("ceph-mon", "-c", str(config), "--mkfs", *mon)
    daemon("ceph-mon", "-i", "a")
    daemon("ceph-mgr", "-i", "x")
    ceph("osd", "create")
    run("ceph-osd", "-c", str(config), "-i", "0", "--mkfs")
    ceph("auth", "import", "-i", keyring)
    daemon("ceph-osd", "-i", "0")
    daemon("radosgw", "-n", "client.rgw")
    url = f"http://{LOOPBACK}:{port}"
    await_answer(url, daemons)
    run("radosgw-admin", "-c", str(config), "-n", "client.rgw", "user", "create", "--uid=tests",
        "--display-name=tests", f"--access-key={KEY}", f"--secret-key={SECRET}")  # fmt: skip
    return url


def free_ports(count: int) -> list[int]:
    """Return this many different ports that are free."""
    with ExitStack() as open_ones:
        sockets = [
            open_ones.enter_context(socket.create_server((LOOPBACK, 0))) for _ in range(count)
        ]
        return [each.getsockname()[1] for each in sockets]


def await_answer(url: str, daemons: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended = [daemon for daemon in daemons if daemon.poll() is not None]
        if ended:
            raise subprocess.SubprocessError(f"{ended[0].args} ended by itself")
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2)
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
                return
            finally:
                connection.close()
        time.sleep(0.2)
    raise subprocess.SubprocessError(f"{url} did not answer within {SECONDS} s")


def main() -> int:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    began = time.monotonic()
    with gateway() as url:
        print(f"Ceph's gateway is at {url} after {time.monotonic() - began:.0f} s", flush=True)
        return subprocess.run(
            sys.argv[1:], env={**os.environ, "POLICYSTORE_TEST_S3": url}
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
