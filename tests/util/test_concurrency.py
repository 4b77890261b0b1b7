from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable

import pytest

from policystore._util import concurrency
from policystore._util.concurrency import (
    in_parallel,
    raise_if_cancelled,
    raise_if_interrupted,
    run_both,
    shielded,
    wait_for,
)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_results_are_in_the_order_of_the_items() -> None:
    gates = [threading.Event() for _ in range(4)]

    def call(index: int) -> int:
        assert gates[index].wait(20)
        if index:
            gates[index - 1].set()
        return index

    gates[3].set()
    assert in_parallel(call, range(4), workers=4) == [0, 1, 2, 3]
    assert in_parallel(call, [], workers=4) == []
    assert run_both(lambda: 1, lambda: 2, at_once=True) == (1, 2)
    assert run_both(lambda: 1, lambda: 2, at_once=False) == (1, 2)


def test_the_error_of_the_earliest_is_raised() -> None:
    both = threading.Barrier(2)

    def call(index: int) -> None:
        both.wait(20)
        raise ValueError(index)

    for _ in range(20):
        with pytest.raises(ValueError, match="0"):
            in_parallel(call, range(2), workers=2)


def test_after_an_error_no_further_call_starts_at_any_depth() -> None:
    begun: list[object] = []
    inside = threading.Event()

    def inner(index: int) -> None:
        begun.append(index)
        inside.set()
        while True:
            raise_if_cancelled()
            time.sleep(0.001)

    def outer(index: int) -> None:
        if index == 0:
            assert inside.wait(20)
            raise ValueError("it")
        in_parallel(inner, range(100), workers=2)

    with pytest.raises(ValueError, match="it"):
        in_parallel(outer, range(50), workers=2)
    assert len(begun) <= 2
    raise_if_cancelled()  # in a thread that belongs to no group


def test_shielded_calls_are_not_cancelled() -> None:
    cleaned: list[bool] = []
    begun = threading.Event()

    def call(index: int) -> None:
        if index == 0:
            assert begun.wait(20)
            raise ValueError("it")
        try:
            begun.set()
            while True:
                raise_if_cancelled()
                time.sleep(0.001)
        finally:
            with shielded():
                raise_if_cancelled()
                in_parallel(cleaned.append, [True, True], workers=2)

    with pytest.raises(ValueError, match="it"):
        in_parallel(call, range(2), workers=2)
    assert cleaned == [True, True]


def test_threads_of_calls_inside_of_one_another_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(concurrency, "_FREE", 5)
    most = 0
    lock = threading.Lock()

    def inner(_: int) -> int:
        nonlocal most
        with lock:
            mine = [t for t in threading.enumerate() if t.name == "policystore"]
            most = max(most, len(mine))
        return 1

    found = in_parallel(lambda _: sum(in_parallel(inner, range(9), workers=9)), range(9), workers=9)
    assert found == [9] * 9
    assert 0 < most <= 5
    assert concurrency._FREE == 5


@pytest.mark.parametrize("given", [0, 1])
def test_without_threads_the_calling_thread_makes_all_calls(
    given: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, left = concurrency._FREE, [given]
    start = threading.Thread.start

    def refusing(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refusing)
    assert in_parallel(lambda index: index, range(9), workers=9) == list(range(9))
    assert before == concurrency._FREE


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_an_interrupt_ends_running_calls_and_is_raised() -> None:
    program = """
        import signal, time
        from policystore._util.concurrency import in_parallel, raise_if_cancelled
        # A shell lets what it starts in the background ignore interrupts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        done = []
        def call(index):
            if index == 0:
                print("under way", flush=True)
            for _ in range(200):
                raise_if_cancelled()
                time.sleep(0.05)
            done.append(index)
        try:
            in_parallel(call, range(8), workers=4)
        except KeyboardInterrupt:
            print("interrupted", len(done), flush=True)
        """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "under way\n"
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            assert out == "interrupted 0\n"
        finally:
            process.kill()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_all_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "_FREE", 0)
    with concurrency._LOCK:
        child = os.fork()
        if child == 0:
            os._exit(
                0
                if concurrency._FREE == concurrency._MAX_THREADS
                and concurrency._LOCK.acquire(False)
                else 1
            )
    assert os.waitpid(child, 0)[1] == 0


def test_after_an_interrupt_a_thread_that_waits_is_left_and_ends_later() -> None:
    begun, answered, ended = threading.Event(), threading.Event(), threading.Event()
    before = concurrency._FREE

    def call(_: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(20)
            raise KeyboardInterrupt
        begun.set()
        assert answered.wait(60)  # as a request to a server that does not answer
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        in_parallel(call, range(2), workers=2)
    assert not ended.is_set()
    assert before - 1 == concurrency._FREE  # the thread still counts
    answered.set()
    assert ended.wait(20)
    eventually(lambda: before == concurrency._FREE)


@pytest.mark.parametrize("main_ends", ["by itself", "cancelled"])
def test_an_interrupt_of_a_thread_that_is_left_is_raised(
    monkeypatch: pytest.MonkeyPatch, main_ends: str
) -> None:
    monkeypatch.setattr(concurrency, "_GRACE", 0.05)
    interrupted, may_end, both = threading.Event(), threading.Event(), threading.Barrier(2)

    def stop_or_tidy(caller: threading.Thread) -> None:
        both.wait(10)
        if threading.current_thread() is caller:
            may_end.wait(10)  # longer than the main thread waits for it
        else:
            interrupted.set()
            raise KeyboardInterrupt

    def call(_: int) -> str:
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            in_parallel(stop_or_tidy, [thread] * 2, workers=2)
        interrupted.wait(10)
        while main_ends == "cancelled":
            raise_if_cancelled()
            time.sleep(0.001)
        return "done"

    with pytest.raises(KeyboardInterrupt):
        in_parallel(call, range(2), workers=2)
    may_end.set()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_request_ends_early_after_an_interrupt_and_not_after_an_error(
    error: type[BaseException],
) -> None:
    begun, answered = threading.Event(), threading.Event()
    ends: list[str] = []

    def request(_: int) -> None:
        begun.set()
        try:
            for _ in range(40):
                if answered.wait(0.01):
                    break
                raise_if_interrupted()
            ends.append("answered")
        except BaseException:
            ends.append("ended")
            raise

    def call(_: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert begun.wait(20)
            raise error
        in_parallel(request, range(1), workers=2)  # the interrupt reaches nested calls

    with pytest.raises(error):
        in_parallel(call, range(2), workers=2)
    assert ends == ["ended" if error is KeyboardInterrupt else "answered"]


def test_an_interrupt_wakes_a_thread_that_waits_for_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(concurrency, "_EVENT_POLL", 600.0)
    waits, ended = threading.Event(), threading.Event()

    def call(index: int) -> None:
        if threading.current_thread() is threading.main_thread():
            waits.wait(60)
            raise KeyboardInterrupt
        waits.set()
        try:
            wait_for(lambda: False, threading.Event())
        finally:
            ended.set()

    with pytest.raises(KeyboardInterrupt):
        in_parallel(call, range(2), workers=2)
    assert ended.wait(60)
