"""Reads what a MultiRLModule's own files say of all its modules.

The file of a module's class and arguments stands in the module's own folder. The MultiRLModule
around it writes the specs of all its modules once more: which modules there are, and how each is
built. So a module whose own file is missing can still be described.

============= ========================================================= =======================
Ray           file                                                      where in it
============= ========================================================= =======================
2.5 to 2.32   ``rl_module_metadata.json``                               ``module_spec_dict``
2.33 to 2.37  ``class_and_ctor_args.pkl``                               ``config.modules``
2.38 to 2.40  ``module_state.*``                                        ``_multi_rl_module_spec``
2.38 on       ``class_and_ctor_args.pkl``                               ``rl_module_specs``
============= ========================================================= =======================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore.checkpoints.convert.pipelines import ARGS_FILE
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import UnbuiltObject
from policystore.errors import FormatError

__all__ = ["METADATA_FILE", "module_ids", "module_spec"]

METADATA_FILE = "rl_module_metadata.json"
"""Class and constructor arguments of a module; Ray 2.5 to 2.32."""


def module_ids(folder: Folder) -> list[str]:
    """Return the ids of the modules that a MultiRLModule's file names; ``[]`` without such a file.

    Raises:
        FormatError: the file is damaged.
        StorageError: the file cannot be read.
    """
    return [key for key in _map_in_args(folder) if isinstance(key, str)]


def module_spec(folder: Folder, module_id: str) -> Mapping[str, Any] | None:
    """Return the fields of one module's spec from the files of its MultiRLModule.

    Args:
        folder: the MultiRLModule's folder.
        module_id: the module.

    Returns:
        ``module_class``, ``observation_space``, ``action_space``, ``catalog_class`` and the model
        config, as far as the file has them; None if no file describes the module.

    Raises:
        StorageError: a file cannot be read.
    """
    for read in (_map_in_args, _map_in_state):
        try:
            spec = read(folder).get(module_id)
        except FormatError:
            continue
        fields = spec.attributes() if isinstance(spec, UnbuiltObject) else spec
        if isinstance(fields, Mapping) and fields:
            return {str(key): value for key, value in fields.items()}
    return None


def _map_in_args(folder: Folder) -> Mapping[Any, Any]:
    """Return module id -> spec by the MultiRLModule's constructor arguments."""
    if folder.has(METADATA_FILE):
        spec = folder.read_json(METADATA_FILE).get("module_spec_dict")
        return _mapping(spec.get("module_specs") if isinstance(spec, Mapping) else None)
    if not folder.has(ARGS_FILE):
        return {}
    content = folder.read_data(ARGS_FILE).value
    given = content.get("ctor_args_and_kwargs") if isinstance(content, Mapping) else None
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        return {}
    args, kwargs = given
    config = args[0] if isinstance(args, (tuple, list)) and args else None
    if isinstance(config, UnbuiltObject):
        return _mapping(config.attributes().get("modules"))
    return _mapping(kwargs.get("rl_module_specs") if isinstance(kwargs, Mapping) else None)


def _map_in_state(folder: Folder) -> Mapping[Any, Any]:
    """Return module id -> spec by the MultiRLModule's own state."""
    name = folder.state_file("module_state")
    state = folder.read_data(name).value if name is not None else None
    spec = state.get("_multi_rl_module_spec") if isinstance(state, Mapping) else None
    return _mapping(spec.get("rl_module_specs") if isinstance(spec, Mapping) else None)


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
