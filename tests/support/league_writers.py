"""Record batches of matches beside other processes. The tests run this file as a program.

``league_writers.py URL WRITER COUNT START [ENDPOINT] [--fork]``: COUNT batches of two matches, one
after the other. The seed of a match says which match it is. After each batch, the program prints
the seeds of its matches: they are durable. With ``--fork``, the process forks in the middle, and
both processes go on with the same League, half of the batches each.
"""

from __future__ import annotations

import os
import sys
import time

from policystore import PolicyStore
from policystore.league import League

PLAYERS = [f"heuristic:p{number}" for number in range(5)]
SPAN = 1_000_000


def seeds_of(writer: int, batch: int) -> tuple[int, int]:
    """Return the seeds of the two matches of a batch."""
    first = writer * SPAN + 2 * batch
    return first, first + 1


def record(league: League, writer: int, batch: int) -> None:
    """Record one batch, and say so when it is durable."""
    seeds = seeds_of(writer, batch)
    league.record(
        {
            "players": {"red": PLAYERS[seed % 5], "blue": PLAYERS[seed % 3]},
            "episodes": 1,
            "wins": {"red": 1},
            "returns": {"red": [1.0], "blue": [-1.0]},
            "seeds": [seed],
        }
        for seed in seeds
    )
    # One write for each line: the process may be killed between two of them.
    os.write(1, f"{seeds[0]} {seeds[1]}\n".encode())


def main(url: str, writer: int, count: int, start: float, endpoint: str, fork: bool) -> int:
    options = {"endpoint_url": endpoint} if endpoint else None
    store = PolicyStore(url, storage_options=options)
    league = League(store, "soccer", author=f"writer {writer}")
    if endpoint:
        store.names()  # import now what takes long
    time.sleep(max(0.0, start - time.time()))
    child = -1
    for batch in range(count):
        if fork and batch == count // 2:
            child = os.fork()
        if child == -1 or batch % 2 == (child == 0):
            record(league, writer, batch)
    if child == 0:
        os._exit(0)
    return 0 if child == -1 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--fork"]
    url, writer, count, start = given[:4]
    endpoint = "".join(given[4:])
    sys.exit(main(url, int(writer), int(count), float(start), endpoint, "--fork" in sys.argv))
