"""Ray and torch as all tests of RLlib use them. The import sets torch and RLlib for this process."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import ray
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.connectors import connector_v2
from ray.tune.trainable import trainable

from tests.support import ROOT
from tests.support.worker_forks import forked_workers

# Tiny networks on few cores: threads of torch would only wait for each other. And one number of them
# in this process and in the fresh ones, because it changes the order of sums, and so last digits.
torch.set_num_threads(1)

# An Algorithm's stop() waits until the thread that notes the load of the machine wakes up, which is
# every 0.7 s (ray/tune/utils/util.py, UtilMonitor.run).
trainable.UtilMonitor = functools.partial(trainable.UtilMonitor, delay=0.05)

if not hasattr(AlgorithmConfig, "build_algo"):  # Ray 2.40
    AlgorithmConfig.build_algo = AlgorithmConfig.build

# A connector looks for the frame that made it (connectors/connector_v2.py:109), and reads the source
# of all frames on the way. Under pytest there are many, and this takes half the time of a player.
connector_v2.inspect = SimpleNamespace(
    **{**vars(inspect), "stack": functools.partial(inspect.stack, 0)}
)


@contextlib.contextmanager
def small_ray() -> Iterator[None]:
    """Run a small Ray of this machine, whose workers import the tests' environments and models."""
    # By name, and not by a runtime_env: Ray starts its workers through a shell then, unquoted, and
    # a path with a space hangs.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with pytest.MonkeyPatch.context() as patch, forked_workers():
        patch.setenv("PYTHONPATH", path)
        ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR")
        yield
        ray.shutdown()
