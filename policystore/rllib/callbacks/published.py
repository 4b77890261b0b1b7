"""Find the versions that a training run has published, from one of its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policystore._util.messages import brief
from policystore._util.near import close_names, did_you_mean
from policystore.errors import InvalidInputError, NotFoundError
from policystore.format.records import Version
from policystore.rllib.callbacks.upload_history import iteration_of
from policystore.rllib.common.missing_metric import follow_path
from policystore.store import PolicyStore
from policystore.version_list import VersionList

if TYPE_CHECKING:
    from ray.tune import Result

__all__ = ["published"]


def published(
    result: Result | Mapping[str, Any],
    policy_id: str | None = None,
    *,
    store: PolicyStore | None = None,
) -> VersionList:
    """Return the versions that a training run has published with ``publish``, newest first.

    Use: ``published(tuner.fit().get_best_result())``. Ray need not be running, and the experiment
    may be an old one that ``tune.Tuner.restore`` or ``tune.Result.from_path`` has read.

    The versions are those of the whole run: also those of restarts, those from before a restore,
    and the last version, which is pushed after the result. A copy that still waits to be pushed is
    not among them, and neither are deleted and pruned versions.

    Args:
        result: a result of Tune, or the dict that ``algorithm.train()`` returned.
        policy_id: the policy or module whose versions to return; None for the versions of all
            policies.
        store: the store. By default, the store that the result names is opened, with credentials
            from the environment.

    Returns:
        The versions, in a list like that of ``store.log``: those of later iterations first, and the
        versions of one iteration in the order of their policy ids. ``ref`` has the name and the
        number, and ``source`` the policy, the iteration and, in Tune, ``params``.

    Raises:
        InvalidInputError: ``result`` is no result.
        NotFoundError: the result has no entries of ``publish``, or none of this policy.
        StorageError: the store cannot be reached.
    """
    entries = _entries(result)
    if policy_id is not None and policy_id not in entries:
        raise NotFoundError(
            f"the run has published no policy {policy_id!r}; it has published "
            f"{', '.join(map(repr, sorted(entries)))}."
            + did_you_mean(close_names(policy_id, entries))
        )
    chosen = {pid: each for pid, each in entries.items() if policy_id in (None, pid)}
    versions: list[Version] = []
    for pid, entry in chosen.items():
        opened = PolicyStore(entry["store"], read_only=True) if store is None else store
        try:
            of_name = opened.log(entry["name"])
        except NotFoundError:  # nothing was pushed so far, or all was deleted
            continue
        versions += [
            version
            for version in of_name
            if (version.source.get("run"), version.source.get("policy")) == (entry["run"], pid)
        ]
    # Sorting keeps the order of versions of one iteration: newest first.
    versions.sort(key=lambda version: version.source["policy"])
    versions.sort(key=lambda version: iteration_of(version) or 0, reverse=True)
    return VersionList(versions)


def _entries(result: object) -> Mapping[str, Any]:
    """Return the entries of ``publish`` in a result, by policy id."""
    metrics: object = result if isinstance(result, Mapping) else getattr(result, "metrics", result)
    if metrics is not None and not isinstance(metrics, Mapping):
        raise InvalidInputError(
            "published takes a result of Tune, such as tuner.fit().get_best_result(), or the dict "
            f"that algorithm.train() returned, not {brief(result)}"
        )
    entries, _, rest = follow_path(metrics or {}, "policystore/publish")
    if rest or not isinstance(entries, Mapping):
        raise NotFoundError(
            "expected entries of publish under policystore/publish in the result, found none: "
            "publish(…) has to be among the callbacks of the config, and the trial has to finish a "
            "training iteration"
        )
    return entries
