"""Choose tensors by the prefixes of their names: ``rename=``, ``only=`` and ``keep=``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from policystore._util.messages import brief, printable
from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError

__all__ = ["Selection", "listed_parts"]

_MOST_NAMES = 12  # in a message


@dataclass(frozen=True)
class Selection:
    """Which tensors of a snapshot go to which names of a target.

    Attributes:
        rename: prefix of names in the snapshot -> prefix of names in the target. Of several
            prefixes of a name, the longest counts.
        only: prefixes of the names in the target that are taken; None for all.
        keep: prefixes of the names in the target that are left as they are.
    """

    rename: Mapping[str, str]
    only: tuple[str, ...] | None
    keep: tuple[str, ...]

    @classmethod
    def of(cls, rename: object, only: object, keep: object) -> Selection:
        """Check arguments that a caller gave, and return them as a Selection.

        Raises:
            InvalidInputError: an argument of another form.
        """
        renames = {} if rename is None else rename
        if not isinstance(renames, Mapping) or not all(
            isinstance(each, str) for pair in renames.items() for each in pair
        ):
            raise InvalidInputError(
                "rename is a dict from prefixes of names in the snapshot to prefixes of names in "
                f"the target: rename={{'encoder.': 'net.'}}, not {brief(rename)}"
            )
        wanted = None if only is None else _prefixes(only, "only")
        if wanted == ():
            raise InvalidInputError("only=[] takes nothing: list prefixes, or leave only= out")
        return cls(dict(renames), wanted, () if keep is None else _prefixes(keep, "keep"))

    def renamed(self, name: str) -> str:
        """Return the name that a tensor of the snapshot has in the target."""
        prefix = self._longest(name)
        return name if prefix is None else self.rename[prefix] + name[len(prefix) :]

    def is_kept(self, name: str) -> bool:
        """Return whether ``keep`` lists a name of the target."""
        return name.startswith(self.keep) if self.keep else False

    def is_wanted(self, name: str) -> bool:
        """Return whether ``only`` lists a name of the target; True without ``only``."""
        return self.only is None or name.startswith(self.only)

    def check(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """Check that each prefix has an effect, and that no two tensors get the same name.

        Args:
            sources: names in the snapshot.
            targets: names in the target.

        Raises:
            InvalidInputError: a prefix without effect, or two tensors of one name; the message
                lists names.
        """
        given, known = sorted(sources), sorted(targets)
        by_name: dict[str, list[str]] = {}
        by_prefix: dict[str, list[str]] = {}
        for name in given:
            by_name.setdefault(self.renamed(name), []).append(name)
            prefix = self._longest(name)
            if prefix is not None:
                by_prefix.setdefault(prefix, []).append(self.renamed(name))
        for prefix, place in self.rename.items():
            self._check_rename(prefix, place, by_prefix.get(prefix, []), given, known)
        twice = {name: names for name, names in by_name.items() if len(names) > 1}
        if twice:
            lines = [f"  {' and '.join(names)} -> {name}" for name, names in twice.items()]
            raise InvalidInputError(
                "rename gives one name to several tensors of the snapshot:\n" + _cut(lines)
            )
        for prefix in self.keep:
            if not any(name.startswith(prefix) for name in known):
                raise InvalidInputError(
                    f"keep= lists {prefix!r}, and no name of a tensor of the target begins so."
                    + _advice(prefix, known, given, "the target")
                )
        for prefix in self.only or ():
            in_target = any(name.startswith(prefix) for name in known)
            if not in_target:
                raise InvalidInputError(
                    f"only= lists {prefix!r}, and no name of a tensor of the target begins so "
                    "(only= takes names of the target, after rename=)."
                    + _advice(prefix, known, given, "the target")
                )
            if not any(name.startswith(prefix) for name in by_name):
                raise InvalidInputError(
                    f"only= lists {prefix!r}, and the snapshot has no tensor whose name begins so "
                    f"(after rename=). The snapshot has {listed_parts(by_name)}. "
                    f"rename={{'…': {prefix!r}}} gives tensors of the snapshot such names"
                )

    def _longest(self, name: str) -> str | None:
        return max(
            (prefix for prefix in self.rename if name.startswith(prefix)), key=len, default=None
        )

    def _check_rename(
        self, prefix: str, place: str, results: list[str], given: list[str], known: list[str]
    ) -> None:
        """Check that a prefix of ``rename`` leads tensors of the snapshot to names of the target.

        Args:
            prefix, place: the entry of ``rename``.
            results: the names to which the entry leads.
            given, known: names in the snapshot and in the target.
        """
        entry = f"rename={{{prefix!r}: {place!r}}}"
        if not results:
            longer = [each for each in self.rename if each != prefix and each.startswith(prefix)]
            if longer and any(name.startswith(prefix) for name in given):
                raise InvalidInputError(
                    f"{entry} renames nothing: longer prefixes of rename ({', '.join(longer)}) "
                    "fit all names of the snapshot that begin so"
                )
            raise InvalidInputError(
                f"{entry} renames nothing: no name of a tensor of the snapshot begins so."
                + _advice(prefix, given, known, "the snapshot")
            )
        if not set(results) & set(known):
            raise InvalidInputError(
                f"{entry} leads to names that the target does not have, such as {results[0]!r}."
                + _advice(place or results[0], known, given, "the target")
            )


def _prefixes(given: object, argument: str) -> tuple[str, ...]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInputError(
            f"{argument} is a list of prefixes of names: {argument}=[{brief(given)}]"
        )
    prefixes = tuple(dict.fromkeys(given))
    wrong = [each for each in prefixes if not isinstance(each, str) or not each]
    if wrong:
        raise InvalidInputError(
            f"{argument} is a list of prefixes of names, such as 'pi.'; found {brief(wrong[0])}"
        )
    return prefixes


def _advice(prefix: str, names: list[str], others: list[str], owner: str) -> str:
    """Return the end of a message about a prefix that no name has.

    Args:
        prefix: what the caller gave.
        names: the names that the prefix was compared with.
        others: the names of the other side.
        owner: what has ``names``, as messages call it.
    """
    close = close_names(prefix, _parts(names)) or close_names(prefix, names)
    text = f" {owner.capitalize()} has {listed_parts(names)}.{did_you_mean(close)}"
    if any(name.startswith(prefix) for name in others):
        other = "snapshot" if owner == "the target" else "target"
        text += f" (Names of the {other} begin with {prefix!r}.)"
    return text


def _parts(names: Iterable[str]) -> list[str]:
    """Return the prefixes of names that end at a dot or slash, and whole names without these."""
    found: dict[str, None] = {}
    for name in names:
        ends = [index + 1 for index, char in enumerate(name) if char in "./"]
        found |= dict.fromkeys([name[:end] for end in ends[:3]] or [name])
    return list(found)


def listed_parts(names: Iterable[str], depth: int = 1) -> str:
    """Return the first parts of names for a message: ``'encoder.', 'pi.'``.

    Args:
        names: the names.
        depth: how many parts are shown of each.
    """
    first = dict.fromkeys(
        name if len(ends) < depth else name[: ends[depth - 1] + 1]
        for name in sorted(names)
        for ends in [[index for index, char in enumerate(name) if char in "./"]]
    )
    shown = [repr(each) for each in list(first)[:_MOST_NAMES]]
    more = [f"and {len(first) - _MOST_NAMES} more"] if len(first) > _MOST_NAMES else []
    return ", ".join(shown + more) or "no tensors"


def _cut(lines: list[str]) -> str:
    more = [f"  and {len(lines) - 20} more"] if lines[20:] else []
    return "\n".join(map(printable, lines[:20] + more))
