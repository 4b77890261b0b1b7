"""Pass messages between the driver and actor processes, whose nodes need no policystore.

Each message is sent as a plain tuple (:func:`to_wire`). The receiving process makes a message of
its own class from it (:func:`from_wire`). A message that is pickled as it is would bring its class,
and the class of the actor process would replace that of the driver.

Worker functions raise; :func:`run` and :func:`run_on_wire` turn the exception into an answer. RLlib
ends an actor whose function raises, after a sleep of 60 s (``utils/actor_manager.py:195``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.env.env_runner import EnvRunner
    from ray.rllib.evaluation.rollout_worker import RolloutWorker

    AnyWorker: TypeAlias = Learner | EnvRunner | RolloutWorker

__all__ = [
    "BusyError",
    "Message",
    "RefusedError",
    "from_wire",
    "run",
    "run_on_wire",
    "to_wire",
]

_TAG = "policystore message"
_T = TypeVar("_T")
_M = TypeVar("_M", bound="Message")


class RefusedError(Exception):
    """A worker refuses a request; the text says why, and is shown without this class's name."""


class BusyError(Exception):
    """A learner updated all the time, so the request has not been carried out."""


class Message:
    """Base of all that the driver and the workers exchange; its fields may hold other messages.

    Messages never change. They compare and print by their fields. The methods for this are here,
    because each class that a function names is sent with the function.
    """

    __match_args__: tuple[str, ...]  # names of the fields, made by dataclass

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._fields() == other._fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({fields})"

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__match_args__}

    def replace(self: _M, **changes: Any) -> _M:
        """Return a copy with other values in some fields."""
        # dataclasses.replace depends on marks that a class sent by value does not share.
        return type(self)(**{**self._fields(), **changes})


def to_wire(value: Any) -> Any:
    """Return a message, or a list or dict of messages, as plain tuples; other values unchanged."""
    if isinstance(value, Message):
        fields = tuple(to_wire(getattr(value, name)) for name in value.__match_args__)
        return (_TAG, type(value).__name__, fields)
    if type(value) is dict and any(isinstance(each, Message) for each in value.values()):
        return {key: to_wire(each) for key, each in value.items()}
    if type(value) is list and any(isinstance(each, Message) for each in value):
        return [to_wire(each) for each in value]
    return value


def from_wire(value: Any, classes: dict[str, type[Message]]) -> Any:
    """Return the value that :func:`to_wire` got, with messages of the given classes."""
    if _is_tagged(value):
        return classes[value[1]](*(from_wire(field, classes) for field in value[2]))
    if type(value) is dict and any(_is_tagged(each) for each in value.values()):
        return {key: from_wire(each, classes) for key, each in value.items()}
    if type(value) is list and any(_is_tagged(each) for each in value):
        return [from_wire(each, classes) for each in value]
    return value


def _is_tagged(value: Any) -> bool:
    return type(value) is tuple and len(value) == 3 and type(value[0]) is str and value[0] == _TAG


def run(
    function: Callable[..., _T], worker: AnyWorker, arguments: Iterable[Any]
) -> tuple[_T | None, str, bool]:
    """Call a worker function, and catch what it raises.

    Returns:
        The function's value, or None; the error text, or an empty one; whether the worker was only
        busy, so that the function may succeed later.
    """
    try:
        return function(worker, *arguments), "", False
    except BusyError as error:
        return None, str(error), True
    except RefusedError as error:
        return None, str(error), False
    except Exception as error:
        return None, f"{type(error).__name__}: {error}", False


def run_on_wire(
    function: Callable[..., Any],
    classes: dict[str, type[Message]],
    worker: AnyWorker,
    /,
    *arguments: Any,
) -> tuple[Any, str, bool]:
    """Call a worker function in an actor process: as :func:`run`, with messages as plain tuples."""
    value, error, pending = run(function, worker, [from_wire(each, classes) for each in arguments])
    return to_wire(value), error, pending
