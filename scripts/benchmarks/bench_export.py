"""Compare a player's act with its exported files: ``.onnx`` in onnxruntime, ``.pt2`` in torch.

    ./.venv/bin/python scripts/benchmarks/bench_export.py [--rounds 400]

The script prints a Markdown table: medians in microseconds of one observation and of 64, and the
ratios to the network as RLlib computes it (``_forward_inference`` under ``torch.inference_mode()``
on a tensor that is ready). All are called in turn, on one thread. The line below the table says how
busy the machine was.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from bench_act import NEW, ROWS, Cell, alone, in_turn, new_player, with_threads

from policystore.rllib import export, snapshot

SHOWN = ("fc 64x64, Discrete", "fc 256x256, Discrete", "conv 42x42, float32")


def calls_of(
    cell: Cell, rows: int, folder: Path, made: tuple[Any, Any, Any]
) -> dict[str, Callable[[], Any]]:
    """Return the calls that are compared, for a number of rows."""
    player, forward, _ = made
    observations = np.stack([cell.observations.sample() for _ in range(rows)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / "a.onnx"), options, providers=["CPUExecutionProvider"]
    )
    program = torch.export.load(str(folder / "a.pt2")).module()
    single = observations[0]

    def act() -> Any:
        return player.act(single) if rows == 1 else player.act_batch(observations)

    def by_torch() -> Any:
        return program(torch.from_numpy(observations))

    return {
        "network": alone(forward(rows), 1),
        "player": with_threads(act, 1),
        "onnx": lambda: session.run(["action"], {"obs": observations}),
        "pt2": alone(by_torch, 1),
    }


def measure(cell: Cell, rounds: int) -> None:
    """Print the lines of one policy."""
    made = new_player(cell)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("a.onnx", "a.pt2"):
            export(
                snapshot(made[0].module),
                folder / file,
                env_spaces=(cell.observations, cell.actions),
                normalize_actions=True,
            )
        for rows in (1, ROWS):
            seconds = in_turn(calls_of(cell, rows, folder, made), rounds)
            median = {key: statistics.median(each) * 1e6 for key, each in seconds.items()}
            network = median["network"]
            ratios = [f"{median[key] / network:.1f}" for key in ("player", "onnx", "pt2")]
            cells = [cell.name, str(rows), *(f"{each:.0f}" for each in median.values()), *ratios]
            print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    before = os.getloadavg()[0]
    print(
        "| policy | observations | network, µs | player, µs | `.onnx`, µs | `.pt2`, µs "
        "| player / network | `.onnx` / network | `.pt2` / network |"
    )
    print("|---" * 9 + "|")
    for cell in NEW:
        if cell.name in SHOWN:
            measure(cell, rounds)
    after = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores; load {before:.0f} before and {after:.0f} after")


if __name__ == "__main__":
    main()
