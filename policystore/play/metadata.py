"""The metadata of an exported file: which policy is in the file, and what its tensors mean.

An ONNX file holds the metadata as canonical JSON under the key ``policystore`` of its
``metadata_props``. A ``.pt2`` file holds the same JSON as the extra file ``policystore.json``.
``docs/play.md`` lists the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.display.pretty import print_text
from policystore.display.words import named
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical
from policystore.play.spaces import Key, leaves_of, read_space, tensor_name
from policystore.play.words import metadata_in_words
from policystore.spaces import fields
from policystore.spaces.place import Limits, Place

__all__ = [
    "FORMAT",
    "KEY",
    "MAX_BYTES",
    "PT2_FILE",
    "Contents",
    "Metadata",
    "StateInfo",
    "TensorInfo",
    "action_tensors",
    "observation_tensors",
]

FORMAT = 1
KEY = "policystore"
PT2_FILE = "policystore.json"

MAX_BYTES = 1 << 24
"""How long the JSON may be. The bounds of a large Box take up most of it."""

_MAX_TENSORS = 4096
_MAX_NAME = 1024

Contents = Literal["player", "network"]
Stack = Literal["old", "new"]


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of an exported graph.

    Attributes:
        name: the name in the graph, such as ``obs/camera`` or ``action``.
        path: the keys of Dict spaces and indices of Tuple spaces that lead to this part of the
            observation or action; empty if the space is neither a Dict nor a Tuple.
        dtype: numpy's name, such as ``float32``.
        shape: the shape of one row. In the graph, the batch is one more axis, the first one.
        meaning: what the values mean, in words, such as ``Discrete(2)``.
    """

    name: str
    path: tuple[Key, ...]
    dtype: str
    shape: tuple[int, ...]
    meaning: str = ""

    def _json(self) -> JsonObject:
        return {
            "name": self.name,
            "path": list(self.path),
            "dtype": self.dtype,
            "shape": list(self.shape),
            "meaning": self.meaning,
        }


@dataclass(frozen=True)
class StateInfo:
    """A part of the recurrent state: an input, and the output that the next step gets as its input.

    Attributes:
        input, output: the names in the graph, ``state_in/NAME`` and ``state_out/NAME``.
        dtype, shape: as for a :class:`TensorInfo`.
        initial: the value at an episode's first step; always ``"zeros"`` in format 1.
    """

    input: str
    output: str
    dtype: str
    shape: tuple[int, ...]
    initial: Literal["zeros"] = "zeros"

    def _json(self) -> JsonObject:
        return {
            "input": self.input,
            "output": self.output,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "initial": self.initial,
        }


@dataclass(frozen=True, repr=False)
class Metadata:
    """The metadata of one exported file.

    Attributes:
        policystore: the version of policystore that wrote the file.
        contents: ``"player"``, from the environment's observation to its action; or ``"network"``,
            what the module alone computes.
        digest: the digest of the exported snapshot.
        algorithm: RLlib's name of the algorithm; None if the snapshot does not record the name.
        stack: RLlib's API stack, ``"old"`` or ``"new"``.
        observation_space, action_space: the JSON of the environment's spaces.
        inputs: the parts of the observation. For a player, :func:`observation_tensors` gives them.
        outputs: the parts of the action in the form of :func:`action_tensors`, or what the network
            computes.
        state: the recurrent state; empty for a policy without one.

    Raises:
        InvalidInputError: the fields contradict each other or have no canonical form.
    """

    policystore: str
    contents: Contents
    digest: Digest
    algorithm: str | None
    stack: Stack
    observation_space: JsonObject
    action_space: JsonObject
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    state: tuple[StateInfo, ...] = ()

    def __post_init__(self) -> None:
        try:
            _read(self._json(), "the metadata of an export")
        except FormatError as error:
            raise InvalidInputError(str(error)) from None

    def __repr__(self) -> str:
        return f"<{named('Metadata', self.digest.short, self.algorithm)}>"

    def __str__(self) -> str:
        return metadata_in_words(self._json())

    _repr_pretty_ = print_text

    def _json(self) -> JsonObject:
        return {
            "format": FORMAT,
            "policystore": self.policystore,
            "contents": self.contents,
            "digest": str(self.digest),
            "algorithm": self.algorithm,
            "stack": self.stack,
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "inputs": [tensor._json() for tensor in self.inputs],
            "outputs": [tensor._json() for tensor in self.outputs],
            "state": [part._json() for part in self.state],
        }

    def to_json(self) -> str:
        """Return the metadata as canonical JSON, which :meth:`from_json` reads."""
        return canonical_json(self._json()).decode("utf-8")

    @classmethod
    def from_json(cls, text: str | bytes, *, label: str = "the metadata") -> Metadata:
        """Read what :meth:`to_json` wrote. The text may come from a hostile file.

        Args:
            text: the JSON, as text or as UTF-8.
            label: how messages name the text.

        Raises:
            FormatError: a text that this release does not write, or of another format; the message
                names the first difference.
        """
        if len(text) > MAX_BYTES:
            raise FormatError(f"{label} has {len(text):,} bytes; at most {MAX_BYTES:,} are read")
        try:
            data = text.encode("utf-8") if isinstance(text, str) else bytes(text)
        except UnicodeEncodeError:
            raise FormatError(f"{label} holds a lone surrogate") from None
        read = _read(parse_canonical(data, label), label)
        return cls(**read)


