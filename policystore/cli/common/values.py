"""Read values that are given as ``name=value`` on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from policystore._util.messages import brief
from policystore.backends.options import StorageOptions
from policystore.errors import InvalidInputError

__all__ = ["parse_options", "parse_values", "refuse_secrets"]

_MAX_OUTER = 8  # dicts around an option


def parse_values(given: Iterable[str], option: str) -> dict[str, Any]:
    """Read ``name=value`` texts.

    A value that is valid JSON, such as ``true``, ``10`` or ``[1, 2]``, is read as JSON; any other
    value is a text.

    Raises:
        InvalidInputError: a text of another form; the message names the option.
    """
    values: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidInputError(f"{option} takes NAME=VALUE, such as return=21.5")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
        except RecursionError:
            raise InvalidInputError(
                f"{option}: the value of {brief(name)} is nested too deeply"
            ) from None
    return values


def parse_options(given: Iterable[str], option: str) -> dict[str, Any] | None:
    """Read options of a filesystem, where ``outer.inner=value`` is an option in a dict.

    Returns:
        The options; None for none.

    Raises:
        InvalidInputError: another form, or a secret: other users of the machine can read command
            lines.
    """
    options: dict[str, Any] = {}
    for path, value in parse_values(given, option).items():
        *outer, name = path.split(".")
        if len(outer) > _MAX_OUTER:
            raise InvalidInputError(f"{option}: {brief(path)} has more than {_MAX_OUTER} dots")
        inner = options
        for part in outer:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise InvalidInputError(
                    f"{option}: {part} has a value, and also options below it: give only one"
                )
        inner[name] = value
    refuse_secrets(options, option)
    return options or None


def refuse_secrets(options: Any, where: str) -> None:
    """Check that options hold no secrets.

    Raises:
        InvalidInputError: they do, or they are no dict of options.
    """
    try:
        secrets = StorageOptions(options).secret_names()
    except RecursionError:
        raise InvalidInputError(f"{where}: the options are nested too deeply") from None
    if secrets:
        raise InvalidInputError(
            f"{where}: {', '.join(secrets)} looks like a secret, which others could read there. "
            "Give credentials by the environment or by a profile"
        )
