"""The spec: all that is needed to rebuild a policy, as JSON. ``docs/format.md`` section 4.

A spec holds no time, host, run or library version. So equal policies have equal specs and equal
digests, on whatever machine they were trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from policystore._util.messages import brief
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical
from policystore.format.values import Tagged, decode_value, encode_value
from policystore.rllib_schema.registry_names import import_path, replace_names

__all__ = ["STACKS", "Spec"]

STACKS = ("none", "torch", "old", "new")
"""Where a policy comes from: ``none``, weights given by hand; ``torch``, a plain ``nn.Module``;
``old`` and ``new``, RLlib's API stacks."""

_WEIGHTS_KINDS = ("full", "inference-only")

# JSON key -> its default. A field with its default is never written. So if a later format adds a
# field, the digests of older policies stay the same.
_DEFAULTS: JsonObject = {
    "stack": "none",
    "algorithm": None,
    "class": None,
    "observation_space": None,
    "action_space": None,
    "env_observation_space": None,
    "env_action_space": None,
    "config": {},
    "weights": "full",
    "acting": None,
    "normalize_actions": None,
    "clip_actions": None,
    "connectors": {},
    "modules": None,
    "left_out": {},
}

# JSON key -> the constructor argument, where the two names differ.
_ARGUMENTS = {"class": "cls", "left_out": "omitted"}


