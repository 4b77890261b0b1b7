"""Record from which published copies an Algorithm's weights were trained, across restores.

An iteration number does not identify a policy. In population based training, Tune restores a trial
from an earlier checkpoint of another trial, and then the trial's iteration numbers repeat with
other weights. So training is divided into *lineages*. A restore from a checkpoint of the same run
continues the lineage of the checkpoint. Every other restore begins a new lineage.

The checkpoint itself says where it comes from: a record of plain values is saved with the
Algorithm's own state. The record has the run, the lineage, the iteration, and the digests of the
newest published copies of each policy. RLlib passes this state on in every kind of restore, on both
API stacks, in Tune and without it (``Algorithm.get_state`` and ``set_state``; old stack:
``__getstate__`` and ``__setstate__``), and ignores keys that it does not know. The callback
``on_checkpoint_loaded`` would not do: ``restore_from_path`` and ``from_checkpoint`` do not call the
callback (``algorithms/algorithm.py:3194``). The versions in the store alone would not do either:
with an interval above 1, the checkpoint's iteration may not be among the versions.

A checkpoint without a record was saved by an Algorithm without ``publish``. Then the digests of the
restored policies are looked up in the store.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.tune.result import TRAINING_ITERATION

from policystore._util.log import logger
from policystore.digest import Digest
from policystore.rllib.workers.compat import is_new_stack

__all__ = ["Ancestor", "Follower", "Lineage", "Restore", "Tracker", "start_of"]

_KEY = "policystore_publish"
_TRACKER = "_policystore_lineage"
_START = "_policystore_start"

_T = TypeVar("_T")


class Ancestor(NamedTuple):
    """A copy from which the weights of a policy were trained.

    Attributes:
        iteration: the training iteration of the copy.
        digest: the digest of the copy.
        pushed: whether the copy was in the store when the Ancestor was made. If not, the copy was
            waiting to be pushed.
    """

    iteration: int
    digest: Digest
    pushed: bool


@dataclass(eq=False)
class Lineage:
    """A lineage, from one restore of an Algorithm to the next.

    Attributes:
        id: random hexadecimal digits; ``""`` for the lineage of a run that began without a
            checkpoint.
        origin: what the lineage was restored from, as plain values; None if it began without a
            checkpoint.
        ancestors: policy id -> ancestors of the policy's next version, newest first.
        start: policy id -> the policy from which the first version was trained, for a run that
            began with weights from a store.
    """

    id: str = ""
    origin: Mapping[str, Any] | None = None
    ancestors: dict[str, list[Ancestor]] = field(default_factory=dict)
    start: Mapping[str, Ancestor] = field(default_factory=dict)

    def ancestors_of(self, policy_id: str) -> list[Ancestor]:
        """Return the ancestors of a policy's next version, newest first."""
        start = [self.start[policy_id]] if policy_id in self.start else []
        return list(self.ancestors.get(policy_id, start))

    def source(self) -> dict[str, Any]:
        """Return what the ``source`` of a version says of the lineage."""
        return {"lineage": self.id, "restored_from": dict(self.origin or {})} if self.id else {}


@dataclass(frozen=True)
class Restore:
    """What a checkpoint says of itself, after an Algorithm was restored from the checkpoint.

    Attributes:
        lineage: the lineage that training continues.
        own: whether the checkpoint is one of the same run.
        run: the run that saved the checkpoint; None if the checkpoint does not say so.
        iteration: the iteration from which training continues.
        notes: what :meth:`Tracker.note` functions had returned when the checkpoint was saved.
    """

    lineage: Lineage
    own: bool
    run: str | None
    iteration: int
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.run or 'unknown run'}, iteration {self.iteration}"


def start_of(algorithm: Algorithm) -> dict[str, Ancestor]:
    """Return the policies with which an Algorithm began, by policy id; empty until they are known.

    ``warm_start`` adds entries to this dict when it has loaded the weights, and that may be after
    ``publish`` has begun. Each entry has iteration 0.
    """
    start: dict[str, Ancestor] = vars(algorithm).setdefault(_START, {})
    return start


class Follower(Protocol):
    """What a :class:`Tracker` calls: one ``publish`` of the Algorithm."""

    def newest_copies(self) -> Mapping[str, list[Ancestor]]:
        """Return the newest copies of each policy in the present lineage, newest first."""

    def restored(self, algorithm: Algorithm, restore: Restore) -> None:
        """Continue with the lineage of a restored checkpoint."""


