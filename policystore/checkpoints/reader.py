"""Policies out of the checkpoints of any Ray from 2.3 on; neither Ray nor torch is needed.

Nothing in a file is imported, called or unpickled: see :mod:`policystore.checkpoints.files.pickle_machine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from policystore._util.concurrency import in_parallel
from policystore.checkpoints.convert.env_interface import env_interface_of_config
from policystore.checkpoints.convert.new_stack import (
    ModuleDescription,
    described_by_args,
    described_by_metadata,
    described_by_policy,
    module_snapshot,
)
from policystore.checkpoints.convert.old_stack import config_of, is_hybrid, old_snapshot
from policystore.checkpoints.convert.spaces import described_space
from policystore.checkpoints.convert.weights import checked_weights
from policystore.checkpoints.files.folder import open_folder
from policystore.checkpoints.files.placeholders import BAD_DATA_ERRORS, kind_of, said
from policystore.checkpoints.layouts import Checkpoint, Entry, recognize
from policystore.checkpoints.tune import TrialCheckpoint, chosen_checkpoint, trained_checkpoints
from policystore.errors import FormatError, InvalidInputError, NotFoundError, PolicyStoreError
from policystore.format.canonical_json import JsonObject
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot

__all__ = ["CheckpointInfo", "inspect_checkpoint", "list_checkpoints", "read_checkpoint"]

_WORKERS = 16
_LEFT_OUT = {
    "optimizer": "the optimizer's state is for training on, not for acting",
    "replay_buffer": "what an Algorithm had sampled, if its checkpoint holds any of it",
}


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint holds, without any weights of it having been read.

    Attributes:
        path: where it is; of a trial or experiment, the one checkpoint that was chosen.
        kind: ``"algorithm"``, ``"policy"``, ``"rl_module"``, ``"multi_rl_module"``, ``"learner"``
            or ``"learner_group"``.
        stack: ``"old"`` or ``"new"``; hybrids of 2.3 to 2.10 hold modules and are ``"new"``.
        ray_version: of the Ray that wrote it, such as ``"2.40.0"``; None where it does not say.
        algorithm: RLlib's name of it, such as ``"PPO"``; None where it is not told.
        sizes: bytes of the file that holds a policy's weights, by policy id.
    """

    path: str
    kind: str
    stack: str
    ray_version: str | None
    algorithm: str | None
    sizes: dict[str, int]

    def __str__(self) -> str:
        head = f"{self.path}: {self.kind}, {self.stack} API stack, Ray {self.ray_version}"
        return "\n".join(
            [f"{head}, {self.algorithm}"]
            + [f"  {name}  {size:,} bytes" for name, size in self.sizes.items()]
        )


