"""Reads the file ``checkpoint-N`` that Ray before 2.1 wrote: one pickle inside of another.

The outer pickle has the bytes of the inner one under ``worker``
(``rllib/agents/trainer.py:2130`` of Ray 1.13). The inner pickle has the state of each policy, its
filter, its spec and, in Ray 2.0, the config of all policies
(``rllib/evaluation/rollout_worker.py:1432``). Beside the file, Tune's ``.tune_metadata`` has the
last result, and with it the whole config; a trial's folder has ``params.pkl`` with the settings
that its user gave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.graph_limits import limit_graph
from policystore.checkpoints.files.pickle_reader import read_pickle
from policystore.checkpoints.files.placeholders import UnbuiltObject, kind_of
from policystore.errors import FormatError, InvalidInputError, NotFoundError

__all__ = ["WorkerFile", "find_worker_files", "read_worker_file", "tune_metadata_file"]

_CHECKPOINT = re.compile(r"checkpoint_\d+\Z")
_NAME = re.compile(r"checkpoint-(\d+)\Z")
_MAX_BESIDE = 64 << 20  # bytes of a file that is read for the config alone


@dataclass(frozen=True)
class WorkerFile:
    """The content of a file ``checkpoint-N``.

    Attributes:
        folder: the folder of the file.
        name: its name.
        nbytes: its size.
        states: the state of each policy, by policy id.
        filters: the filter of each policy, by policy id; a policy without one has none.
        specs: the ``PolicySpec`` of each policy, by policy id.
        config: the config of all policies; ``{}`` where no file tells it.
        ray_version: the version of the Ray that wrote it; None where no file tells it.
        omitted: why a part of the file's description is missing, by part.
    """

    folder: Folder
    name: str
    nbytes: int
    states: Mapping[str, object]
    filters: Mapping[Any, object]
    specs: Mapping[Any, object]
    config: Mapping[str, Any] = field(default_factory=dict)
    ray_version: str | None = None
    omitted: Mapping[str, str] = field(default_factory=dict)

    @property
    def location(self) -> str:
        """The path or URL of the file, for messages."""
        return self.folder.location(self.name)

    def policy_state(self, policy_id: str) -> Mapping[str, Any]:
        """Return the state of a policy in the form of a ``policy_state`` of Ray 2.1 and later.

        Raises:
            FormatError: the file has no state of the policy.
        """
        state = self.states[policy_id]
        if isinstance(state, Mapping) and "weights" in state:
            content = {str(key): value for key, value in state.items()}
        else:  # before Ray 1.3, the weights themselves, with the optimizer's state among them
            content = {"weights": state}
            if isinstance(state, Mapping):
                weights = dict(state)
                optimizer = weights.pop("_optimizer_variables", None)
                content = {"weights": weights, "_optimizer_variables": optimizer}
        spec = _spec_fields(self.specs.get(policy_id))
        if spec is not None:
            own: Any = spec.get("config")
            if isinstance(own, UnbuiltObject):  # an AlgorithmConfig, or a class derived from dict
                own = own.entries or own.attributes() or own.kwargs
            if own is None or isinstance(own, Mapping):
                own = _merged(self.config, own or {})
            spec["config"] = own
            content["policy_spec"] = spec
        return content


# Names of Ray 1.x -> names of today (algorithms/sac/sac.py of Ray 2.0).
_RENAMED = {"Q_model": "q_model_config", "policy_model": "policy_model_config"}


def _merged(config: Mapping[str, Any], own: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a config with a policy's own settings, as RLlib merges them: dicts entry by entry."""
    merged = {_RENAMED.get(key, key): value for key, value in config.items()}
    for key, value in own.items():
        name = _RENAMED.get(key, key) if isinstance(key, str) else key
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = {**before, **value}
        merged[name] = value
    return merged


_SPEC_FIELDS = ("policy_class", "observation_space", "action_space", "config")


def _spec_fields(spec: object) -> dict[str, Any] | None:
    """Return the fields of a ``PolicySpec``, which was a named tuple until Ray 1.13."""
    if isinstance(spec, UnbuiltObject):
        attributes = spec.attributes()
        if attributes:
            return {name: attributes.get(name) for name in _SPEC_FIELDS}
        if len(spec.args) == len(_SPEC_FIELDS):
            return dict(zip(_SPEC_FIELDS, spec.args, strict=True))
    if isinstance(spec, tuple) and len(spec) == len(_SPEC_FIELDS):
        return dict(zip(_SPEC_FIELDS, spec, strict=True))
    return None


