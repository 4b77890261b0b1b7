"""What a recognized checkpoint consists of: its kind, its policies, and what its Algorithm was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeAlias

from policystore._util.late import cached_property
from policystore.checkpoints.convert.env_interface import read_env_interface
from policystore.checkpoints.convert.pipelines import ARGS_FILE
from policystore.checkpoints.files.folder import FileRef, Folder
from policystore.checkpoints.files.placeholders import (
    UnbuiltObject,
    class_lineage,
    is_text,
    kind_of,
)
from policystore.checkpoints.worker_file import WorkerFile
from policystore.errors import FormatError, NotFoundError
from policystore.rllib_schema.class_paths import ALGORITHM_NAMES
from policystore.rllib_schema.env_interface import EnvInterface

__all__ = ["MAX_STATE", "AlgorithmInfo", "Checkpoint", "CheckpointKind", "Entry", "Form"]

CheckpointKind: TypeAlias = Literal[
    "algorithm", "policy", "rl_module", "multi_rl_module", "learner", "learner_group"
]
"""The part of RLlib that wrote a checkpoint."""

MAX_STATE = 256 << 20
"""Largest ``algorithm_state`` that is read, in bytes.

Replay buffers can make the file far larger. The parts of the file that are needed here are small.
"""

_STATE_FILE = "algorithm_state.pkl"


class Form(Enum):
    """How the files of one policy are laid out."""

    WORKER = "one pickle of all policies, in a file checkpoint-N of Ray before 2.1"
    POLICY = "policy_state.* of the old stack, or of a hybrid of Ray 2.3 to 2.37"
    MODULE = "module_state.* beside class_and_ctor_args.pkl, of Ray 2.33 and later"
    LEARNER = "module_state/ID/ beside rl_module_metadata.json, of Ray 2.5 to 2.32"


@dataclass(frozen=True)
class Entry:
    """One policy of a checkpoint.

    Attributes:
        id: its policy or module id.
        form: how its files are laid out.
        folder: the folder of its files.
        weights_file: the file with its weights, by its path in that folder.
        policy_state: for a hybrid whose module a Learner wrote, the ``policy_state`` file that the
            hybrid's policy wrote; else None.
        module_map: for a module, the folder of the MultiRLModule that the module belongs to; None
            where there is none.
    """

    id: str
    form: Form
    folder: Folder
    weights_file: str
    policy_state: FileRef | None = None
    module_map: Folder | None = None


class AlgorithmInfo(NamedTuple):
    """What a checkpoint says of its Algorithm.

    Attributes:
        name: RLlib's name of the algorithm, such as ``"PPO"``; None where it is not known.
        config: the attributes of its AlgorithmConfig; ``{}`` where they are not known.
        filters: the filters that Ray 2.1 and 2.2 wrote, by policy id.
        policy_ids: the policies whose state was written, as far as a file tells them.
        omitted: why a file that tells of the Algorithm was not read, by the part that is missing.
    """

    name: str | None
    config: dict[str, Any]
    filters: Mapping[Any, object]
    policy_ids: list[str]
    omitted: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose layout was recognized.

    Attributes:
        folder: the folder.
        kind: the part of RLlib that wrote it.
        entries: its policies whose weights are there, by id.
        found_missing: policies that the layout names and whose weights are not there: policy id ->
            the path of the file that is missing.
        metadata: the content of ``rllib_checkpoint.json`` or of a metadata file in its place;
            ``{}`` where there is none.
        worker: the content of the file that Ray before 2.1 wrote; None for other layouts.
    """

    folder: Folder
    kind: CheckpointKind
    entries: dict[str, Entry]
    found_missing: dict[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    worker: WorkerFile | None = None

    @property
    def ray_version(self) -> str | None:
        """The version of the Ray that wrote the checkpoint; None where it does not say."""
        version = self.metadata.get("ray_version")
        return version[:40] if isinstance(version, str) else None

    @cached_property
    def missing(self) -> dict[str, str]:
        """Policies that the checkpoint names and whose weights are not there, with the file's path.

        Ray 2.1 to 2.3 names its policies in the state of the Algorithm alone.
        """
        named = self.algorithm.policy_ids if not self.metadata.get("policy_ids") else []
        folder = self.folder.subfolder("policies")
        return self.found_missing | {
            policy_id: folder.location(f"{policy_id}/policy_state.pkl")
            for policy_id in named
            if policy_id not in self.entries and policy_id not in self.found_missing
        }

    @cached_property
    def algorithm(self) -> AlgorithmInfo:
        """Name and config of the Algorithm, as far as they are recorded.

        Several files may tell them; the first one that can be read counts, and is read once. A
        damaged file never withholds the weights: the reason is noted in ``omitted``.
        """
        if self.kind != "algorithm" or self.worker is not None:
            return AlgorithmInfo(None, {}, {}, [], {})
        name: str | None = None
        config: dict[str, Any] = {}
        filters: Mapping[Any, object] = {}
        policy_ids: list[str] = []
        problems: list[str] = []
        for read in self._algorithm_sources():
            try:
                told = read()
            except (FormatError, NotFoundError) as error:
                problems.append(str(error))
                continue
            name, config = name or told.name, config or told.config
            filters, policy_ids = told.filters, told.policy_ids
            if name is not None and config:
                break
        if config:
            return AlgorithmInfo(name, config, filters, policy_ids, {})
        missing = self.folder.location(self.folder.state_file("algorithm_state") or _STATE_FILE)
        reason = problems[0] if problems else f"{missing} is missing, or too large to be read"
        return AlgorithmInfo(name, config, filters, policy_ids, {"algorithm": reason})

    def _algorithm_sources(self) -> Iterator[Callable[[], AlgorithmInfo]]:
        """Yield functions that read the files which tell the Algorithm, the fullest first."""
        folder = self.folder
        state = folder.state_file("algorithm_state")
        if folder.has(ARGS_FILE):
            yield lambda: _told_by_own_args(folder.read_data(ARGS_FILE).value)
        if state is not None and folder.size(state) <= MAX_STATE:
            yield lambda: _told_by_state(folder, state)
        for name in ("env_runner", "learner_group"):
            inner = folder.subfolder(name)
            if inner.has(ARGS_FILE):
                yield lambda inner=inner: _told_by_args(inner.read_data(ARGS_FILE).value, None)  # type: ignore[misc]

    @cached_property
    def env_interface(self) -> EnvInterface:
        """The env interface that all modules of a new-stack Algorithm share; Ray 2.33 and later.

        The env interface is empty if the checkpoint has no env runner. Its files are read once.
        """
        if self.runner is None:
            return EnvInterface()
        try:
            return read_env_interface(self.runner, self.algorithm.config)
        except FormatError as error:
            return EnvInterface(omitted={"env_runner": str(error)})

    @property
    def runner(self) -> Folder | None:
        """The folder with the connectors of the env runners; None where there is none.

        Without a local env runner, Ray 2.49 and later write the connectors beside ``env_runner``.
        """
        for folder in (self.folder.subfolder("env_runner"), self.folder):
            if folder.subfolder("env_to_module_connector").paths():
                return folder
        return None


def _told_by_args(content: object, cls: object) -> AlgorithmInfo:
    """Return what constructor arguments say of an Algorithm; missing parts are no error.

    Args:
        content: the ``class_and_ctor_args.pkl`` of an Algorithm, its env runner or learner group.
        cls: the Algorithm's class; None if only the config among the arguments tells it.
    """
    config = _config_argument(content)
    return AlgorithmInfo(_algorithm_name(cls, config), _config_attributes(config), {}, [], {})


def _told_by_own_args(content: object) -> AlgorithmInfo:
    """Return what an Algorithm's own ``class_and_ctor_args.pkl`` says."""
    return _told_by_args(content, content.get("class") if isinstance(content, Mapping) else None)


def _told_by_state(folder: Folder, name: str) -> AlgorithmInfo:
    """Return what an ``algorithm_state`` says."""
    state = folder.read_data(name).value
    if not isinstance(state, Mapping):
        raise FormatError(
            f"{folder.location(name)}: expected the state of an Algorithm, found {kind_of(state)}"
        )
    config = state.get("config")
    worker = state.get("worker")
    part = worker if isinstance(worker, Mapping) else {}
    filters, ids = part.get("filters"), part.get("policy_ids")
    attributes = _config_attributes(config)
    if attributes.get("checkpoint_trainable_policies_only") is True:
        ids = None  # it names the others, too
    return AlgorithmInfo(
        _algorithm_name(state.get("algorithm_class"), config),
        attributes,
        filters if isinstance(filters, Mapping) else {},
        [each for each in ids if isinstance(each, str)] if isinstance(ids, (list, tuple)) else [],
        {},
    )


def _config_argument(content: object) -> object:
    """Return the config among constructor arguments; None where there is none."""
    given = content.get("ctor_args_and_kwargs") if isinstance(content, Mapping) else None
    args, kwargs = given if isinstance(given, tuple) and len(given) == 2 else ((), {})
    config = kwargs.get("config") if isinstance(kwargs, Mapping) else None
    return args[0] if config is None and isinstance(args, tuple) and args else config


def _algorithm_name(cls: object, config: object) -> str | None:
    """Return RLlib's name of an Algorithm, as a live snapshot records it.

    The live rule is :func:`policystore.rllib.common.trust.algorithm_name`. Tune derives classes
    from RLlib's, and users do so too: the name is that of RLlib's own class among the bases. If no
    class says it, the config's does.
    """
    if isinstance(cls, str):  # msgpack has its path
        return _last_name(cls) if is_text(cls) else None
    told = _config_attributes(config).get("algo_class")
    for lineage in (list(class_lineage(cls)), list(class_lineage(told))):
        for path in lineage:
            if path.startswith("ray.rllib.algorithms."):
                return _last_name(path)
        if lineage:
            return _last_name(lineage[0])
    if isinstance(config, UnbuiltObject):
        for path in class_lineage(config.cls):
            name = _last_name(path)
            if path.startswith("ray.rllib.algorithms.") and name != "AlgorithmConfig":
                return _last_name(name.removesuffix("Config")) or None
    return None


def _last_name(path: str) -> str:
    name = path.rpartition(":")[2].rpartition(".")[2]
    return ALGORITHM_NAMES.get(name, name)


def _config_attributes(config: object) -> dict[str, Any]:
    if isinstance(config, UnbuiltObject):
        return config.attributes()
    return dict(config) if isinstance(config, Mapping) else {}
