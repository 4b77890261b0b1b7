"""Name the trials of Tune, and hold the values that Tune has chosen for them, as plain values.

``publish`` and the import of an experiment share these rules, so both name a trial alike, and both
record the same ``params``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from policystore._util.messages import shorten
from policystore.errors import InvalidInputError
from policystore.format.canonical_json import canonical_json
from policystore.format.records.fields import encode_plain

__all__ = ["LONGEST_TRIAL", "choices_in", "name_part", "params_in_name", "plain_params"]

LONGEST_TRIAL = 60
"""Most characters of a trial in a name; a part of a name may have 100."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_PICKLED = "CLOUDPICKLE_FALLBACK"  # what Tune's file says of a value that JSON does not know
_MAX_PARAMS = 10 << 10  # bytes, as JSON; a record has room for 16 KiB of source
_MAX_OMITTED, _MAX_KEY, _MAX_REASON = 10, 80, 120  # entries, characters, characters
_MAX_NESTING = 20


def name_part(trial: str) -> str:
    """Turn the name of a trial's folder, often a long list of parameters, into part of a name."""
    safe = _NOT_IN_NAMES.sub("_", trial)
    if len(safe) <= LONGEST_TRIAL:
        return safe
    digits = hashlib.blake2s(trial.encode(), digest_size=5).hexdigest()
    return f"{safe[: LONGEST_TRIAL - len(digits) - 1]}-{digits}"


def choices_in(text: str | bytes, trial: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what Tune has chosen for each trial, from a file ``experiment_state-<time>.json``.

    Only JSON is read: pickles in the file stay text.

    Args:
        text: the file.
        trial: name of the folder of the only trial to look for; empty for all trials.

    Yields:
        The name of a trial's folder, and the choice: key, with slashes between keys -> value.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: the file has another form.
    """
    state = json.loads(text)
    # Ray before 2.4 called the list "checkpoints", and Ray before 2.0 gave whole paths.
    for entry in state["trial_data" if "trial_data" in state else "checkpoints"]:
        saved = entry if isinstance(entry, str) else entry[0]
        if trial not in saved:
            continue
        about = json.loads(saved)
        folder = about.get("relative_logdir") or about.get("logdir") or ""
        name = folder.rpartition("/")[2]
        chosen = about["evaluated_params"]
        if name and name == (trial or name) and chosen.get("_type") != _PICKLED:
            yield name, {str(key): value for key, value in chosen.items()}


def params_in_name(trial: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a trial's config that stand in the name of the trial's folder.

    Tune writes ``last_key=value`` of each chosen value into the name, up to the longest name of a
    folder (``format_vars`` in ``ray/tune/search/variant_generator.py``).

    Args:
        trial: the name of the folder.
        config: the content of the trial's ``params.json``.

    Returns:
        Key, with slashes between nested keys -> value.
    """

    def found(inner: Mapping[str, Any], prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        for key, value in inner.items():
            if isinstance(value, Mapping) and depth < _MAX_NESTING:
                yield from found(value, f"{prefix}{key}/", depth + 1)
            elif re.search(
                rf"[_,]{re.escape(_in_name(key))}={re.escape(_in_name(value))}[_,]", ends
            ):
                yield prefix + key, value

    ends = f"_{trial}_"
    return dict(found(config, "", 0)) if "=" in trial else {}


def _in_name(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", str(value)).strip("_")


def plain_params(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that Tune has chosen, as plain values that a record can hold.

    Args:
        chosen: key, with slashes between nested keys -> value.

    Returns:
        ``params``: key -> value. If values were left out, also ``params_omitted``: key -> reason.
        Values are left out if they are not plain, and the largest ones if all together take more
        than 10 KiB. Empty if Tune has chosen nothing.
    """
    sizes: dict[str, int] = {}
    params: dict[str, Any] = {}
    omitted: dict[str, str] = {}
    for key, value in chosen.items():
        if isinstance(value, Mapping) and value.get("_type") == _PICKLED:
            omitted[key] = "not a plain value"
            continue
        try:
            sizes[key] = len(canonical_json(encode_plain({key: value}, "the value")))
            params[key] = value
        except InvalidInputError as error:
            omitted[key] = str(error)
    left = _MAX_PARAMS
    for key in sorted(params, key=lambda key: sizes[key]):
        left -= sizes[key]
        if left < 0:
            del params[key]
            omitted[key] = f"no room for {sizes[key]} bytes"
    source: dict[str, Any] = {"params": params} if chosen else {}
    if omitted:
        shown = {
            shorten(key, _MAX_KEY): shorten(reason, _MAX_REASON)
            for key, reason in list(omitted.items())[:_MAX_OMITTED]
        }
        more = len(omitted) - _MAX_OMITTED
        source["params_omitted"] = shown | ({"...": f"and {more} more"} if more > 0 else {})
    return source
