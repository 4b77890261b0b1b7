"""Which checkpoint of a Tune trial or experiment: the latest, or the best by a metric.

A trial's folder holds ``checkpoint_000000`` and so on, and ``result.json``, one result a line.
Which of them belong together is told by the iteration that a checkpoint says it was written after;
some versions name the checkpoint in the result instead (``checkpoint_dir_name``).
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from policystore._util.concurrency import in_parallel
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import kind_of
from policystore.checkpoints.layouts import MAX_STATE, Checkpoint, recognize
from policystore.errors import InvalidInputError, NotFoundError

__all__ = ["TrialCheckpoint", "chosen_checkpoint", "trained_checkpoints"]

_NAME = re.compile(r"checkpoint_(\d+)\Z")
_LARGEST = sys.float_info.max
_MAX_RESULTS = 1 << 30
_WORKERS = 16


@dataclass(frozen=True)
class TrialCheckpoint:
    """One checkpoint of a trial, with what Tune reported when it was written.

    Attributes:
        trial: the trial's folder, by its path in the experiment; empty for the folder itself.
        name: the checkpoint's folder in it.
        number: the number in that name.
        result: the reported metrics; ``{}`` where there are none.
        folder: the checkpoint's folder.
    """

    trial: str
    name: str
    number: int
    result: Mapping[str, Any]
    folder: Folder

    @property
    def path(self) -> str:
        """Where it is, as ``read_checkpoint`` takes it."""
        return str(self.folder)

    def metric(self, key: str) -> float | None:
        """A number out of the result; None where it is not there or none."""
        found: Any = self.result
        if key in self.result:
            found = self.result[key]
        else:
            for part in key.split("/"):
                found = found.get(part) if isinstance(found, Mapping) else None
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return None
        return None if math.isnan(found) or abs(found) > _LARGEST else float(found)


def trained_checkpoints(folder: Folder) -> list[TrialCheckpoint]:
    """All checkpoints of a trial or experiment, by trial and number.

    Raises:
        FormatError: a damaged ``result.json``.
    """
    places: dict[str, set[str]] = {}
    for key in folder.paths():
        parts = key.split("/")
        for index, part in enumerate(parts[:-1]):
            if _NAME.match(part):
                places.setdefault("/".join(parts[:index]), set()).add(part)
                break
    return [
        found
        for of_trial in in_parallel(
            lambda trial: _of_trial(folder, trial, places[trial]), sorted(places), workers=_WORKERS
        )
        for found in of_trial
    ]


def _of_trial(folder: Folder, trial: str, names: Iterable[str]) -> list[TrialCheckpoint]:
    inner = folder
    for part in filter(None, trial.split("/")):
        inner = inner.inside(part)
    results = _results(inner)

    def one(name: str) -> TrialCheckpoint:
        place = inner.inside(name)
        result = results.get(name)
        if result is None:
            result = results.get(_iteration(place)) or {}
        return TrialCheckpoint(trial, name, _number(name), result, place)

    return in_parallel(one, sorted(names, key=_number), workers=_WORKERS)


def _iteration(checkpoint: Folder) -> int | None:
    """After which iteration a checkpoint was written, if it says so."""
    key, field = checkpoint.state_file("algorithm_state"), "training_iteration"
    if checkpoint.has(".tune_metadata"):  # up to 2.6
        key, field = ".tune_metadata", "iteration"
    if key is None or checkpoint.size(key) > MAX_STATE:
        return None
    found, _ = checkpoint.data(key)
    iteration = found.get(field) if isinstance(found, Mapping) else None
    return iteration if type(iteration) is int else None


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _results(trial: Folder) -> dict[Any, Mapping[str, Any]]:
    """Results by the name of their checkpoint and by iteration, the last of each."""
    found: dict[Any, Mapping[str, Any]] = {}
    if not trial.has("result.json"):
        return found
    lines = trial.bytes_of("result.json", _MAX_RESULTS).splitlines()
    for line in lines:
        try:
            result = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            # A trial that was killed while it wrote, and may have gone on in the same line.
            continue
        if isinstance(result, dict):
            iteration = result.get("training_iteration")
            if type(iteration) is int:
                found[iteration] = result
            if isinstance(result.get("checkpoint_dir_name"), str):
                found[result["checkpoint_dir_name"]] = result
    return found


def chosen_checkpoint(folder: Folder, metric: str | None, mode: str) -> Checkpoint:
    """The latest checkpoint of a trial or experiment, or the best by a metric.

    Raises:
        InvalidInputError: no checkpoint of RLlib's is in the folder.
        NotFoundError: no result has the metric.
    """
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode is 'max' or 'min', not {mode!r}")
    listed = trained_checkpoints(folder)
    if not listed:
        raise InvalidInputError(
            f"{folder} is no checkpoint of RLlib's, and no folder of a Tune trial or experiment: "
            f"it holds {', '.join((folder.files() + folder.folders())[:5])}"
        )
    if metric is not None and not isinstance(metric, str):
        raise InvalidInputError(f"metric is a key of Tune's results, not {kind_of(metric)}")
    newest = _newest(listed)
    if metric is None:
        best = max(listed, key=lambda one: (newest[one.trial], one.number))
    else:
        scored = [(found.metric(metric), found) for found in listed]
        told = [(value, found) for value, found in scored if value is not None]
        if not told:
            raise NotFoundError(
                f"{folder}: no checkpoint has the metric {metric!r} in Tune's results; they have "
                + (", ".join(sorted(_keys(listed))[:20]) or "none")
            )
        sign = 1 if mode == "max" else -1
        best = max(told, key=lambda item: (sign * item[0], newest[item[1].trial], item[1].number))[
            1
        ]
    checkpoint = recognize(best.folder)
    if checkpoint is None:
        raise InvalidInputError(f"{best.folder} is no checkpoint of RLlib's")
    return checkpoint


def _newest(listed: list[TrialCheckpoint]) -> dict[str, tuple[float, str]]:
    """When each trial reported last, as far as it is known, and its name."""
    found: dict[str, float] = {}
    for one in listed:
        time = one.metric("timestamp")
        found[one.trial] = max(found.get(one.trial, -math.inf), -math.inf if time is None else time)
    return {trial: (time, trial) for trial, time in found.items()}


def _keys(listed: list[TrialCheckpoint]) -> set[str]:
    return {
        key
        for found in listed
        for key, value in found.result.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
