"""Weights for a fresh Algorithm, by two lines in its config: plain, in Tune, on both API stacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.callbacks import DefaultCallbacks

from policystore._util.log import logger
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
from policystore.rllib.callbacks.factory import CallbackFactory, report
from policystore.rllib.callbacks.restore import block_until_restored, restore_added_policies
from policystore.rllib.live.load import load_into
from policystore.store import PolicyStore

__all__ = ["warm_start"]

# What a store that is out of reach, or has lost something, raises: a trial that resumes can do
# without it.
_OF_THE_STORE = (StorageError, NotFoundError, IntegrityError, ReadOnlyError)


def warm_start(
    store: PolicyStore | str | os.PathLike[str],
    policies: Mapping[str, RefLike],
    *,
    agent_ids: Any = None,
    timeout: float = 60.0,
    callbacks: Callable[[], Any] | Iterable[Callable[[], Any]] = (),
) -> CallbackFactory:
    """Callbacks that give policies of a fresh Algorithm the weights of pushed ones.

    ``config.callbacks(warm_start("s3://team/policies", {"main": "soccer/main@champion"}))``, in
    ``tune.Tuner``, ``tune.run`` and where the Algorithm is built by hand. They go by
    :func:`load_into <policystore.rllib.live.load.load_into>` to every learner and worker at once,
    when the Algorithm is built: no sample is drawn with other weights. Nothing else changes: not
    the config, its ``policy_mapping_fn`` or its other policies.

    An Algorithm that is restored from a checkpoint holds what the checkpoint has, on all its
    workers, evaluation too; modules that were added to it with
    :func:`~policystore.rllib.add_policy` are there again. It needs the store no more.

    Refs are looked up here, once: all trials of an experiment and their restarts get the same
    weights, wherever a name or tag moves meanwhile. Training results have the digests, under
    ``policystore/warm_start/<policy id>``.

    Args:
        store: a store, its folder or URL, which every node that runs a trial can reach.
        policies: id of a policy or module of the config -> ref of what it is to start with.
        agent_ids: as for ``load_into``: whose filters get the filter statistics.
        timeout: seconds for the load, once the weights are here.
        callbacks: callback classes of the user's own, one or a list, called after these; on the old
            API stack the only way to have both, as RLlib fails there on a list.

    Raises:
        NotFoundError, AmbiguousError: a ref that means nothing, or several policies.
        InvalidInputError: an argument of the wrong form.
        StorageError: the store cannot be reached.

    The Algorithm raises where it is built (in Tune: ``result.error``, from the trial's first
    ``train()``), before any sample, with the id, the ref and the store:
        NotFoundError: its config has no such policy.
        MismatchError: weights, spaces or filters that do not fit.
    and a store that it cannot reach, or that lost the policy, when it is to sample first, as only
    then it is known not to be restored.
    """
    if not isinstance(store, PolicyStore):
        store = PolicyStore(store)
    if not isinstance(policies, Mapping) or not policies:
        raise InvalidInputError(
            "warm_start takes refs by policy id: warm_start(store, {'main': 'soccer/main@7'}), not "
            f"{policies!r}"
        )
    digests: dict[str, str] = {}
    for policy_id, ref in policies.items():
        if not isinstance(policy_id, str):
            raise InvalidInputError(f"policy ids are texts, not {policy_id!r}")
        try:
            digests[policy_id] = str(store.resolve(ref))
        except PolicyStoreError as error:
            raise error.within(_what({policy_id: ref}, store)) from error
    settings = {
        "store": store,
        "refs": {policy_id: _said(ref) for policy_id, ref in policies.items()},
        "digests": digests,
        "agent_ids": agent_ids,
        "timeout": timeout,
    }
    return CallbackFactory(WarmStart, settings, callbacks)


class WarmStart(DefaultCallbacks):  # type: ignore[misc]
    """What :func:`warm_start` makes."""

    def __init__(
        self,
        store: PolicyStore,
        refs: Mapping[str, str],
        digests: Mapping[str, str],
        agent_ids: Any,
        timeout: float,
    ) -> None:
        super().__init__()
        self._store = store
        self._refs = refs
        self._digests = digests
        self._agent_ids = agent_ids
        self._timeout = timeout

    def on_algorithm_init(self, *, algorithm: Algorithm, **_: Any) -> None:
        """After the workers were made, and before anything is sampled or restored."""
        restore_added_policies(algorithm)
        try:
            digests = {pid: Digest.parse(text) for pid, text in self._digests.items()}
            pulled = self._store.pull_many(list(digests.values()))
            snaps = {pid: pulled[digest] for pid, digest in digests.items()}
        except _OF_THE_STORE as error:
            found = error.within(_what(self._refs, self._store))
            logger.warning(
                "%s\nWithout its weights the Algorithm will not run, unless it is restored from a "
                "checkpoint now.",
                found,
            )
            block_until_restored(algorithm, found)
            return
        try:
            load_into(algorithm, snaps, agent_ids=self._agent_ids, timeout=self._timeout)
        except PolicyStoreError as error:
            found = error.within(_what(self._refs, self._store))
            if getattr(algorithm, "_storage", None) is None:
                raise found from error
            # In Tune an error here ends the trial's actor, and is reported as that: ActorDiedError,
            # with a stack trace. From train() the error itself arrives.
            block_until_restored(algorithm, found)

    def on_train_result(self, *, result: dict[str, Any], **_: Any) -> None:
        """Say what the Algorithm started with."""
        report(result, "warm_start", self._digests)


def _what(refs: Mapping[str, RefLike], store: PolicyStore) -> str:
    wanted = ", ".join(f"{policy_id!r} from {_said(ref)!r}" for policy_id, ref in refs.items())
    return f"warm start of {wanted} in {store.url}"


def _said(ref: RefLike) -> str:
    return ref.ref if isinstance(ref, Version) else str(ref)
