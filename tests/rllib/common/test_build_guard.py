"""Builds of policies that run while other threads use torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from policystore import MismatchError, Snapshot
from policystore.rllib import rebuild_module, rebuild_policy, snapshot
from policystore.rllib.common.build_guard import building
from tests.support.conversions import FORCES, Cell


@pytest.fixture(scope="module")
def old() -> Snapshot:
    return snapshot(Cell(act=FORCES).policy())


def in_a_thread(call: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(call).result(60)


def test_a_build_does_not_take_the_random_numbers_of_other_threads_back(old: Snapshot) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)

    with building(old):
        torch.nn.Linear(5, 5)
        first = in_a_thread(lambda: torch.rand(1))
        torch.nn.Linear(5, 5)
        second = in_a_thread(lambda: torch.rand(1))
    third = torch.rand(1)

    assert torch.equal(torch.cat([first, second, third]), wanted)


def test_what_weights_do_not_fill_is_drawn_as_without_a_build_of_policystore(old: Snapshot) -> None:
    def net() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return list(torch.nn.Linear(2, 2).parameters())

    torch.manual_seed(5)
    with building(old):
        built = list(torch.nn.Linear(2, 2).parameters())

    for one, other in zip(built, net(), strict=True):
        assert torch.equal(one, other)


def test_a_module_may_be_made_while_another_thread_begins_and_ends_a_build(old: Snapshot) -> None:
    hooked: list[str] = []

    def build(module: torch.nn.Module, name: str, parameter: Any) -> None:
        if not hooked:  # the thread of the test is in torch's list of hooks now
            hooked.append(name)
            in_a_thread(lambda: rebuild_policy(old))

    def last(*_: object) -> None:
        pass

    hooks = [register_module_parameter_registration_hook(each) for each in (build, last)]
    try:
        torch.nn.Linear(2, 2)
    finally:
        for hook in hooks:
            hook.remove()
    assert hooked


def test_the_limit_of_a_build_is_its_own(old: Snapshot) -> None:
    def too_much() -> None:
        with pytest.raises(MismatchError, match="do not belong together"), building(old):
            for _ in range(3):
                torch.nn.Linear(3000, 3000)

    def enough() -> None:
        with building(old):
            torch.nn.Linear(3000, 3000)

    with building(old):
        torch.nn.Linear(3000, 3000)
        in_a_thread(too_much)
        in_a_thread(enough)
        torch.nn.Linear(100, 100)
        with pytest.raises(MismatchError), building(old):  # inside of another one
            torch.nn.Linear(3000, 3000)
    torch.nn.Linear(6000, 6000)


def test_many_threads_rebuild_at_once(old: Snapshot) -> None:
    new = snapshot(Cell(act=FORCES).module())
    start = threading.Barrier(4)

    def build(number: int) -> None:
        start.wait(60)
        for _ in range(5):
            rebuild_policy(old) if number % 2 else rebuild_module(new)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(build, range(4)))