def observation_tensors(observation_space: JsonObject) -> tuple[TensorInfo, ...]:
    """Return the inputs of a player's graph: one for each leaf of the observation space.

    Raises:
        FormatError: as for :func:`policystore.play.spaces.read_space`.
    """
    return _tensors("obs", observation_space, "the observation space")


def action_tensors(action_space: JsonObject) -> tuple[TensorInfo, ...]:
    """Return the outputs of a player's graph: one for each leaf of the action space.

    The player of a snapshot may give actions of another dtype than their space has. An exporter
    then replaces ``dtype``, and nothing else.

    Raises:
        FormatError: as for :func:`policystore.play.spaces.read_space`.
    """
    return _tensors("action", action_space, "the action space")


def _tensors(root: str, written: Json, label: str) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(tensor_name(root, path), path, leaf.dtype.name, leaf.shape, leaf.words)
        for path, leaf in leaves_of(read_space(written, label=label))
    )


def _read(value: Json, label: str) -> dict[str, Any]:
    """Check a parsed text; return the arguments of :class:`Metadata`."""
    place = Place(label, Limits(FormatError))
    written: JsonObject = fields.typed(value, dict, place)
    _check_format(written, place)
    _check_keys(written, _KEYS, place)
    algorithm = written["algorithm"]
    if algorithm is not None:
        _text(algorithm, place.at("algorithm"))
    contents = _one_of(written["contents"], get_args(Contents), place.at("contents"))
    read = {
        "policystore": _text(written["policystore"], place.at("policystore")),
        "contents": contents,
        "digest": _digest(written["digest"], place.at("digest")),
        "algorithm": algorithm,
        "stack": _one_of(written["stack"], get_args(Stack), place.at("stack")),
        "observation_space": written["observation_space"],
        "action_space": written["action_space"],
        "inputs": tuple(_tensor(*item) for item in _items(written, "inputs", place)),
        "outputs": tuple(_tensor(*item) for item in _items(written, "outputs", place)),
        "state": tuple(_state(*item) for item in _items(written, "state", place)),
    }
    _check_names(read, place)
    if contents == "player":
        _check_player(read, place)
    return read


def _check_format(written: JsonObject, place: Place) -> None:
    number = written.get("format")
    if type(number) is not int:
        place.fail(f"expected 'format': {FORMAT}, found {brief(number)}")
    if number != FORMAT:
        place.fail(
            f"policystore {brief(written.get('policystore'))} wrote this file in format {number}, "
            f"and this release reads format {FORMAT}: install that policystore or a newer one, or "
            "export the policy again with this release"
        )


def _check_keys(written: JsonObject, keys: frozenset[str], place: Place) -> None:
    if written.keys() != keys:
        missing = sorted(keys - written.keys())
        unknown = sorted(written.keys() - keys)
        place.fail(
            f"the keys {brief(missing)} are missing, and the keys {brief(unknown)} are unknown"
        )


def _check_names(read: dict[str, Any], place: Place) -> None:
    inputs = [tensor.name for tensor in read["inputs"]] + [part.input for part in read["state"]]
    outputs = [tensor.name for tensor in read["outputs"]] + [part.output for part in read["state"]]
    for kind, names in (("inputs", inputs), ("outputs", outputs)):
        if len(set(names)) != len(names):
            place.fail(f"two {kind} have the same name")
    if not read["inputs"] or not read["outputs"]:
        place.fail("a graph has at least one input and one output")


