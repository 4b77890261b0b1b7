"""Bytes of a store whose policies share an encoder, and packages that the core brings along."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from packaging.requirements import Requirement

import policystore
from policystore import PolicyStore, Snapshot
from scripts.benchmarks.lines.harness.policies import bytes_below, resnet18_shapes
from scripts.benchmarks.lines.harness.rows import Report
from scripts.benchmarks.lines.harness.settings import Settings

__all__ = ["installed", "measure"]

_HEADS = 1_000_000  # bytes that each snapshot has for itself
_CORE = 15.0, 4  # MB, and packages that the core needs beyond numpy


def measure(settings: Settings, report: Report) -> None:
    with settings.folder() as folder:
        _shared_encoder(report, folder, 3 if settings.quick else 100)
    size, packages = installed()
    names = ", ".join(sorted(packages))
    report.check("blake3" in packages, "the packages that policystore needs were not found")
    report.limited("installed size of the core, with packages beyond numpy", size, _CORE[0], "MB")
    report.limited("packages that the core needs beyond numpy", len(packages), _CORE[1],
                   "packages", note=names)  # fmt: skip


def _shared_encoder(report: Report, folder: Path, count: int) -> None:
    """Compare snapshots with one frozen encoder with as many safetensors files."""
    random = np.random.default_rng(0)
    encoder = {
        f"encoder.{name}": random.standard_normal(shape, dtype=np.float32)
        for name, shape in resnet18_shapes().items()
    }
    store = PolicyStore(folder / "store")
    one_file = folder / "one.safetensors"
    for _ in range(count):
        heads = random.standard_normal((_HEADS // 4 // 512, 512), dtype=np.float32)
        weights = {**encoder, "heads.weight": heads}
        store.push(Snapshot(weights=weights), "bench/main")
        if not one_file.exists():
            safetensors.numpy.save_file(weights, one_file)
    pulled = store.pull("bench/main").weights
    report.check(
        all(np.array_equal(pulled[name], weights[name]) for name in weights),
        "the newest snapshot came back with other weights",
    )
    report.count(
        f"bytes of {count} snapshots with one encoder of "
        f"{sum(array.nbytes for array in encoder.values()) / 1e6:.0f} MB",
        f"{count} safetensors files", bytes_below(folder / "store"),
        count * one_file.stat().st_size, "B", limit=1 / 10 if count == 100 else None,
        note="all files have the size of the first, which alone was written",
    )  # fmt: skip


def installed() -> tuple[float, set[str]]:
    """Return the megabytes of policystore with all it needs, and what it needs; without numpy.

    The files of policystore are those of this checkout, without bytecode; those of the packages are
    the files that they were installed with.
    """
    root = Path(policystore.__file__).parent
    size = sum(
        path.stat().st_size
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )
    names: set[str] = set()
    waiting = ["policystore"]
    while waiting:
        for package in _needs(waiting.pop()) - names - {"numpy"}:
            names.add(package)
            waiting.append(package)
            size += sum(_size(file) for file in importlib.metadata.files(package) or ())
    return size / 1e6, names


def _needs(package: str) -> set[str]:
    """Return the names of the packages that one needs on this Python, without extras."""
    needed = map(Requirement, importlib.metadata.requires(package) or [])
    return {
        each.name.lower().replace("_", "-")
        for each in needed
        if each.marker is None or each.marker.evaluate({"extra": ""})
    }


def _size(file: Any) -> int:
    path = Path(file.locate())
    return path.stat().st_size if path.suffix != ".pyc" and path.is_file() else 0
