"""Show what a policy is: its spec in words, and its tensors as a table.

The functions take the JSON of a spec and plain arrays, so that Spec and Snapshot can use them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policystore._util.messages import brief, shorten, text_table
from policystore.display.html import Cell, Html, details, fields, line, table
from policystore.display.words import show_size
from policystore.format.arrays import Array
from policystore.format.canonical_json import Json, JsonObject
from policystore.spaces.words import space_in_words

__all__ = [
    "parameters_in_words",
    "spec_html",
    "spec_in_words",
    "state_in_words",
    "tensors_html",
    "tensors_in_words",
]

_STACKS = {
    "none": "none: weights given by hand",
    "torch": "a plain torch module",
    "old": "RLlib's old API stack (Policy)",
    "new": "RLlib's new API stack (RLModule)",
}
_SPACES = {
    "observation_space": "observations",
    "action_space": "actions",
    "env_observation_space": "observations of the environment",
    "env_action_space": "actions of the environment",
}
_MOST_TENSORS = 40  # rows of a table; of more tensors, the first ones and their number
_MOST_ITEMS = 12  # modules, connectors, settings and omitted parts that are named
_NETWORK = (
    "fcnet_hiddens",
    "fcnet_activation",
    "conv_filters",
    "use_lstm",
    "lstm_cell_size",
    "use_attention",
    "custom_model",
)  # settings that describe the network
_DEEPEST = 8  # levels of a state that are looked into


def _names(value: Json) -> list[str]:
    """Return short texts for the keys or the items of a JSON value from a spec."""
    items = list(value) if isinstance(value, (dict, list)) else []
    shown = [shorten(item, 60) if isinstance(item, str) else brief(item) for item in items]
    more = [f"and {len(shown) - _MOST_ITEMS} more"] if len(shown) > _MOST_ITEMS else []
    return shown[:_MOST_ITEMS] + more


def _connectors(value: Json) -> str:
    """Return ``pipeline: connector, connector`` for each pipeline of a spec that has connectors."""
    if not isinstance(value, dict):
        return ""
    shown = []
    for pipeline, connectors in value.items():
        if not isinstance(connectors, list) or not connectors:
            continue
        names = [_connector(each) for each in connectors[:_MOST_ITEMS]]
        if len(connectors) > _MOST_ITEMS:
            names.append(f"and {len(connectors) - _MOST_ITEMS} more")
        shown.append(f"{shorten(pipeline, 40)}: {', '.join(names)}")
    return "; ".join(shown[:_MOST_ITEMS])


def _connector(value: Json) -> str:
    """Return the name of a connector, or of its class without the module."""
    if isinstance(value, dict):
        value = value.get("name") or value.get("class") or value.get("~import")
        if isinstance(value, dict):
            return _connector(value)
    if not isinstance(value, str):
        return brief(value)
    return shorten(value.rpartition(":")[2].rpartition(".")[2], 60)


def spec_in_words(spec: JsonObject) -> dict[str, str]:
    """Return the fields of a spec in words, in the order in which people ask for them.

    Args:
        spec: the JSON of a spec, without the fields that hold their default.

    Returns:
        A name and a text for each field that has a value. The length of the texts is bounded, and
        they may have characters that cannot be printed.
    """
    spaces = {label: space_in_words(spec[key]) for key, label in _SPACES.items() if spec.get(key)}
    for side in ("observations", "actions"):  # the policy's own, where they differ
        if spaces.get(f"{side} of the environment") == spaces.get(side):
            spaces.pop(f"{side} of the environment", None)
    acting = spec.get("acting")
    omitted = spec.get("left_out")
    words = {
        "algorithm": str(spec.get("algorithm") or ""),
        "API stack": _STACKS.get(str(spec.get("stack", "none")), ""),
        "class": str(spec.get("class") or ""),
        **spaces,
        "weights": "only those that inference needs" if "weights" in spec else "",
        "acting needs": f"{len(acting)} of the tensors" if isinstance(acting, list) else "",
        "actions are unsquashed": _yes_or_no(spec.get("normalize_actions")),
        "actions are clipped": _yes_or_no(spec.get("clip_actions")),
        "connectors": _connectors(spec.get("connectors")),
        "modules": ", ".join(_names(spec.get("modules"))),
        "settings": _settings(spec.get("config")),
        "left out": ", ".join(_names(omitted)),
    }
    return {name: shorten(value, 600) for name, value in words.items() if value}


def _yes_or_no(value: Json) -> str:
    return "" if value is None else ("yes" if value else "no")


def _settings(config: Json) -> str:
    """Return the plain settings of a config and of the dicts in it, such as ``lr=0.001``."""
    if not isinstance(config, dict):
        return ""
    plain = {
        f"{key}.{inner}": value
        for key, values in config.items()
        for inner, value in (values if isinstance(values, dict) else {"": values}).items()
        if value is not None and not isinstance(value, dict)
    }
    # The network first: the settings by which people tell policies apart.
    ordered = sorted(plain.items(), key=lambda item: item[0].rpartition(".")[2] not in _NETWORK)
    shown = [f"{shorten(key.rstrip('.'), 60)}={brief(value)}" for key, value in ordered]
    more = [f"and {len(shown) - _MOST_ITEMS} more"] if len(shown) > _MOST_ITEMS else []
    return ", ".join(shown[:_MOST_ITEMS] + more)


def state_in_words(state: Json) -> str:
    """Return what the state of a policy holds: the path of each filter, and its count.

    Args:
        state: the JSON of the state, in which arrays are references.

    Returns:
        A text such as ``connectors.agent.MeanStdFilter (4,924 observations)``; empty for an empty
        state.
    """
    found: dict[str, int | None] = {}
    _walk_state(state, "", found, 0)
    shown = [
        shorten(path, 100) + ("" if count is None else f" ({count:,} observations)")
        for path, count in found.items()
    ]
    more = [f"and {len(shown) - _MOST_ITEMS} more"] if len(shown) > _MOST_ITEMS else []
    return ", ".join(shown[:_MOST_ITEMS] + more)


def _walk_state(state: Json, path: str, found: dict[str, int | None], depth: int) -> None:
    """Add the paths of the innermost dicts of plain keys, and the counts that stand in them."""
    if not isinstance(state, dict) or depth > _DEEPEST:
        return
    inner = {
        key: value for key, value in state.items() if isinstance(value, dict) and key[:1] != "~"
    }
    if not inner and path:
        found[path.rstrip(".")] = _count(state)
    for key, value in inner.items():
        _walk_state(value, f"{path}{key}.", found, depth + 1)


def _count(state: Json) -> int | None:
    """Return the count of observations of a filter; None if a state counts none."""
    if isinstance(state, dict):
        count = state.get("count")
        if isinstance(count, int):
            return count
        counts = [_count(value) for value in state.values() if isinstance(value, list)]
        return next((each for each in counts if each is not None), None)
    if isinstance(state, list):
        return next((each for each in map(_count, state) if each is not None), None)
    return None


def spec_html(spec: JsonObject) -> Html:
    """Return the fields of a spec as a table; a click shows the reasons for omitted parts."""
    words = spec_in_words(spec)
    omitted = spec.get("left_out")
    shown: dict[str, str | Html] = dict(words)
    if isinstance(omitted, dict) and omitted:
        reasons = [
            line(f"{shorten(place, 80)}: {shorten(str(reason), 300)}")
            for place, reason in list(omitted.items())[:_MOST_ITEMS]
        ]
        shown["left out"] = details(words["left out"], reasons)
    return fields(shown)


def parameters_in_words(weights: Mapping[str, Array]) -> str:
    """Return the number of tensors and of their elements: ``6 tensors, 17,411 parameters``."""
    count = sum(array.size for array in weights.values())
    tensors = "tensor" if len(weights) == 1 else "tensors"
    return f"{len(weights):,} {tensors}, {count:,} parameters"


def _rows(
    weights: Mapping[str, Array], acting: Iterable[str] | None, most: int
) -> list[tuple[str, ...]]:
    needed = None if acting is None else set(acting)
    return [
        (
            shorten(name, 100),
            " x ".join(map(str, array.shape)) or "one number",
            str(array.dtype),
            f"{array.size:,}",
            show_size(array.nbytes),
            "" if needed is None or name in needed else "only for training",
        )
        for name, array in list(weights.items())[:most]
    ]


_HEAD = ("tensor", "shape", "dtype", "parameters", "size", "")


def tensors_html(weights: Mapping[str, Array], acting: Iterable[str] | None = None) -> list[Html]:
    """Return a table of the first 40 tensors, and a line that counts the others.

    Args:
        weights: the tensors by name.
        acting: the names of the tensors that acting needs; None for all.
    """
    rows: list[list[str | Cell]] = [
        [name, shape, dtype, Cell(count, number=True), Cell(size, number=True), note]
        for name, shape, dtype, count, size, note in _rows(weights, acting, _MOST_TENSORS)
    ]
    more = len(weights) - len(rows)
    note = [line(f"and {more:,} more tensors", faint=True)] if more else []
    return [table(_HEAD, rows), *note]


def tensors_in_words(
    weights: Mapping[str, Array], acting: Iterable[str] | None = None, *, most: int = _MOST_TENSORS
) -> list[str]:
    """Return the rows of :func:`tensors_html` as lines of text, printable and aligned.

    Args:
        weights: the tensors by name.
        acting: the names of the tensors that acting needs; None for all.
        most: how many tensors are listed.
    """
    rows = _rows(weights, acting, most)
    shown = text_table(_HEAD, rows, {3, 4}).splitlines() if rows else []
    more = len(weights) - len(rows)
    return [*shown, f"and {more:,} more tensors"] if more else shown
