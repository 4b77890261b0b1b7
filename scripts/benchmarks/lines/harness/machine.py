"""Describe the machine beside the figures."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import resource
from collections.abc import Callable
from pathlib import Path

__all__ = ["growth_of", "machine", "peak"]

_PACKAGES = ("numpy", "blake3", "torch", "ray", "safetensors", "boto3", "s3fs")


def machine(scratch: str) -> dict[str, str]:
    """Return what a reader of figures needs: processor, memory, disk, versions and load."""
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "disk": _filesystem(scratch),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def peak() -> float:
    """Return the most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def growth_of(call: Callable[[], object]) -> float:
    """Return by how many MiB a call raises the memory of this process at its peak (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in memory now
    before = _highest()
    kept = call()
    grown = _highest() - before
    del kept
    return grown


def _highest() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _filesystem(path: str) -> str:
    """Return the kind of the filesystem that holds a path (Linux)."""
    mounts = Path("/proc/self/mounts")
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    kinds = {fields[1]: fields[2] for fields in (line.split() for line in lines)}
    for folder in (Path(path).resolve(), *Path(path).resolve().parents):
        if str(folder) in kinds:
            return kinds[str(folder)]
    return "unknown"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
