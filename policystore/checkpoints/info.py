"""Tells what a checkpoint holds, and what it lacks, without reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from policystore._util.concurrency import in_parallel
from policystore._util.messages import printable
from policystore.checkpoints.checkpoint import Checkpoint, CheckpointKind, Entry, Form
from policystore.checkpoints.convert.old_stack import config_is_hybrid, is_hybrid
from policystore.checkpoints.reader import open_checkpoint
from policystore.errors import FormatError

__all__ = ["CheckpointInfo", "inspect_checkpoint"]

_WORKERS = 16
_MIN_WEIGHTS = 1 << 10  # bytes; a pointer of Git LFS has less, by its specification


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint holds; no weights are read for it.

    Attributes:
        path: path or URL of the checkpoint; for a trial or experiment, of the chosen checkpoint.
        kind: ``"algorithm"``, ``"policy"``, ``"rl_module"``, ``"multi_rl_module"``, ``"learner"``
            or ``"learner_group"``.
        stack: ``"old"`` or ``"new"``. Hybrids of Ray 2.3 to 2.37 hold modules: they are ``"new"``.
        ray_version: version of the Ray that wrote it, such as ``"2.40.0"``; None where the
            checkpoint does not say.
        algorithm: RLlib's name of the algorithm, such as ``"PPO"``; None where the checkpoint does
            not say.
        sizes: bytes of the file with a policy's weights, by policy id.
        missing: policies that the checkpoint names and whose weights it lacks: policy id -> the
            path of the file that is missing. If something else stands in place of the file, such
            as a pointer of Git LFS, the text also says what stands there and what to do.
    """

    path: str
    kind: CheckpointKind
    stack: Literal["old", "new"]
    ray_version: str | None
    algorithm: str | None
    sizes: dict[str, int]
    missing: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        head = [f"{self.path}: {self.kind}", f"{self.stack} API stack"]
        if self.ray_version is not None:
            head.append(f"Ray {self.ray_version}")
        if self.algorithm is not None:
            head.append(self.algorithm)
        lines = [
            ", ".join(head),
            *(f"  {policy_id}  {size:,} bytes" for policy_id, size in self.sizes.items()),
            *(f"  {policy_id}  missing: {path}" for policy_id, path in self.missing.items()),
        ]
        return "\n".join(map(printable, lines))


def inspect_checkpoint(
    path: str | PathLike[str],
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> CheckpointInfo:
    """Return what a checkpoint holds, without reading its weights, and what it lacks.

    A file of less than 1 KiB with weights is read, because a pointer of Git LFS may stand in place
    of the file.

    Two layouts keep the description and the weights in one file, which is read: the file
    ``checkpoint-N`` of Ray before 2.1, and the folder of a single policy.

    Args:
        path, metric, mode, storage_options: as in :func:`read_checkpoint`.

    Raises:
        NotFoundError, InvalidInputError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    checkpoint = open_checkpoint(path, metric=metric, mode=mode, storage_options=storage_options)
    entries = list(checkpoint.entries.values())
    found = in_parallel(_look_at, entries, workers=_WORKERS)
    sizes = {entry.id: size for entry, (size, _) in zip(entries, found, strict=True)}
    absent = {entry.id: text for entry, (_, text) in zip(entries, found, strict=True) if text}
    algorithm = checkpoint.algorithm
    has_modules = any(entry.form in (Form.MODULE, Form.LEARNER) for entry in entries)
    is_new = has_modules or config_is_hybrid(algorithm.config) or _is_hybrid_export(checkpoint)
    return CheckpointInfo(
        path=str(checkpoint.folder),
        kind=checkpoint.kind,
        stack="new" if is_new else "old",
        ray_version=checkpoint.ray_version,
        algorithm=algorithm.name,
        sizes={each: size for each, size in sizes.items() if each not in absent},
        missing={**checkpoint.missing, **absent},
    )


def _look_at(entry: Entry) -> tuple[int, str]:
    """Return the size of the file with a policy's weights, and what stands in its place, if any."""
    folder, name = entry.folder, entry.weights_file
    size = folder.size(name)
    # The weights of a hybrid stand in a second file as well.
    if size >= _MIN_WEIGHTS or entry.policy_state is not None:
        return size, ""
    foreign = folder.foreign(name)
    return size, "" if foreign is None else f"{folder.location(name)} is {foreign}"


def _is_hybrid_export(checkpoint: Checkpoint) -> bool:
    """Return whether the folder of a single policy holds a hybrid; its file is read for that."""
    if checkpoint.kind != "policy":
        return False
    for entry in checkpoint.entries.values():
        try:
            state = entry.folder.read_data(entry.weights_file).value
        except FormatError:
            return False
        return isinstance(state, Mapping) and is_hybrid(state)
    return False
