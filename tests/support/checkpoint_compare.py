"""A live policy against what its Algorithm's checkpoint gives."""

from __future__ import annotations

import tempfile
from typing import Any

from policystore import Snapshot, Spec
from policystore.rllib import read_checkpoint


def check_checkpoint(algorithm: Any, snap: Snapshot, policy_id: str = "default_policy") -> None:
    """Saves the Algorithm and reads the policy: the same but for what a checkpoint cannot tell."""
    with tempfile.TemporaryDirectory() as folder:
        algorithm.save(folder)  # the call that both stacks have, and Tune uses
        read = read_checkpoint(folder, [policy_id])[policy_id]
    assert read.weights_digest == snap.weights_digest
    state, live = read.state, snap.state
    for known in (state, live):
        known.pop("exploration", None)  # left out, and listed
    both = [Snapshot(weights={}, state=known, spec=Spec()) for known in (state, live)]
    assert both[0].state_digest == both[1].state_digest
    # Which weights acting needs only the class knows.
    unknown: dict[str, Any] = {"acting": None, "omitted": {}}
    assert read.spec.replace(**unknown).to_json() == snap.spec.replace(**unknown).to_json()
