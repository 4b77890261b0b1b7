"""The metadata of a policy object, and the format number. ``docs/format.md`` sections 4 and 5."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from policystore._util.late import np
from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, parse_canonical
from policystore.format.safetensors import KEY, HeaderLayout, header_layout, parse_shape
from policystore.format.spec import Spec

__all__ = [
    "FORMAT",
    "TENSOR",
    "External",
    "build_metadata",
    "check_format",
    "parse_external",
    "parse_metadata",
    "tensor_layout",
]

FORMAT = 1
"""The version of the format that this package writes, and the newest that it reads."""

TENSOR = "tensor"
"""The name of the tensor in a tensor object."""


@dataclass(frozen=True)
class External:
    """A tensor that is an object of its own."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    digest: Digest

    @property
    def size(self) -> int:
        """The size of the tensor object in bytes with its header, from dtype and shape alone."""
        return tensor_layout(self.dtype, self.shape).size


@lru_cache(maxsize=1024)
def tensor_layout(dtype: np.dtype[Any], shape: tuple[int, ...]) -> HeaderLayout:
    """Return the only header that a tensor object of this dtype and shape has."""
    return header_layout({TENSOR: (dtype, shape)}, None)


def build_metadata(spec: Spec, state: Json, external: JsonObject) -> JsonObject:
    """Return the metadata of a policy object. Empty ``state`` and ``external`` get no field."""
    meta: JsonObject = {"format": FORMAT, "kind": "policy", "spec": spec.to_json()}
    if state != {}:
        meta["state"] = state
    if external:
        meta["external"] = external
    return meta


def parse_metadata(entry: Json, label: str) -> JsonObject:
    """Parse and check the metadata of a policy object.

    Args:
        entry: the value under ``__metadata__`` in the header; None if the header has no such key.
        label: how messages name the file.

    Raises:
        FormatError: not metadata of a policy of format 1.
    """
    if not isinstance(entry, dict) or set(entry) != {KEY} or not isinstance(entry[KEY], str):
        raise FormatError(
            f"{label}: a safetensors file, but not one of policystore (its metadata should hold "
            f"the single key {KEY!r})"
        )
    try:
        text = entry[KEY].encode("utf-8")
    except UnicodeEncodeError:
        raise FormatError(f"{label}: metadata with a lone surrogate") from None
    meta = parse_canonical(text, f"{label}: metadata")
    if not isinstance(meta, dict):
        raise FormatError(f"{label}: the metadata is not a JSON object")
    check_format(meta, label)
    if meta.get("kind") != "policy":
        raise FormatError(
            f"{label}: expected an object of kind 'policy', not {brief(meta.get('kind'))}"
        )
    unknown = set(meta) - {"format", "kind", "spec", "state", "external"}
    if unknown or "spec" not in meta:
        raise FormatError(f"{label}: metadata with the fields {brief(', '.join(sorted(meta)))}")
    return meta


def parse_external(entries: Json, label: str) -> dict[str, External]:
    """Parse the entries of the tensors that are objects of their own.

    Raises:
        FormatError: a malformed entry.
    """
    if not isinstance(entries, dict):
        raise FormatError(f"{label}: 'external' is not a JSON object")
    external = {}
    for name, item in entries.items():
        where = f"{label}: external tensor {brief(name)}"
        if not isinstance(item, dict) or set(item) != {"dtype", "shape", "digest"}:
            raise FormatError(f"{where}: malformed")
        dtype, shape = parse_shape(item, where)
        try:
            external[name] = External(dtype, shape, Digest.parse(item["digest"]))
        except InvalidInputError as error:
            raise FormatError(f"{where}: {error}") from None
    return external


def check_format(document: JsonObject, label: str) -> None:
    """Check that a document is of format 1.

    Raises:
        FormatError: the document is of another format. For a newer format, the message says that
            an upgrade of policystore is needed.
    """
    number = document.get("format")
    if type(number) is int and number > FORMAT:
        raise FormatError(
            f"{label} is of format {number}; this policystore reads format {FORMAT}. "
            "Upgrade policystore to read it."
        )
    if type(number) is not int or number != FORMAT:
        raise FormatError(f"{label}: expected format {FORMAT}, found {brief(number)}")
