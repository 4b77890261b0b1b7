from __future__ import annotations

import os
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from policystore import Snapshot, Spec

settings.register_profile(
    "quick", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", max_examples=2000, deadline=None, parent=settings.default)
settings.load_profile(os.environ.get("POLICYSTORE_HYPOTHESIS", "quick"))


@pytest.fixture
def make_snapshot() -> Callable[..., Snapshot]:
    """Small snapshots that differ by their seed; ``large`` ones fall under the split rule."""

    def make(seed: int = 0, *, large: bool = False) -> Snapshot:
        random = np.random.default_rng(seed)
        weights = {
            "encoder.weight": random.standard_normal((16, 4), dtype=np.float32),
            "encoder.bias": random.standard_normal(16, dtype=np.float32),
            "pi.weight": random.standard_normal((2, 16)).astype(ml_dtypes.bfloat16),
            "steps": np.array(seed, np.int64),
        }
        if large:
            frozen = np.random.default_rng(7)  # the same in every large snapshot
            weights["frozen"] = frozen.standard_normal((1024, 1024), dtype=np.float32)
            weights["head"] = random.standard_normal((256, 300), dtype=np.float32)
        return Snapshot(
            weights=weights,
            spec=Spec(stack="old", algorithm="PPO", config={"lr": 1e-3, "hiddens": [16]}),
            state={"MeanStdFilter": {0: {"mean": np.arange(4.0), "n": seed}}},
        )

    return make
