"""Put the weights of an adapted snapshot together, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from policystore._util.messages import counted
from policystore.errors import InvalidInputError, MismatchError
from policystore.format.arrays import Array
from policystore.rllib.transfer.report import AdaptedPart, PartStatus
from policystore.rllib.transfer.selection import Selection, listed_parts
from policystore.rllib.transfer.suggestions import renames_that_fit

__all__ = ["Links", "MixedWeights", "mix", "without_a_place"]

_NONE = "the snapshot has none"
_TINY_FLOATS = (np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2))
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOAT16 = np.dtype(np.float16)


@dataclass(frozen=True)
class Links:
    """Which weights of a policy belong together, by name.

    Attributes:
        copies: for each target network, pairs of the name of its weight and the name of the weight
            of the network that it follows.
        tied: groups of names that stand for one tensor.
    """

    copies: tuple[tuple[tuple[str, str], ...], ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()


@dataclass
class MixedWeights:
    """The weights of an adapted snapshot, and where each is from.

    Attributes:
        arrays: all weights of the target by name.
        rows: rows for the report, in the order of the names.
        taken: the names of the target whose values are from the snapshot, also by a link.
    """

    arrays: dict[str, Array]
    rows: list[AdaptedPart] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)


def _candidates(
    given: Iterable[str], target: Iterable[str], selection: Selection
) -> dict[str, str]:
    """Return the tensors that are to be taken: name in the target -> name in the snapshot."""
    known = set(target)
    by_name = {selection.renamed(name): name for name in given}
    return {
        name: source
        for name, source in by_name.items()
        if name in known and selection.is_wanted(name) and not selection.is_kept(name)
    }


def mix(
    given: Mapping[str, Array],
    target: Mapping[str, Array],
    selection: Selection,
    read_links: Callable[[], Links],
    label: str,
) -> MixedWeights:
    """Take tensors from a snapshot by name, and all others from the target.

    Args:
        given: the weights of the snapshot.
        target: the weights of the target.
        selection: renames, and which tensors are taken; already checked.
        read_links: returns which weights of the target belong together. Not called if all weights
            of the target are taken.
        label: the beginning of messages.

    Raises:
        MismatchError: tensors of other shapes or dtypes, or none that could be taken; the message
            lists all of them.
        InvalidInputError: ``keep`` names one of several names of a tensor that is taken.
    """
    chosen = _candidates(given, target, selection)
    links = Links() if len(chosen) in (0, len(target)) else read_links()
    followed = {mine: theirs for pairs in links.copies for mine, theirs in pairs}
    chosen = {
        name: source
        for name, source in chosen.items()
        # The target network of a network that is kept is kept, too.
        if not selection.is_kept(followed.get(name, name))
    }
    _check_any(chosen, given, target, selection, label)
    arrays, widened = _fitting(chosen, given, target, label)
    result = MixedWeights({**target, **arrays}, taken=set(chosen))
    copied = _follow_ties(result, links, selection, label)
    copied |= _follow_networks(result, links, selection)
    _add_rows(result, chosen, copied, widened, given, selection)
    return result


def _check_any(
    chosen: Mapping[str, str],
    given: Mapping[str, Array],
    target: Mapping[str, Array],
    selection: Selection,
    label: str,
) -> None:
    if chosen:
        return
    placed = {name: selection.renamed(name) for name in given if selection.renamed(name) in target}
    left = {name: array for name, array in given.items() if name not in placed}
    free = {
        name: array
        for name, array in target.items()
        if selection.is_wanted(name) and not selection.is_kept(name) and name not in placed.values()
    }
    fitting = renames_that_fit(left, free)
    hint = ""
    if placed:
        hint = " keep= and only= leave out all tensors that snapshot and target have in common."
    if fitting:
        renames = {**selection.rename, **fitting}
        hint += f" These renames fit by shape: rename={renames!r}."
    # Names that begin alike are told apart by more of their parts.
    depth = next((at for at in (1, 2) if listed_parts(left, at) != listed_parts(free, at)), 3)
    raise MismatchError(
        f"{label}: nothing would be taken. Of the tensors without a partner, the snapshot has "
        f"{listed_parts(left, depth)}, and the target {listed_parts(free, depth)}.{hint}"
    )


def _fitting(
    chosen: Mapping[str, str], given: Mapping[str, Array], target: Mapping[str, Array], label: str
) -> tuple[dict[str, Array], dict[str, str]]:
    """Return the chosen arrays in the target's dtypes, and how some of them were widened.

    Raises:
        MismatchError: arrays of other shapes, or of dtypes that hold more than the target's.
    """
    arrays: dict[str, Array] = {}
    widened: dict[str, str] = {}
    wrong: dict[str, str] = {}
    shapes_differ: list[str] = []
    for name, source in chosen.items():
        have, need = given[source], target[name]
        renamed = "" if source == name else f" as {source}"
        if have.shape != need.shape:
            shapes_differ.append(name)
        elif have.dtype == need.dtype:
            arrays[name] = have
            continue
        elif _is_exact(have.dtype, need.dtype):
            arrays[name] = have.astype(need.dtype)
            widened[name] = f"exactly, from {have.dtype}"
            continue
        wrong[name] = (
            f"the target needs {need.dtype}{list(need.shape)}, "
            f"the snapshot has {have.dtype}{list(have.shape)}{renamed}"
        )
    if wrong:
        raise MismatchError(f"{label}: tensors do not fit.{_remedy(shapes_differ, wrong)}",
                            wrong=wrong)  # fmt: skip
    return arrays, widened


def _remedy(shapes_differ: list[str], wrong: Mapping[str, str]) -> str:
    text = ""
    if shapes_differ:
        layers = list(dict.fromkeys(_layer(name) for name in shapes_differ))
        text += f" Where shapes differ, keep={layers!r} leaves these layers as the target has them."
    if len(shapes_differ) < len(wrong):
        text += (
            " Where dtypes differ, the snapshot's values would be rounded: convert them yourself, "
            "snap.replace(weights={**snap.weights, name: array.astype(…)}), or name them in keep=."
        )
    return text


def _layer(name: str) -> str:
    """Return the prefix of all tensors of the layer to which a tensor belongs."""
    end = max(name.rfind("."), name.rfind("/"))
    return name[: end + 1] or name


def _is_exact(have: np.dtype[np.generic], need: np.dtype[np.generic]) -> bool:
    """Return whether a dtype holds all values of another one of the same kind."""
    if have in _TINY_FLOATS:
        return need in (_FLOAT16, _BFLOAT16) or need.kind == "f"
    if have == _BFLOAT16:
        return need.kind == "f" and need.itemsize >= 4
    if need == _BFLOAT16 or need in _TINY_FLOATS:
        return False
    same = have.kind == need.kind or (have.kind == "u" and need.kind == "i")
    return bool(same and np.can_cast(have, need, "safe"))


def _follow_ties(
    result: MixedWeights, links: Links, selection: Selection, label: str
) -> dict[str, tuple[str, str]]:
    """Give all names of a tensor the value that was taken for one of them.

    Returns:
        The names that got a value in this way -> the name that they follow, and the reason.
    """
    copied: dict[str, tuple[str, str]] = {}
    wrong: dict[str, str] = {}
    for names in links.tied:
        taken = [name for name in names if name in result.taken]
        if not taken:
            continue
        kept = [name for name in names if selection.is_kept(name)]
        if kept:
            raise InvalidInputError(
                f"{label}: {kept[0]!r} and {taken[0]!r} are one tensor of the target (a tied "
                "parameter), so one of them cannot be taken and the other kept. Name both in "
                "keep=, or neither"
            )
        values = {result.arrays[name].tobytes() for name in taken}
        if len(values) > 1:
            wrong[taken[0]] = (
                f"one tensor with {', '.join(taken[1:])} in the target, not in the snapshot"
            )
        for name in names:
            if name not in result.taken:
                result.arrays[name] = result.arrays[taken[0]]
                copied[name] = taken[0], "one tensor under two names"
    if wrong:
        raise MismatchError(
            f"{label}: the target has one tensor under several names (a tied parameter), and the "
            "snapshot has different values for these names. Use rename= or only= so that only "
            "one of the names is taken.",
            wrong=wrong,
        )
    result.taken |= copied.keys()
    return copied


def _follow_networks(
    result: MixedWeights, links: Links, selection: Selection
) -> dict[str, tuple[str, str]]:
    """Make a target network a copy of its network, if its network got a tensor.

    Tensors of target networks that the snapshot itself has stay as they were taken.

    Returns:
        The names that got a value in this way -> the name that they follow, and the reason.
    """
    copied: dict[str, tuple[str, str]] = {}
    before = set(result.taken)
    for pairs in links.copies:
        if not any(source in before for _, source in pairs):
            continue
        for name, source in pairs:
            if name in before or selection.is_kept(name):
                continue
            result.arrays[name] = result.arrays[source]
            copied[name] = source, "target network"
            if source in before:
                result.taken.add(name)
    return copied


def _add_rows(
    result: MixedWeights,
    chosen: Mapping[str, str],
    copied: Mapping[str, tuple[str, str]],
    widened: Mapping[str, str],
    given: Mapping[str, Array],
    selection: Selection,
) -> None:
    """Add a row for each tensor of the result, and for each tensor that was left."""
    by_name = {selection.renamed(name): name for name in given}
    for name in sorted(result.arrays):
        array = result.arrays[name]
        status: PartStatus
        if name in copied:
            status = "follows"
            source, why = copied[name]
        elif name in chosen:
            source = chosen[name]
            status = "taken" if source == name else "renamed"
            source, why = ("" if source == name else source), widened.get(name, "")
        else:
            status, source, why = "kept", "", _why_kept(name, by_name, selection)
        result.rows.append(AdaptedPart(name, status, "tensor", source, _shape(array), why))
    for name, source in sorted(by_name.items()):
        if name not in result.arrays:
            shown = "" if source == name else source
            result.rows.append(
                AdaptedPart(
                    name, "left", "tensor", shown, _shape(given[source]), "the target has none"
                )
            )


def _why_kept(name: str, by_name: Mapping[str, str], selection: Selection) -> str:
    if selection.is_kept(name):
        return "listed in keep="
    if not selection.is_wanted(name):
        return "not listed in only="
    return "its network is kept" if name in by_name else _NONE


def without_a_place(
    rows: Iterable[AdaptedPart], given: Mapping[str, Array], target: Mapping[str, Array]
) -> str:
    """Return a note if tensors of the snapshot have no place, and renames would give them one.

    Args:
        rows: the rows about tensors.
        given: the weights of the snapshot.
        target: the weights of the target.
    """
    left = [row.source or row.name for row in rows if row.status == "left"]
    free = [row.name for row in rows if row.status == "kept" and row.why == _NONE]
    fitting = renames_that_fit(
        {name: given[name] for name in left}, {name: target[name] for name in free}
    )
    if not fitting:
        return ""
    return (
        f"{counted(len(left), 'tensor')} of the snapshot found no place in the target. These "
        f"renames fit by shape: rename={fitting!r}"
    )


def _shape(array: Array) -> str:
    return f"{array.dtype}{list(array.shape)}"
