"""Algorithms that several files of tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import tests.support.added_policies as parts


@pytest.fixture(scope="package")
def crowd(ray_session: None) -> Iterator[Any]:
    """PPO of four agents, old API stack: two workers that train and one that evaluates.

    Episodes straddle samples. Each test leaves the policies as they were.
    """
    with parts.built(parts.configured(agents=parts.SPACES, runners=2, evals=1)) as algo:
        algo.train()
        parts.even_out(algo)
        yield algo


@pytest.fixture(scope="package")
def lone(ray_session: None) -> Iterator[Any]:
    """PPO of two agents, old API stack, without any remote worker."""
    with parts.built(parts.configured()) as algo:
        algo.train()
        yield algo
