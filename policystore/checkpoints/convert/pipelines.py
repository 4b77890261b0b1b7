"""Reads pipelines of connectors out of an ``env_runner`` folder, as Ray 2.33 and later write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import (
    BAD_DATA_ERRORS,
    Global,
    class_path,
    kind_of,
)
from policystore.errors import FormatError

__all__ = [
    "ARGS_FILE",
    "SPACE_ARGS",
    "Connector",
    "Pipeline",
    "PipelineSpaces",
    "read_connector_state",
    "read_pipeline",
]  # fmt: skip

ARGS_FILE = "class_and_ctor_args.pkl"
"""Class and constructor arguments of an Algorithm, module or connector; Ray 2.33 and later."""

SPACE_ARGS = ("input_observation_space", "input_action_space")
"""The names of the spaces among the arguments of a connector or pipeline."""
# From algorithm_config.py:1060-1230 of Ray 2.60, and the connectors that Ray 2.40 had instead.
_DEFAULT_CONNECTORS = frozenset(
    (
        "AddObservationsFromEpisodesToBatch", "AddTimeDimToBatchAndZeroPad",
        "AddStatesFromEpisodesToBatch", "AgentToModuleMapping", "BatchIndividualItems",
        "NumpyToTensor", "GetActions", "TensorToNumpy", "UnBatchToIndividualItems",
        "RemoveSingleTsTimeRankFromBatch", "ModuleToAgentUnmapping", "NormalizeAndClipActions",
        "ListifyDataForVectorEnv",
    )
)  # fmt: skip
_MAX_CONNECTORS = 200  # of one pipeline


class Connector(NamedTuple):
    """One connector of a pipeline: its class and constructor arguments."""

    cls: object
    args: tuple[object, ...]
    kwargs: dict[object, object]

    @property
    def name(self) -> str:
        """The name of its class, which is the name of its folder."""
        path = class_path(self.cls)
        return kind_of(self.cls) if path is None else path.rpartition(":")[2]

    @property
    def is_default(self) -> bool:
        """Whether RLlib adds the connector by itself."""
        return (
            isinstance(self.cls, Global)
            and self.cls.module.startswith("ray.rllib.connectors.")
            and self.cls.name in _DEFAULT_CONNECTORS
        )


class PipelineSpaces(NamedTuple):
    """The spaces that a pipeline was made for, as the file describes them."""

    observation: object
    action: object


class Pipeline(NamedTuple):
    """A pipeline: its folder, spaces and connectors, and whether a file tells their order."""

    folder: Folder
    spaces: PipelineSpaces
    connectors: list[Connector]
    is_ordered: bool


def read_pipeline(folder: Folder) -> Pipeline:
    """Read the spaces and connectors of a pipeline; a folder without files has none.

    Ray 2.39 and later write the list of connectors with the pipeline's arguments. Ray 2.33 to 2.38
    write each connector's class and arguments in the connector's own folder only
    (``rllib/connectors/connector_pipeline_v2.py``).

    Raises:
        FormatError: a file is damaged.
        NotFoundError: the file of the pipeline is missing.
    """
    if not folder.paths():
        return Pipeline(folder, PipelineSpaces(None, None), [], is_ordered=True)
    content: Any = folder.read_data(ARGS_FILE).value
    try:
        args, kwargs = content["ctor_args_and_kwargs"]
        spaces = _spaces_among(args, kwargs)
        listed = kwargs.get("connectors")
        count = len(folder.folder_names() if listed is None else listed)
        if count > _MAX_CONNECTORS:
            raise ValueError(f"{count:,} connectors")
        connectors = (
            [_read_connector(folder.subfolder(name)) for name in folder.folder_names()]
            if listed is None
            else [Connector(step[0], tuple(step[1]), dict(step[2])) for step in listed]
        )
    except BAD_DATA_ERRORS as error:
        raise FormatError(
            f"{folder.location(ARGS_FILE)}: not a connector pipeline: {error!r:.200}"
        ) from None
    return Pipeline(folder, spaces, connectors, is_ordered=listed is not None)


def _spaces_among(args: Sequence[object], kwargs: Mapping[object, object]) -> PipelineSpaces:
    """Return the spaces among constructor arguments, which are named or come first."""
    padded = [*args, None, None]
    return PipelineSpaces(
        *(
            kwargs[name] if name in kwargs else padded[index]
            for index, name in enumerate(SPACE_ARGS)
        )
    )


def _read_connector(folder: Folder) -> Connector:
    """Read one connector of a pipeline from its own folder, as Ray 2.33 to 2.38 wrote it.

    Raises:
        FormatError: the file is damaged.
        NotFoundError: the file is missing.
    """
    content: Any = folder.read_data(ARGS_FILE).value
    try:
        args, kwargs = content["ctor_args_and_kwargs"]
        # Arguments without names begin with the spaces.
        named: dict[object, object] = {**dict(zip(SPACE_ARGS, args, strict=False)), **kwargs}
        return Connector(content["class"], tuple(args[2:]), named)
    except BAD_DATA_ERRORS as error:
        raise FormatError(
            f"{folder.location(ARGS_FILE)}: not a connector: {error!r:.200}"
        ) from None


def read_connector_state(folder: Folder, *, always: bool) -> Mapping[Any, Any]:
    """Read the state of a connector.

    Since Ray 2.43 a connector without state has no folder
    (``rllib/connectors/connector_pipeline_v2.py``). A filter always has a state.

    Args:
        folder: the connector's folder.
        always: whether the connector is of a kind that always has a state.

    Raises:
        FormatError: the file is damaged.
        NotFoundError: the file is missing.
    """
    if not folder.paths() and not always:
        return {}
    name = folder.state_file("state") or "state.pkl"
    state = folder.read_data(name).value
    if not isinstance(state, Mapping):
        raise FormatError(f"{folder.location(name)}: expected a state, found {kind_of(state)}")
    if always and not state:
        raise FormatError(f"{folder.location(name)}: a filter without statistics")
    return state
