"""What a folder is: which kind of checkpoint, of which Ray, with which policies, and where each is.

The layouts of Ray 2.3 to 2.60 are told by the files that are there; recorded paths, which are
absolute in most versions, are not followed, so that a moved checkpoint is read like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from policystore.checkpoints.convert.env_interface import read_env_interface
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import Global, UnbuiltObject, class_path, kind_of
from policystore.errors import FormatError, InvalidInputError
from policystore.rllib_schema.env_interface import EnvInterface

__all__ = ["MAX_STATE", "Checkpoint", "Entry", "recognize"]

Form: TypeAlias = Literal[
    "policy",  # policy_state.*: the old stack, and the hybrids of 2.3 to 2.10
    "module",  # module_state.* beside class_and_ctor_args.pkl: 2.40 and later
    "learner",  # module_state/ID/ beside rl_module_metadata.json: 2.5 to 2.24
]
MAX_STATE = 256 << 20
"""Bytes of an ``algorithm_state`` that is looked into: with replay buffers in it, it may be of any
size, and nothing here needs them."""
_META = "rllib_checkpoint.json"
_ARGS = "class_and_ctor_args.pkl"
_MODULE_META = "rl_module_metadata.json"


@dataclass(frozen=True)
class Entry:
    """One policy of a checkpoint.

    Attributes:
        id: policy or module id.
        form: how it is written.
        folder: where.
        state: the file with its weights, in that folder.
        also: the ``policy_state`` file of a hybrid whose learner wrote the module too.
    """

    id: str
    form: Form
    folder: Folder
    state: str
    also: tuple[Folder, str] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was recognized.

    Attributes:
        folder: where it begins.
        kind: what RLlib calls it.
        entries: the policies, by id.
        meta: ``rllib_checkpoint.json`` or the like; ``{}`` where there is none.
    """

    folder: Folder
    kind: str
    entries: dict[str, Entry]
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ray_version(self) -> str | None:
        """The Ray that wrote it, where it says so."""
        found = self.meta.get("ray_version")
        return found[:40] if isinstance(found, str) else None

    @cached_property
    def algorithm(self) -> tuple[str | None, dict[str, Any]]:
        """RLlib's name of the algorithm and its config as far as it is written; one small file."""
        if self.kind != "algorithm":
            return None, {}
        folder = self.folder
        if folder.has(_ARGS):
            found, _ = folder.data(_ARGS)
            cls = found.get("class") if isinstance(found, Mapping) else None
            given = found.get("ctor_args_and_kwargs") if isinstance(found, Mapping) else None
            args, kwargs = given if isinstance(given, tuple) and len(given) == 2 else ((), {})
            config = kwargs.get("config") if isinstance(kwargs, Mapping) else None
            if config is None and isinstance(args, tuple) and args:
                config = args[0]
            return _name(cls), _attributes(config)
        key = folder.state_file("algorithm_state")
        if key is None or folder.size(key) > MAX_STATE:
            return None, {}
        found, _ = folder.data(key)
        if not isinstance(found, Mapping):
            raise FormatError(
                f"{folder.where(key)}: expected the state of an Algorithm, found {kind_of(found)}"
            )
        return _name(found.get("algorithm_class")), _attributes(found.get("config"))

    @cached_property
    def side(self) -> EnvInterface:
        """The environment's side of a new-stack Algorithm of 2.40 and later: of all its modules."""
        runner = self.folder.inside("env_runner")
        return read_env_interface(runner, self.algorithm[1]) if runner.folders() else EnvInterface()


def _name(cls: Any) -> str | None:
    """As :func:`policystore.rllib.common.trust.algorithm_name` has it, of RLlib's own classes."""
    if isinstance(cls, str):  # msgpack has its path
        return cls.rpartition(".")[2]
    path = class_path(cls)
    # A class by value says what it derives from: Tune wraps RLlib's own, and users derive theirs.
    bases = cls.args[2] if path is not None and isinstance(cls, UnbuiltObject) else ()
    for base in bases if isinstance(bases, tuple) else ():
        if isinstance(base, Global) and base.module.startswith("ray.rllib.algorithms."):
            return base.name.rpartition(".")[2]
    return None if path is None else path.rpartition(":")[2].rpartition(".")[2]


