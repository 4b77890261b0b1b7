"""When a learner that updates in a thread of its own is at rest."""

from __future__ import annotations

import queue
import threading
import types

from policystore.rllib.worker_code.learner_thread import wait_until_idle


class LearnerThread(threading.Thread):
    """As RLlib's: it takes batches from a queue, in ``step``."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.inqueue: queue.Queue[int] = queue.Queue()

    def run(self) -> None:
        while self.step():
            pass

    def step(self) -> int:
        return self.inqueue.get()


class LoaderThread(threading.Thread):
    """As ``execution/multi_gpu_learner_thread.py`` has several, and keeps the last one only."""

    def __init__(self, learner_thread: LearnerThread) -> None:
        super().__init__(daemon=True)
        self.multi_gpu_learner_thread = learner_thread
        self.loaded = threading.Event()

    def run(self) -> None:
        self._step()

    def _step(self) -> None:
        self.load_batch_into_buffer()

    def load_batch_into_buffer(self) -> None:
        self.loaded.wait(60)


def test_a_batch_that_is_being_loaded_is_waited_for() -> None:
    learner_thread = LearnerThread()
    loader = LoaderThread(learner_thread)
    learner_thread.start()
    loader.start()
    algo = types.SimpleNamespace(_learner_thread=learner_thread)
    assert not wait_until_idle(algo, 0.3)
    loader.loaded.set()
    loader.join()
    assert wait_until_idle(algo, 5.0)
    learner_thread.inqueue.put(0)
    learner_thread.join()
    assert wait_until_idle(algo, 0.0)
