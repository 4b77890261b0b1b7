"""The newest number of a list is found with any hint."""

from __future__ import annotations

import random

import pytest

from policystore import NotFoundError
from policystore.backends.memory import MemoryBackend
from policystore.digest import Digest
from policystore.format.keys import hint_key, version_key
from policystore.format.records import Hint
from policystore.format.refs import MAX_NUMBER
from policystore.repository.record_log import Probe, RecordLog

NONE = Digest("0" * 64)


class Numbers(MemoryBackend):
    """A backend that has the numbers 1 to ``newest``, and counts the requests."""

    def __init__(self, newest: int, parallel: int) -> None:
        super().__init__("numbers")
        self.newest, self.at_once, self.asked = newest, parallel, 0

    @property
    def parallel(self) -> int:
        return self.at_once

    def size(self, key: str) -> int | None:
        self.asked += 1
        number = int(key[-15:-5])
        return 8 if number <= self.newest else None

    def get(self, key: str, **kwargs: object) -> bytes:
        if self.size(key) is None:
            raise NotFoundError(key)
        return f"record {key[-15:-5]}".encode()


def found(
    newest: int, hint: int | None, parallel: int, *, hinted: bool = True
) -> tuple[Probe, int]:
    backend = Numbers(newest, parallel)
    numbers = RecordLog(
        backend, lambda number: version_key("a", number), hint_key("a") if hinted else None
    )
    probe = numbers.newest(None if hint is None else Hint(hint, NONE))
    return probe, backend.asked


@pytest.mark.parametrize("parallel", [1, 3, pytest.param(64, marks=pytest.mark.long)])
@pytest.mark.parametrize("hinted", [True, False])
def test_every_number_is_found_whatever_the_hint(parallel: int, hinted: bool) -> None:
    chance = random.Random(parallel)
    numbers = [*range(40), 63, 64, 65, 127, 255, 256, 257, 1000, 12345, MAX_NUMBER - 1, MAX_NUMBER]
    for newest in numbers:
        near = [newest - 1, newest, newest + 1, newest + 2, chance.randint(1, 2 * newest + 2)]
        for hint in (None, 1, *near, MAX_NUMBER):
            if hint is not None and not 1 <= hint <= MAX_NUMBER:
                continue
            probe, _ = found(newest, hint, parallel, hinted=hinted)
            assert probe.number == newest, (newest, hint)
            if parallel > 1 and newest:
                assert probe.data == f"record {newest:010}".encode()


@pytest.mark.parametrize("parallel", [1, 64])
def test_a_hint_that_is_right_or_one_off_costs_few_probes(parallel: int) -> None:
    for newest in (1, 7, 1000, 10**9):
        assert found(newest, newest, parallel)[1] <= 2
        assert found(newest, max(1, newest - 1), parallel)[1] <= 2 + 16
        # Without a hint, or with one that is ahead: by the logarithm.
        for hint in (None, newest + 1):
            assert found(newest, hint, parallel)[1] <= (70 if parallel == 1 else 12 * 16)
