from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need a running Algorithm."""
    # Remote workers import the tests' environments and models by name.
    folders = [str(HERE), *(str(folder) for folder in sorted(HERE.iterdir()) if folder.is_dir())]
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(folders)}},
    )
    yield
    ray.shutdown()
