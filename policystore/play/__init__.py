"""Play exported policies with numpy and onnxruntime, without torch, Ray and gymnasium.

``policystore.rllib.export`` writes the files. ``docs/play.md`` shows how to play one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

from policystore._util import files
from policystore.errors import InvalidInputError
from policystore.play.graph import metadata_of
from policystore.play.metadata import Metadata, StateInfo, TensorInfo
from policystore.play.observations import Nan, check_nan_argument
from policystore.play.player import OnnxPlayer
from policystore.play.session import Session

__all__ = [
    "Metadata",
    "OnnxPlayer",
    "Session",
    "StateInfo",
    "TensorInfo",
    "load_player",
    "read_metadata",
]

Source: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview

_MOST_THREADS = 1024


def load_player(
    source: Source,
    *,
    threads: int = 1,
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    nan: Nan = "error",
) -> OnnxPlayer:
    """Return a player for an exported ONNX file.

    The call checks everything in the file but the computation of the graph: the metadata, sizes and
    types. A file that refers to other files is refused before onnxruntime sees the file. A hostile
    graph can still use much time and memory.

    Args:
        source: the path of the file, or its bytes.
        threads: how many threads one call may use, at least 1. One thread is the fastest for small
            networks, and waits least on a busy machine.
        providers: onnxruntime's execution providers, the preferred one first, such as
            ``("CUDAExecutionProvider", "CPUExecutionProvider")``.
        nan: ``"error"`` refuses NaN in observations, and NaN that the policy computes; ``"allow"``
            gives NaN to the policy, and returns what the policy computes.

    Raises:
        InvalidInputError: a malformed argument; a file with ``contents="network"``; or a provider
            that onnxruntime does not have.
        NotFoundError: no such file.
        FormatError: not an ONNX file, not one that policystore exported, one of another format,
            one that is damaged, or one that onnxruntime refuses.
        MissingPackageError: onnxruntime is not installed, or is older than 1.20.
        StorageError: the file cannot be read.
    """
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise InvalidInputError(f"threads is an integer, not {threads!r}")
    if not 1 <= threads <= _MOST_THREADS:
        raise InvalidInputError(f"threads is from 1 to {_MOST_THREADS}, not {threads!r}")
    if isinstance(providers, (str, bytes)) or not isinstance(providers, Sequence) or not providers:
        raise InvalidInputError(
            f"providers is a list of onnxruntime's providers, not {providers!r}: "
            "['CPUExecutionProvider']"
        )
    for provider in providers:
        if not _is_provider(provider):
            raise InvalidInputError(
                "providers: expected the name of a provider, or a pair (name, options), such as "
                f"('CUDAExecutionProvider', {{'device_id': 1}}), found {provider!r}"
            )
    nan = check_nan_argument(nan)
    data, label = _read(source)
    metadata = metadata_of(data, label)
    if metadata.contents != "player":
        raise InvalidInputError(
            f"{label} was exported with contents='network': the file takes and returns tensors of "
            "the network, not observations and actions. Export the policy with contents='player', "
            "or run this file by onnxruntime.InferenceSession(…).run(None, inputs), with the "
            f"inputs {[tensor.name for tensor in metadata.inputs][:8]}"
        )
    return OnnxPlayer(data, metadata, label, threads=threads, providers=providers, nan=nan)


def read_metadata(source: Source) -> Metadata:
    """Return the metadata of an exported ONNX file. This call does not need onnxruntime.

    Args:
        source: the path of the file, or its bytes.

    Raises:
        InvalidInputError, NotFoundError, StorageError: as for :func:`load_player`.
        FormatError: not an ONNX file, not one that policystore exported, or one of another format.
    """
    return metadata_of(*_read(source))


def _is_provider(provider: object) -> bool:
    """Return whether a value has the form in which onnxruntime takes an execution provider."""
    if isinstance(provider, tuple) and len(provider) == 2 and isinstance(provider[1], Mapping):
        provider = provider[0]
    return isinstance(provider, str)


def _read(source: Source) -> tuple[bytes, str]:
    """Return the bytes of a file, and how messages name it."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), "the given ONNX file"
    path = files.as_path(source, "the file to play")
    with files.mapped_errors(f"reading {path}"):
        return bytes(files.read_file(path)), str(path)
