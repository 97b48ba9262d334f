"""Bags shared out to processes of this machine, each of which has the policies in its memory."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait

from vla_ros.replay.fleet.plan import Plan
from vla_ros.replay.fleet.task import Done, Task
from vla_ros.replay.fleet.worker import BagWorker
from vla_ros.start import end_with_parent

MAX_ATTEMPTS = 2
READY = "ready"


def replay_in_processes(plan: Plan, tasks: Iterable[Task], num_processes: int) -> Generator[Done, None, None]:
    """Every task, in the order in which they are done. One whose process is killed is given to another, once; then it
    is lost. The processes end with the iterator.

    Raises ValueError as ``BagWorker`` does, and where a process ends before it has loaded the policy.
    """
    waiting = _Waiting(tasks)
    processes: list[_Process] = []
    try:
        while True:
            while len(processes) < num_processes and (task := waiting.take()) is not None:
                processes.append(_Process(plan, task))
            if not processes:
                return
            for connection in wait([process.connection for process in processes]):
                process = next(one for one in processes if one.connection is connection)
                said = process.listen()
                if said is None:
                    processes.remove(process)
                    lost = waiting.lose(process.task, process.ending)
                    yield from [] if lost is None else [lost]
                elif isinstance(said, Done):
                    yield said
                    task = waiting.take()
                    if task is None:
                        processes.remove(process)
                        process.end()
                    else:
                        process.give(task)
    finally:
        for process in processes:
            process.end()


class _Waiting:
    """Tasks that nobody has yet, and those to be tried again."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = iter(tasks)
        self._again: list[Task] = []
        self._num_lost: Counter[Task] = Counter()

    def take(self) -> Task | None:
        """None where there is no other."""
        return next(self._tasks, None) or (self._again.pop() if self._again else None)

    def lose(self, task: Task, ending: str) -> Done | None:
        """Its process has ended; gives what becomes of the task where it is not tried again."""
        self._num_lost[task] += 1
        if self._num_lost[task] == MAX_ATTEMPTS:
            return Done(task, lost=f"bag {task.bag}: {MAX_ATTEMPTS} processes that replayed it ended ({ending})")
        self._again.append(task)
        return None


class _Process:
    """One worker process, and the ``task`` it has."""

    def __init__(self, plan: Plan, task: Task) -> None:
        context = get_context("spawn")  # torch's threads don't survive a fork
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(plan, theirs), daemon=True)
        self._is_ready = False
        resource_tracker.ensure_running()  # it would unblock interrupts
        with _interrupts_blocked():
            self._process.start()
        theirs.close()
        self.give(task)

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(BrokenPipeError):  # it has just ended, which ``listen`` will notice
            self.connection.send(task)

    def listen(self) -> Done | str | None:
        """What the process says; None where it has ended. Raises ValueError for what it couldn't do."""
        try:
            said = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            self.connection.close()
            if not self._is_ready:
                raise ValueError(
                    f"a worker process ended before it had loaded the policy ({self.ending}); fewer --jobs need less "
                    "memory"
                ) from None
            return None
        if isinstance(said, ValueError):
            raise said
        self._is_ready = True
        return said

    @property
    def ending(self) -> str:
        code = self._process.exitcode
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def end(self) -> None:
        """At once: what it is at would have to be done again."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """A process that is started meanwhile never hears an interrupt: whoever started it ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(plan: Plan, connection: Connection) -> None:
    """A worker process: says that it is ready, then takes one bag after the other, and answers with what became of
    it."""
    end_with_parent()
    try:
        worker = BagWorker(plan)
        connection.send(READY)
        while True:
            connection.send(worker.replay(connection.recv()))
    except ValueError as error:
        connection.send(ValueError(str(error)))
    except EOFError:
        pass