def find_worker_files(folder: Folder) -> list[str]:
    """Return the names of the files ``checkpoint-N`` in a folder, by number."""
    names = [name for name in folder.file_names() if _NAME.match(name)]
    return sorted(names, key=lambda name: int(name.rpartition("-")[2]))


def tune_metadata_file(folder: Folder, checkpoint: str | None = None) -> str | None:
    """Return the name of Tune's metadata beside a checkpoint; None where there is none.

    Ray 1.x wrote ``checkpoint-N.tune_metadata``, Ray 2.0 to 2.6 ``.tune_metadata``.

    Args:
        folder: the folder of the checkpoint.
        checkpoint: the name of the file ``checkpoint-N``; None: any.
    """
    names = [name for name in folder.file_names() if name.endswith(".tune_metadata")]
    if checkpoint is not None:
        names = [
            name for name in names if name in (f"{checkpoint}.tune_metadata", ".tune_metadata")
        ]
    return names[-1] if names else None


def read_worker_file(folder: Folder, name: str) -> WorkerFile:
    """Read a file ``checkpoint-N``, and the config from the files beside it.

    Raises:
        FormatError: damaged, or not of the form that RLlib wrote.
        NotFoundError, StorageError: the file cannot be read.
    """
    label = folder.location(name)
    content, nbytes = folder.read_data(name)
    raw = content.get("worker") if isinstance(content, Mapping) else None
    if not isinstance(raw, (bytes, bytearray)):
        raise FormatError(
            f"{label}: expected the state of a Trainer of Ray before 2.1, with the bytes of its "
            f"worker; found {kind_of(content)}"
        )
    worker = limit_graph(read_pickle(bytes(raw), f"{label}: worker"), len(raw))
    states = worker.get("state") if isinstance(worker, Mapping) else None
    if not isinstance(worker, Mapping) or not isinstance(states, Mapping):
        raise FormatError(f"{label}: expected the states of policies, found {kind_of(worker)}")
    if not states:
        raise FormatError(f"{label} holds the state of no policy")
    filters, specs = worker.get("filters"), worker.get("policy_specs")
    config = _entries(worker.get("policy_config"))
    omitted: dict[str, str] = {}
    ray_version = None
    try:
        told_config, ray_version = _told_by_metadata(folder, name)
        config = config or told_config or _told_by_params(folder)
    except (FormatError, InvalidInputError, NotFoundError) as error:
        omitted["config"] = str(error)
    if not config and not omitted:
        omitted["config"] = (
            f"{label} does not hold the config; Tune's files .tune_metadata beside the "
            "checkpoint, or params.pkl in the folder of the trial, would tell it"
        )
    return WorkerFile(
        folder=folder,
        name=name,
        nbytes=nbytes,
        states={key: value for key, value in states.items() if isinstance(key, str)},
        filters=filters if isinstance(filters, Mapping) else {},
        specs=specs if isinstance(specs, Mapping) else {},
        config=config,
        ray_version=ray_version,
        omitted=omitted,
    )


def _told_by_metadata(folder: Folder, checkpoint: str) -> tuple[Mapping[str, Any], str | None]:
    """Return the config and the Ray version in Tune's metadata."""
    name = tune_metadata_file(folder, checkpoint)
    if name is None or folder.size(name) > _MAX_BESIDE:
        return {}, None
    content = folder.read_data(name).value
    if not isinstance(content, Mapping):
        raise FormatError(f"{folder.location(name)}: expected a dict, found {kind_of(content)}")
    result, version = content.get("last_result"), content.get("ray_version")
    config = result.get("config") if isinstance(result, Mapping) else None
    return _entries(config), version if isinstance(version, str) else None


def _told_by_params(folder: Folder) -> Mapping[str, Any]:
    """Return the settings of the trial that the checkpoint belongs to; ``{}`` if there is none."""
    trial = folder.outer(_CHECKPOINT)
    if trial is not None:
        if trial.has("params.pkl") and trial.size("params.pkl") <= _MAX_BESIDE:
            return _entries(trial.read_data("params.pkl").value)
        if trial.has("params.json"):
            return _entries(trial.read_json("params.json"))
    return {}


def _entries(config: object) -> Mapping[str, Any]:
    """Return the entries of a config by their names; ``{}`` for anything else."""
    if isinstance(config, UnbuiltObject):
        config = config.entries
    if not isinstance(config, Mapping):
        return {}
    return {key: value for key, value in config.items() if isinstance(key, str)}
