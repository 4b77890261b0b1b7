"""Let a learner begin anew with the weights of a stored policy, on all learners and workers."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm import Algorithm

from policystore._util.log import logger
from policystore.errors import PolicyStoreError
from policystore.rllib.live.policies import load_into
from policystore.snapshot import Snapshot
from policystore.store import PolicyStore

__all__ = ["reset_learner"]


def reset_learner(
    algorithm: Algorithm, store: PolicyStore, learner: str, ref: str
) -> Snapshot | None:
    """Load a stored policy into a learner; return None, with a warning, if that did not work.

    The optimizer keeps its state: RLlib has no call to begin it anew.

    Args:
        algorithm: the Algorithm, between two iterations.
        store: the store.
        learner: id of the learner.
        ref: ref or digest of the policy.
    """
    try:
        snap = store.pull(ref)
        load_into(algorithm, {learner: snap}).raise_if_bad()
    except PolicyStoreError as error:
        logger.warning(
            "opponent pool: %r was not reset to %s, and keeps its weights: %s", learner, ref, error
        )
        return None
    return snap
