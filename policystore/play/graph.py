"""Open an exported ONNX file in onnxruntime, and run its graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError, MissingPackageError
from policystore.format.arrays import Array
from policystore.play.metadata import KEY, Metadata
from policystore.play.onnx_file import read_properties

__all__ = ["Graph", "metadata_of"]

_OLDEST = (1, 20)

# onnxruntime's names of types.
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}
_Tensors: TypeAlias = dict[str, tuple[str, list[int | str | None]]]

_SILENT = 4  # a level of onnxruntime's log: fatal errors; all errors are raised as well


def metadata_of(data: bytes, label: str) -> Metadata:
    """Return the metadata of an exported ONNX file, without onnxruntime.

    Raises:
        FormatError: not an ONNX file, an ONNX file that policystore did not write, or one that
            another policystore wrote in another format.
    """
    properties = read_properties(data, label)
    if KEY not in properties:
        raise FormatError(
            f"{label} is an ONNX file without the metadata of policystore: expected a file that "
            "policystore.rllib.export wrote. onnxruntime.InferenceSession opens any ONNX file"
        )
    return Metadata.from_json(properties[KEY], label=f"{label}: its metadata")


class Graph:
    """An exported graph in onnxruntime. Many threads may call :meth:`run` at the same time.

    Attributes:
        metadata: the metadata of the file.
    """

    def __init__(
        self, data: bytes, metadata: Metadata, label: str, *, threads: int, providers: Sequence[Any]
    ) -> None:
        """Open the graph, and check that its inputs and outputs are those of its metadata.

        Args:
            data: the file.
            metadata: its metadata.
            label: how messages name the file.
            threads: how many threads one call may take.
            providers: onnxruntime's execution providers, the preferred one first.

        Raises:
            FormatError: onnxruntime refuses the file; or the graph and its metadata differ.
            InvalidInputError: onnxruntime does not have one of the providers.
            MissingPackageError: onnxruntime is not installed, or too old.
        """
        runtime = _runtime()
        available = runtime.get_available_providers()
        for provider in providers:
            name = provider[0] if isinstance(provider, tuple) else provider
            if name not in available:
                raise InvalidInputError(
                    f"providers: the installed onnxruntime does not have {name!r}; it has "
                    f"{', '.join(available)}"
                )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SILENT
        try:
            self._session = runtime.InferenceSession(
                data, options, providers=list(providers), enable_fallback=0
            )
            # Reading a name or an axis fails where the name is not UTF-8.
            found = [
                {tensor.name: (tensor.type, tensor.shape) for tensor in tensors}
                for tensors in (self._session.get_inputs(), self._session.get_outputs())
            ]
        # onnxruntime's errors have no common class but Exception.
        except Exception as error:
            raise FormatError(
                f"onnxruntime {runtime.__version__} cannot open {label}, which policystore "
                f"{metadata.policystore} exported: {_first_line(error)}. A newer onnxruntime may "
                "open the file"
            ) from error
        self.metadata = metadata
        self._feeds = [one.name for one in metadata.inputs] + [one.input for one in metadata.state]
        self._fetches = [one.name for one in metadata.outputs] + [
            one.output for one in metadata.state
        ]
        self._check(label, *found)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Return the outputs, and the next state after them, for inputs and the state after them.

        Raises:
            InvalidInputError: onnxruntime could not run the graph on these inputs.
        """
        feeds = dict(zip(self._feeds, arrays, strict=True))
        try:
            outputs: list[Array] = self._session.run(self._fetches, feeds)
        except Exception as error:
            raise InvalidInputError(
                f"onnxruntime could not run the graph: {_first_line(error)}"
            ) from error
        return outputs

    def _check(self, label: str, inputs: _Tensors, outputs: _Tensors) -> None:
        metadata = self.metadata
        expected_inputs = [(one.name, one.dtype, one.shape) for one in metadata.inputs]
        expected_inputs += [(one.input, one.dtype, one.shape) for one in metadata.state]
        expected_outputs = [(one.name, one.dtype, one.shape) for one in metadata.outputs]
        expected_outputs += [(one.output, one.dtype, one.shape) for one in metadata.state]
        for kind, expected, found in (
            ("input", expected_inputs, inputs),
            ("output", expected_outputs, outputs),
        ):
            names = {name for name, _, _ in expected}
            if found.keys() != names:
                raise FormatError(
                    f"{label} contradicts its metadata: expected the {kind}s "
                    f"{brief(sorted(names))}, found {brief(sorted(found))}. Export the policy again"
                )
            for name, dtype, shape in expected:
                found_type, found_shape = found[name]
                if _DTYPES.get(found_type) != dtype or not _fits(found_shape, shape, kind):
                    raise FormatError(
                        f"{label} contradicts its metadata: expected the {kind} {brief(name)} of "
                        f"dtype {dtype} and shape (rows, {str(shape)[1:]}, found {found_type} of "
                        f"shape {brief(found_shape)}. Export the policy again"
                    )


def _fits(found: Sequence[int | str | None], expected: tuple[int, ...], kind: str) -> bool:
    """Return whether a shape in a graph is rows of the expected shape.

    The rows have a name or None in the place of a number. The graph may leave the length of a later
    axis of an output open, too: the output of a run is then checked.
    """
    if len(found) != len(expected) + 1 or isinstance(found[0], int):
        return False
    return all(
        size == length or (kind == "output" and not isinstance(size, int))
        for size, length in zip(found[1:], expected, strict=True)
    )


def _runtime() -> Any:
    """Import onnxruntime.

    Raises:
        MissingPackageError: onnxruntime is not installed, or too old.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError.of(
            "policystore.play", "onnxruntime", extra="play", error=error
        ) from error
    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    if found is None or (int(found[1]), int(found[2])) < _OLDEST:
        raise MissingPackageError(
            f"policystore.play needs onnxruntime {_OLDEST[0]}.{_OLDEST[1]} or newer, and "
            f"{onnxruntime.__version__} is installed: pip install --upgrade 'policystore[play]'"
        )
    return onnxruntime


def _first_line(error: Exception) -> str:
    return brief(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
