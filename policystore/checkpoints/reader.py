"""Reads the policies of checkpoints that any Ray from 1.3 on wrote; neither Ray nor torch is
needed.

Nothing in a file is imported, called or unpickled: see
:mod:`policystore.checkpoints.files.pickle_machine`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from policystore.checkpoints.checkpoint import Checkpoint
from policystore.checkpoints.convert.config_values import registered_name
from policystore.checkpoints.files.folder import open_folder, open_path
from policystore.checkpoints.files.placeholders import kind_of, text_or_kind
from policystore.checkpoints.layouts import recognize
from policystore.checkpoints.policy_reader import read_each
from policystore.checkpoints.tune import TrialCheckpoint, choose_checkpoint, find_checkpoints
from policystore.errors import InvalidInputError, PolicyStoreError
from policystore.format.values import Tagged
from policystore.rllib_schema.registry_names import NamedClass, class_place, import_path
from policystore.snapshot import Snapshot

__all__ = ["as_policy_ids", "list_checkpoints", "open_checkpoint", "read_checkpoint"]


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
    agent_ids: Mapping[str, Iterable[Any]] | None = None,
    classes: Mapping[str, NamedClass] | None = None,
    metric: str | None = None,
    mode: str = "max",
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Snapshot]:
    """Read policies of a checkpoint that any Ray from 1.3 to 2.60 wrote, as snapshots.

    This function reads the folders of Algorithms of both API stacks and of the hybrids between
    them, of single policies (``Policy.export_checkpoint``), of ``RLModule`` and ``MultiRLModule``,
    of Learners and LearnerGroups, with pickle or msgpack files, and the file ``checkpoint-N`` of
    Ray before 2.1. Of a Tune trial or experiment it reads the latest checkpoint, or the best one by
    ``metric``. Neither Ray nor torch is imported, no Algorithm or cluster starts, and nothing in
    the files is executed. Only the files that the asked policies need are read.

    What can be read of the weights is read. A folder that was slimmed to the files with weights is
    enough. If a file that describes a policy is missing or damaged, ``spec.omitted`` names the file
    and the reason. Optimizers, exploration schedules and replay buffers are left out.
    ``spec.omitted`` lists these parts, and any other part of a policy that a snapshot cannot hold,
    each with the reason.

    Args:
        path: a folder, a file of a checkpoint, or any URL that fsspec knows, such as
            ``s3://bucket/run/checkpoint_000010``. A checkpoint may have been moved since it was
            written.
        policy_ids: the policies to read; None: all that the checkpoint names. The export of a
            single policy, which has no id of its own, is called ``default_policy``.
        agent_ids: for a new-stack Algorithm of several agents: policy id -> the agents that act
            through the policy. The policy's snapshot gets the spaces and filters of these agents.
        classes: registered name -> the class, or its import path ``"module:Name"``. An old-stack
            policy may have a custom model, action distribution or preprocessor that the checkpoint
            knows only by the name under which it was registered with RLlib.
        metric: for a trial or experiment, the key of Tune's results by which the best checkpoint is
            chosen, with slashes between the keys of nested dicts. None: the latest checkpoint.
        mode: ``"max"`` or ``"min"``: which value of the metric is the best.
        storage_options: options for the filesystem of a URL.

    Returns:
        Snapshots by policy id, in the order of ``policy_ids``.

    Raises:
        NotFoundError: there is no such folder, metric, policy or agent, and the message lists those
            that there are; or the checkpoint names a policy whose file is missing, and the message
            names the file. ``policy_ids`` reads the other policies.
        InvalidInputError: not a checkpoint of RLlib, a wrong argument, or a msgpack checkpoint
            without msgpack installed.
        FormatError: a file with weights is damaged, cut short, or not of the kind that its name
            says. ``policy_ids`` reads the other policies.
        StorageError: a file cannot be read.
    """
    checkpoint = open_checkpoint(path, metric=metric, mode=mode, storage_options=storage_options)
    if policy_ids is None:
        wanted = [*checkpoint.entries, *checkpoint.missing]
    else:
        wanted = as_policy_ids(policy_ids)
    paths = as_class_paths(classes)
    snapshots, errors = read_each(checkpoint, wanted, as_agent_ids(agent_ids, wanted))
    if errors:
        raise _incomplete(checkpoint, errors)
    return {policy_id: name_classes(snap, paths) for policy_id, snap in snapshots.items()}


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


def as_agent_ids(
    agent_ids: Mapping[str, Iterable[Any]] | None, policy_ids: Iterable[str]
) -> dict[str, list[Any]]:
    """Return the agents of each policy, by policy id.

    Raises:
        InvalidInputError: not a dict of lists, or agents of a policy that is not read.
    """
    example = "agent_ids={policy_id: [agent, …]}"
    if agent_ids is None:
        return {}
    if not isinstance(agent_ids, Mapping):
        raise InvalidInputError(f"agent_ids is a dict, {example}; found {kind_of(agent_ids)}")
    known = [policy_id for policy_id in policy_ids if isinstance(policy_id, str)]
    for policy_id, agents in agent_ids.items():
        if isinstance(agents, (str, bytes)) or not isinstance(agents, Iterable):
            raise InvalidInputError(
                f"agent_ids[{text_or_kind(policy_id)!r}] is a list of agents, {example}; found "
                f"{kind_of(agents)}"
            )
        if policy_id not in known:
            raise InvalidInputError(
                f"agent_ids names the policy {text_or_kind(policy_id)!r}, which is not read"
            )
    return {policy_id: list(agents) for policy_id, agents in agent_ids.items()}


def as_class_paths(classes: Mapping[str, NamedClass] | None) -> dict[str, str]:
    """Return the import paths of classes, by their registered names.

    Raises:
        InvalidInputError: not a dict of classes by name.
    """
    if classes is None:
        return {}
    if not isinstance(classes, Mapping) or not all(isinstance(name, str) for name in classes):
        raise InvalidInputError(
            "classes is a dict of registered names and classes, classes={'my_net': MyNet}; found "
            f"{kind_of(classes)}"
        )
    return {name: import_path(value, f"classes[{name!r}]") for name, value in classes.items()}


def name_classes(snap: Snapshot, paths: Mapping[str, str]) -> Snapshot:
    """Return a snapshot with the import paths of the classes that it knows by registered names."""
    spec = snap.spec
    config = spec.config
    is_told = False
    for place, reason in spec.omitted.items():
        key = class_place(place)
        path = next((p for n, p in paths.items() if reason.startswith(registered_name(n))), None)
        if key is None or path is None:
            continue
        inner: object = config
        for part in place.split(".")[1:-1]:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict):  # else a key has a dot in it, or is no text
            inner[key] = Tagged("import", path)
            is_told = True
    return snap.replace(spec=spec.replace(config=config)) if is_told else snap


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
    folder, file = open_path(path, storage_options)
    return recognize(folder, file) or choose_checkpoint(folder, metric, mode)


def _incomplete(checkpoint: Checkpoint, errors: Mapping[str, PolicyStoreError]) -> PolicyStoreError:
    """Return the error for policies that cannot be read; it says how to read the others."""
    failed = list(errors)
    first = errors[failed[0]]
    text = f"policy {failed[0]!r}: {first}"
    if len(failed) > 1:
        text += f". So it is with {len(failed) - 1} more: {', '.join(map(repr, failed[1:10]))}"
    others = [policy_id for policy_id in checkpoint.entries if policy_id not in errors]
    if others:
        shown = ", ".join(map(repr, others[:10])) + (", …" if len(others) > 10 else "")
        text += f". The other policies can be read: policy_ids=[{shown}]"
    return type(first)(text)
