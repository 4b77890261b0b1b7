"""Kill processes in the middle of copies. A test runs this file as a program, so that it may fork.

``FOLDER SEED COUNT``: COUNT processes copy one store to another and are killed at random moments.
After each kill, ``verify`` must find no fault in the target. At the end the target must have the
same records and objects as the source. The program prints how many processes were killed before
they had finished.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from policystore import PolicyStore
from policystore.testing import make_snapshot
from tests.support.mirrors import content, faults


def main(folder: str, seed: int, count: int) -> None:
    ours, theirs = PolicyStore(Path(folder) / "ours"), PolicyStore(Path(folder) / "theirs")
    for number in range(60):
        ours.push(make_snapshot(number, large=number % 20 == 0), f"n/{number % 3}")
    ours.tag("n/0@2", "best")
    ours.push(make_snapshot(1000))
    choose, killed = random.Random(seed), 0
    for _ in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                ours.copy_to(theirs)
                status = 0
            finally:
                os._exit(status)
        time.sleep(choose.uniform(0.0, 0.06))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        killed += os.WIFSIGNALED(status)
        if (Path(folder) / "theirs" / "policystore.json").exists():
            assert faults(theirs) == []
    ours.copy_to(theirs)
    assert faults(theirs) == []
    assert content(theirs) == content(ours)
    assert not ours.copy_to(theirs).changed
    print(killed)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
