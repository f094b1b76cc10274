"""Work that holds the interpreter's lock, shared with other processes.

They are not started by multiprocessing: it would run the script of whoever calls the library again in each of
them, unless that script is written for it.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, Generic, TypeVar

FEWEST = 4  # calls for which a further process is started: it takes half a second to begin
MOST = 8  # processes: each takes 0.1 GB, and one alone makes the arguments for all
_SERVE = "import sys; from regionspot_cache.shared_work import serve; serve(int(sys.argv[1]))"
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

R = TypeVar("R")


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def shared_work(
    function: Callable[..., R], calls: Sequence[Callable[[], tuple[Any, ...]]], processes: int
) -> Generator[Callable[[], list[R]]]:
    """Begins calls of a function; what is given waits for the results, in order, and takes part meanwhile.

    What another process does not bring to an end, since it was killed or the call raised an error, is done in
    this one: errors are those of the function. Memory: the arguments and result of one call in each process.

    Args:
        function: of a module of this project.
        calls: each makes the arguments of a call when its turn comes, in any thread.
        processes: at most so many, this one among them, and at most `MOST`; one for each `FEWEST` calls is
            enough.
    """
    work = _SharedWork(function, calls)
    try:
        work.start(min(processes, MOST, len(calls) // FEWEST) - 1)
        yield work.results
    finally:
        work.stop()


class _SharedWork(Generic[R]):
    def __init__(self, function: Callable[..., R], calls: Sequence[Callable[[], tuple[Any, ...]]]) -> None:
        self._function, self._calls = function, calls
        self._left = deque(range(len(calls)))  # its methods are atomic
        self._results: dict[int, R] = {}
        self._others: list[subprocess.Popen[bytes]] = []
        self._threads: list[Thread] = []

    def start(self, others: int) -> None:
        for _ in range(others):
            self._threads.append(Thread(target=self._in_another_process, daemon=True))
            self._threads[-1].start()

    def results(self) -> list[R]:
        self._here()
        for thread in self._threads:
            thread.join()
        self._here()  # what others have left
        return [self._results[number] for number in range(len(self._calls))]

    def stop(self) -> None:
        self._left.clear()
        for process in self._others:
            process.kill()
        for thread in self._threads:
            if thread.ident is not None:  # None: Ctrl-C came before it began
                thread.join()

    def _here(self) -> None:
        while (number := self._next()) is not None:
            self._results[number] = self._function(*self._calls[number]())

    def _next(self) -> int | None:
        try:
            return self._left.popleft()
        except IndexError:
            return None

    def _in_another_process(self) -> None:
        try:
            process, connection = _start()
        except OSError:  # no memory, or no such program
            return
        self._others.append(process)
        number = None
        try:
            with connection:
                while (number := self._next()) is not None:
                    connection.send((self._function, self._calls[number]()))
                    self._results[number] = connection.recv()
        except Exception:  # most of all EOFError: the process has ended
            if number is not None:
                self._left.append(number)
        finally:
            process.kill()
            process.wait()


def _start() -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that serves the connection, and ends with it; Ctrl-C reaches only those who started it."""
    ours, theirs = Pipe()
    with theirs:
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        process = subprocess.Popen(
            [sys.executable or "", "-P", "-c", _SERVE, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what goes wrong goes wrong again, and is said, in the first process
            start_new_session=True,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        )
    return process, ours


def serve(descriptor: int) -> None:
    """Calls the functions that come through a connection until it ends; what `_start` runs."""
    with Connection(descriptor) as connection:
        while True:
            try:
                function, arguments = connection.recv()
                connection.send(function(*arguments))
            except (EOFError, OSError):
                return
