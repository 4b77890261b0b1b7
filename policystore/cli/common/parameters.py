"""Let most commands run without the import of pydantic, which would slow down their start.

Newer typer converts the value of each parameter by pydantic. A text that is to stay a text, and a
parameter that was not given, need no conversion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["without_needless_conversion"]


def without_needless_conversion(command: Any) -> Any:
    """Return a command of typer, changed so that values that need no conversion stay as they are.

    All other values, and all errors, are left to typer.

    Args:
        command: a command or a group of commands, as ``typer.main.get_command`` returns it.
    """
    get_params = command.get_params

    def get_keeping_params(context: Any) -> list[Any]:
        parameters: list[Any] = get_params(context)  # with the parameter of --help
        for parameter in parameters:
            # Older typer has no descriptors, and converts without pydantic.
            if hasattr(parameter, "type_descriptor") and "process_value" not in vars(parameter):
                parameter.process_value = _keeping(parameter, parameter.process_value)
        return parameters

    command.get_params = get_keeping_params
    return command


def _keeping(parameter: Any, process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    wanted = parameter.type_descriptor.annotation

    def process_value(context: Any, value: Any) -> Any:
        if parameter.required and not value:
            return process(context, value)
        if value is None:
            value = () if parameter.multiple or parameter.nargs == -1 else None
        elif wanted == list[str] and isinstance(value, (list, tuple)):
            if not all(type(each) is str for each in value):
                return process(context, value)
            value = list(value)
        elif type(value) is not wanted:  # neither a text nor the default
            return process(context, value)
        return (
            value if parameter.callback is None else parameter.callback(context, parameter, value)
        )

    return process_value
