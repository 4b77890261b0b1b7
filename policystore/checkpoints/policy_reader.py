"""Reads single policies of a checkpoint whose layout is known, as snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from policystore._util.concurrency import in_parallel
from policystore.checkpoints.checkpoint import Checkpoint, Entry, Form
from policystore.checkpoints.convert.env_interface import read_env_interface
from policystore.checkpoints.convert.hybrid import hybrid_snapshot, infer_env_interface
from policystore.checkpoints.convert.module_map import METADATA_FILE, module_spec
from policystore.checkpoints.convert.new_stack import (
    NOT_FOR_ACTING,
    ModuleDescription,
    describe_by_args,
    describe_by_map,
    describe_by_metadata,
    module_snapshot,
)
from policystore.checkpoints.convert.old_stack import is_hybrid, old_snapshot, policy_weights
from policystore.checkpoints.convert.pipelines import ARGS_FILE
from policystore.checkpoints.convert.weights import flatten_weights
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import BAD_DATA_ERRORS, text_or_kind
from policystore.errors import (
    FormatError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    StorageError,
)
from policystore.format.arrays import Array
from policystore.format.spec import Spec
from policystore.rllib_schema.env_interface import EnvInterface
from policystore.snapshot import Snapshot

__all__ = ["read_each"]

_WORKERS = 16


def read_each(
    checkpoint: Checkpoint,
    policy_ids: list[str],
    agent_ids: Mapping[str, list[Any]] | None = None,
) -> tuple[dict[str, Snapshot], dict[str, PolicyStoreError]]:
    """Read policies of a checkpoint that is open; one that cannot be read withholds no other.

    Args:
        checkpoint: the checkpoint.
        policy_ids: the policies to read.
        agent_ids: policy id -> the agents that act through the policy.

    Returns:
        Snapshots by policy id, and the errors of the policies whose files are missing, damaged or
        cannot be read.

    Raises:
        NotFoundError: the checkpoint does not name a policy; the message lists those it does name.
        InvalidInputError: as :func:`read_checkpoint`.
        StorageError: a file that all policies share cannot be read.
    """
    entries, missing = checkpoint.entries, checkpoint.missing
    unknown = [
        text_or_kind(policy_id)
        for policy_id in policy_ids
        if not isinstance(policy_id, str) or (policy_id not in entries and policy_id not in missing)
    ]
    if unknown:
        raise NotFoundError(
            f"{checkpoint.folder} has no policy {', '.join(map(repr, unknown))}; its policies are "
            + (", ".join(map(repr, entries)) or "none")
        )
    # Read before the threads start, so that the files which all policies share are read once.
    present = [policy_id for policy_id in dict.fromkeys(policy_ids) if policy_id in entries]
    if present:
        _ = checkpoint.algorithm
    if any(entries[policy_id].form is Form.MODULE for policy_id in present):
        _ = checkpoint.env_interface
    agents = agent_ids or {}

    def read(policy_id: str) -> Snapshot | PolicyStoreError:
        try:
            return _read_policy(checkpoint, entries[policy_id], agents.get(policy_id))
        except (FormatError, NotFoundError, StorageError) as error:
            return error

    results: dict[str, Snapshot | PolicyStoreError] = dict(
        zip(present, in_parallel(read, present, workers=_WORKERS), strict=True)
    )
    for policy_id in policy_ids:
        if policy_id not in entries:
            results[policy_id] = NotFoundError(
                f"{missing[policy_id]} is missing: the checkpoint is not complete"
            )
    snapshots, errors = {}, {}
    for policy_id in policy_ids:
        result = results[policy_id]
        if isinstance(result, Snapshot):
            snapshots[policy_id] = result
        else:
            errors[policy_id] = result
    return snapshots, errors


def _read_policy(
    checkpoint: Checkpoint, entry: Entry, agent_ids: list[Any] | None = None
) -> Snapshot:
    """Read one policy; errors of any kind that its data causes become FormatError."""
    location = entry.folder.location(entry.weights_file)
    if agent_ids is not None and (entry.form is not Form.MODULE or checkpoint.runner is None):
        raise InvalidInputError(
            f"{checkpoint.folder}: agent_ids= chooses among the agents of an env runner of the new "
            f"API stack (Ray 2.33 and later), and the checkpoint of policy {entry.id!r} has none: "
            "leave agent_ids out"
        )
    try:
        if entry.form is Form.WORKER:
            return _worker_snapshot(checkpoint, entry.id)
        if entry.form is Form.POLICY:
            return _policy_snapshot(checkpoint, entry.id, entry.folder, entry.weights_file)
        return _module_snapshot(checkpoint, entry, agent_ids)
    except (FormatError, NotFoundError) as error:
        if entry.policy_state is None:
            raise
        # The policy of a hybrid holds the same weights as its module.
        folder, name = entry.policy_state.folder, entry.policy_state.name
        snap = _policy_snapshot(checkpoint, entry.id, folder, name)
        return snap.replace(
            spec=snap.spec.replace(omitted={**snap.spec.omitted, "module": str(error)})
        )
    except PolicyStoreError:
        raise
    except (*BAD_DATA_ERRORS, RecursionError) as error:
        raise FormatError(
            f"{location}: not of the form that RLlib writes: {error!r:.200}"
        ) from None


def _worker_snapshot(checkpoint: Checkpoint, policy_id: str) -> Snapshot:
    """Return the snapshot of a policy that Ray before 2.1 wrote."""
    worker = checkpoint.worker
    if worker is None:
        raise FormatError(f"{checkpoint.folder}: no file checkpoint-N was read")
    label = f"{worker.location}: policy {policy_id!r}"
    state = worker.policy_state(policy_id)
    weights = policy_weights(state, label, stored=worker.nbytes)
    return _described(
        label,
        weights,
        lambda: old_snapshot(
            state,
            weights,
            None,
            label,
            filter_object=worker.filters.get(policy_id),
            omitted=worker.omitted,
        ),
    )


def _policy_snapshot(checkpoint: Checkpoint, policy_id: str, folder: Folder, name: str) -> Snapshot:
    """Return the snapshot of an old-stack policy or a hybrid, by its ``policy_state``."""
    label = folder.location(name)
    content, stored = folder.read_data(name)
    weights = policy_weights(content, label, stored=stored)
    state: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    algorithm = checkpoint.algorithm
    if is_hybrid(state):
        return _described(
            label,
            weights,
            lambda: hybrid_snapshot(
                state,
                weights,
                algorithm.name,
                label,
                policy_id=policy_id,
                ray_version=checkpoint.ray_version,
                multi_agent=len(checkpoint.entries) > 1,
                omitted=algorithm.omitted,
            ),
        )
    return _described(
        label,
        weights,
        lambda: old_snapshot(
            state,
            weights,
            algorithm.name,
            label,
            filter_object=algorithm.filters.get(policy_id),
            omitted=algorithm.omitted,
        ),
    )


def _described(
    label: str, weights: Mapping[str, Array], describe: Callable[[], Snapshot]
) -> Snapshot:
    """Return the snapshot that a function makes of weights and their description.

    Args:
        label: names the file with the weights in error messages.
        weights: the weights alone.
        describe: makes the whole snapshot.

    Returns:
        The snapshot. If no snapshot can hold the description, the weights alone, with the reason
        among the omitted parts.

    Raises:
        FormatError: no snapshot can hold the weights.
    """
    try:
        bare = Snapshot(weights=weights)
    except InvalidInputError as error:
        # A snapshot cannot hold these data: the file is wrong, not the caller's argument.
        raise FormatError(f"{label}: {error}") from None
    try:
        return describe()
    except (PolicyStoreError, *BAD_DATA_ERRORS, RecursionError) as error:
        if isinstance(error, StorageError):
            raise
        reason = f"{label}: the description of the policy cannot be kept: {error!s:.500}"
        return bare.replace(spec=Spec(omitted={"spec": reason.encode(errors="replace").decode()}))


def _module_snapshot(checkpoint: Checkpoint, entry: Entry, agent_ids: list[Any] | None) -> Snapshot:
    """Return the snapshot of a module, by its weights and the files beside them."""
    label = entry.folder.location(entry.weights_file)
    content, stored = entry.folder.read_data(entry.weights_file)
    weights = flatten_weights(content, label, stored=stored)
    runner = checkpoint.runner if entry.form is Form.MODULE else None
    interface = None
    if runner is not None and agent_ids is not None:
        # Wrong ids are the caller's error, and no reason to leave the description out.
        interface = read_env_interface(runner, checkpoint.algorithm.config, agent_ids)
    elif runner is not None:
        interface = checkpoint.env_interface
    return _described(label, weights, lambda: _with_module(checkpoint, entry, weights, interface))


def _with_module(
    checkpoint: Checkpoint,
    entry: Entry,
    weights: Mapping[str, Array],
    interface: EnvInterface | None,
) -> Snapshot:
    algorithm = checkpoint.algorithm
    module = _describe_module(entry)
    if interface is None:
        interface = EnvInterface()
        if checkpoint.kind == "algorithm":
            if algorithm.config:
                interface = infer_env_interface(
                    module,
                    algorithm.config,
                    entry.policy_state,
                    multi_agent=len(checkpoint.entries) > 1,
                )
            if entry.form is Form.MODULE and entry.policy_state is None:
                interface.omitted["env_runner"] = (
                    f"{checkpoint.folder.location('env_runner/env_to_module_connector')} is "
                    "missing, which tells the agents, and holds the state of the connectors"
                )
    if checkpoint.kind in ("algorithm", "learner", "learner_group"):
        module.omitted |= NOT_FOR_ACTING
    module.omitted |= algorithm.omitted
    return module_snapshot(module, weights, algorithm.name, interface)


def _describe_module(entry: Entry) -> ModuleDescription:
    """Describe a module by its own file, or else by the file of its MultiRLModule."""
    folder = entry.folder
    name = ARGS_FILE if entry.form is Form.MODULE else METADATA_FILE
    location = folder.location(name)
    try:
        if entry.form is Form.MODULE:
            return describe_by_args(folder.read_data(name).value, location)
        return describe_by_metadata(folder.read_json(name), location)
    except (FormatError, NotFoundError) as error:
        problem = str(error)
    if entry.module_map is not None:
        fields = module_spec(entry.module_map, entry.id)
        if fields is not None:
            return describe_by_map(fields, str(entry.module_map))
    module = ModuleDescription(location)
    module.omitted["class"] = f"{problem}; no other file says what the module is made of"
    return module
