from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import ray
import torch

from tests.support import ROOT

# Tiny networks on few cores: threads of torch would only wait for each other. And one number of them
# in this process and in the fresh ones, because it changes the order of sums, and so last digits.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One small Ray for all tests that need a running Algorithm."""
    # Remote workers import the tests' environments and models by name. Not by a runtime_env: Ray
    # starts its workers through a shell then, unquoted, and a path with a space hangs.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