class Spec:
    """The description from which a policy is rebuilt. Immutable; equal specs have equal JSON.

    Properties return new copies, so a caller may change them without changing the spec.

    Args:
        stack: one of :data:`STACKS`.
        algorithm: RLlib's name of the algorithm, such as ``"PPO"``.
        cls: import path ``module:QualName`` of the policy or module class.
        observation_space, action_space: the spaces that the policy itself was built with, as JSON
            of :mod:`policystore.spaces`.
        env_observation_space, env_action_space: the spaces of the environment itself, as JSON, too:
            observations before preprocessors and connectors, actions after unsquashing.
        config: all settings that the constructor and the model read, as plain values (see
            :mod:`policystore.format.values`).
        weights: ``"full"``, or ``"inference-only"`` if the source held only the weights that
            inference needs.
        acting: names of the weights that acting needs; None means all.
        normalize_actions: whether actions are unsquashed from [-1, 1] into the env's bounds.
        clip_actions: whether actions are clipped to the env's bounds.
        connectors: for each pipeline, its connectors in order, with their arguments.
        modules: specs of modules that share parts and are kept together, by module id.
        omitted: each part of the source that the snapshot does not hold -> the reason.

    Raises:
        InvalidInputError: a spec cannot hold the value of a field; the message names the field and
            the value.
    """

    __slots__ = ("_bytes", "_json")
    _bytes: bytes
    _json: JsonObject

    def __init__(
        self,
        *,
        stack: str = "none",
        algorithm: str | None = None,
        cls: str | None = None,
        observation_space: JsonObject | None = None,
        action_space: JsonObject | None = None,
        env_observation_space: JsonObject | None = None,
        env_action_space: JsonObject | None = None,
        config: Mapping[Any, Any] | None = None,
        weights: str = "full",
        acting: Iterable[str] | None = None,
        normalize_actions: bool | None = None,
        clip_actions: bool | None = None,
        connectors: Mapping[str, Any] | None = None,
        modules: Mapping[str, Spec] | None = None,
        omitted: Mapping[str, str] | None = None,
    ) -> None:
        mappings = {
            "config": config, "connectors": connectors, "modules": modules, "omitted": omitted
        }  # fmt: skip
        for name, value in mappings.items():
            if value is not None and not isinstance(value, Mapping):
                raise InvalidInputError(f"spec.{name} is a dict, not {type(value).__qualname__}")
        if isinstance(modules, Mapping) and not all(isinstance(m, Spec) for m in modules.values()):
            raise InvalidInputError("spec.modules maps module ids to Specs")
        self._set(
            {
                "stack": stack,
                "algorithm": algorithm,
                "class": cls,
                "observation_space": observation_space,
                "action_space": action_space,
                "env_observation_space": env_observation_space,
                "env_action_space": env_action_space,
                "config": encode_value(config or {}, "spec.config"),
                "weights": weights,
                "acting": None if acting is None else _sorted_names(acting),
                "normalize_actions": normalize_actions,
                "clip_actions": clip_actions,
                "connectors": encode_value(connectors or {}, "spec.connectors"),
                "modules": (
                    None
                    if modules is None
                    else {key: module.to_json() for key, module in modules.items()}
                ),
                "left_out": dict(omitted or {}),
            }
        )

    def _set(self, full: JsonObject) -> None:
        _check_fields(full)
        fields = {key: full[key] for key in _DEFAULTS if full[key] != _DEFAULTS[key]}
        data = canonical_json(fields)
        # The JSON is parsed again from the bytes, so that it shares no container with the caller.
        object.__setattr__(self, "_bytes", data)
        object.__setattr__(self, "_json", parse_canonical(data, "spec"))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a Spec is immutable; make another one")

    @classmethod
    def from_json(cls, value: Json, label: str = "spec") -> Spec:
        """Read the JSON that :meth:`to_json` returns.

        Args:
            value: parsed JSON, also from a hostile source.
            label: how messages name the spec.

        Raises:
            FormatError: not a spec of format 1, or a spec with fields of a newer policystore.
        """
        if not isinstance(value, dict):
            raise FormatError(f"{label}: a spec is a JSON object; found {type(value).__name__}")
        unknown = sorted(str(key) for key in set(value) - set(_DEFAULTS))
        if unknown:
            raise FormatError(
                f"{label}: the spec has fields that this policystore does not know: "
                f"{brief(', '.join(unknown))}. It may come from a newer policystore: upgrade to "
                "read it."
            )
        spec = cls.__new__(cls)
        try:
            canonical_json(value)  # bounds depth and types before other code walks the value
            spec._set({**copy.deepcopy(_DEFAULTS), **value})
        except (InvalidInputError, FormatError) as error:
            raise FormatError(f"{label}: malformed spec: {error}") from None
        if spec._json != value:
            raise FormatError(f"{label}: the spec writes out defaults, which format 1 leaves out")
        return spec

    def to_json(self) -> JsonObject:
        """Return the spec as JSON, without the fields that hold their default; a new copy."""
        return copy.deepcopy(self._json)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON of the spec."""
        return self._bytes

    def _get(self, key: str) -> Any:
        return copy.deepcopy(self._json.get(key, _DEFAULTS[key]))

    @property
    def stack(self) -> str:
        """One of :data:`STACKS`."""
        return self._get("stack")  # type: ignore[no-any-return]

    @property
    def algorithm(self) -> str | None:
        """RLlib's name of the algorithm, such as ``PPO``."""
        return self._get("algorithm")  # type: ignore[no-any-return]

    @property
    def cls(self) -> str | None:
        """Import path ``module:QualName`` of the policy or module class."""
        return self._get("class")  # type: ignore[no-any-return]

    @property
    def observation_space(self) -> JsonObject | None:
        """The space the policy was built with, as JSON of :mod:`policystore.spaces`."""
        return self._get("observation_space")  # type: ignore[no-any-return]

    @property
    def action_space(self) -> JsonObject | None:
        """The space the policy was built with, as JSON of :mod:`policystore.spaces`."""
        return self._get("action_space")  # type: ignore[no-any-return]

    @property
    def env_observation_space(self) -> JsonObject | None:
        """The environment's own space, before preprocessors and connectors."""
        return self._get("env_observation_space")  # type: ignore[no-any-return]

    @property
    def env_action_space(self) -> JsonObject | None:
        """The environment's own space, after unsquashing."""
        return self._get("env_action_space")  # type: ignore[no-any-return]

    @property
    def config(self) -> dict[Any, Any]:
        """Settings that the constructor and the model read, as plain values."""
        return decode_value(self._get("config"), "spec.config")  # type: ignore[no-any-return]

    @property
    def weights(self) -> str:
        """``full`` or ``inference-only``."""
        return self._get("weights")  # type: ignore[no-any-return]

    @property
    def acting(self) -> tuple[str, ...] | None:
        """Names of the weights that acting needs, sorted; None means all."""
        names = self._get("acting")
        return None if names is None else tuple(names)

    @property
    def normalize_actions(self) -> bool | None:
        """Whether actions are unsquashed from [-1, 1] into the env's bounds."""
        return self._get("normalize_actions")  # type: ignore[no-any-return]

    @property
    def clip_actions(self) -> bool | None:
        """Whether actions are clipped to the env's bounds."""
        return self._get("clip_actions")  # type: ignore[no-any-return]

    @property
    def connectors(self) -> dict[str, Any]:
        """For each pipeline, its connectors in order, with their arguments."""
        return decode_value(self._get("connectors"), "spec.connectors")  # type: ignore[no-any-return]

    @property
    def modules(self) -> dict[str, Spec] | None:
        """Specs of modules that are kept together, by module id."""
        specs = self._get("modules")
        return None if specs is None else {key: Spec.from_json(specs[key]) for key in specs}

    @property
    def omitted(self) -> dict[str, str]:
        """Each part of the source that the snapshot does not hold -> the reason."""
        return self._get("left_out")  # type: ignore[no-any-return]

    def replace(self, **changes: Any) -> Spec:
        """Return a copy with some constructor arguments changed.

        A part that ``omitted`` lists and that is given now leaves the list. In a config, the class
        of a custom model, action distribution or preprocessor may be given as the class itself, as
        ``"module:Name"`` or as ``"module.Name"``: a checkpoint knows such a class only by the name
        under which it was registered.

        Raises:
            InvalidInputError: an argument that the constructor does not have, or a bad value.
        """
        names = (_ARGUMENTS.get(key, key) for key in _DEFAULTS)
        arguments = {name: getattr(self, name) for name in names}
        unknown = sorted(set(changes) - set(arguments))
        if unknown:
            raise InvalidInputError(
                f"a Spec has no {', '.join(unknown)}; it has {sorted(arguments)}"
            )
        if isinstance(changes.get("config"), Mapping):
            changes["config"] = replace_names(changes["config"], _named_class)
        if "omitted" not in changes:
            changes["omitted"] = {
                place: reason
                for place, reason in arguments["omitted"].items()
                if not _is_given(place, changes)
            }
        return Spec(**{**arguments, **changes})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        shown = [
            f"{key}={self._json[key]!r}"
            for key in ("stack", "algorithm", "class", "weights")
            if key in self._json
        ]
        return f"Spec({', '.join(shown)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Spec.from_json, (self.to_json(),))


