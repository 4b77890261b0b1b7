"""The spec: all that is needed to rebuild a policy, as JSON. ``docs/format.md`` section 4.

A spec holds no time, host, run or library version. So equal policies have equal specs and equal
digests, on whatever machine they were trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from policystore._util.messages import brief, printable
from policystore.display.pretty import print_text
from policystore.errors import FormatError, InvalidInputError
from policystore.format.canonical_json import Json, JsonObject, canonical_json, parse_canonical
from policystore.format.spec_fields import (
    ARGUMENTS,
    DEFAULTS,
    SPACES,
    STACKS,
    check_fields,
    sorted_names,
    space_field,
)
from policystore.format.values import Tagged, decode_value, encode_value
from policystore.rllib_schema.registry_names import import_path, replace_names

if TYPE_CHECKING:
    from gymnasium.spaces import Space

__all__ = ["STACKS", "Spec"]


class Spec:
    """The description from which a policy is rebuilt. Immutable; equal specs have equal JSON.

    Properties return new copies, so a caller may change them without changing the spec.

    Args:
        stack: one of :data:`STACKS`.
        algorithm: RLlib's name of the algorithm, such as ``"PPO"``.
        cls: import path ``module:QualName`` of the policy or module class.
        observation_space, action_space: the spaces that the policy itself was built with: spaces of
            gymnasium or RLlib, or their JSON of :mod:`policystore.spaces`. The spec holds the JSON.
        env_observation_space, env_action_space: the spaces of the environment itself, in the same
            forms: observations before preprocessors and connectors, actions after unsquashing.
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
        observation_space: JsonObject | Space[Any] | None = None,
        action_space: JsonObject | Space[Any] | None = None,
        env_observation_space: JsonObject | Space[Any] | None = None,
        env_action_space: JsonObject | Space[Any] | None = None,
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
        spaces = dict(
            zip(
                SPACES,
                (observation_space, action_space, env_observation_space, env_action_space),
                strict=True,
            )
        )
        self._set(
            {
                "stack": stack,
                "algorithm": algorithm,
                "class": cls,
                **{name: space_field(name, value) for name, value in spaces.items()},
                "config": encode_value(config or {}, "spec.config"),
                "weights": weights,
                "acting": None if acting is None else sorted_names(acting),
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
        check_fields(full, Spec.from_json)
        fields = {key: full[key] for key in DEFAULTS if full[key] != DEFAULTS[key]}
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
        unknown = sorted(str(key) for key in set(value) - set(DEFAULTS))
        if unknown:
            raise FormatError(
                f"{label}: the spec has fields that this policystore does not know: "
                f"{brief(', '.join(unknown))}. It may come from a newer policystore: upgrade to "
                "read it."
            )
        spec = cls.__new__(cls)
        try:
            canonical_json(value)  # bounds depth and types before other code walks the value
            spec._set({**copy.deepcopy(DEFAULTS), **value})
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
        return copy.deepcopy(self._json.get(key, DEFAULTS[key]))

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

        Spaces may be given as gymnasium spaces or as JSON, as to the constructor. A part that
        ``omitted`` lists and that is given now leaves the list. In a config, the class of a custom
        model, action distribution or preprocessor may be given as the class itself, as
        ``"module:Name"`` or as ``"module.Name"``: a checkpoint knows such a class only by the name
        under which it was registered.

        Raises:
            InvalidInputError: an argument that the constructor does not have, or a bad value.
        """
        names = (ARGUMENTS.get(key, key) for key in DEFAULTS)
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
                if not _is_given(place, changes, arguments)
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

    def __str__(self) -> str:
        from policystore.display.policy import spec_in_words  # late: few programs show specs

        words = spec_in_words(self._json) or {"spec": "empty"}
        width = max(map(len, words))
        return "\n".join(f"{name:<{width}}  {printable(value)}" for name, value in words.items())

    _repr_pretty_ = print_text

    def _repr_html_(self) -> str:
        from policystore.display.html import block, line, text
        from policystore.display.policy import spec_html

        return block([line(text("Spec"), heading=True), spec_html(self._json)]).source

    def __reduce__(self) -> tuple[Any, ...]:
        return (Spec.from_json, (self.to_json(),))


def _named_class(key: str, value: object, place: str) -> object:
    """Return a class under one of RLlib's registry keys in the form that a spec has it."""
    return value if isinstance(value, Tagged) else Tagged("import", import_path(value, place))


def _is_given(place: str, changes: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Return whether changes of a spec give the part that was left out at a place.

    Args:
        place: a key of ``omitted``.
        changes: the changed arguments.
        before: the arguments of the spec before the change.
    """
    if place == "env_spaces":
        after = {**before, **changes}
        return all(after[name] is not None for name in SPACES if name.startswith("env_"))
    name, *keys = place.split(".")
    value = changes.get({"class": "cls"}.get(name, name))
    if value is None or (keys and name != "config"):
        return False
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value is not None
