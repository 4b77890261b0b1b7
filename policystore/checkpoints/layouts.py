"""Recognizes the layout of a checkpoint folder: its kind, its policies, and the files of each.

The files in a folder show which layout of Ray 2.3 to 2.60 the folder has. Paths that a checkpoint
records are not followed: most versions of Ray record absolute paths, and a checkpoint may have been
moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from policystore.checkpoints.convert.env_interface import read_env_interface
from policystore.checkpoints.files.folder import FileRef, Folder
from policystore.checkpoints.files.placeholders import Global, UnbuiltObject, class_path, kind_of
from policystore.errors import FormatError, InvalidInputError
from policystore.rllib_schema.env_interface import EnvInterface

__all__ = ["ARGS_FILE", "MAX_STATE", "METADATA_FILE", "AlgorithmInfo", "Checkpoint",
           "CheckpointKind", "Entry", "Form", "recognize"]  # fmt: skip

CheckpointKind: TypeAlias = Literal[
    "algorithm", "policy", "rl_module", "multi_rl_module", "learner", "learner_group"
]
"""The part of RLlib that wrote a checkpoint."""

MAX_STATE = 256 << 20
"""Largest ``algorithm_state`` that is read, in bytes.

Replay buffers can make the file far larger. The parts of the file that are needed here are small.
"""

ARGS_FILE = "class_and_ctor_args.pkl"
"""Class and constructor arguments of an Algorithm, module or connector; Ray 2.40 and later."""

METADATA_FILE = "rl_module_metadata.json"
"""Class and constructor arguments of a module; Ray 2.5 to 2.24."""

_CHECKPOINT_METADATA = "rllib_checkpoint.json"


class Form(Enum):
    """How the files of one policy are laid out."""

    POLICY = "policy_state.* of the old stack, or of a hybrid of Ray 2.3 to 2.10"
    MODULE = "module_state.* beside class_and_ctor_args.pkl, of Ray 2.40 and later"
    LEARNER = "module_state/ID/ beside rl_module_metadata.json, of Ray 2.5 to 2.24"


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
    """

    id: str
    form: Form
    folder: Folder
    weights_file: str
    policy_state: FileRef | None = None


class AlgorithmInfo(NamedTuple):
    """What a checkpoint says of its Algorithm.

    Attributes:
        name: RLlib's name of the algorithm, such as ``"PPO"``; None where it is not known.
        config: the attributes of its AlgorithmConfig; ``{}`` where they are not known.
    """

    name: str | None
    config: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose layout was recognized.

    Attributes:
        folder: the folder.
        kind: the part of RLlib that wrote it.
        entries: its policies, by id.
        metadata: the content of ``rllib_checkpoint.json`` or of a metadata file in its place;
            ``{}`` where there is none.
    """

    folder: Folder
    kind: CheckpointKind
    entries: dict[str, Entry]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ray_version(self) -> str | None:
        """The version of the Ray that wrote the checkpoint; None where it does not say."""
        version = self.metadata.get("ray_version")
        return version[:40] if isinstance(version, str) else None

    @cached_property
    def algorithm(self) -> AlgorithmInfo:
        """Name and config of the Algorithm, as far as they are recorded; one file is read, once."""
        if self.kind != "algorithm":
            return AlgorithmInfo(None, {})
        folder = self.folder
        if folder.has(ARGS_FILE):
            return _algorithm_of_args(folder.read_data(ARGS_FILE).value)
        name = folder.state_file("algorithm_state")
        if name is None or folder.size(name) > MAX_STATE:
            return AlgorithmInfo(None, {})
        state = folder.read_data(name).value
        if not isinstance(state, Mapping):
            raise FormatError(
                f"{folder.location(name)}: expected the state of an Algorithm, found "
                f"{kind_of(state)}"
            )
        return AlgorithmInfo(
            _algorithm_name(state.get("algorithm_class")), _config_attributes(state.get("config"))
        )

    @cached_property
    def env_interface(self) -> EnvInterface:
        """The env interface that all modules of a new-stack Algorithm share; Ray 2.40 and later.

        The env interface is empty if the checkpoint has no env runner. Its files are read once.
        """
        runner = self.folder.subfolder("env_runner")
        if not runner.folder_names():
            return EnvInterface()
        return read_env_interface(runner, self.algorithm.config)


def _algorithm_of_args(content: object) -> AlgorithmInfo:
    """Return what an Algorithm's ``class_and_ctor_args.pkl`` says; missing parts are no error."""
    cls = content.get("class") if isinstance(content, Mapping) else None
    given = content.get("ctor_args_and_kwargs") if isinstance(content, Mapping) else None
    args, kwargs = given if isinstance(given, tuple) and len(given) == 2 else ((), {})
    config = kwargs.get("config") if isinstance(kwargs, Mapping) else None
    if config is None and isinstance(args, tuple) and args:
        config = args[0]
    return AlgorithmInfo(_algorithm_name(cls), _config_attributes(config))


