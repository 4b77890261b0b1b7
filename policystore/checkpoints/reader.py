"""Reads the policies of checkpoints that any Ray from 2.3 on wrote; neither Ray nor torch is
needed.

Nothing in a file is imported, called or unpickled: see
:mod:`policystore.checkpoints.files.pickle_machine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

from policystore._util.concurrency import in_parallel
from policystore.checkpoints.convert.new_stack import (
    NOT_FOR_ACTING,
    ModuleDescription,
    describe_by_args,
    describe_by_metadata,
    hybrid_snapshot,
    infer_env_interface,
    module_snapshot,
)
from policystore.checkpoints.convert.old_stack import config_is_hybrid, is_hybrid, old_snapshot
from policystore.checkpoints.convert.weights import flatten_weights
from policystore.checkpoints.files.folder import FileData, open_folder
from policystore.checkpoints.files.placeholders import BAD_DATA_ERRORS, text_or_kind
from policystore.checkpoints.layouts import (
    ARGS_FILE,
    METADATA_FILE,
    Checkpoint,
    CheckpointKind,
    Entry,
    Form,
    recognize,
)
from policystore.checkpoints.tune import TrialCheckpoint, choose_checkpoint, find_checkpoints
from policystore.errors import FormatError, InvalidInputError, NotFoundError, PolicyStoreError
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot

__all__ = ["CheckpointInfo", "as_policy_ids", "inspect_checkpoint", "list_checkpoints",
           "open_checkpoint", "read_checkpoint", "read_policies"]  # fmt: skip

_WORKERS = 16


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint holds; no weights are read for it.

    Attributes:
        path: path or URL of the checkpoint; for a trial or experiment, of the chosen checkpoint.
        kind: ``"algorithm"``, ``"policy"``, ``"rl_module"``, ``"multi_rl_module"``, ``"learner"``
            or ``"learner_group"``.
        stack: ``"old"`` or ``"new"``. Hybrids of Ray 2.3 to 2.10 hold modules: they are ``"new"``.
            But the export of a single hybrid policy is ``"old"`` here, because only the file with
            the weights, which is not read, says that the policy is a hybrid.
        ray_version: version of the Ray that wrote it, such as ``"2.40.0"``; None where the
            checkpoint does not say.
        algorithm: RLlib's name of the algorithm, such as ``"PPO"``; None where the checkpoint does
            not say.
        sizes: bytes of the file with a policy's weights, by policy id.
    """

    path: str
    kind: CheckpointKind
    stack: Literal["old", "new"]
    ray_version: str | None
    algorithm: str | None
    sizes: dict[str, int]

    def __str__(self) -> str:
        head = f"{self.path}: {self.kind}, {self.stack} API stack, Ray {self.ray_version}"
        return "\n".join(
            [f"{head}, {self.algorithm}"]
            + [f"  {policy_id}  {size:,} bytes" for policy_id, size in self.sizes.items()]
        )


