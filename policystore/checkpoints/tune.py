"""Finds the checkpoints of a Tune trial or experiment, and chooses the latest or the best.

A trial's folder holds ``checkpoint_000000`` and so on, and ``result.json`` with one result a line.
A result belongs to the checkpoint that the result names (``checkpoint_dir_name``, in some versions
of Ray). Without such a name, the result belongs to the checkpoint that was written after the
result's iteration; the checkpoint's own files say which iteration that is.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from policystore._util.concurrency import in_parallel
from policystore._util.near import close_paths, did_you_mean, number_paths
from policystore.checkpoints.checkpoint import MAX_STATE, Checkpoint
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.files.placeholders import kind_of
from policystore.checkpoints.layouts import recognize
from policystore.checkpoints.worker_file import tune_metadata_file
from policystore.errors import FormatError, InvalidInputError, NotFoundError

__all__ = ["TrialCheckpoint", "choose_checkpoint", "choose_trial_checkpoint", "find_checkpoints",
           "iteration_of"]  # fmt: skip

_CHECKPOINT_NAME = re.compile(r"checkpoint_(\d+)\Z")
_STATE_FILE = re.compile(
    r"(\A|/)((algorithm|policy|module)_state\.\w+|rllib_checkpoint\.json|checkpoint-\d+)\Z"
)
_LARGEST_FLOAT = sys.float_info.max
_MAX_RESULTS = 1 << 30
_WORKERS = 16

_Result: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class TrialCheckpoint:
    """One checkpoint of a trial, with the result that Tune reported when it was written.

    Attributes:
        trial: the path of the trial's folder in the experiment; empty if the caller gave the
            trial's own folder.
        name: the name of the checkpoint's folder.
        number: the number in that name.
        result: the reported metrics; ``{}`` where no result belongs to the checkpoint.
        folder: the checkpoint's folder.
    """

    trial: str
    name: str
    number: int
    result: Mapping[str, Any] = field(repr=False)
    folder: Folder = field(repr=False)

    @property
    def path(self) -> str:
        """The path or URL of the checkpoint, for ``read_checkpoint``."""
        return str(self.folder)

    def metric(self, key: str) -> float | None:
        """Return a number of the result.

        Args:
            key: the number's key, with slashes between the keys of nested dicts.

        Returns:
            The number; None if the result has no number under the key, or one that is not finite.
        """
        value: object = self.result
        if key in self.result:
            value = self.result[key]
        else:
            for part in key.split("/"):
                value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        # In this order: math.isnan fails for an integer that is larger than any float.
        return None if abs(value) > _LARGEST_FLOAT or math.isnan(value) else float(value)


def find_checkpoints(folder: Folder) -> list[TrialCheckpoint]:
    """Return all checkpoints of a trial or experiment, by trial and number.

    Raises:
        FormatError: a file that says after which iteration a checkpoint was written is damaged.
        StorageError: a file cannot be read.
    """
    names_by_trial: dict[str, set[str]] = {}
    for path in folder.paths():
        parts = path.split("/")
        for index, part in enumerate(parts[:-1]):
            if _CHECKPOINT_NAME.match(part):
                names_by_trial.setdefault("/".join(parts[:index]), set()).add(part)
                break

    def checkpoints_of(trial: str) -> list[TrialCheckpoint]:
        return _trial_checkpoints(folder, trial, names_by_trial[trial])

    by_trial = in_parallel(checkpoints_of, sorted(names_by_trial), workers=_WORKERS)
    return [checkpoint for checkpoints in by_trial for checkpoint in checkpoints]


def _trial_checkpoints(folder: Folder, trial: str, names: Iterable[str]) -> list[TrialCheckpoint]:
    trial_folder = folder
    for part in filter(None, trial.split("/")):
        trial_folder = trial_folder.subfolder(part)
    by_name, by_iteration = _read_results(trial_folder)

    def with_result(name: str) -> TrialCheckpoint:
        checkpoint = trial_folder.subfolder(name)
        result = by_name.get(name)
        if result is None:
            iteration = iteration_of(checkpoint)
            result = {} if iteration is None else by_iteration.get(iteration, {})
        return TrialCheckpoint(trial, name, _number(name), result, checkpoint)

    return in_parallel(with_result, sorted(names, key=_number), workers=_WORKERS)


def iteration_of(checkpoint: Folder) -> int | None:
    """Return the iteration after which a checkpoint was written; None if the files do not say."""
    name, key = checkpoint.state_file("algorithm_state"), "training_iteration"
    metadata = tune_metadata_file(checkpoint)
    if metadata is not None:  # Ray up to 2.6
        name, key = metadata, "iteration"
    if name is None or checkpoint.size(name) > MAX_STATE:
        return None
    try:
        state = checkpoint.read_data(name).value
    except (FormatError, NotFoundError):  # no weights depend on it
        return None
    iteration = state.get(key) if isinstance(state, Mapping) else None
    return iteration if type(iteration) is int else None


def _number(name: str) -> int:
    return int(name.rpartition("_")[2])


def _read_results(trial: Folder) -> tuple[dict[str, _Result], dict[int, _Result]]:
    """Read a trial's results, by the checkpoint that a result names, and by iteration.

    If several results have the same key, the last result counts. Lines that are not JSON are
    skipped: a trial that was killed while it wrote a line may later have continued in the same
    line.
    """
    by_name: dict[str, _Result] = {}
    by_iteration: dict[int, _Result] = {}
    if not trial.has("result.json"):
        return by_name, by_iteration
    for line in trial.read_bytes("result.json", _MAX_RESULTS).splitlines():
        try:
            result = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            continue
        if isinstance(result, dict):
            iteration, name = result.get("training_iteration"), result.get("checkpoint_dir_name")
            if type(iteration) is int:
                by_iteration[iteration] = result
            if isinstance(name, str):
                by_name[name] = result
    return by_name, by_iteration


def choose_checkpoint(folder: Folder, metric: str | None, mode: str) -> Checkpoint:
    """Return the checkpoint of :func:`choose_trial_checkpoint`, with its layout recognized.

    Raises:
        InvalidInputError, NotFoundError: as :func:`choose_trial_checkpoint`.
    """
    chosen = choose_trial_checkpoint(folder, metric, mode)
    checkpoint = recognize(chosen.folder)
    if checkpoint is None:
        raise InvalidInputError(f"{chosen.folder} is not a checkpoint of RLlib")
    return checkpoint


def choose_trial_checkpoint(folder: Folder, metric: str | None, mode: str) -> TrialCheckpoint:
    """Return the latest checkpoint of a trial or experiment, or the best by a metric.

    The latest checkpoint is the last one of the trial whose last result is the newest. Of several
    checkpoints that are equally good, the latest is returned.

    Args:
        folder: the trial or experiment.
        metric: the key of Tune's results to choose by; None: the latest.
        mode: ``"max"`` or ``"min"``.

    Raises:
        InvalidInputError: the folder holds no checkpoint of RLlib, or an argument is wrong.
        NotFoundError: no result has the metric.
    """
    if mode not in ("max", "min"):
        raise InvalidInputError(f"mode is 'max' or 'min', not {mode!r}")
    checkpoints = find_checkpoints(folder)
    if not checkpoints:
        raise InvalidInputError(
            f"{folder} is neither a checkpoint of RLlib nor the folder of a Tune trial or "
            f"experiment: {_content(folder)}"
        )
    if metric is not None and not isinstance(metric, str):
        raise InvalidInputError(f"metric is a key of Tune's results, not {kind_of(metric)}")
    last_report = _last_reports(checkpoints)
    if metric is None:
        return max(checkpoints, key=lambda each: (last_report[each.trial], each.number))
    sign = 1 if mode == "max" else -1
    scored = [
        (sign * value, last_report[each.trial], each.number, each)
        for each in checkpoints
        if (value := each.metric(metric)) is not None
    ]
    if not scored:
        raise NotFoundError(
            f"{folder}: no checkpoint has the metric {metric!r} in Tune's results"
            + _suggestion(metric, checkpoints)
        )
    return max(scored, key=lambda entry: entry[:3])[3]


def _last_reports(checkpoints: list[TrialCheckpoint]) -> dict[str, tuple[float, str]]:
    """Return the key by which trials are sorted: time of the last result, and name.

    The time is ``-inf`` if no result has a timestamp.
    """
    times: dict[str, float] = {}
    for each in checkpoints:
        time = each.metric("timestamp")
        times[each.trial] = max(
            times.get(each.trial, -math.inf), -math.inf if time is None else time
        )
    return {trial: (time, trial) for trial, time in times.items()}


def _content(folder: Folder) -> str:
    """Describe what a folder holds: the checkpoints in its subfolders, or else its first names."""
    inside = sorted(
        {path.rpartition("/")[0] for path in folder.paths() if _STATE_FILE.search(path)} - {""}
    )
    # A checkpoint has such files in its subfolders, too.
    outermost = [
        path
        for path in inside
        if not any(path.startswith(f"{other}/") for other in inside if other != path)
    ]
    if outermost:
        if len(outermost) == 1:
            return f"it holds the checkpoint {outermost[0]}; give the path of that folder"
        more = "" if len(outermost) <= 5 else f" and {len(outermost) - 5} more"
        return f"it holds the checkpoints {', '.join(outermost[:5])}{more}; give one of their paths"
    return f"it holds {', '.join((folder.file_names() + folder.folder_names())[:5])}"


def _suggestion(metric: str, checkpoints: Iterable[TrialCheckpoint]) -> str:
    """Return the end of a message: the keys that the caller may have meant, or else some keys."""
    keys = {key for each in checkpoints for key in number_paths(each.result)}
    if close := close_paths(metric, sorted(keys)):
        return f".{did_you_mean(close)}"
    short = sorted(keys, key=lambda key: (key.count("/"), key))
    return "; they have " + (", ".join(short[:20]) or "none")
