"""Find the name of the Tune trial that an Algorithm is, and the values that Tune chose for it.

An Algorithm knows its whole config, but not which values Tune has chosen. Tune keeps the choice of
each trial in the file ``experiment_state-<time>.json`` of the experiment
(``ray/tune/execution/tune_controller.py``, ``save_to_dir``). Tune writes the file when the first
trials start, and about every 10 s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pyarrow.fs import FileSelector, FileSystem
from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore._util.messages import shorten
from policystore.rllib.common.missing_metric import follow_path
from policystore.rllib.workers.compat import experiment_folder, storage_name
from policystore.rllib_schema.trials import choices_in, plain_params

__all__ = ["TRIAL", "TrialParams", "trial_of"]

TRIAL = "{trial}"
_RENAMED = {"lambda": "lambda_", "input": "input_"}  # keys of Tune -> attributes of a config
_PLAIN = (bool, int, float, str, list, tuple, Mapping, np.generic)
_PATIENCE, _PAUSE = 5.0, 0.25  # seconds: until the search for the choice ends, between two tries
_LARGEST_STATE = 512 << 20  # bytes


def trial_of(algorithm: Algorithm) -> tuple[str, str]:
    """Return the folder names of a Tune experiment and trial; both are empty outside of Tune.

    The folder names stay the same when a trial restarts. The trial's id is not available, because
    RLlib does not pass the id on: ``Algorithm.trial_id`` is "default".
    """
    return storage_name(algorithm, "experiment") or "", storage_name(algorithm, "trial") or ""


class TrialParams:
    """Read the hyperparameters that Tune has chosen for a trial from the experiment's state.

    Args:
        algorithm: the trial, after it was built.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._trial = storage_name(algorithm, "trial") or ""
        self._folder = experiment_folder(algorithm)
        self._config = algorithm.config
        self._source: dict[str, Any] | None = {} if self._folder is None else None
        self._last_try = -_PAUSE
        self._give_up_at: float | None = None

    def source(self) -> dict[str, Any] | None:
        """Return what the ``source`` of a version says of the choice; None while that is not known.

        If the config and Tune's file have different values, the value of the config counts, because
        population based training changes only the config.

        If Tune's file does not have the choice for 5 s, a warning is logged, and the result is
        empty from then on. The result is also empty outside of Tune, and for a trial for which Tune
        has chosen nothing.

        Returns:
            ``params``, and ``params_omitted`` if values were left out; see :func:`plain_params`.
        """
        now = time.monotonic()
        if self._source is None and self._folder is not None and now >= self._last_try + _PAUSE:
            self._last_try = now
            self._give_up_at = self._give_up_at or now + _PATIENCE
            reason = "no file of the experiment names the trial"
            try:
                chosen = _read_choice(*self._folder, self._trial)
            except (
                OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError
            ) as error:  # fmt: skip
                chosen, reason = None, repr(error)
            if chosen is not None:
                self._source = plain_params(
                    {key: _setting(self._config, key, value) for key, value in chosen.items()}
                )
            elif now >= self._give_up_at:
                self._source = {}
                logger.warning(
                    "publish: the versions of trial %s do not say which hyperparameters Tune "
                    "has chosen: %s",
                    self._trial,
                    shorten(reason, 300),
                )
        return self._source


def _read_choice(filesystem: FileSystem, folder: str, trial: str) -> dict[str, Any] | None:
    """Read what Tune has chosen for a trial; None if no file of the experiment names the trial.

    Only JSON is read: pickles in the file stay text.

    Raises:
        OSError, ValueError, LookupError, TypeError, AttributeError: the file cannot be read, or has
            another form.
    """
    for text in _experiment_states(filesystem, folder):
        for _, chosen in choices_in(text, trial):
            return chosen
    return None


def _experiment_states(filesystem: FileSystem, folder: str) -> Iterator[str]:
    """Yield the states of an experiment, newest first. Each restore of the experiment adds one."""
    files = filesystem.get_file_info(FileSelector(folder))
    states = [
        file
        for file in files
        if file.base_name.startswith("experiment_state-") and file.base_name.endswith(".json")
    ]
    for file in sorted(states, key=lambda file: file.base_name, reverse=True):
        if file.size is None or file.size <= _LARGEST_STATE:
            with filesystem.open_input_stream(file.path) as stream:
                yield stream.read().decode()


def _setting(config: object, key: str, default: Any) -> Any:
    """Return a value of a config by Tune's key; ``default`` if the config has no such value."""
    head, _, rest = key.partition("/")
    head = _RENAMED.get(head, head)
    if not hasattr(config, head):
        return default
    value, _, missing = follow_path({head: getattr(config, head)}, f"{head}/{rest}".rstrip("/"))
    is_plain = value is None or isinstance(value, _PLAIN)
    return value if is_plain and not missing else default
