"""Choose the spaces of an adapted snapshot, and note how the policies differ otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from policystore._util.messages import brief
from policystore.display.policy import spec_in_words
from policystore.errors import InvalidInputError, MismatchError
from policystore.format.canonical_json import JsonObject
from policystore.format.spec import Spec
from policystore.rllib.transfer.report import AdaptedPart
from policystore.snapshot import Snapshot
from policystore.spaces import space_from_json
from policystore.spaces.bounds import without_bounds
from policystore.spaces.words import space_in_words

__all__ = ["TakeSpaces", "check_stacks", "check_take_spaces", "differences", "mix_spaces"]

TakeSpaces: TypeAlias = Literal["target", "snapshot"]
"""Whose spaces an adapted snapshot gets."""

_FIELDS = ("observation_space", "action_space", "env_observation_space", "env_action_space")
_MOST_SETTINGS = 10  # that differ, in a note


def check_take_spaces(spaces: object) -> None:
    """Refuse other values of ``spaces=`` than ``"target"`` and ``"snapshot"``."""
    if spaces not in ("target", "snapshot"):
        raise InvalidInputError(f'spaces is "target" or "snapshot", not {brief(spaces)}')


def check_stacks(snap: Snapshot, target: Snapshot) -> None:
    """Refuse a snapshot of the other API stack.

    Raises:
        MismatchError: the message names the call that converts the snapshot.
    """
    mine, theirs = snap.spec.stack, target.spec.stack
    if mine == theirs or not {mine, theirs} <= {"old", "new"}:
        return
    raise MismatchError(
        f"{snap!r} is of RLlib's {mine} API stack, and the target of the {theirs} API stack. "
        f"The networks of the two stacks have other names and layers. to_{theirs}_stack(snap) "
        "converts the snapshot: adapt its result."
    )


def mix_spaces(
    snap: Snapshot, target: Snapshot, wanted: TakeSpaces
) -> tuple[Spec, list[AdaptedPart]]:
    """Return the spec of an adapted snapshot, and a row for each space that differs.

    The spec is the target's. With ``"snapshot"``, a space of the snapshot replaces the target's if
    only the bounds of Boxes differ.
    """
    changes: dict[str, JsonObject] = {}
    rows = []
    for name in _FIELDS:
        have, need = getattr(snap.spec, name), getattr(target.spec, name)
        if have is None or need is None or have == need:
            continue
        other = space_in_words(have, longest=120)
        mine = space_in_words(need, longest=120)
        if wanted == "target":
            rows.append(AdaptedPart(name, "kept", "space", why=f"{mine}; the snapshot has {other}"))
        elif without_bounds(space_from_json(have)) == without_bounds(space_from_json(need)):
            changes[name] = have
            rows.append(AdaptedPart(name, "taken", "space", why=f"{other}; the target has {mine}"))
        else:
            why = f"{mine}; the snapshot has {other}, which differs in more than bounds"
            rows.append(AdaptedPart(name, "kept", "space", why=why))
    return (target.spec.replace(**changes) if changes else target.spec), rows


def differences(snap: Snapshot, target: Snapshot) -> list[str]:
    """Return notes on differences between two policies that names and shapes do not show."""
    notes = []
    mine, theirs = _model_settings(snap.spec), _model_settings(target.spec)
    differing = [
        f"{name} is {brief(theirs[name])}, and {brief(mine[name])} in the snapshot"
        for name in sorted(mine.keys() & theirs.keys())
        if mine[name] != theirs[name] and "initializer" not in name
    ]
    if differing:
        more = len(differing) - _MOST_SETTINGS
        shown = differing[:_MOST_SETTINGS] + ([f"and {more} more"] if more > 0 else [])
        notes.append(f"settings of the model differ: {'; '.join(shown)}")
    words = [spec_in_words(each.spec.to_json()) for each in (target, snap)]
    for field in ("connectors", "actions are unsquashed", "actions are clipped"):
        here, there = (each.get(field, "") for each in words)
        knows = bool(snap.spec.connectors and target.spec.connectors) or (here and there)
        if here != there and knows:
            notes.append(f"{field}: {here or 'none'}, and {there or 'none'} in the snapshot")
    return notes


def _model_settings(spec: Spec) -> Mapping[str, Any]:
    """Return the settings of the network: ``model_config`` of a module, ``model`` of a policy."""
    settings = spec.config.get("model_config" if spec.stack == "new" else "model")
    plain = settings if isinstance(settings, Mapping) else {}
    return {str(name): value for name, value in plain.items()}
