"""Recognizes the layout of a checkpoint folder: its kind, its policies, and the files of each.

The files in a folder show which layout the folder has. Paths that a checkpoint records are not
followed: most versions of Ray record absolute paths, and a checkpoint may have been moved. A
checkpoint may also be slimmed to the files with weights, or its copy may have been cut short: what
the checkpoint names and does not hold is listed as missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from policystore.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointKind,
    Entry,
    Form,
)
from policystore.checkpoints.convert.module_map import METADATA_FILE, module_ids
from policystore.checkpoints.convert.pipelines import ARGS_FILE
from policystore.checkpoints.files.folder import FileRef, Folder
from policystore.checkpoints.worker_file import (
    find_worker_files,
    read_worker_file,
    tune_metadata_file,
)
from policystore.errors import FormatError, InvalidInputError, NotFoundError

__all__ = ["recognize"]

_CHECKPOINT_METADATA = "rllib_checkpoint.json"
_POLICIES = re.compile(r"policies\Z")
_ANY = re.compile(r"")
_RL_MODULE = re.compile(r"rl_module\Z")
_MAX_MISSING = 100_000


class _Found(NamedTuple):
    """What a folder was recognized as."""

    kind: CheckpointKind
    entries: dict[str, Entry]
    missing: dict[str, str]


def recognize(folder: Folder, file: str | None = None) -> Checkpoint | None:
    """Recognize a checkpoint by the files in its folder.

    Args:
        folder: the folder.
        file: the file in it that the caller named; None if the caller named the folder.

    Returns:
        The checkpoint; None if the folder is no checkpoint. Its subfolders may still be
        checkpoints.

    Raises:
        FormatError: the file of a Ray before 2.1 is damaged.
        NotFoundError: Tune's files are there, and those of RLlib are not.
        InvalidInputError: a checkpoint of RLlib without the weights of any policy, or several
            files of a Ray before 2.1 in one folder.
    """
    metadata = _metadata(folder)
    worker_files = find_worker_files(folder)
    has_later_layout = folder.state_file("algorithm_state") or folder.subfolder("policies").paths()
    if file in worker_files or (worker_files and file is None and not has_later_layout):
        return _worker_checkpoint(folder, file, worker_files, metadata)
    for recognize_kind in (_algorithm, _policy, _learner, _module):
        found = recognize_kind(folder, metadata)
        if found is not None and (found.entries or found.missing):
            return Checkpoint(
                folder, found.kind, found.entries, found.missing, metadata or _other(folder)
            )
    if metadata or folder.state_file("algorithm_state") or folder.has(_CHECKPOINT_METADATA):
        raise InvalidInputError(
            f"{folder} is a checkpoint of RLlib ({_kind_of(metadata)}), but none of its files "
            "holds the weights of a policy: there is no policy_state file under policies/, and no "
            "module_state file under learner_group/learner/rl_module/ or learner/module_state/. "
            "Copy the whole folder again."
        )
    metadata_file = tune_metadata_file(folder)
    if metadata_file is not None or folder.has(".is_checkpoint"):  # Tune up to Ray 2.6 wrote these
        number = folder.name.rpartition("_")[2].lstrip("0") or "N"
        raise NotFoundError(
            f"{folder.location(f'checkpoint-{number}')} is missing, and so are algorithm_state and "
            "policies/, which Ray from 2.1 on writes in its place: the checkpoint is not complete"
        )
    return None


def _kind_of(metadata: Mapping[str, Any]) -> str:
    kind = metadata.get("type")
    return f"of type {kind[:40]!r}" if isinstance(kind, str) else "without a type"


def _metadata(folder: Folder) -> Mapping[str, Any]:
    """Return the content of ``rllib_checkpoint.json``; ``{}`` if it is absent or damaged.

    The metadata is not needed for any weights.
    """
    return _json(folder, _CHECKPOINT_METADATA)


def _other(folder: Folder) -> Mapping[str, Any]:
    """Return the metadata that Ray writes for parts of an Algorithm; ``{}`` where there is none."""
    return _json(folder, "metadata.json") or _json(folder, METADATA_FILE)


def _json(folder: Folder, name: str) -> Mapping[str, Any]:
    try:
        return folder.read_json(name) if folder.has(name) else {}
    except (FormatError, NotFoundError):  # a link that leads nowhere is listed, and not found
        return {}


def _worker_checkpoint(
    folder: Folder, file: str | None, names: list[str], metadata: Mapping[str, Any]
) -> Checkpoint:
    """Return the checkpoint in a file ``checkpoint-N``, as Ray before 2.1 wrote it."""
    if file is None and len(names) > 1:
        raise InvalidInputError(
            f"{folder} holds several checkpoints: {', '.join(names[:5])}. Give the path of one of "
            "these files."
        )
    worker = read_worker_file(folder, file or names[0])
    entries = {
        policy_id: Entry(policy_id, Form.WORKER, folder, worker.name)
        for policy_id in sorted(worker.states)
    }
    version = {} if worker.ray_version is None else {"ray_version": worker.ray_version}
    return Checkpoint(folder, "algorithm", entries, {}, {**metadata, **version}, worker)


def _algorithm(folder: Folder, metadata: Mapping[str, Any]) -> _Found | None:
    """Recognize the folder of an Algorithm, whole or slimmed to its policies or learners."""
    policies = folder.subfolder("policies")
    group = folder.subfolder("learner_group")
    modules = group.subfolder("learner").subfolder("rl_module")
    if not modules.paths():  # hybrids of Ray 2.33 to 2.37 have their learner group in "learner"
        modules = folder.subfolder("learner").subfolder("learner").subfolder("rl_module")
    learner = folder.subfolder("learner").subfolder("module_state")
    parts = (policies, group, modules, learner)
    if folder.state_file("algorithm_state") is None and not any(part.paths() for part in parts):
        return None
    entries = _modules(modules) or _learner_modules(learner)
    missing = {
        **_missing_modules(modules, entries),
        **_missing_modules(learner, entries, "module_state_dir/module_state.pt"),
    }
    for policy_id in policies.folder_names():
        inner = policies.subfolder(policy_id)
        state = inner.state_file("policy_state")
        if state is None:
            if policy_id not in entries and not policy_id.startswith("."):
                missing[policy_id] = inner.location(_state_file_name(inner, "policy_state.pkl"))
        elif policy_id in entries:  # a hybrid
            entries[policy_id] = replace(entries[policy_id], policy_state=FileRef(inner, state))
        else:
            missing.pop(policy_id, None)  # the hybrid's policy holds the same weights
            entries[policy_id] = Entry(policy_id, Form.POLICY, inner, state)
    for policy_id in _text_list(metadata.get("policy_ids")):
        if policy_id not in entries:
            missing.setdefault(policy_id, policies.location(f"{policy_id}/policy_state.pkl"))
    return _Found("algorithm", entries, missing)


def _text_list(value: object) -> list[str]:
    if not isinstance(value, list):
        return []
    return [item for item in value[:_MAX_MISSING] if isinstance(item, str)]


def _policy(folder: Folder, metadata: Mapping[str, Any]) -> _Found | None:
    """Recognize the folder of one policy of the old stack, or of a hybrid."""
    state = folder.state_file("policy_state")
    if state is None:
        if metadata.get("type") != "Policy":
            return None
        return _Found("policy", {}, {"default_policy": folder.location("policy_state.pkl")})
    module = _module_of_hybrid(folder)
    entry = (
        Entry("default_policy", Form.POLICY, folder, state)
        if module is None
        else replace(module, id="default_policy", policy_state=FileRef(folder, state))
    )
    return _Found("policy", {"default_policy": entry}, {})


def _module_of_hybrid(folder: Folder) -> Entry | None:
    """Return the module that the Learner wrote for the policy in a folder; None if there is none.

    ``policies/ID`` of a hybrid has its module in ``learner/module_state/ID`` of the Algorithm.
    """
    algorithm = folder.outer(_ANY, _POLICIES)
    if algorithm is None:
        return None
    modules = _learner_modules(algorithm.subfolder("learner").subfolder("module_state"))
    return modules.get(folder.name)


def _module(folder: Folder, metadata: Mapping[str, Any]) -> _Found | None:
    """Recognize the folder of a MultiRLModule, or of one RLModule."""
    modules = _modules(folder)
    if modules:
        return _Found("multi_rl_module", modules, _missing_modules(folder, modules))
    state = folder.state_file("module_state")
    form = Form.MODULE
    if state is None or (folder.has(METADATA_FILE) and not folder.has(ARGS_FILE)):
        form = Form.LEARNER
        state = _earlier_state(folder)
    if state is None:
        return None
    entry = Entry("default_policy", form, folder, state, module_map=_module_map(folder))
    return _Found("rl_module", {"default_policy": entry}, {})


def _module_map(folder: Folder) -> Folder | None:
    """Return the folder of the MultiRLModule around the folder of a module, if there is one."""
    return folder.outer(_ANY, called=_RL_MODULE)


def _learner(folder: Folder, metadata: Mapping[str, Any]) -> _Found | None:
    """Recognize the folder of a Learner or LearnerGroup."""
    for kind, modules in (
        ("learner", folder.subfolder("rl_module")),
        ("learner_group", folder.subfolder("learner").subfolder("rl_module")),
    ):
        entries = _modules(modules)
        missing = _missing_modules(modules, entries)
        if entries or missing:
            return _Found(kind, entries, missing)  # type: ignore[arg-type]
    modules = folder.subfolder("module_state")
    entries = _learner_modules(modules)
    missing = _missing_modules(modules, entries, "module_state_dir/module_state.pt")
    return _Found("learner", entries, missing) if entries or missing else None


def _modules(folder: Folder) -> dict[str, Entry]:
    """Return the modules in the folder of a MultiRLModule, as Ray 2.33 and later write it."""
    entries = {}
    for module_id in folder.folder_names():
        inner = folder.subfolder(module_id)
        state = inner.state_file("module_state")
        if state is not None and not inner.has(METADATA_FILE):
            entries[module_id] = Entry(module_id, Form.MODULE, inner, state, module_map=folder)
    return entries


def _missing_modules(
    folder: Folder, entries: Iterable[str], name: str = "module_state.pkl"
) -> dict[str, str]:
    """Return the modules of a MultiRLModule whose weights are not there.

    The folders tell them, and the MultiRLModule's own files, which name all modules.
    """
    missing = _missing_files(folder, entries, name)
    try:
        named = module_ids(folder)
    except (FormatError, NotFoundError):
        named = []
    for module_id in named[:_MAX_MISSING]:
        if module_id not in entries:
            missing.setdefault(module_id, folder.location(f"{module_id}/{name}"))
    return missing


def _missing_files(folder: Folder, entries: Iterable[str], name: str) -> dict[str, str]:
    """Return the subfolders that have files and no weights, with the file that is missing."""
    missing = {}
    for inner_name in folder.folder_names()[:_MAX_MISSING]:
        if inner_name not in entries and not inner_name.startswith("."):
            inner = folder.subfolder(inner_name)
            missing[inner_name] = inner.location(_state_file_name(inner, name))
    return missing


def _state_file_name(folder: Folder, usual: str) -> str:
    """Return the name of the state file that a folder's metadata names; else the usual name."""
    for metadata in ("metadata.json", _CHECKPOINT_METADATA):
        name = _json(folder, metadata).get("state_file")
        if isinstance(name, str) and re.match(r"\w+\.\w+\Z", name):
            return name
    return usual


def _learner_modules(modules: Folder) -> dict[str, Entry]:
    """Return the modules in the folder of a Learner, as Ray 2.5 to 2.32 wrote it."""
    entries = {}
    for module_id in modules.folder_names():
        inner = modules.subfolder(module_id)
        state = _earlier_state(inner)
        if state is not None:
            entries[module_id] = Entry(module_id, Form.LEARNER, inner, state)
    return entries


def _earlier_state(folder: Folder) -> str | None:
    """Return the path of the weights in the folder of one module, as Ray 2.5 to 2.32 wrote it."""
    paths = [
        f"{inner}/{name}"
        for inner in folder.folder_names()
        # In 2.5 the folder's name ends with the path that the module was written from.
        if inner.startswith("module_state")
        for name in folder.subfolder(inner).file_names()
        if name.startswith("module_state.")
    ]
    return paths[0] if len(paths) == 1 else None
