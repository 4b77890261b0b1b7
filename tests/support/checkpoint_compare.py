"""Compare a live policy with the policy that is read from a checkpoint of its Algorithm."""

from __future__ import annotations

import tempfile
from typing import Any

from policystore import Snapshot, Spec
from policystore.rllib import read_checkpoint


def check_checkpoint(algorithm: Any, snap: Snapshot, policy_id: str = "default_policy") -> None:
    """Save the Algorithm, read the policy, and compare all that a checkpoint can hold."""
    with tempfile.TemporaryDirectory() as folder:
        algorithm.save(folder)  # both stacks have this call, and Tune uses it
        read = read_checkpoint(folder, [policy_id])[policy_id]
    assert read.weights_digest == snap.weights_digest
    state, live = read.state, snap.state
    for known in (state, live):
        known.pop("exploration", None)  # a checkpoint does not hold it, and spec.omitted lists it
    both = [Snapshot(weights={}, state=known, spec=Spec()) for known in (state, live)]
    assert both[0].state_digest == both[1].state_digest
    # Only the class of a policy knows which weights acting needs; a checkpoint does not tell.
    unknown: dict[str, Any] = {"acting": None, "omitted": {}}
    assert read.spec.replace(**unknown).to_json() == snap.spec.replace(**unknown).to_json()
