"""Workers of Ray that start as forks, as the tests of Algorithms have them."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest
import ray
import torch

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks only on Linux")


@ray.remote(num_cpus=0)
class Probe:
    """An actor that says how its process began."""

    def begin(self) -> dict[str, Any]:
        return {
            "process": os.getpid(),
            "parent": os.getppid(),
            "group": os.getpgid(0),
            "imported": {"ray.rllib.algorithms.ppo", "policystore"} & sys.modules.keys(),
            "drawn": (ray.WorkerID.from_random().hex(), np.random.randint(1 << 60)),
            "threads": torch.get_num_threads(),
        }


@pytest.fixture(scope="module")
def two(ray_session: None) -> list[dict[str, Any]]:
    actors = [Probe.remote() for _ in range(2)]
    found = ray.get([actor.begin.remote() for actor in actors], timeout=120)
    for actor in actors:
        ray.kill(actor)
    return list(found)


def test_one_process_has_imported_rllib_for_all_and_nothing_of_ours(two: Any) -> None:
    assert two[0]["parent"] == two[1]["parent"]
    assert [each["imported"] for each in two] == [{"ray.rllib.algorithms.ppo"}] * 2


def test_a_worker_has_a_process_a_group_and_random_numbers_of_its_own(two: Any) -> None:
    for each in two:
        assert each["group"] == each["process"]
        assert each["threads"] == 1
    assert two[0]["process"] != two[1]["process"]
    for drawn in zip(*(each["drawn"] for each in two), strict=True):
        assert len(set(drawn)) == 2


@pytest.mark.long
def test_a_worker_with_an_environment_of_its_own_is_no_fork(two: Any) -> None:
    actor = Probe.options(runtime_env={"env_vars": {"SOME": "thing"}}).remote()
    found = ray.get(actor.begin.remote(), timeout=120)
    ray.kill(actor)
    assert found["parent"] != two[0]["parent"]
    assert "ray.rllib.algorithms.ppo" not in found["imported"]
