"""Play groups of episodes in this process, in several processes, or as tasks on a Ray cluster.

Each way yields the groups with their results as they end, in any order. If a group fails, no other
group begins, those that are running end, and then the error is raised.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Generator, Iterable, Iterator
from multiprocessing import get_context, parent_process
from os import _exit, cpu_count
from typing import Any, Literal, Protocol, TypeAlias

from policystore._util.messages import brief
from policystore.errors import InvalidInputError, MatchError, MissingPackageError, PolicyStoreError
from policystore.league.tournament.playing.groups import Group, GroupResult, Rules, Table

__all__ = ["Parallel", "PlayGroups", "open_workers"]

Parallel: TypeAlias = Literal["processes", "ray"] | None
"""How groups are played: in this process if None."""

_Played: TypeAlias = Generator[tuple[Group, GroupResult], None, None]


class PlayGroups(Protocol):
    """Plays groups, and yields each with its result."""

    def __call__(self, groups: Iterable[Group], /) -> _Played:
        """Play groups."""


@contextlib.contextmanager
def open_workers(
    parallel: Parallel, rules: Rules, table: Table, *, workers: int | None, num_cpus: float
) -> Iterator[PlayGroups]:
    """Give a ``with`` block something that plays groups.

    Args:
        parallel: None, ``"processes"`` or ``"ray"``.
        rules: what is the same for all groups.
        table: what plays in this process.
        workers: the number of processes, or of Ray tasks at the same time; None for one for each
            CPU, or for what the cluster has room for.
        num_cpus: the CPUs that Ray keeps for each task.

    Raises:
        InvalidInputError: another value of ``parallel`` or ``workers``; or, with the first
            group, the environment or a player cannot be sent to another process.
        MissingPackageError: Ray is not installed.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise InvalidInputError(f"workers is a number of processes from 1, not {workers!r}")
    if parallel is None:
        yield lambda groups: _play_here(table, groups)
    elif parallel == "processes":
        with _Processes(rules, workers or cpu_count() or 1) as pool:
            yield pool.play
    elif parallel == "ray":
        yield _RayTasks(rules, workers, num_cpus).play
    else:
        raise InvalidInputError(f"parallel is None, 'processes' or 'ray', not {brief(parallel)}")


def _play_here(table: Table, groups: Iterable[Group]) -> _Played:
    for group in groups:
        yield group, table.play(group)


_table: tuple[object, Table] | None = None  # of this worker process: the id of its rules, and it


def _play_there(key: str, rules: Rules, group: Group) -> GroupResult | PolicyStoreError:
    """Play a group in a worker process, which keeps what plays until other rules come.

    An error comes back as a value.
    """
    global _table
    try:
        if _table is None or _table[0] != key:
            if _table is not None:
                _table[1].close()
            _table = key, Table(rules)
        return _table[1].play(group)
    except PolicyStoreError as error:
        return error
    except Exception as error:  # such as an environment that cannot be closed
        return MatchError(f"a worker process failed: {error!r}", seeds=group.seeds)


def _play_on_ray(key: str, box: list[Any], group: Group) -> GroupResult | PolicyStoreError:
    """Play a group as a Ray task.

    Args:
        key: the id of the rules.
        box: a reference to the rules, in a list, so that Ray does not fetch them for each task.
        group: the group.
    """
    if _table is not None and _table[0] == key:
        return _play_there(key, _table[1].rules, group)
    import ray  # late: workers of multiprocessing need no Ray

    return _play_there(key, ray.get(box[0]), group)


_given: list[Rules] = []  # of this worker process


def _begin(rules: Rules) -> None:
    """Keep the rules in a new worker process, which ends with the process that started it."""
    _given[:] = [rules]
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    # A process that was killed told its workers nothing: they would wait for work for ever.
    parent.join()
    _exit(1)


def _play_given(group: Group) -> GroupResult | PolicyStoreError:
    return _play_there("given", _given[0], group)