def inspect_checkpoint(
    path: str | PathLike[str],
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> CheckpointInfo:
    """What a checkpoint holds.

    Args:
        path, metric, mode, storage_options: as of :func:`read_checkpoint`.

    Raises:
        NotFoundError, InvalidInputError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    found = _opened(path, metric, mode, storage_options)
    entries = list(found.entries.values())
    sizes = in_parallel(lambda entry: entry.folder.size(entry.state), entries, workers=_WORKERS)
    name, config = found.algorithm
    new = any(entry.form != "policy" for entry in entries)
    hybrid = is_hybrid({"policy_spec": {"config": config}})
    return CheckpointInfo(
        path=str(found.folder),
        kind=found.kind,
        stack="new" if new or hybrid else "old",
        ray_version=found.ray_version,
        algorithm=name,
        sizes={entry.id: size for entry, size in zip(entries, sizes, strict=True)},
    )


def list_checkpoints(
    path: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> list[TrialCheckpoint]:
    """Every checkpoint of a Tune trial or experiment, by trial and number.

    Args:
        path: the folder of a trial or experiment, or a URL that fsspec knows.
        storage_options: what the filesystem of a URL is opened with.

    Returns:
        One entry a checkpoint, with its ``path`` for :func:`read_checkpoint` and the ``result``
        that Tune wrote beside it; empty where there are none.

    Raises:
        NotFoundError, FormatError, StorageError: as :func:`read_checkpoint`.
    """
    return trained_checkpoints(open_folder(path, storage_options))


def read_checkpoint(
    path: str | PathLike[str],
    policy_ids: Iterable[str] | None = None,
    *,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Snapshot]:
    """Policies out of a checkpoint that any Ray from 2.3 to 2.60 wrote.

    Reads folders of Algorithms of both API stacks and of the hybrids between them, of single
    policies (``Policy.export_checkpoint``), of ``RLModule`` and ``MultiRLModule``, of Learners and
    LearnerGroups, with pickle or msgpack in them; and of a Tune trial or experiment the latest
    checkpoint, or the best by ``metric``. Neither Ray nor torch is imported, nothing starts, and
    nothing in the files is executed. Only the files that a policy needs are read.

    Optimizers, exploration schedules and replay buffers are left out, and ``spec.omitted`` says
    so, with whatever else of a policy has no form in a snapshot.

    Args:
        path: a folder, or any URL that fsspec knows, such as ``s3://bucket/run/checkpoint_000010``.
            A checkpoint that was moved is read like any other.
        policy_ids: which; None takes all. An export of one policy, which has no id of its own, is
            called ``default_policy``.
        metric: of a trial or experiment: the key of Tune's results, with slashes in it for nested
            ones, by which the best checkpoint is chosen. None: the latest.
        mode: ``"max"`` or ``"min"``.
        storage_options: what the filesystem of a URL is opened with.

    Returns:
        Snapshots by policy id, in order.

    Raises:
        NotFoundError: nothing is there, or no such policy; lists those there are.
        InvalidInputError: no checkpoint of RLlib's, or a msgpack one without msgpack installed.
        FormatError: a file that is damaged, cut short, or not what its name says.
        StorageError: a file that cannot be read.
    """
    found = _opened(path, metric, mode, storage_options)
    wanted: list[Any] = list(found.entries if policy_ids is None else _listed(policy_ids))
    unknown = [
        said(name) for name in wanted if not isinstance(name, str) or name not in found.entries
    ]
    if unknown:
        raise NotFoundError(
            f"{found.folder} has no policy {', '.join(map(repr, unknown))}; its policies are "
            + (", ".join(map(repr, found.entries)) or "none")
        )
    # Read once, before many ask for them at the same time.
    if wanted:
        _ = found.algorithm
    if any(found.entries[name].form == "module" for name in wanted):
        _ = found.side
    snaps = in_parallel(lambda name: _read(found, found.entries[name]), wanted, workers=_WORKERS)
    return dict(zip(wanted, snaps, strict=True))


def _listed(policy_ids: object) -> Iterable[Any]:
    if isinstance(policy_ids, str) or not isinstance(policy_ids, Iterable):
        raise InvalidInputError(f"policy_ids is a list of ids: policy_ids=[{said(policy_ids)!r}]")
    return policy_ids


def _opened(
    path: str | PathLike[str],
    metric: str | None,
    mode: str,
    storage_options: Mapping[str, Any] | None,
) -> Checkpoint:
    folder = open_folder(path, storage_options)
    return recognize(folder) or chosen_checkpoint(folder, metric, mode)


def _read(checkpoint: Checkpoint, entry: Entry) -> Snapshot:
    algorithm, config = checkpoint.algorithm
    state, size = entry.folder.data(entry.state)
    try:
        return _made(checkpoint, entry, state, size, algorithm, config)
    except InvalidInputError as error:
        # Data that no snapshot holds: not of the caller's making, but of the file's.
        raise FormatError(f"{entry.folder.where(entry.state)}: {error}") from None
    except PolicyStoreError:
        raise
    except (*BAD_DATA_ERRORS, RecursionError) as error:
        raise FormatError(
            f"{entry.folder.where(entry.state)}: not of the form that RLlib writes: {error!r:.200}"
        ) from None


def _made(
    checkpoint: Checkpoint,
    entry: Entry,
    state: Any,
    size: int,
    algorithm: str | None,
    config: Mapping[str, Any],
) -> Snapshot:
    folder, where = entry.folder, entry.folder.where(entry.state)
    if entry.form == "policy":
        if isinstance(state, Mapping) and is_hybrid(state):
            return _hybrid(state, size, algorithm, where, multi_agent=len(checkpoint.entries) > 1)
        return old_snapshot(state, algorithm, where, stored=size)
    weights = checked_weights(state, where, stored=size)
    if entry.form == "module":
        key = "class_and_ctor_args.pkl"
        module = described_by_args(folder.data(key)[0], folder.where(key))
        side = checkpoint.side
    else:
        key = "rl_module_metadata.json"
        if not folder.has(key):
            module = ModuleDescription(where)
            module.omitted["class"] = "the checkpoint does not say what the module is made of"
        else:
            module = described_by_metadata(folder.json(key), folder.where(key))
        side = _earlier_side(checkpoint, entry, config, module)
    if checkpoint.kind in ("algorithm", "learner", "learner_group"):
        module.omitted |= _LEFT_OUT
    return module_snapshot(module, weights, algorithm, side)


def _earlier_side(
    checkpoint: Checkpoint, entry: Entry, config: Mapping[str, Any], module: ModuleDescription
) -> EnvInterface:
    if checkpoint.kind != "algorithm":
        return EnvInterface()
    observations: JsonObject | None = module.observation_space
    if entry.also is not None:
        folder, key = entry.also
        state, _ = folder.data(key)
        spec = state.get("policy_spec") if isinstance(state, Mapping) else None
        if not isinstance(spec, Mapping):
            raise FormatError(f"{folder.where(key)}: expected a policy, found {kind_of(state)}")
        observations = described_space(spec.get("observation_space"), folder.where(key))
    return env_interface_of_config(
        config, observations, module.action_space, multi_agent=len(checkpoint.entries) > 1
    )


def _hybrid(
    state: Mapping[Any, Any], size: int, algorithm: str | None, where: str, *, multi_agent: bool
) -> Snapshot:
    spec = state.get("policy_spec")
    if not isinstance(spec, Mapping):
        raise FormatError(f"{where}: expected what the policy is made of, found {kind_of(spec)}")
    config = config_of(state)
    module = described_by_policy(config, spec, algorithm or _algorithm_of(config), where)
    weights = checked_weights(state.get("weights"), where, stored=size)
    side = env_interface_of_config(
        config, module.observation_space, module.action_space, multi_agent=multi_agent
    )
    module.omitted |= _LEFT_OUT
    return module_snapshot(module, weights, algorithm, side)


def _algorithm_of(config: Mapping[Any, Any]) -> str | None:
    """Of a single policy, by the learner that its config names."""
    learner = said(config.get("learner_class") or config.get("_learner_class"))
    return "PPO" if ".ppo." in learner else None
