"""Random numbers of a block of code: the same as without it, and none taken from other threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from policystore.torch.random_numbers import own_random_numbers, without_own_random_numbers

ONES = torch.ones(2, 2)
DRAWS: list[Callable[[], Any]] = [
    lambda: torch.rand(3),
    lambda: torch.rand(2, 2, out=torch.empty(2, 2)),
    lambda: torch.rand(3, dtype=torch.float64, device="cpu"),
    lambda: torch.rand_like(ONES),
    lambda: torch.randn(3),
    lambda: torch.randn_like(ONES),
    lambda: torch.randint(9, (4,)),
    lambda: torch.randint(-9, 9, (4,)),
    lambda: torch.randint_like(ONES, 9),
    lambda: torch.randint_like(ONES, -9, 9),
    lambda: torch.randperm(9),
    lambda: torch.normal(0.0, 1.0, (3,)),
    lambda: torch.normal(ONES, 1.0),
    lambda: torch.normal(ONES, ONES),
    lambda: torch.bernoulli(ONES / 2),
    lambda: torch.multinomial(ONES, 1),
    lambda: torch.poisson(ONES),
    lambda: torch.empty(3).uniform_(-1.0, 1.0),
    lambda: torch.empty(3).exponential_(),
    lambda: torch.empty(3).cauchy_(),
    lambda: torch.empty(3).geometric_(0.5),
    lambda: torch.empty(3).log_normal_(),
    lambda: torch.empty(3).random_(),
    lambda: torch.distributions.Gamma(ONES, 1.0).sample(),
    lambda: torch.distributions.Dirichlet(ONES).sample(),
    lambda: torch.distributions.Binomial(5, torch.tensor(0.5)).sample(),
    lambda: functional.dropout(ONES),
    lambda: functional.alpha_dropout(ONES, training=True),
    lambda: functional.rrelu(ONES, training=True),
    lambda: functional.gumbel_softmax(ONES),
    lambda: torch.nn.init.orthogonal_(torch.empty(3, 3)),
    lambda: torch.nn.init.trunc_normal_(torch.empty(3, 3)),
    lambda: torch.nn.init.kaiming_normal_(torch.empty(3, 3)),
    lambda: torch.nn.Conv2d(2, 3, 2).weight,
    lambda: torch.nn.LSTM(2, 3, 2, dropout=0.5)(ONES)[0],
    lambda: torch.nn.TransformerEncoderLayer(2, 1, 4)(ONES),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_each_draw_gives_torchs_next_numbers_and_torch_goes_on_from_before(
    draw: Callable[[], Any],
) -> None:
    torch.manual_seed(3)
    wanted = [draw(), draw()]
    torch.manual_seed(3)
    torch.rand(0)
    before = torch.get_rng_state()

    with own_random_numbers():
        found = [draw(), draw()]

    assert torch.equal(torch.get_rng_state(), before)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_blocks_inside_of_each_other_and_in_several_threads_stay_apart() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(6)
    torch.manual_seed(3)
    parts: list[torch.Tensor] = []

    def other() -> None:
        with own_random_numbers():
            parts.append(torch.rand(4))

    with own_random_numbers():
        parts.append(torch.rand(1))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        other()
        parts.append(torch.rand(2))

    own, one, two, rest = parts
    assert torch.equal(own, wanted[:1])
    assert torch.equal(one, wanted[:4])
    assert torch.equal(two, wanted[:4])  # like a block outside
    assert torch.equal(torch.cat([own, rest]), wanted[:3])
    assert torch.equal(torch.rand(6), wanted)


def test_a_block_that_seeds_torch_gets_the_numbers_of_the_seed_each_time() -> None:
    def seeded() -> torch.Tensor:
        torch.manual_seed(7)
        return torch.cat([torch.rand(2), torch.rand(3)])

    wanted = seeded()
    for first in (3, 7):
        torch.manual_seed(first)
        torch.rand(1)
        for _ in range(2):
            with own_random_numbers():
                torch.rand(2)
                assert torch.equal(seeded(), wanted)
                torch.rand(2)
                assert torch.equal(seeded(), wanted)


def test_a_generator_that_was_given_is_used() -> None:
    wanted = torch.rand(3, generator=torch.Generator().manual_seed(5))
    with own_random_numbers():
        found = torch.rand(3, generator=torch.Generator().manual_seed(5))
        drawn = torch.empty(3).uniform_(generator=torch.Generator().manual_seed(5))
    assert torch.equal(found, wanted)
    assert torch.equal(drawn, wanted)


def test_other_devices_are_left_alone() -> None:
    with own_random_numbers():
        assert torch.rand(3, device="meta").shape == (3,)
        assert torch.empty(3, device="meta").normal_().shape == (3,)


def test_modes_of_torch_inside_of_a_block_see_the_draws() -> None:
    before = torch.get_rng_state()
    with own_random_numbers(), FakeTensorMode():
        assert torch.rand(3).shape == torch.nn.Linear(3, 3).bias.shape
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    with own_random_numbers(), Seen() as seen:
        assert torch.equal(torch.rand(2), wanted)
    assert any("rand" in name for name in seen.names)


class Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the names of all operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_after_an_error_in_the_block_torch_draws_its_own_numbers_again() -> None:
    with pytest.raises(ZeroDivisionError), own_random_numbers():
        raise ZeroDivisionError
    before = torch.get_rng_state()
    torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_block_inside_draws_none_of_the_own_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with own_random_numbers():
        first = torch.rand(1)
        with without_own_random_numbers():
            assert _get_current_dispatch_mode() is None
            assert torch.ones(2).sum() == 2
        second = torch.rand(1)
    assert torch.equal(torch.cat([first, second]), expected)
    with without_own_random_numbers():
        torch.manual_seed(3)
        assert torch.equal(torch.rand(2), expected)


def test_after_an_error_in_a_block_inside_own_numbers_are_drawn_again() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with own_random_numbers():
        with pytest.raises(ValueError, match="inside"), without_own_random_numbers():
            raise ValueError("inside")
        assert torch.equal(torch.rand(1), expected)
    assert torch.equal(torch.rand(1), expected)
