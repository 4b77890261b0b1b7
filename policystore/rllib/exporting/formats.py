"""The two kinds of files: the bytes of an ONNX or ``.pt2`` file, and a way to run each."""

from __future__ import annotations

import abc
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policystore.errors import InvalidInputError, MissingPackageError
from policystore.play.metadata import KEY, PT2_FILE
from policystore.rllib.exporting.graph import Graph
from policystore.rllib.exporting.refusal import not_exportable
from policystore.rllib.exporting.tracing import guard_part, quiet

__all__ = ["OPSET", "FileFormat", "format_of"]

OPSET = 18
"""The version of ONNX's operators in a file. onnxruntime 1.14 and later run it."""

_IR_VERSION = 10  # onnxruntime 1.20 reads no newer one
_MAX_BYTES = (1 << 31) - 1  # protobuf's limit


class FileFormat(abc.ABC):
    """One kind of file."""

    @abc.abstractmethod
    def encode(self, graph: Graph, program: torch.export.ExportedProgram, metadata: str) -> bytes:
        """Return the bytes of the file."""

    @abc.abstractmethod
    def runner(self, data: bytes, graph: Graph) -> Runner:
        """Return something that runs the bytes of a file."""


class Runner(abc.ABC):
    """Runs the bytes of a file, to check them."""

    @abc.abstractmethod
    def __call__(self, tensors: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """Return all outputs for all inputs, in order."""


def format_of(path: Path) -> FileFormat:
    """Return the kind of file that a path names by its suffix.

    Raises:
        InvalidInputError: another suffix.
        MissingPackageError: a package that the kind needs is not installed.
    """
    if path.suffix == ".onnx":
        absent = [
            name
            for name in ("onnx", "onnxscript", "onnxruntime")
            if importlib.util.find_spec(name) is None
        ]
        if absent:
            raise MissingPackageError.of(
                f"{path}: an ONNX file, unlike a .pt2 file,", *absent, extra="export"
            )
        return OnnxFormat()
    if path.suffix == ".pt2":
        return Pt2Format()
    raise InvalidInputError(
        f"{path}: expected a file that ends with .onnx, or with .pt2 for a program of torch.export"
    )


class OnnxFormat(FileFormat):
    """An ONNX file with all weights in it, which onnxruntime runs."""

    def encode(self, graph: Graph, program: torch.export.ExportedProgram, metadata: str) -> bytes:
        """Return the bytes; see :class:`FileFormat`."""
        size = sum(tensor.nbytes for tensor in program.state_dict.values())
        if size > _MAX_BYTES:
            raise not_exportable(
                f"a network of {size:,} bytes", "is larger than an ONNX file can be (2 GiB)"
            )
        with guard_part("torch.onnx cannot convert"), quiet():
            made: Any = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=graph.input_names,
                output_names=graph.output_names,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
            model = made.model_proto
        _tidy(model, metadata)
        data: bytes = model.SerializeToString(deterministic=True)
        return data

    def runner(self, data: bytes, graph: Graph) -> Runner:
        """Return a session of onnxruntime; see :class:`FileFormat`."""
        import onnxruntime  # late: an extra

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        with guard_part("onnxruntime cannot run"):
            session = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        return _OnnxRunner(session, graph)


def _tidy(model: Any, metadata: str) -> None:
    """Put the metadata into a model, and remove what only tells how torch made it."""
    model.ir_version = min(model.ir_version, _IR_VERSION)
    model.doc_string = ""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, metadata
    graph = model.graph
    graph.name, graph.doc_string = "policy", ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for value in (*graph.input, *graph.output):
        # torch names the axis by a symbol of its own.
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


class _OnnxRunner(Runner):
    def __init__(self, session: Any, graph: Graph) -> None:
        self._session, self._graph = session, graph

    def __call__(self, tensors: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        feeds: Mapping[str, Any] = dict(zip(self._graph.input_names, tensors, strict=True))
        return list(self._session.run(self._graph.output_names, feeds))


class Pt2Format(FileFormat):
    """A program of ``torch.export``, which torch loads."""

    def encode(self, graph: Graph, program: torch.export.ExportedProgram, metadata: str) -> bytes:
        """Return the bytes; see :class:`FileFormat`."""
        buffer = io.BytesIO()
        with guard_part("torch.export cannot write"), quiet():
            torch.export.save(program, buffer, extra_files={PT2_FILE: metadata})
        return buffer.getvalue()

    def runner(self, data: bytes, graph: Graph) -> Runner:
        """Return the loaded program; see :class:`FileFormat`."""
        with guard_part("torch.export cannot load"), quiet():
            return _Pt2Runner(torch.export.load(io.BytesIO(data)).module())


class _Pt2Runner(Runner):
    def __init__(self, module: Any) -> None:
        self._module = module

    def __call__(self, tensors: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        with torch.no_grad():
            outputs = self._module(*(torch.from_numpy(np.array(each)) for each in tensors))
        return [each.numpy() for each in outputs]
