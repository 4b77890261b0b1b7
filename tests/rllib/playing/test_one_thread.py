"""A small network computes on one thread, and nobody's number of threads changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from policystore.rllib.playing.nets import operations
from policystore.rllib.playing.one_thread import limit_threads, restore_threads
from tests.rllib.new_stack.test_direct import CELLS as NEW
from tests.rllib.old_stack.test_direct import CELLS as OLD
from tests.support.player_pairs import OBS, pair


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_of_another() -> int:
    """The number with which a thread begins that first uses torch now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("two_threads")
def test_the_limit_is_for_the_calling_thread_alone() -> None:
    before = limit_threads()
    assert torch.get_num_threads() == 1
    assert threads_of_another() == 2
    restore_threads(before)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_call_computes_on_one_thread_and_leaves_the_number(stack: str) -> None:
    player: Any = pair("plain").player(stack)
    net = player.module if stack == "new" else player.policy.model
    seen: list[int] = []
    layer = next(part for part in net.modules() if isinstance(part, torch.nn.Linear))
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    player.act(OBS)
    player.act_batch(np.stack([OBS, OBS]))
    assert seen == [1, 1]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_large_call_keeps_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    player: Any = pair("plain").player("new")
    monkeypatch.setattr(player._engine, "_most_rows", 1)
    seen: list[int] = []
    layer = next(part for part in player.module.modules() if isinstance(part, torch.nn.Linear))
    layer.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    player.act_batch([OBS, OBS])
    player.act(OBS)
    assert seen == [2, 1]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stack", ["old", "new"])
def test_a_call_that_fails_leaves_the_number(stack: str) -> None:
    player: Any = pair("plain").player(stack)
    net = player.module if stack == "new" else player.policy.model
    for part in net.modules():
        part.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        player.act(OBS)
    assert torch.get_num_threads() == 2


def multiplications(net: torch.nn.Module, call: Callable[[], Any]) -> int:
    """The number of multiplications of a call for one observation, from the tensors that pass."""
    found: list[int] = []

    def count(part: Any, _: Any, output: torch.Tensor) -> None:
        places = output.shape[2:].numel() if isinstance(part, torch.nn.Conv2d) else 1
        found.append(part.weight.numel() * places)

    for part in net.modules():
        if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear)):
            part.register_forward_hook(count)
    call()
    return sum(found)


@pytest.mark.parametrize("stack", ["new", "old"])
def test_the_multiplications_of_a_convolutional_network_are_about_right(stack: str) -> None:
    player = (NEW["ppo-conv"] if stack == "new" else OLD["ppo-conv"]()).player()
    net = player.module if stack == "new" else player.policy.model
    counted = operations(net, player.observation_space)
    real = multiplications(net, lambda: player.act(player.observation_space.sample()))
    # The old stack has a second network of the same size for the value, which counts, too.
    assert real <= counted <= 4 * real


def test_convolutions_count_for_each_place_and_each_image() -> None:
    one = [torch.nn.ZeroPad2d((1, 1, 2, 2)), torch.nn.Conv2d(3, 4, 3, 2), torch.nn.Conv2d(4, 2, 2)]
    again = [torch.nn.Conv2d(3, 1, 5, padding="same"), torch.nn.Conv2d(1, 2, 3, padding=1)]
    image = gym.spaces.Box(0.0, 1.0, (10, 12, 3))
    nested = gym.spaces.Dict({"at": gym.spaces.Discrete(2), "see": gym.spaces.Tuple([image])})
    flat = gym.spaces.Box(0.0, 1.0, (362,))
    flat.original_space = nested  # type: ignore[attr-defined]
    expected = 108 * 6 * 6 + 32 * 5 * 5 + 75 * 10 * 12 + 18 * 10 * 12
    for space in (image, nested, flat):
        assert operations(torch.nn.Sequential(*one, *again), space) == expected
    assert operations(torch.nn.Linear(3, 4), gym.spaces.Discrete(3)) == 12
    assert operations(torch.nn.Linear(3, 4), None) == 12