def _named_class(key: str, value: object, place: str) -> object:
    """Return a class under one of RLlib's registry keys in the form that a spec has it."""
    return value if isinstance(value, Tagged) else Tagged("import", import_path(value, place))


def _is_given(place: str, changes: Mapping[str, Any]) -> bool:
    """Return whether changes of a spec give the part that was left out at a place."""
    name, *keys = place.split(".")
    value = changes.get({"class": "cls"}.get(name, name))
    if value is None or (keys and name != "config"):
        return False
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value is not None


def _sorted_names(acting: object) -> list[str]:
    if isinstance(acting, str) or not isinstance(acting, Iterable):
        raise InvalidInputError(f"spec.acting is a list of parameter names, not {brief(acting)}")
    names = list(acting)
    if not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"spec.acting is a list of parameter names, not {brief(names)}")
    return sorted(names)


def _check_fields(full: JsonObject) -> None:
    """Check the type of every field. The properties of a Spec rely on these types."""
    if not isinstance(full["stack"], str) or full["stack"] not in STACKS:
        raise InvalidInputError(f"spec.stack is one of {STACKS}, not {brief(full['stack'])}")
    if not isinstance(full["weights"], str) or full["weights"] not in _WEIGHTS_KINDS:
        raise InvalidInputError(
            f"spec.weights is one of {_WEIGHTS_KINDS}, not {brief(full['weights'])}"
        )
    for key in ("algorithm", "class"):
        _check_type(full, key, str)
    for key in ("observation_space", "action_space", "env_observation_space", "env_action_space"):
        _check_type(full, key, dict)
    for key in ("normalize_actions", "clip_actions"):
        _check_type(full, key, bool)
    for key in ("config", "connectors", "left_out"):
        if not isinstance(full[key], dict):
            name = _ARGUMENTS.get(key, key)
            raise InvalidInputError(f"spec.{name} is a dict, not {type(full[key]).__name__}")
    for key, why in full["left_out"].items():
        if not isinstance(why, str):
            raise InvalidInputError(f"spec.omitted[{brief(key)}] is a string, not {brief(why)}")
    acting = full["acting"]
    if acting is not None and not (
        isinstance(acting, list)
        and all(isinstance(name, str) for name in acting)
        and acting == sorted(set(acting))
    ):
        raise InvalidInputError("spec.acting is a sorted list of parameter names, each once")
    for key in ("config", "connectors"):
        plain = decode_value(full[key], f"spec.{key}")
        if type(plain) is not dict or encode_value(plain, f"spec.{key}") != full[key]:
            raise InvalidInputError(f"spec.{key} is not a dict of plain values in canonical form")
    modules = full["modules"]
    if modules is not None:
        if not isinstance(modules, dict) or not modules:
            raise InvalidInputError("spec.modules maps module ids to specs, at least one")
        for name, module in modules.items():
            if isinstance(module, dict) and "modules" in module:
                raise InvalidInputError(f"spec.modules[{brief(name)}] has modules itself")
            Spec.from_json(module, f"spec.modules[{brief(name)}]")


def _check_type(full: JsonObject, key: str, kind: type) -> None:
    if full[key] is not None and type(full[key]) is not kind:
        raise InvalidInputError(
            f"spec.{key} is {kind.__name__} or absent, not {type(full[key]).__name__}"
        )
