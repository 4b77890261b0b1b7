"""Choose which metrics of some versions a table shows, by their names and values.

An import from RLlib has about a hundred metrics, most of them counters and timers. A table has
place for a few.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["choose_metrics", "is_more_better", "match_metrics", "rank_metrics"]

_MOST_OWN = 12  # metrics of a version whose metrics a person has chosen
_RESULT = re.compile(
    r"return|reward|score|success|accuracy"
    r"|(?<![a-z])(?:wins?|winrate|elo)(?![a-z])"
)
_LOSS = re.compile(r"loss")
_COUNTER = re.compile(
    r"(?<![a-z])num_|_times?(?![a-z])|(?<![a-z])time_(?:total|this|since)|timer|timestep|timestamp"
    r"|throughput|iteration|lifetime|(?<![a-z])counts?(?![a-z])|counter|_steps"
)
_NOT_BETTER = re.compile(r"loss|error|penalty|regret|time|(?<![a-z])(?:std|stddev|var)(?![a-z])")


def is_more_better(name: str) -> bool:
    """Return whether the name of a metric says that a higher value is a better one."""
    lower = name.lower()
    return bool(_RESULT.search(lower)) and not (_NOT_BETTER.search(lower) or _is_counter(lower))


def match_metrics(names: Iterable[str], wanted: Sequence[str]) -> dict[str, list[str]]:
    """Return the metrics that a caller means by each of some names.

    A name means the metric with exactly this name. If there is none, a slash means the same as a
    dot, and the last parts of a nested name suffice: ``episode_return_mean`` means
    ``env_runners.episode_return_mean``.

    Args:
        names: the names of the metrics that there are.
        wanted: what the caller gave.
    """
    known = list(dict.fromkeys(names))
    parts = {name: f".{name.replace('/', '.')}" for name in known}
    return {
        each: [each]
        if each in parts
        else [name for name in known if parts[name].endswith(f".{each.replace('/', '.')}")]
        for each in wanted
    }


def rank_metrics(
    rows: Sequence[Mapping[str, object]],
    *,
    first: Sequence[str] = (),
    noted: Collection[str] = (),
) -> list[str]:
    """Return all metrics of some versions, the most telling ones first.

    1. The metrics that the caller names.
    2. Results such as ``return``, among the metrics of annotations and those that a person has
       chosen: the metrics of versions that have only a few. Those that more versions have come
       first.
    3. The other metrics of annotations, and then the others that a person has chosen.
    4. All other metrics.
    5. Counters, timers, and metrics of the push that are equal in all versions.

    Within each of these groups, names of results such as ``return`` and ``score`` come before
    losses, and both before other names. Of equally telling metrics, those that more versions have
    come first, and then those that occur first. So the order is the same in each call.

    Args:
        rows: the metrics of each version, with flat names.
        first: the names that come first, in this order; those that no version has are left out.
        noted: the names of the metrics that annotations have.
    """
    counts: dict[str, int] = {}
    samples: dict[str, object] = {}
    varying: set[str] = set()
    own: set[str] = set()
    for row in rows:
        for name, value in row.items():
            counts[name] = counts.get(name, 0) + 1
            if samples.setdefault(name, value) != value:
                varying.add(name)
        pushed = [name for name in row if name not in noted]
        if len(pushed) <= _MOST_OWN:
            own.update(pushed)
    place = {name: at for at, name in reversed(list(enumerate(first)))}

    def key(name: str) -> tuple[int, ...]:
        lower = name.lower()
        is_noted, is_own = name in noted, name in own
        same = counts[name] > 1 and name not in varying and not is_noted
        known_by_hand = is_noted or is_own
        is_result = known_by_hand and bool(_RESULT.search(lower))
        return (
            place.get(name, len(first)),
            _is_counter(lower) or same,
            0 if is_result else 1 if is_noted else 2 if is_own else 3,
            -counts[name] if is_result else 0,
            0 if _RESULT.search(lower) else 1 if _LOSS.search(lower) else 2,
            isinstance(samples[name], (str, bool)),
            0 if known_by_hand else "mean" not in lower,
            0 if known_by_hand else name.count(".") + name.count("/"),
            -counts[name],
        )

    return sorted(counts, key=key)


def choose_metrics(
    rows: Sequence[Mapping[str, object]],
    most: int,
    *,
    first: Sequence[str] = (),
    noted: Collection[str] = (),
) -> list[str]:
    """Return the metrics for the columns of a table, the most telling ones first.

    These are the first metrics of :func:`rank_metrics`. If some versions have none of these, the
    last column has the first metric of those versions instead.

    Args:
        rows: the metrics of each version, with flat names.
        most: how many to return at most.
        first: the names that come first.
        noted: the names of the metrics that annotations have.
    """
    ranked = rank_metrics(rows, first=first, noted=noted)
    chosen = ranked[:most]
    bare = [row for row in rows if row and not any(name in row for name in chosen)]
    if most > 1 and len(ranked) > most and bare:
        other = next(name for name in ranked if any(name in row for row in bare))
        if chosen[-1] not in first:
            chosen[-1] = other
    return chosen


def _is_counter(lower: str) -> bool:
    return bool(_COUNTER.search(lower))
