"""Start Ray's worker processes as forks of one process that has imported RLlib.

Each actor of Ray is a process of its own, and imports Ray, torch and RLlib: about three seconds of
a processor, which most tests of an Algorithm spend on nothing else. Here a raylet starts a small
program (``worker_start.py``) in place of Ray's. That program hands its arguments, environment and
standard streams to a server, and a fork of the server runs Ray's own ``default_worker.py``. The
fork is a process as any other: the raylet learns its id when the worker registers, and the process
can be killed. The server imports nothing of policystore and of the tests.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

FOLDER = "POLICYSTORE_TEST_WORKER_FORKS"  # the variable in which worker_start.py finds the servers

_NO_PRESTART = "RAY_prestart_worker_first_driver"
_IMPORTED = (
    "ray._private.workers.default_worker",
    "ray.rllib.algorithms.appo.torch.appo_torch_learner",
    "ray.rllib.algorithms.impala",
    "ray.rllib.algorithms.ppo.ppo_torch_policy",
    "ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module",
    "ray.rllib.algorithms.sac",
    "ray.rllib.env.multi_agent_env_runner",
    "ray.rllib.env.single_agent_env_runner",
    "ray.rllib.evaluation.rollout_worker",
    "torch._dynamo",
)


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Have a ``ray.init`` inside of the ``with`` statement start its workers as forks.

    The first worker of a raylet starts the raylet's server, which ends when the raylet has ended.
    Elsewhere than on Linux, workers start as they always do.
    """
    from ray._private.node import Node

    if not hasattr(os, "pidfd_open"):
        yield
        return
    plain = Node.start_raylet

    def start_raylet(node: Any, *arguments: Any, **options: Any) -> Any:
        node._ray_params.setup_worker_path = str(Path(__file__).with_name("worker_start.py"))
        return plain(node, *arguments, **options)

    with tempfile.TemporaryDirectory(prefix="forks-", ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER] = folder
        # No workers that wait for a first job: these would need a server of their own.
        os.environ[_NO_PRESTART] = "0"
        Node.start_raylet = start_raylet
        try:
            yield
        finally:
            Node.start_raylet = plain
            del os.environ[FOLDER], os.environ[_NO_PRESTART]


def _serve(address: str) -> None:
    """Fork a worker for each connection, until the raylet has ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(64)
    os.rename(f"{address}.new", address)
    raylet = os.pidfd_open(int(os.environ["RAY_RAYLET_PID"]))
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads this; as Ray sets it for an actor
    _import_rllib()
    gc.freeze()  # no fork collects, and so copies, what all of them share
    forks_differ = _drawn_in_a_fork() != _drawn_in_a_fork()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(raylet, selectors.EVENT_READ)
    while all(key.fileobj is listener for key, _ in selector.select()):
        connection, _ = listener.accept()
        if os.fork() == 0:
            selector.close()
            listener.close()
            os.close(raylet)
            _become_worker(connection, forks_differ)
        connection.close()


def _import_rllib() -> None:
    """Import RLlib without a random number of Ray's own.

    Ray draws an id for each class of actors, here for those of its modules. The first draw would
    seed Ray's generator, which no fork could seed anew, and all forks would draw the same ids.
    """
    import ray.actor

    class Urandom(ray.actor.ActorClassID):  # type: ignore[misc]
        @classmethod
        def from_random(cls) -> Any:
            return ray._raylet.ActorClassID(os.urandom(cls.size()))

    plain = ray.actor.ActorClassID
    ray.actor.ActorClassID = Urandom
    try:
        for name in _IMPORTED:
            with contextlib.suppress(ImportError):  # not all Ray versions have all of them
                importlib.import_module(name)
    finally:
        ray.actor.ActorClassID = plain


def _drawn_in_a_fork() -> bytes:
    """Return an id that Ray draws in a fork of this process."""
    from ray._raylet import UniqueID

    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, UniqueID.from_random().binary())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        return file.read()


def _become_worker(connection: socket.socket, forks_differ: bool) -> NoReturn:
    """Run Ray's worker with the arguments, environment and streams of the program that asks.

    The connection stays open as long as this process lives: the program waits for its end. Where
    forks would draw the same ids, Python starts anew, as Ray does it.
    """
    import runpy

    import numpy as np

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)  # the raylet may signal the worker's whole group
    message, streams = _received(connection)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(message["environment"])
    os.chdir(message["folder"])
    if not forks_differ:
        connection.set_inheritable(True)
        os.execv(sys.executable, [sys.executable, *message["arguments"]])
    np.random.seed()  # every fresh process has other random numbers
    sys.argv = message["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, streams, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        return json.loads(file.read(int.from_bytes(data, "big"))), list(streams)


if __name__ == "__main__":
    _serve(sys.argv[1])