def inspect_checkpoint(
    path: str | PathLike[str],
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> CheckpointInfo:
    """Return what a checkpoint holds, without reading its weights.

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
    has_modules = any(entry.form is not Form.POLICY for entry in entries)
    return CheckpointInfo(
        path=str(checkpoint.folder),
        kind=checkpoint.kind,
        stack="new" if has_modules or config_is_hybrid(algorithm.config) else "old",
        ray_version=checkpoint.ray_version,
        algorithm=algorithm.name,
        sizes={entry.id: size for entry, size in zip(entries, sizes, strict=True)},
    )


def list_checkpoints(
    path: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> list[TrialCheckpoint]:
    """Return every checkpoint of a Tune trial or experiment, by trial and number.

    Args:
        path: the folder of a trial or experiment, or a URL that fsspec knows.
        storage_options: options for the filesystem of a URL.

    Returns:
        One entry for each checkpoint, with its ``path`` for :func:`read_checkpoint` and the
        ``result`` that Tune wrote beside it; an empty list where there are no checkpoints.

    Raises:
        NotFoundError, InvalidInputError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    return find_checkpoints(open_folder(path, storage_options))


def read_checkpoint(
    path: str | PathLike[str],
    policy_ids: Iterable[str] | None = None,
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Snapshot]:
    """Read policies of a checkpoint that any Ray from 2.3 to 2.60 wrote, as snapshots.

    This function reads the folders of Algorithms of both API stacks and of the hybrids between
    them, of single policies (``Policy.export_checkpoint``), of ``RLModule`` and ``MultiRLModule``,
    of Learners and LearnerGroups, with pickle or msgpack files. Of a Tune trial or experiment it
    reads the latest checkpoint, or the best one by ``metric``. Neither Ray nor torch is imported,
    no Algorithm or cluster starts, and nothing in the files is executed. Only the files that the
    asked policies need are read.

    Optimizers, exploration schedules and replay buffers are left out. ``spec.omitted`` lists these
    parts, and any other part of a policy that a snapshot cannot hold, each with the reason.

    Args:
        path: a folder, or any URL that fsspec knows, such as ``s3://bucket/run/checkpoint_000010``.
            A checkpoint may have been moved since it was written.
        policy_ids: the policies to read; None: all of them. The export of a single policy, which
            has no id of its own, is called ``default_policy``.
        metric: for a trial or experiment, the key of Tune's results by which the best checkpoint is
            chosen, with slashes between the keys of nested dicts. None: the latest checkpoint.
        mode: ``"max"`` or ``"min"``: which value of the metric is the best.
        storage_options: options for the filesystem of a URL.

    Returns:
        Snapshots by policy id, in the order of ``policy_ids``.

    Raises:
        NotFoundError: there is no such folder, metric or policy. The message lists the metrics or
            policies of the checkpoint.
        InvalidInputError: not a checkpoint of RLlib, a wrong argument, or a msgpack checkpoint
            without msgpack installed.
        FormatError: a file is damaged, cut short, or not of the kind that its name says.
        StorageError: a file cannot be read.
    """
    checkpoint = open_checkpoint(path, metric=metric, mode=mode, storage_options=storage_options)
    wanted = list(checkpoint.entries if policy_ids is None else as_policy_ids(policy_ids))
    return read_policies(checkpoint, wanted)


def as_policy_ids(policy_ids: Iterable[str]) -> list[str]:
    """Return policy ids as a list; refuse a single text: its characters are not ids.

    Raises:
        InvalidInputError: not an iterable of ids.
    """
    if isinstance(policy_ids, str) or not isinstance(policy_ids, Iterable):
        raise InvalidInputError(
            f"policy_ids is a list of ids: policy_ids=[{text_or_kind(policy_ids)!r}]"
        )
    return list(policy_ids)


def open_checkpoint(
    path: str | PathLike[str],
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Recognize the checkpoint at a path, or choose one of the trial or experiment there.

    Args:
        path, metric, mode, storage_options: as in :func:`read_checkpoint`.

    Raises:
        NotFoundError, InvalidInputError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    folder = open_folder(path, storage_options)
    return recognize(folder) or choose_checkpoint(folder, metric, mode)


def read_policies(checkpoint: Checkpoint, policy_ids: list[str]) -> dict[str, Snapshot]:
    """Read policies of a checkpoint that is open.

    Args:
        checkpoint: the checkpoint.
        policy_ids: the policies to read.

    Returns:
        Snapshots by policy id, in the order of ``policy_ids``.

    Raises:
        NotFoundError, InvalidInputError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    entries = checkpoint.entries
    unknown = [
        text_or_kind(policy_id)
        for policy_id in policy_ids
        if not isinstance(policy_id, str) or policy_id not in entries
    ]
    if unknown:
        raise NotFoundError(
            f"{checkpoint.folder} has no policy {', '.join(map(repr, unknown))}; its policies are "
            + (", ".join(map(repr, entries)) or "none")
        )
    # Read before the threads start, so that the files which all policies share are read once.
    if policy_ids:
        _ = checkpoint.algorithm
    if any(entries[policy_id].form is Form.MODULE for policy_id in policy_ids):
        _ = checkpoint.env_interface
    snapshots = in_parallel(
        lambda policy_id: _read_policy(checkpoint, entries[policy_id]),
        policy_ids,
        workers=_WORKERS,
    )
    return dict(zip(policy_ids, snapshots, strict=True))


def _read_policy(checkpoint: Checkpoint, entry: Entry) -> Snapshot:
    """Read one policy; errors of any kind that its data causes become FormatError."""
    location = entry.folder.location(entry.weights_file)
    data = entry.folder.read_data(entry.weights_file)
    try:
        if entry.form is Form.POLICY:
            return _policy_snapshot(checkpoint, data, location)
        return _module_snapshot(checkpoint, entry, data, location)
    except InvalidInputError as error:
        # A snapshot cannot hold these data: the file is wrong, not the caller's argument.
        raise FormatError(f"{location}: {error}") from None
    except PolicyStoreError:
        raise
    except (*BAD_DATA_ERRORS, RecursionError) as error:
        raise FormatError(
            f"{location}: not of the form that RLlib writes: {error!r:.200}"
        ) from None


def _policy_snapshot(checkpoint: Checkpoint, data: FileData, location: str) -> Snapshot:
    """Return the snapshot of an old-stack policy or a hybrid, by its ``policy_state``."""
    state, stored = data
    algorithm = checkpoint.algorithm.name
    if isinstance(state, Mapping) and is_hybrid(state):
        return hybrid_snapshot(
            state, algorithm, location, stored=stored, multi_agent=len(checkpoint.entries) > 1
        )
    return old_snapshot(state, algorithm, location, stored=stored)


def _module_snapshot(
    checkpoint: Checkpoint, entry: Entry, data: FileData, location: str
) -> Snapshot:
    """Return the snapshot of a module, by its weights and the files beside them."""
    folder = entry.folder
    algorithm = checkpoint.algorithm
    weights = flatten_weights(data.value, location, stored=data.nbytes)
    if entry.form is Form.MODULE:
        module = describe_by_args(folder.read_data(ARGS_FILE).value, folder.location(ARGS_FILE))
        interface = checkpoint.env_interface
    else:
        if folder.has(METADATA_FILE):
            module = describe_by_metadata(
                folder.read_json(METADATA_FILE), folder.location(METADATA_FILE)
            )
        else:
            module = ModuleDescription(location)
            module.omitted["class"] = "the checkpoint does not say what the module is made of"
        interface = EnvInterface()
        if checkpoint.kind == "algorithm":
            interface = infer_env_interface(
                module,
                algorithm.config,
                entry.policy_state,
                multi_agent=len(checkpoint.entries) > 1,
            )
    if checkpoint.kind in ("algorithm", "learner", "learner_group"):
        module.omitted |= NOT_FOR_ACTING
    return module_snapshot(module, weights, algorithm.name, interface)
