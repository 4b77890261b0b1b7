"""Tells what a checkpoint holds, and what it lacks, without reading its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from policystore._util.concurrency import in_parallel
from policystore.checkpoints.checkpoint import Checkpoint, CheckpointKind, Form
from policystore.checkpoints.convert.old_stack import config_is_hybrid, is_hybrid
from policystore.checkpoints.reader import open_checkpoint
from policystore.errors import FormatError

__all__ = ["CheckpointInfo", "inspect_checkpoint"]

_WORKERS = 16


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
            path of the file that is missing.
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
        return "\n".join(
            [", ".join(head)]
            + [f"  {policy_id}  {size:,} bytes" for policy_id, size in self.sizes.items()]
            + [f"  {policy_id}  missing: {path}" for policy_id, path in self.missing.items()]
        )


def inspect_checkpoint(
    path: str | PathLike[str],
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> CheckpointInfo:
    """Return what a checkpoint holds, without reading its weights, and what it lacks.

    Two layouts keep the description and the weights in one file, which is read: the file
    ``checkpoint-N`` of Ray before 2.1, and the folder of a single policy.

    Args:
        path, metric, mode, storage_options: as in :func:`read_checkpoint`.

    Raises:
        NotFoundError, InvalidInputError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    checkpoint = open_checkpoint(path, metric=metric, mode=mode, storage_options=storage_options)
    entries = list(checkpoint.entries.values())
    sizes = in_parallel(
        lambda entry: entry.folder.size(entry.weights_file), entries, workers=_WORKERS
    )
    algorithm = checkpoint.algorithm
    has_modules = any(entry.form in (Form.MODULE, Form.LEARNER) for entry in entries)
    is_new = has_modules or config_is_hybrid(algorithm.config) or _is_hybrid_export(checkpoint)
    return CheckpointInfo(
        path=str(checkpoint.folder),
        kind=checkpoint.kind,
        stack="new" if is_new else "old",
        ray_version=checkpoint.ray_version,
        algorithm=algorithm.name,
        sizes={entry.id: size for entry, size in zip(entries, sizes, strict=True)},
        missing=checkpoint.missing,
    )


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
