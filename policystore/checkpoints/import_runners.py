"""Runs the tasks of an import: in this process, in several processes, or on a Ray cluster.

Each runner takes the trials' queues, and yields every task with its result as soon as the task
ends. At most one task of a trial runs at a time. Closing the iterator starts no further tasks.
Tasks that are running in other processes of this machine end first; tasks that are running on Ray
are cancelled. A task that ends early leaves the store complete.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Generator, Iterator
from typing import Any, TypeAlias

from policystore.checkpoints.import_task import (
    ImportTask,
    TaskResult,
    TrialQueue,
    import_checkpoint,
)
from policystore.errors import MissingPackageError, StorageError

__all__ = ["Run", "run_here", "run_in_processes", "run_on_ray"]

Run: TypeAlias = Generator[tuple[ImportTask, TaskResult], None, None]
"""Yields each task with its result."""


def run_here(queues: list[TrialQueue]) -> Run:
    """Run the tasks one after the other in this process."""
    for queue in queues:
        while (task := queue.next()) is not None:
            result = import_checkpoint(task)
            queue.finish(result)
            yield task, result


def run_in_processes(queues: list[TrialQueue], workers: int) -> Run:
    """Run the tasks in fresh processes, which Python's ``multiprocessing`` spawns.

    Args:
        queues: the trials.
        workers: the number of processes; at most one for each trial is started.

    Raises:
        StorageError: a process ended before its task did.
    """
    # Imported late: these modules take longer to import than the rest of policystore.checkpoints.
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Spawned and not forked: a process that has used S3 or Ray has threads, which a fork breaks.
    pool = ProcessPoolExecutor(min(workers, len(queues)), mp_context=get_context("spawn"))
    running: dict[Future[TaskResult], tuple[TrialQueue, ImportTask]] = {}

    def start_next(queue: TrialQueue) -> None:
        task = queue.next()
        if task is not None:
            with _interrupts_held():
                running[pool.submit(import_checkpoint, task)] = queue, task

    try:
        for queue in queues:
            start_next(queue)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                queue, task = running.pop(future)
                result = future.result()
                queue.finish(result)
                start_next(queue)
                yield task, result
    except BrokenProcessPool:
        raise StorageError(
            "a process of the import ended before its checkpoint was imported: it was killed, "
            "perhaps for memory, or the calling script has no `if __name__ == '__main__':`, which "
            "multiprocessing needs. The same import goes on where this one ended."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back SIGINT, so that a process started meanwhile never gets one.

    A process inherits the blocked signals of the thread that starts it. So Ctrl-C interrupts the
    main process only, and the other processes finish their tasks.
    """
    if sys.platform == "win32":  # pragma: no cover - no such signals there
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_on_ray(queues: list[TrialQueue], address: str) -> Run:
    """Run the tasks on a Ray cluster, each with one CPU.

    Args:
        queues: the trials.
        address: address of the cluster, as ``ray.init`` takes it. A process that is connected to a
            cluster already uses that one.

    Raises:
        MissingPackageError: Ray is not installed.
        StorageError: there is no cluster at that address, or a node or a worker process ended.
    """
    try:
        import ray  # only here: nothing else of policystore.checkpoints needs it
        from ray.exceptions import RayError, RayTaskError
    except ImportError:
        raise MissingPackageError.of("an import on a Ray cluster", "ray", extra="rllib") from None
    connects = not ray.is_initialized()
    if connects:
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StorageError(f"no Ray cluster at {address!r}: {error}") from None
    remote: Any = ray.remote(num_cpus=1)(import_checkpoint)
    running: dict[Any, tuple[TrialQueue, ImportTask]] = {}

    def start_next(queue: TrialQueue) -> None:
        task = queue.next()
        if task is not None:
            running[remote.remote(task)] = queue, task

    try:
        for queue in queues:
            start_next(queue)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            queue, task = running.pop(done)
            result = ray.get(done)
            queue.finish(result)
            start_next(queue)
            yield task, result
    except RayTaskError:  # an error of the task's own code, not of Ray
        raise
    except RayError as error:
        raise StorageError(
            f"a task on the Ray cluster was lost: {error}. The same import goes on where this one "
            "ended."
        ) from error
    finally:
        if connects:
            ray.shutdown()
        else:
            for reference in running:
                ray.cancel(reference)
