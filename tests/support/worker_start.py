"""Ask the server of ``worker_forks.py`` for a worker of Ray; a program that a raylet starts.

The program takes the place of Ray's ``setup_worker.py``, with the same arguments, and waits until
the worker has ended. A worker in an environment of its own (``runtime_env``), or of another
language, is started by Ray's program. Little is imported, because each worker starts this program.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import time

_CONTEXT = "--serialized-runtime-env-context="


def main(arguments: list[str]) -> None:
    contexts = [each[len(_CONTEXT) :] for each in arguments if each.startswith(_CONTEXT)]
    if "--language=PYTHON" not in arguments or any(each not in ("", "{}") for each in contexts):
        import ray._private.workers as workers

        setup = os.path.join(os.path.dirname(workers.__file__), "setup_worker.py")
        os.execv(sys.executable, [sys.executable, setup, *arguments])
    request = {
        "arguments": [each for each in arguments if not each.startswith((_CONTEXT, "--language="))],
        "environment": dict(os.environ),
        "folder": os.getcwd(),
    }
    message = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(_address())
        socket.send_fds(server, [len(message).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(message)
        server.recv(1)


def _address() -> str:
    """Return the socket of the server for this raylet and job; start the server if needed.

    A server is for one job, because Ray reads the job's id from a variable when Ray is imported.
    """
    name = f"{os.environ['RAY_RAYLET_PID']}-{os.environ['RAY_JOB_ID']}"
    address = os.path.join(os.environ["POLICYSTORE_TEST_WORKER_FORKS"], name)
    with open(f"{address}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(address):
            program = os.path.join(os.path.dirname(__file__), "worker_forks.py")
            server = subprocess.Popen(
                [sys.executable, program, address],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # the raylet may signal the group of this program
            )
            while not os.path.exists(address):
                if server.poll() is not None:
                    raise RuntimeError(f"the server {program} ended with {server.returncode}")
                time.sleep(0.01)
    return address


if __name__ == "__main__":
    main(sys.argv[1:])