def _attributes(config: Any) -> dict[str, Any]:
    if isinstance(config, UnbuiltObject):
        return config.attributes()
    return dict(config) if isinstance(config, Mapping) else {}


def recognize(folder: Folder) -> Checkpoint | None:
    """What a folder holds by itself; None where it is no checkpoint (but may hold some).

    Raises:
        FormatError: a damaged description.
        InvalidInputError: a checkpoint of a kind that holds no policies.
    """
    meta = folder.json(_META) if folder.has(_META) else {}
    for look in (_algorithm, _policy, _learner, _module):
        found = look(folder)
        if found is not None:
            kind, entries = found
            return Checkpoint(folder, kind, entries, meta or _meta_of(folder))
    if meta:
        raise InvalidInputError(
            f"{folder}: a checkpoint of RLlib's (type {str(meta.get('type'))[:40]}), but none of "
            "its files holds weights of a policy; it may be half of one"
        )
    return None


def _meta_of(folder: Folder) -> Mapping[str, Any]:
    for key in ("metadata.json", _MODULE_META):
        if folder.has(key):
            return folder.json(key)
    return {}


_Found: TypeAlias = "tuple[str, dict[str, Entry]] | None"


def _algorithm(folder: Folder) -> _Found:
    if folder.state_file("algorithm_state") is None:
        return None
    new = folder.inside("learner_group").inside("learner").inside("rl_module")
    entries = _modules(new) or _learner_modules(folder.inside("learner"))
    policies = folder.inside("policies")
    for name in policies.folders():
        inner = policies.inside(name)
        state = inner.state_file("policy_state")
        if state is None:
            continue
        if name in entries:
            learned = entries[name]
            entries[name] = Entry(name, "learner", learned.folder, learned.state, (inner, state))
        else:
            entries[name] = Entry(name, "policy", inner, state)
    return "algorithm", entries


def _policy(folder: Folder) -> _Found:
    state = folder.state_file("policy_state")
    if state is None:
        return None
    return "policy", {"default_policy": Entry("default_policy", "policy", folder, state)}


def _module(folder: Folder) -> _Found:
    """An RLModule's own folder, or one of a MultiRLModule with theirs inside."""
    inner = _modules(folder)
    if inner:
        return "multi_rl_module", inner
    form: Form = "module" if folder.has(_ARGS) else "learner"
    state = folder.state_file("module_state") or _earlier_state(folder)
    if state is None:
        return None
    return "rl_module", {"default_policy": Entry("default_policy", form, folder, state)}


def _learner(folder: Folder) -> _Found:
    for kind, inner in (
        ("learner", folder.inside("rl_module")),
        ("learner_group", folder.inside("learner").inside("rl_module")),
    ):
        entries = _modules(inner)
        if entries:
            return kind, entries
    entries = _learner_modules(folder)
    return ("learner", entries) if entries else None


def _modules(folder: Folder) -> dict[str, Entry]:
    """The modules in the folder of a MultiRLModule: 2.40 and later."""
    found = {}
    for name in folder.folders():
        inner = folder.inside(name)
        state = inner.state_file("module_state")
        if state is not None and inner.has(_ARGS):
            found[name] = Entry(name, "module", inner, state)
    return found


def _learner_modules(folder: Folder) -> dict[str, Entry]:
    """The modules that a Learner of 2.5 to 2.24 wrote."""
    states = folder.inside("module_state")
    found = {}
    for name in states.folders():
        inner = states.inside(name)
        state = _earlier_state(inner)
        if state is not None:
            found[name] = Entry(name, "learner", inner, state)
    return found


def _earlier_state(folder: Folder) -> str | None:
    """The weights in the folder of one module of 2.5 to 2.24."""
    files = [
        f"{inner}/{file}"
        for inner in folder.folders()
        # In 2.5 the folder's name ends with the path that the module was written from.
        if inner.startswith("module_state")
        for file in folder.inside(inner).files()
        if file.startswith("module_state.")
    ]
    return files[0] if len(files) == 1 and folder.has(_MODULE_META) else None
