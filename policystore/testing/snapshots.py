"""Make small policies to test with."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from policystore.format.spec import Spec
from policystore.snapshot import Snapshot

__all__ = ["make_snapshot"]


def make_snapshot(seed: int = 0, *, large: bool = False) -> Snapshot:
    """Make a snapshot of about 0.6 KB, or of 4.6 MB, whose content depends on the seed alone.

    Args:
        seed: snapshots of different seeds have different weights and state.
        large: add two tensors, of 4 MiB and of 300 KiB, which a store keeps as objects of their
            own. The first tensor is the same for all seeds, like a frozen encoder.
    """
    random = np.random.default_rng(seed)
    weights = {
        "encoder.weight": random.standard_normal((16, 4), dtype=np.float32),
        "encoder.bias": random.standard_normal(16, dtype=np.float32),
        "pi.weight": random.standard_normal((2, 16)).astype(ml_dtypes.bfloat16),
        "steps": np.array(seed, np.int64),
    }
    if large:
        frozen = np.random.default_rng(7)
        weights["frozen"] = frozen.standard_normal((1024, 1024), dtype=np.float32)
        weights["head"] = random.standard_normal((256, 300), dtype=np.float32)
    return Snapshot(
        weights=weights,
        spec=Spec(stack="old", algorithm="PPO", config={"lr": 1e-3, "hiddens": [16]}),
        state={"MeanStdFilter": {0: {"mean": np.arange(4.0), "n": seed}}},
    )
