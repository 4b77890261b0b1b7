"""Pulls from a folder, verified, against readers that verify nothing, and against the hash alone.

All files are in the page cache. A *private* folder is one that only its user may write to, as a
folder in one's home is; a *shared* one belongs to a group, whose members may write to it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import torch
from safetensors.torch import load_file, save_file

from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.policies import MB, arrays_of
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings
from scripts.benchmarks.lines.harness.times import in_turn

__all__ = ["hash_file", "measure"]

_SIZES = {0.5: 60, 8.0: 40, 200.0: 15}  # MB, and how many rounds
_HASH_LIMITS = {0.5: 3.0, 8.0: 1.5, 200.0: 1.5}


def measure(settings: Settings, report: Report) -> None:
    os.umask(0o022)
    for size, rounds in ({0.5: 2, 8.0: 2} if settings.quick else _SIZES).items():
        with settings.folder() as folder:
            _one_size(report, folder, size, settings.rounds(rounds))
    if settings.quick:
        report.omit("200 MB (--quick)")


def _one_size(report: Report, folder: Path, size: float, rounds: int) -> None:
    arrays = arrays_of(int(size * MB))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    by_torch, by_safetensors = folder / "weights.pt", folder / "weights.safetensors"
    torch.save(tensors, by_torch)
    save_file(tensors, by_safetensors)
    stores = {}
    for kind, mode in (("private", 0o755), ("shared", 0o2777)):
        root = folder / kind
        root.mkdir()
        root.chmod(mode)
        stores[kind] = PolicyStore(root)
        digest = stores[kind].push(Snapshot(weights=arrays)).digest

    def by_store(kind: str) -> Any:
        return stores[kind].pull(digest)

    def load() -> Any:
        return torch.load(by_torch, weights_only=True)

    for kind in stores:
        for name, array in by_store(kind).weights.items():
            report.check(np.array_equal(array, arrays[name]), f"pull, {kind}: {name} differs")
    for found in (load(), load_file(by_safetensors)):
        same = all(np.array_equal(found[name].numpy(), arrays[name]) for name in arrays)
        report.check(same, "what other readers read differs")
    times = in_turn(
        {
            "private": lambda: by_store("private"),
            "shared": lambda: by_store("shared"),
            "torch.load": load,
            "safetensors": lambda: load_file(by_safetensors),
            "hash": lambda: hash_file(by_safetensors),
            "private, read": lambda: _read(by_store("private")),
            "safetensors, read": lambda: _read(load_file(by_safetensors)),
        },
        rounds,
        warm_up=3,
    )
    for kind in ("private", "shared"):
        # The lines are those of a folder as one makes it; a shared one has to be read, not mapped.
        own = kind == "private"
        what = f"pull {size:g} MB" + ("" if own else ", from a shared folder")
        report.compare(
            what, "torch.load(weights_only=True), unverified", times[kind], times["torch.load"],
            limit=1.0 if own else None,
        )  # fmt: skip
        report.compare(
            what, "safetensors.torch.load_file, unverified", times[kind], times["safetensors"],
            limit=1.2 if own and size == 200 else None,
            note="load_file maps the file and reads no weights yet",
        )  # fmt: skip
        report.compare(
            what, "one BLAKE3 pass over the mapped file", times[kind], times["hash"],
            limit=_HASH_LIMITS[size] if own else None,
        )  # fmt: skip
    report.compare(
        f"pull {size:g} MB, and read all weights", "load_file, and read all weights",
        times["private, read"], times["safetensors, read"], limit=1.2 if size == 200 else None,
    )  # fmt: skip


def _read(found: Any) -> None:
    """Read all weights of a Snapshot, or of a dict of tensors, by the same call."""
    for weight in found.weights.values() if isinstance(found, Snapshot) else found.values():
        np.asarray(weight).max()


def hash_file(path: Path) -> str:
    """Return the BLAKE3 hash of a file that is mapped into memory, computed by one thread."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        return blake3.blake3(mapped).hexdigest()