def _algorithm_name(cls: object) -> str | None:
    """Return RLlib's name of an Algorithm's class, as a live snapshot records it.

    The live rule is :func:`policystore.rllib.common.trust.algorithm_name`.
    """
    if isinstance(cls, str):  # msgpack has its path
        return cls.rpartition(".")[2]
    path = class_path(cls)
    # If cloudpickle writes a class by value, it writes the bases of the class too. Tune derives
    # such classes from RLlib's classes, and users do so too.
    bases = cls.args[2] if path is not None and isinstance(cls, UnbuiltObject) else ()
    for base in bases if isinstance(bases, tuple) else ():
        if isinstance(base, Global) and base.module.startswith("ray.rllib.algorithms."):
            return base.name.rpartition(".")[2]
    return None if path is None else path.rpartition(":")[2].rpartition(".")[2]


def _config_attributes(config: object) -> dict[str, Any]:
    if isinstance(config, UnbuiltObject):
        return config.attributes()
    return dict(config) if isinstance(config, Mapping) else {}


def recognize(folder: Folder) -> Checkpoint | None:
    """Recognize a checkpoint by the files in its folder.

    Returns:
        The checkpoint; None if the folder is no checkpoint. Its subfolders may still be
        checkpoints.

    Raises:
        FormatError: a metadata file is damaged.
        InvalidInputError: a checkpoint of RLlib without the weights of any policy.
    """
    has_metadata = folder.has(_CHECKPOINT_METADATA)
    metadata = folder.read_json(_CHECKPOINT_METADATA) if has_metadata else {}
    for recognize_kind in (_algorithm, _policy, _learner, _module):
        recognized = recognize_kind(folder)
        if recognized is not None:
            kind, entries = recognized
            return Checkpoint(folder, kind, entries, metadata or _other_metadata(folder))
    if metadata:
        raise InvalidInputError(
            f"{folder} is a checkpoint of RLlib (type {str(metadata.get('type'))[:40]}), but none "
            "of its files holds the weights of a policy; it may not be complete"
        )
    return None


def _other_metadata(folder: Folder) -> Mapping[str, Any]:
    for name in ("metadata.json", METADATA_FILE):
        if folder.has(name):
            return folder.read_json(name)
    return {}


_Recognized: TypeAlias = tuple[CheckpointKind, dict[str, Entry]]


def _algorithm(folder: Folder) -> _Recognized | None:
    """Recognize the folder of an Algorithm."""
    if folder.state_file("algorithm_state") is None:
        return None
    modules = folder.subfolder("learner_group").subfolder("learner").subfolder("rl_module")
    entries = _modules(modules) or _learner_modules(folder.subfolder("learner"))
    policies = folder.subfolder("policies")
    for policy_id in policies.folder_names():
        inner = policies.subfolder(policy_id)
        state = inner.state_file("policy_state")
        if state is None:
            continue
        if policy_id in entries:  # a hybrid
            module = entries[policy_id]
            entries[policy_id] = Entry(
                policy_id,
                Form.LEARNER,
                module.folder,
                module.weights_file,
                FileRef(inner, state),
            )
        else:
            entries[policy_id] = Entry(policy_id, Form.POLICY, inner, state)
    return "algorithm", entries


def _policy(folder: Folder) -> _Recognized | None:
    """Recognize the folder of one policy of the old stack."""
    state = folder.state_file("policy_state")
    if state is None:
        return None
    return "policy", {"default_policy": Entry("default_policy", Form.POLICY, folder, state)}


def _module(folder: Folder) -> _Recognized | None:
    """Recognize the folder of a MultiRLModule, or of one RLModule."""
    modules = _modules(folder)
    if modules:
        return "multi_rl_module", modules
    form = Form.MODULE if folder.has(ARGS_FILE) else Form.LEARNER
    state = folder.state_file("module_state") or _earlier_state(folder)
    if state is None:
        return None
    return "rl_module", {"default_policy": Entry("default_policy", form, folder, state)}


def _learner(folder: Folder) -> _Recognized | None:
    """Recognize the folder of a Learner or LearnerGroup."""
    modules = _modules(folder.subfolder("rl_module"))
    if modules:
        return "learner", modules
    modules = _modules(folder.subfolder("learner").subfolder("rl_module"))
    if modules:
        return "learner_group", modules
    modules = _learner_modules(folder)
    return ("learner", modules) if modules else None


def _modules(folder: Folder) -> dict[str, Entry]:
    """Return the modules in the folder of a MultiRLModule, as Ray 2.40 and later write it."""
    entries = {}
    for module_id in folder.folder_names():
        inner = folder.subfolder(module_id)
        state = inner.state_file("module_state")
        if state is not None and inner.has(ARGS_FILE):
            entries[module_id] = Entry(module_id, Form.MODULE, inner, state)
    return entries


def _learner_modules(folder: Folder) -> dict[str, Entry]:
    """Return the modules in the folder of a Learner, as Ray 2.5 to 2.24 wrote it."""
    modules = folder.subfolder("module_state")
    entries = {}
    for module_id in modules.folder_names():
        inner = modules.subfolder(module_id)
        state = _earlier_state(inner)
        if state is not None:
            entries[module_id] = Entry(module_id, Form.LEARNER, inner, state)
    return entries


def _earlier_state(folder: Folder) -> str | None:
    """Return the path of the weights in the folder of one module, as Ray 2.5 to 2.24 wrote it."""
    paths = [
        f"{inner}/{name}"
        for inner in folder.folder_names()
        # In 2.5 the folder's name ends with the path that the module was written from.
        if inner.startswith("module_state")
        for name in folder.subfolder(inner).file_names()
        if name.startswith("module_state.")
    ]
    return paths[0] if len(paths) == 1 and folder.has(METADATA_FILE) else None