def _check_player(read: dict[str, Any], place: Place) -> None:
    """Check that the tensors of a player are those of its spaces."""
    for name, found, root, space in (
        ("inputs", read["inputs"], "obs", read["observation_space"]),
        ("outputs", read["outputs"], "action", read["action_space"]),
    ):
        expected = _tensors(root, space, place.at(f"{root} space").where)
        facts = [
            [(one.name, one.path, one.shape, _kind(one, root)) for one in side]
            for side in (expected, found)
        ]
        if facts[0] != facts[1]:
            place.at(name).fail(
                f"expected the tensors {brief([one.name for one in expected])} with the shapes and "
                f"dtypes of the space, found {brief([one.name for one in found])}"
            )


def _kind(tensor: TensorInfo, root: str) -> str:
    """Return what has to be the same in the dtype of a tensor and that of its space.

    The dtype of an action is the one that the snapshot's player gives: it may be int64 for a
    Discrete of int32, but never a float.
    """
    if root == "obs":
        return tensor.dtype
    return "float" if tensor.dtype.startswith("float") else "integer"


def _items(written: JsonObject, name: str, outer: Place) -> list[tuple[JsonObject, Place]]:
    listed = fields.typed(written[name], list, outer.at(name))
    if len(listed) > _MAX_TENSORS:
        outer.at(name).fail(f"{len(listed)} tensors; at most {_MAX_TENSORS} are read")
    items = []
    for index, item in enumerate(listed):
        place = outer.at(f"{name}[{index}]")
        items.append((fields.typed(item, dict, place), place))
    return items


def _tensor(written: JsonObject, place: Place) -> TensorInfo:
    _check_keys(written, _TENSOR_KEYS, place)
    path = fields.typed(written["path"], list, place.at("path"))
    if len(path) > _MAX_NAME or any(type(key) not in (str, int) for key in path):
        place.at("path").fail(f"expected a list of strings and integers, found {brief(path)}")
    return TensorInfo(
        name=_text(written["name"], place.at("name")),
        path=tuple(path),
        dtype=_dtype(written["dtype"], place.at("dtype")),
        shape=fields.shape_from_json(written["shape"], place.at("shape")),
        meaning=fields.typed(written["meaning"], str, place.at("meaning")),
    )


def _state(written: JsonObject, place: Place) -> StateInfo:
    _check_keys(written, _STATE_KEYS, place)
    names = [_text(written[side], place.at(side)) for side in ("input", "output")]
    rest = names[0].removeprefix("state_in/")
    if rest == names[0] or names[1] != f"state_out/{rest}":
        place.fail(f"expected names 'state_in/…' and 'state_out/…', found {brief(names)}")
    if written["initial"] != "zeros":
        place.at("initial").fail(f"expected 'zeros', found {brief(written['initial'])}")
    return StateInfo(
        input=names[0],
        output=names[1],
        dtype=_dtype(written["dtype"], place.at("dtype")),
        shape=fields.shape_from_json(written["shape"], place.at("shape")),
    )


def _dtype(value: Json, place: Place) -> str:
    dtype = fields.dtype_from_json(value, place)
    if dtype.name != value:
        place.fail(f"expected a dtype in the byte order of the machine, found {brief(value)}")
    return str(dtype.name)


def _text(value: Json, place: Place) -> str:
    text: str = fields.typed(value, str, place)
    if not 0 < len(text) <= _MAX_NAME:
        place.fail(f"expected a text of 1 to {_MAX_NAME} characters, found {len(text)}")
    return text


def _one_of(value: Json, known: Sequence[str], place: Place) -> str:
    if type(value) is not str or value not in known:
        place.fail(f"expected one of {', '.join(known)}; found {brief(value)}")
    return str(value)


def _digest(value: Json, place: Place) -> Digest:
    try:
        return Digest.parse(value)
    except InvalidInputError as error:
        place.fail(str(error))


_KEYS = frozenset(
    {
        "format",
        "policystore",
        "contents",
        "digest",
        "algorithm",
        "stack",
        "observation_space",
        "action_space",
        "inputs",
        "outputs",
        "state",
    }
)
_TENSOR_KEYS = frozenset({"name", "path", "dtype", "shape", "meaning"})
_STATE_KEYS = frozenset({"input", "output", "dtype", "shape", "initial"})
