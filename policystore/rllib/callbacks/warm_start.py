"""Start a fresh Algorithm with weights from a store, in Tune or without it, on both API stacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.callbacks import DefaultCallbacks
from ray.rllib.utils.metrics import ALL_MODULES

from policystore._util.log import logger
from policystore._util.messages import brief
from policystore.digest import Digest
from policystore.errors import (
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    PolicyStoreError,
    ReadOnlyError,
    StorageError,
)
from policystore.format.records import Version
from policystore.repository.ref_like import RefLike
from policystore.rllib.callbacks.factory import CallbackFactory, CallbackMaker, open_store
from policystore.rllib.callbacks.lineage import Ancestor, start_of
from policystore.rllib.callbacks.restore import block_until_restored, restore_added_policies
from policystore.rllib.callbacks.results import add_to_result
from policystore.rllib.live.checks.arguments import check_compare, check_timeout
from policystore.rllib.live.checks.compatibility import Compare
from policystore.rllib.live.checks.filters import agents_by_policy
from policystore.rllib.live.policies import load_into
from policystore.rllib.live.session import remember_refs
from policystore.rllib.transfer.recipe import AdaptRecipe
from policystore.rllib.workers.compat import runs_in_tune
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["Start", "warm_start"]

Start: TypeAlias = RefLike | Snapshot | AdaptRecipe
"""What a policy starts with: a ref, a snapshot, or what ``adapted`` returns."""

_EXAMPLE = "warm_start(store, {'main': 'soccer/main@7'})"

# Errors if the store cannot be reached or has lost an object. A trial that is restored from its
# checkpoint does not need the store.
_STORE_ERRORS = (StorageError, NotFoundError, IntegrityError, ReadOnlyError)


def warm_start(
    store: PolicyStore | str | os.PathLike[str] | None,
    policies: Mapping[str, Start],
    *,
    agent_ids: Mapping[str, Iterable[Any]] | Iterable[Any] | None = None,
    spaces: Compare = "exact",
    timeout: float = 60.0,
    callbacks: CallbackMaker | Iterable[CallbackMaker] = (),
) -> CallbackFactory:
    """Make callbacks that start the policies of a fresh Algorithm with weights from a store.

    Use: ``config.callbacks(warm_start("s3://team/policies", {"main": "soccer/main@champion"}))``,
    in ``tune.Tuner``, in ``tune.run``, or for an Algorithm that is built by hand. When the
    Algorithm is built, :func:`~policystore.rllib.load_into` loads the weights into every learner
    and worker, so no sample is drawn with other weights. The config, its ``policy_mapping_fn`` and
    all other policies stay as they are.

    An Algorithm that is restored from a checkpoint has the checkpoint's weights instead, on all
    its workers, evaluation workers included. Modules that :func:`~policystore.rllib.add_policy`
    had added to the Algorithm are restored, too. A restore needs no store.

    Refs are resolved once, by this call. All trials of an experiment, and restarted trials, get the
    same weights, even if a name or tag moves in the meantime. Training results show the digests,
    under ``policystore/warm_start/<policy id>``. For a policy that was adapted, results also show
    the call of ``adapted`` as text, and how many tensors have each status, such as ``taken``, under
    ``policystore/adapted/<policy id>``.

    Args:
        store: a store, or the folder or URL of a store; every node that runs a trial has to reach
            the store. None if ``policies`` has no refs.
        policies: policy id or module id of the config -> the weights for that policy: a ref; a
            Snapshot, which becomes part of the config and of its pickles; or what
            :func:`~policystore.rllib.adapted` returns, if the weights have to be adapted to the
            policy of the config.
        agent_ids: the agents whose filters get the snapshots' filter statistics, as for
            ``load_into``.
        spaces: ``"exact"`` or ``"shape"``, as for ``load_into``.
        timeout: seconds for the load, counted after the weights were pulled.
        callbacks: callback classes of the user, one or a list; called after the callbacks of
            ``warm_start``. On the old API stack, use this argument to have both, because RLlib
            fails there if the config has a list of callbacks.

    Raises:
        NotFoundError: a ref that names nothing.
        AmbiguousError: a digest prefix that fits several policies.
        InvalidInputError: an argument of the wrong form.
        StorageError: the store cannot be reached.

    The Algorithm raises these errors while it is built, before it samples. Each error names the
    policy id, the ref and the store. (In Tune, the trial's first ``train()`` raises the error, and
    ``result.error`` has it.)
        NotFoundError: the config has no such policy.
        MismatchError: weights, spaces or filters that do not fit.
    If the Algorithm cannot reach the store, or the policy is gone from the store, the first
    ``train()`` or ``evaluate()`` raises the error, and not the build: a restore from a checkpoint
    may come in between, and then the Algorithm does not need the store.
    """
    store = None if store is None else open_store(store, _EXAMPLE)
    if not isinstance(policies, Mapping) or not policies:
        raise InvalidInputError(
            f"warm_start takes refs by policy id: {_EXAMPLE}, not {brief(policies)}"
        )
    check_compare(spaces)
    check_timeout(timeout)
    if ALL_MODULES not in policies:  # otherwise agent_ids name the modules of the snapshot
        agent_ids = agents_by_policy(policies, agent_ids)
    sources = {pid: _Source.of(pid, start, store) for pid, start in policies.items()}
    settings = {
        "store": store,
        "refs": {pid: source.text for pid, source in sources.items()},
        "digests": {pid: source.digest for pid, source in sources.items()},
        "agent_ids": agent_ids,
        "spaces": spaces,
        "timeout": timeout,
        "snapshots": {pid: each.snap for pid, each in sources.items() if each.snap is not None},
        "recipes": {pid: each.recipe for pid, each in sources.items() if each.recipe is not None},
    }
    return CallbackFactory(WarmStart, settings, callbacks)


@dataclass(frozen=True)
class _Source:
    """Where the weights of one policy come from.

    Attributes:
        text: the ref, snapshot or recipe as messages name it.
        digest: the digest of the snapshot.
        snap: the snapshot; None if it is pulled.
        recipe: how the snapshot is adapted; None if it is loaded as it is.
    """

    text: str
    digest: str
    snap: Snapshot | None = None
    recipe: AdaptRecipe | None = None

    @classmethod
    def of(cls, policy_id: object, start: Start, store: PolicyStore | None) -> _Source:
        """Resolve what a caller gave for one policy.

        Raises:
            InvalidInputError: another form, or a ref without a store.
            PolicyStoreError: as ``store.resolve``.
        """
        if not isinstance(policy_id, str):
            raise InvalidInputError(f"a policy id is a string, not {policy_id!r}")
        recipe = start if isinstance(start, AdaptRecipe) else None
        source = start.source if isinstance(start, AdaptRecipe) else start
        if isinstance(source, Snapshot):
            text = (source.ref or str(source.digest)) if recipe is None else repr(recipe)
            return cls(text, str(source.digest), source, recipe)
        text = _ref_text(source) if recipe is None else repr(recipe)
        if store is None:
            raise InvalidInputError(
                f"{policy_id!r} is to start with the ref {brief(text)}, and store is None. The "
                f"store comes first: {_EXAMPLE}"
            )
        try:
            return cls(text, str(store.resolve(source)), None, recipe)
        except PolicyStoreError as error:
            raise error.within(_describe({policy_id: text}, store)) from error


class WarmStart(DefaultCallbacks):  # type: ignore[misc]
    """Callbacks that load pulled weights when an Algorithm is built; see :func:`warm_start`."""

    def __init__(
        self,
        store: PolicyStore | None,
        refs: Mapping[str, str],
        digests: Mapping[str, str],
        agent_ids: Mapping[str, Iterable[Any]] | Iterable[Any] | None,
        spaces: Compare,
        timeout: float,
        snapshots: Mapping[str, Snapshot] | None = None,
        recipes: Mapping[str, AdaptRecipe] | None = None,
    ) -> None:
        super().__init__()
        self._store = store
        self._refs = refs
        self._digests = digests
        self._agent_ids = agent_ids
        self._spaces = spaces
        self._timeout = timeout
        self._snapshots = dict(snapshots or {})
        self._recipes = dict(recipes or {})
        self._adapted: dict[str, dict[str, Any]] = {
            pid: {"digest": digests[pid], "recipe": repr(recipe)}
            for pid, recipe in self._recipes.items()
        }

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """Load the weights, after the workers were made and before they sample or are restored."""
        restore_added_policies(algorithm)
        try:
            snaps = self._pull()
        except _STORE_ERRORS as error:
            described = error.within(_describe(self._refs, self._store))
            logger.warning(
                "%s\nThe Algorithm raises this error when it trains, unless it is restored from a "
                "checkpoint first.",
                described,
            )
            block_until_restored(algorithm, described)
            return
        try:
            snaps = {pid: self._fitted(algorithm, pid, snap) for pid, snap in snaps.items()}
            load_into(
                algorithm,
                snaps,
                agent_ids=self._agent_ids,
                spaces=self._spaces,
                timeout=self._timeout,
            )
            start_of(algorithm).update(
                (pid, Ancestor(0, Digest.parse(text), pushed=True))
                for pid, text in self._digests.items()
            )
            remember_refs(
                algorithm,
                {
                    str(snap.acting_digest): label
                    for pid, snap in snaps.items()
                    if (label := self._label(pid))
                },
            )
        except PolicyStoreError as error:
            described = error.within(_describe(self._refs, self._store))
            if not runs_in_tune(algorithm):
                raise described from error
            # In Tune an error raised here ends the trial's actor, and Tune reports ActorDiedError
            # with a stack trace. If train() raises the error, Tune reports the error itself.
            block_until_restored(algorithm, described)

    def _pull(self) -> dict[str, Snapshot]:
        """Return the snapshots by policy id; those that the config does not hold are pulled."""
        wanted = {
            pid: Digest.parse(text)
            for pid, text in self._digests.items()
            if pid not in self._snapshots
        }
        if not wanted or self._store is None:
            return {pid: self._snapshots[pid] for pid in self._digests}
        pulled = self._store.pull_many(list(wanted.values()))
        return {
            pid: self._snapshots[pid] if pid in self._snapshots else pulled[wanted[pid]]
            for pid in self._digests
        }

    def _fitted(self, algorithm: Algorithm, policy_id: str, snap: Snapshot) -> Snapshot:
        """Return a snapshot, adapted to the Algorithm's policy if there is a recipe."""
        recipe = self._recipes.get(policy_id)
        if recipe is None:
            return snap
        result = recipe.apply(snap, algorithm, policy_id, self._agents_of(policy_id))
        self._adapted[policy_id].update(result.report.counts)
        for note in result.report.notes:
            logger.warning("warm start of %r from %r: %s", policy_id, self._refs[policy_id], note)
        return result.snapshot

    def _label(self, policy_id: str) -> str:
        """Return how reports on workers name the weights of a policy; empty without a name."""
        given = self._snapshots.get(policy_id)
        if policy_id in self._recipes:
            return f"{self._recipes[policy_id].source_text} (adapted)"
        return self._refs[policy_id] if given is None else given._named_ref or ""

    def _agents_of(self, policy_id: str) -> list[Any] | None:
        """Return the agents that the caller gave for a policy; None if the caller gave none."""
        given = self._agent_ids
        if given is None:
            return None
        if policy_id != ALL_MODULES:
            return (agents_by_policy(self._digests, given) or {}).get(policy_id)
        listed = given.values() if isinstance(given, Mapping) else [given]
        return [agent for agents in listed for agent in agents]

    def on_train_result(self, *, result: dict[str, Any], **_: Any) -> None:
        """Add to a training result the digests of the weights with which the Algorithm started."""
        add_to_result(result, "warm_start", self._digests)
        if self._adapted:
            add_to_result(result, "adapted", self._adapted)


def _describe(refs: Mapping[str, str], store: PolicyStore | None) -> str:
    wanted = ", ".join(f"{policy_id!r} from {text!r}" for policy_id, text in refs.items())
    return f"warm start of {wanted}" + ("" if store is None else f" in {store.url}")


def _ref_text(ref: RefLike) -> str:
    return ref.ref if isinstance(ref, Version) else str(ref)
