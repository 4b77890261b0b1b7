"""Name the players of a league: the ids that results have, and the short texts that people read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from policystore._util.messages import brief
from policystore._util.near import close_names, did_you_mean
from policystore.display.refs import shorten_names
from policystore.errors import AmbiguousError, InvalidInputError, NotFoundError

__all__ = ["find_players", "name_some", "player_labels", "short_player"]

_DIGITS = 8  # of a digest that is shown
_MAX_LABEL = 36  # characters
_MOST_NAMED = 5  # players in a message


def short_player(player: str) -> str:
    """Return a player's id for people: ``blake3:ab12cd34``, ``heuristic:random``."""
    kind, colon, rest = player.partition(":")
    return f"{kind}:{rest[:_DIGITS]}" if colon and kind == "blake3" else player


def player_labels(players: Sequence[str], refs: Mapping[str, str]) -> dict[str, str]:
    """Return a short text for each player; different players have different texts.

    Args:
        players: ids of players.
        refs: player -> ref, for the players that have one.
    """
    texts = {player: refs.get(player) or short_player(player) for player in players}
    holders: dict[str, int] = {}
    for text in texts.values():
        holders[text] = holders.get(text, 0) + 1
    for player, text in texts.items():
        if holders[text] > 1:
            texts[player] = f"{text} {player}" if player in refs else player
    short = shorten_names(texts.values(), _MAX_LABEL)
    return {player: short[text] for player, text in texts.items()}


def find_players(
    wanted: Iterable[str],
    known: Collection[str],
    refs: Mapping[str, str],
    *,
    what: str,
    unknown_ids: bool = False,
) -> tuple[str, ...]:
    """Return the ids of players that a caller names by their ids or refs.

    Args:
        wanted: ids, or refs that ``refs`` has.
        known: the players that there are.
        refs: player -> ref.
        what: the argument that names them, for messages.
        unknown_ids: whether ids of other players are right, too.

    Raises:
        NotFoundError: a text is no id, and no player has it as its ref.
        AmbiguousError: several players have this ref.
        InvalidInputError: the argument is one text, or a player is named twice.
    """
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise InvalidInputError(f"{what}={brief(wanted)}: expected several players, in a list")
    by_ref: dict[str, list[str]] = {}
    for player, ref in refs.items():
        if not unknown_ids and player not in known:
            continue
        by_ref.setdefault(ref, []).append(player)
    found: list[str] = []
    for name in wanted:
        if not isinstance(name, str):
            raise InvalidInputError(
                f"{what}: {brief(name)} is neither the id nor the ref of a player"
            )
        if name in known or (unknown_ids and _is_id(name)):
            found.append(name)
            continue
        players = by_ref.get(name, [])
        if not players:
            close = close_names(name, [*by_ref, *known])
            raise NotFoundError(
                f"{what}: no player of the league has the id or the ref {brief(name)}; expected "
                f"one of {len(known):,} players.{did_you_mean(close)}"
            )
        if len(players) > 1:
            raise AmbiguousError(
                f"{what}: {len(players)} players have the ref {brief(name)}: "
                f"{', '.join(map(short_player, sorted(players)))}. Name one by its id"
            )
        found.append(players[0])
    if len(set(found)) < len(found):
        twice = next(player for player in found if found.count(player) > 1)
        raise InvalidInputError(f"{what}: the player {short_player(twice)} is named twice")
    return tuple(found)


def _is_id(name: str) -> bool:
    kind, _, rest = name.partition(":")
    if kind == "heuristic":
        return bool(rest)
    return kind == "blake3" and len(rest) == 64 and set(rest) <= set("0123456789abcdef")


def name_some(players: Collection[str], labels: Mapping[str, str]) -> str:
    """Return the first few players for a message: ``a, b and 3 more``."""
    names = [labels.get(player, short_player(player)) for player in players]
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED:,} more"