class Tracker:
    """Writes and reads the records in the checkpoints of one Algorithm.

    An error in this work is logged, and fails neither a save nor a restore.
    """

    def __init__(self, algorithm: Algorithm, run: str) -> None:
        self.run = run
        self._algorithm = algorithm
        self._followers: list[Follower] = []
        self._notes: dict[str, Callable[[], Any]] = {}
        self._id = ""
        self._origin: dict[str, Any] | None = None
        if is_new_stack(algorithm):
            algorithm.get_state = self._saving(algorithm.get_state)
            algorithm.set_state = self._loading(algorithm.set_state)
            algorithm.restore_from_path = self._loading_part(algorithm.restore_from_path)
        else:
            algorithm.__getstate__ = self._saving(algorithm.__getstate__)
            algorithm.__setstate__ = self._loading(algorithm.__setstate__)

    @classmethod
    def of(cls, algorithm: Algorithm, run: str) -> Tracker:
        """Return the tracker of an Algorithm; make one if the Algorithm has none.

        Args:
            algorithm: an Algorithm that was not restored so far.
            run: name of the run, for a new tracker.
        """
        tracker: Tracker | None = getattr(algorithm, _TRACKER, None)
        if tracker is None:
            tracker = cls(algorithm, run)
            setattr(algorithm, _TRACKER, tracker)
        return tracker

    def follow(self, follower: Follower) -> None:
        """Tell a ``publish`` about all later restores, and ask it for its copies at each save."""
        self._followers.append(follower)

    def note(self, key: str, read: Callable[[], Any]) -> None:
        """Add to the record of each checkpoint what a function returns: plain values of JSON.

        A restore gives the values to all followers, as :attr:`Restore.notes`.
        """
        self._notes[key] = read

    # Saving --------------------------------------------------------------------------------------

    def _saving(self, get_state: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(get_state)
        def get_state_and_record(*args: Any, **kwargs: Any) -> Any:
            state = get_state(*args, **kwargs)
            if not args and kwargs.get("components") is None:
                try:
                    state[_KEY] = self._record()
                except Exception as error:
                    logger.warning(
                        "publish: the checkpoint does not say which versions it descends from: %r",
                        error,
                    )
            return state

        return get_state_and_record

    def _record(self) -> dict[str, Any]:
        copies: dict[str, set[Ancestor]] = {}
        for follower in self._followers:
            for policy_id, ancestors in follower.newest_copies().items():
                copies.setdefault(policy_id, set()).update(ancestors)
        return {
            "run": self.run,
            "lineage": self._id,
            "origin": self._origin and dict(self._origin),
            "iteration": int(self._algorithm.iteration),
            "copies": {
                policy_id: [
                    [each.iteration, str(each.digest), each.pushed]
                    for each in sorted(ancestors, key=lambda each: each.iteration, reverse=True)
                ]
                for policy_id, ancestors in copies.items()
            },
            **(
                {"notes": {key: read() for key, read in self._notes.items()}} if self._notes else {}
            ),
        }

    # Restoring -----------------------------------------------------------------------------------

    def _loading(self, set_state: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(set_state)
        def set_state_and_follow(state: Any, *args: Any, **kwargs: Any) -> None:
            set_state(state, *args, **kwargs)
            if not {_KEY, TRAINING_ITERATION, COMPONENT_LEARNER_GROUP}.isdisjoint(state):
                self._follow_restore(state.get(_KEY))

        return set_state_and_follow

    def _loading_part(self, restore_from_path: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(restore_from_path)
        def restore_and_follow(path: Any, *args: Any, **kwargs: Any) -> None:
            restore_from_path(path, *args, **kwargs)
            if kwargs.get("component") is not None:  # RLlib then calls no set_state here
                self._follow_restore(None)

        return restore_and_follow

    def _follow_restore(self, record: Any) -> None:
        saved = _read(record)
        iteration = int(self._algorithm.iteration)
        own = saved is not None and saved.run == self.run
        ancestors = {} if saved is None else saved.copies
        if saved is not None and own:
            self._id, self._origin = saved.lineage, saved.origin
        else:
            self._id = uuid.uuid4().hex
            self._origin = {"run": None, "iteration": iteration}
            if saved is not None:
                self._origin = {"run": saved.run, "iteration": saved.iteration}
                if saved.lineage:
                    self._origin["lineage"] = saved.lineage
        for follower in self._followers:
            lineage = Lineage(self._id, self._origin, dict(ancestors))
            try:
                run, notes = (None, {}) if saved is None else (saved.run, saved.notes)
                restore = Restore(lineage, own, run, iteration, notes)
                follower.restored(self._algorithm, restore)
            except Exception as error:
                logger.warning("publish: the next versions may lack their parents: %r", error)


@dataclass(frozen=True)
class _Record:
    """What a checkpoint says: run, lineage and iteration, the newest copies, and notes."""

    run: str
    lineage: str
    origin: dict[str, Any] | None
    iteration: int
    copies: dict[str, list[Ancestor]]
    notes: dict[str, Any]


def _read(record: Any) -> _Record | None:
    """Read the record of a checkpoint; None if there is none, or one of another form."""
    if record is None:
        return None
    try:
        return _Record(
            run=_expect(record["run"], str),
            lineage=_expect(record["lineage"], str),
            origin=None if record["origin"] is None else _read_origin(record["origin"]),
            iteration=_expect(record["iteration"], int),
            copies={
                _expect(policy_id, str): [
                    Ancestor(_expect(iteration, int), Digest.parse(digest), _expect(pushed, bool))
                    for iteration, digest, pushed in ancestors
                ]
                for policy_id, ancestors in record["copies"].items()
            },
            notes=_expect(record.get("notes", {}), dict),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        logger.warning(
            "publish: the checkpoint has a record of another form (%r), so its run is not known",
            error,
        )
        return None


def _read_origin(origin: Any) -> dict[str, Any]:
    return {
        "run": None if origin["run"] is None else _expect(origin["run"], str),
        "iteration": _expect(origin["iteration"], int),
        **({"lineage": _expect(origin["lineage"], str)} if "lineage" in origin else {}),
    }


def _expect(value: Any, kind: type[_T]) -> _T:
    # Records become part of versions, which hold plain values only.
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value
