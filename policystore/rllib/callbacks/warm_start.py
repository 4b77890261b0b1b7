"""Start a fresh Algorithm with weights from a store, in Tune or without it, on both API stacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.callbacks import DefaultCallbacks

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
from policystore.rllib.callbacks.restore import block_until_restored, restore_added_policies
from policystore.rllib.callbacks.results import add_to_result
from policystore.rllib.live.checks.arguments import check_compare
from policystore.rllib.live.checks.compatibility import Compare
from policystore.rllib.live.policies import load_into
from policystore.rllib.live.session import remember_refs
from policystore.rllib.workers.compat import runs_in_tune
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["warm_start"]

_EXAMPLE = "warm_start(store, {'main': 'soccer/main@7'})"

# Errors if the store cannot be reached or has lost an object. A trial that is restored from its
# checkpoint does not need the store.
_STORE_ERRORS = (StorageError, NotFoundError, IntegrityError, ReadOnlyError)


def warm_start(
    store: PolicyStore | str | os.PathLike[str],
    policies: Mapping[str, RefLike],
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
    under ``policystore/warm_start/<policy id>``.

    Args:
        store: a store, or the folder or URL of a store; every node that runs a trial has to reach
            the store.
        policies: policy id or module id of the config -> ref of the weights for that policy.
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
    store = open_store(store, _EXAMPLE)
    if not isinstance(policies, Mapping) or not policies:
        raise InvalidInputError(
            f"warm_start takes refs by policy id: {_EXAMPLE}, not {brief(policies)}"
        )
    digests: dict[str, str] = {}
    for policy_id, ref in policies.items():
        if not isinstance(policy_id, str):
            raise InvalidInputError(f"a policy id is a string, not {policy_id!r}")
        if isinstance(ref, Snapshot):
            raise InvalidInputError(
                "warm_start takes refs, because each trial pulls the weights on its own node; "
                f"found a Snapshot for {policy_id!r}. Push it first: "
                f"version = store.push(snap, 'soccer/main'), warm_start(store, "
                f"{{{policy_id!r}: version}}). load_into(algo, {{{policy_id!r}: snap}}) loads a "
                "Snapshot into an Algorithm that exists"
            )
        try:
            digests[policy_id] = str(store.resolve(ref))
        except PolicyStoreError as error:
            raise error.within(_describe({policy_id: ref}, store)) from error
    check_compare(spaces)
    settings = {
        "store": store,
        "refs": {policy_id: _ref_text(ref) for policy_id, ref in policies.items()},
        "digests": digests,
        "agent_ids": agent_ids,
        "spaces": spaces,
        "timeout": timeout,
    }
    return CallbackFactory(WarmStart, settings, callbacks)


class WarmStart(DefaultCallbacks):  # type: ignore[misc]
    """Callbacks that load pulled weights when an Algorithm is built; see :func:`warm_start`."""

    def __init__(
        self,
        store: PolicyStore,
        refs: Mapping[str, str],
        digests: Mapping[str, str],
        agent_ids: Mapping[str, Iterable[Any]] | Iterable[Any] | None,
        spaces: Compare,
        timeout: float,
    ) -> None:
        super().__init__()
        self._store = store
        self._refs = refs
        self._digests = digests
        self._agent_ids = agent_ids
        self._spaces = spaces
        self._timeout = timeout

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """Load the weights, after the workers were made and before they sample or are restored."""
        restore_added_policies(algorithm)
        try:
            digests = {pid: Digest.parse(text) for pid, text in self._digests.items()}
            pulled = self._store.pull_many(list(digests.values()))
            snaps = {pid: pulled[digest] for pid, digest in digests.items()}
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
            load_into(
                algorithm,
                snaps,
                agent_ids=self._agent_ids,
                spaces=self._spaces,
                timeout=self._timeout,
            )
            remember_refs(
                algorithm, {str(snap.acting_digest): self._refs[pid] for pid, snap in snaps.items()}
            )
        except PolicyStoreError as error:
            described = error.within(_describe(self._refs, self._store))
            if not runs_in_tune(algorithm):
                raise described from error
            # In Tune an error raised here ends the trial's actor, and Tune reports ActorDiedError
            # with a stack trace. If train() raises the error, Tune reports the error itself.
            block_until_restored(algorithm, described)

    def on_train_result(self, *, result: dict[str, Any], **_: Any) -> None:
        """Add to a training result the digests of the weights with which the Algorithm started."""
        add_to_result(result, "warm_start", self._digests)


def _describe(refs: Mapping[str, RefLike], store: PolicyStore) -> str:
    wanted = ", ".join(f"{policy_id!r} from {_ref_text(ref)!r}" for policy_id, ref in refs.items())
    return f"warm start of {wanted} in {store.url}"


def _ref_text(ref: RefLike) -> str:
    return ref.ref if isinstance(ref, Version) else str(ref)
