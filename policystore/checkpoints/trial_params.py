"""Finds the hyperparameters that Tune chose for a trial, in the files of a trial or experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policystore._util.log import logger
from policystore._util.messages import shorten
from policystore.checkpoints.files.folder import Folder
from policystore.checkpoints.tune import TrialCheckpoint
from policystore.errors import PolicyStoreError
from policystore.rllib_schema.trials import choices_in, params_in_name, plain_params

__all__ = ["TrialParams"]

_LARGEST_STATE = 512 << 20  # bytes


class TrialParams:
    """Finds the choices of Tune; each file is read once.

    The choice is in ``experiment_state-<time>.json`` of the experiment. Without this file, as in
    the folder of one trial, it is what both the trial's ``params.json`` and the name of its folder
    have. A file that cannot be read is logged, and withholds no weights.

    Args:
        folder: the folder of the experiment, or of one trial.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._states: dict[str, dict[str, dict[str, Any]]] = {}
        self._choices: dict[str, dict[str, Any]] = {}

    def source(self, checkpoint: TrialCheckpoint) -> dict[str, Any]:
        """Return what the ``source`` of a version says of the choice; see :func:`plain_params`.

        If the result that belongs to the checkpoint has another value, this value counts, because
        population based training changes only the config.
        """
        trial = checkpoint.trial
        if trial not in self._choices:
            self._choices[trial] = self._choice(trial)
        config = checkpoint.result.get("config")
        now = config if isinstance(config, Mapping) else {}
        return plain_params({k: _setting(now, k, v) for k, v in self._choices[trial].items()})

    def _choice(self, trial: str) -> dict[str, Any]:
        around, _, name = trial.rpartition("/")
        if trial:
            if around not in self._states:
                self._states[around] = self._read_states(_inner(self._folder, around))
            if name in self._states[around]:
                return self._states[around][name]
        folder = _inner(self._folder, trial)
        if not folder.has("params.json"):
            return {}
        try:
            return params_in_name(folder.name, folder.read_json("params.json"))
        except PolicyStoreError as error:
            _tell(folder.location("params.json"), error)
            return {}

    def _read_states(self, folder: Folder) -> dict[str, dict[str, Any]]:
        """Read the states of an experiment. Each restore adds one, and the newest one counts."""
        choices: dict[str, dict[str, Any]] = {}
        for name in folder.file_names():  # sorted by their times
            if not (name.startswith("experiment_state-") and name.endswith(".json")):
                continue
            try:
                choices.update(choices_in(folder.read_bytes(name, _LARGEST_STATE)))
            except (
                PolicyStoreError, ValueError, LookupError, TypeError, AttributeError, RecursionError
            ) as error:  # fmt: skip
                _tell(folder.location(name), error)
        return choices


def _tell(place: str, error: Exception) -> None:
    logger.warning(
        "%s does not say which hyperparameters Tune has chosen: %s",
        place,
        shorten(repr(error), 300),
    )


def _inner(folder: Folder, path: str) -> Folder:
    for part in filter(None, path.split("/")):
        folder = folder.subfolder(part)
    return folder


def _setting(config: Mapping[str, Any], key: str, chosen: Any) -> Any:
    """Return the value of a result's config by Tune's key; ``chosen`` if it has no such value.

    In a result every value that JSON does not know is a text, so a text counts only for a text.
    """
    value: Any = config
    for part in [key] if key in config else key.split("/"):
        if not isinstance(value, Mapping) or part not in value:
            return chosen
        value = value[part]
    is_same = isinstance(value, type(chosen)) or (_is_number(value) and _is_number(chosen))
    return value if is_same else chosen


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