class _Processes:
    """Processes of this machine, which Python's ``multiprocessing`` spawns."""

    def __init__(self, rules: Rules, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor  # late: one process needs no pool

        self._workers = workers
        # Spawned and not forked: torch and Ray have threads, which a fork breaks.
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(rules,)
        )

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def play(self, groups: Iterable[Group]) -> _Played:
        """Play groups, at most two for each process on their way."""
        from concurrent.futures import FIRST_COMPLETED, Future, wait
        from concurrent.futures.process import BrokenProcessPool

        waiting = iter(groups)
        running: dict[Future[Any], Group] = {}
        error: PolicyStoreError | None = None
        while True:
            while error is None and len(running) < 2 * self._workers:
                group = next(waiting, None)
                if group is None:
                    break
                try:
                    running[self._pool.submit(_play_given, group)] = group
                except BrokenProcessPool:
                    error = _ended([*running.values(), group])
                except Exception as reason:
                    raise InvalidInputError(
                        "the environment, the players or outcome= cannot be sent to another "
                        f"process: {reason!r}. Give classes and functions that can be imported, "
                        "or play with parallel=None or 'ray'"
                    ) from reason
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                lost = list(running.values())
                group = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    error = error or _ended(lost)
                    continue
                if isinstance(result, PolicyStoreError):
                    error = error or result
                else:
                    yield group, result
        if error is not None:
            raise error


def _ended(groups: list[Group]) -> MatchError:
    """Return the error for a process that ended while groups were on their way."""
    lineups = {brief(list(group.lineup.items())) for group in groups}
    return MatchError(
        "a process ended while it played: a player or the environment crashed it, or it was "
        "killed, perhaps for memory, or the calling script has no `if __name__ == '__main__':`, "
        f"which multiprocessing needs. On their way were {len(groups)} groups of episodes with "
        f"the roles and players {'; '.join(sorted(lineups)[:4])}",
        seeds=[seed for group in groups for seed in group.seeds],
    )


class _RayTasks:
    """Tasks on a Ray cluster, beside whatever else runs there."""

    def __init__(self, rules: Rules, workers: int | None, num_cpus: float) -> None:
        try:
            import ray
        except ImportError:
            raise MissingPackageError.of("parallel='ray'", "ray", extra="rllib") from None
        self._ray: Any = ray
        if not ray.is_initialized():
            raise InvalidInputError(
                "parallel='ray' plays on the cluster that this process is connected to, and it is "
                "connected to none: call ray.init() first"
            )
        self._key = uuid.uuid4().hex
        try:
            self._rules = ray.put(rules)  # functions and classes of the main program by value
        except TypeError as error:
            raise InvalidInputError(
                f"the environment, the players or outcome= cannot be sent to Ray: {error}"
            ) from error
        self._task: Any = ray.remote(num_cpus=num_cpus)(_play_on_ray)
        self._most = workers or max(1, int(ray.cluster_resources().get("CPU", 1) / num_cpus))

    def play(self, groups: Iterable[Group]) -> _Played:
        """Play groups, as many at a time as there is room for. Ray plays again what a node lost."""
        waiting = iter(groups)
        running: dict[Any, Group] = {}
        error: PolicyStoreError | None = None
        try:
            while True:
                while error is None and len(running) < self._most:
                    group = next(waiting, None)
                    if group is None:
                        break
                    running[self._task.remote(self._key, [self._rules], group)] = group
                if not running:
                    break
                (done,), _ = self._ray.wait(list(running), num_returns=1)
                group = running.pop(done)
                try:
                    result = self._ray.get(done)
                except self._ray.exceptions.RayError as failure:
                    error = error or _lost(group, failure)
                    continue
                if isinstance(result, PolicyStoreError):
                    error = error or result
                else:
                    yield group, result
        finally:
            for reference in running:
                self._ray.cancel(reference)
        if error is not None:
            raise error


def _lost(group: Group, failure: Exception) -> MatchError:
    return MatchError(
        f"a task on the Ray cluster was lost: {failure}. It played the roles and players "
        f"{brief(list(group.lineup.items()))}",
        seeds=group.seeds,
    )
