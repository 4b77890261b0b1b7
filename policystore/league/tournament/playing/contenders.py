"""Read what a caller gives as players: refs, snapshots, players, exported files, functions."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from policystore._util.concurrency import in_parallel
from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import InvalidInputError
from policystore.format.records import Version
from policystore.league.tournament.playing.seats import Contender
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["by_player", "is_file_label", "read_contender", "read_contenders", "without_store"]

_PREFIX = "heuristic:"
_RANDOM = "random"
_FILE = ".onnx"


def read_contenders(
    refs: Iterable[object],
    store: PolicyStore | None,
    heuristics: Mapping[str, Any],
    trust: Any,
    argument: str,
) -> dict[object, Contender]:
    """Return the player of each ref; two refs of one policy have the same player.

    Args:
        refs: see :func:`read_contender`.
        store: where refs are looked up.
        heuristics: name -> function or class.
        trust: as for ``rebuild_player``.
        argument: how messages name the refs.

    Raises:
        InvalidInputError, NotFoundError, AmbiguousError: a ref that means nothing.
    """
    if isinstance(refs, (str, bytes, Mapping)) or not isinstance(refs, Iterable):
        raise InvalidInputError(f"{argument} is a list of players, not {brief(refs)}")
    given = list(refs)
    contenders = in_parallel(
        lambda ref: read_contender(ref, store, heuristics, trust), given, workers=8
    )
    by_player(contenders)
    return dict(zip(map(_key, given), contenders, strict=True))


def by_player(contenders: Iterable[Contender]) -> dict[str, Contender]:
    """Return players by their names in the ledger; the first one if a policy is given twice.

    Raises:
        InvalidInputError: two different functions have one name; or one policy is given both as an
            exported file and in another form, whose actions may differ in their last bits.
    """
    found: dict[str, Contender] = {}
    for contender in contenders:
        first = found.setdefault(contender.player, contender)
        if contender.is_heuristic and first.held is not contender.held:
            raise InvalidInputError(
                f"two functions are called {contender.player!r}: give them names, "
                "heuristics={'one': …, 'other': …}, and refs 'heuristic:one', 'heuristic:other'"
            )
        if _is_exported(first.held) != _is_exported(contender.held):
            raise InvalidInputError(
                f"{brief(first.ref)} and {brief(contender.ref)} are two forms of one policy, "
                f"{contender.player}, and one of the two is an exported file: a league does not "
                "tell these two forms apart. Give only one of them"
            )
    return found


def is_file_label(label: str) -> bool:
    """Return whether the label of a player in a match is the name of an exported file."""
    return label.endswith(_FILE)


def _is_exported(held: object) -> bool:
    # A module that is not loaded has made no player.
    kind = getattr(sys.modules.get("policystore.play.player"), "OnnxPlayer", None)
    return isinstance(kind, type) and isinstance(held, kind)


def _key(ref: object) -> object:
    """Return a key of a dict for a ref; players and functions count by identity."""
    try:
        hash(ref)
    except TypeError:
        return id(ref)
    return ref


def read_contender(
    ref: Any, store: PolicyStore | None, heuristics: Mapping[str, Any], trust: Any
) -> Contender:
    """Return a player.

    Args:
        ref: a ref of the store, a Digest or a Version; a Snapshot; a player that
            ``rebuild_player`` or ``policystore.play.load_player`` returned; the path of an exported
            file (``*.onnx``); ``"random"`` or ``"heuristic:NAME"``; a function or a class.
        store: where refs are looked up.
        heuristics: name -> function or class, for ``"heuristic:NAME"``.
        trust: as for ``rebuild_player``.

    Raises:
        InvalidInputError, NotFoundError, AmbiguousError: the ref means nothing.
    """
    if isinstance(ref, str) and (ref == _RANDOM or ref.startswith(_PREFIX)):
        return _heuristic(ref.removeprefix(_PREFIX), heuristics)
    if isinstance(ref, PathLike) or (isinstance(ref, str) and ref.endswith(_FILE)):
        from policystore.play import load_player  # late: most tournaments play no files

        player = load_player(fspath(ref))
        return Contender(str(player.digest), Path(ref).name, held=player)
    if isinstance(ref, Snapshot):
        return Contender(str(ref.digest), "", held=ref, trust=trust)
    if isinstance(ref, (str, Digest, Version)):
        if store is None:
            raise InvalidInputError(
                f"{brief(ref)} is a ref, and there is no store to look it up: pass store="
            )
        digest = ref.digest if isinstance(ref, Version) else store.resolve(ref)
        label = ref.ref if isinstance(ref, Version) else str(ref)
        return Contender(str(digest), _label(label), store=store, trust=trust)
    if hasattr(ref, "act_many") and hasattr(ref, "session"):
        label = f"exported{_FILE}" if _is_exported(ref) else str(getattr(ref, "ref", None) or "")
        return Contender(str(ref.digest), label, held=ref)
    if callable(ref):
        name = getattr(ref, "__name__", type(ref).__name__)
        name = re.sub(r"[^\w.+-]", "", name, flags=re.ASCII)[:100] or "function"  # <lambda>
        return Contender(f"{_PREFIX}{name}", name, held=ref)
    raise InvalidInputError(
        "a player is a ref, a Version, a Snapshot, a player of rebuild_player or load_player, the "
        f"path of an .onnx file, 'random', 'heuristic:NAME', or a function; found {brief(ref)}"
    )


def _label(ref: str) -> str:
    """Return what reports call a policy; a digest says nothing that the player does not say."""
    return "" if ref.startswith("blake3:") else ref


def _heuristic(name: str, heuristics: Mapping[str, Any]) -> Contender:
    if not isinstance(heuristics, Mapping):
        raise InvalidInputError(f"heuristics: expected a dict, found {brief(heuristics)}")
    if name in heuristics:
        function = heuristics[name]
        if not callable(function) and function != _RANDOM:
            raise InvalidInputError(
                f"heuristics: {name!r} is {brief(function)}; expected a function, a class with "
                "act(observation), or 'random'"
            )
        return Contender(f"{_PREFIX}{name}", name, held=function)
    if name == _RANDOM:
        return Contender(f"{_PREFIX}{name}", name, held=_RANDOM)
    raise InvalidInputError(
        f"no heuristic {name!r}: pass heuristics={{{name!r}: function}}. Known are 'random'"
        + "".join(f", {known!r}" for known in heuristics)
    )


def without_store(contender: Contender) -> Contender:
    """Return a player with its policy, for other processes that cannot reach the store."""
    if contender.store is None:
        return contender
    return replace(contender, held=contender.load(), store=None)
