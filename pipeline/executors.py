"""Places to run units of work: this process, local Dask workers, a running Dask scheduler.

An executor maps a function over items and yields `(item, result or exception)` as items finish. It knows
nothing of what an item is, and the scheduler's state is never trusted: what is done is what the cache says.
"""

import logging
import os
import signal
import socket
import sysconfig
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from regionspot_cache.errors import InputError, RegionSpotError

WINDOW = 2  # items in flight for each worker: enough to hide the scheduler, little to lose
RETRIES = 2
_LOOK_EVERY_SECONDS = 5  # whether a worker that was asked something is still there
DASK_CONFIG = {
    "distributed.worker.daemon": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": "30 minutes",
    "distributed.scheduler.allowed-failures": 20,
    "distributed.comm.timeouts.connect": "30s",
}

Outcome = tuple[int, Any]
Unit = Callable[[int], Any]


class WorkerError(Exception):
    """What ended a unit of work, with its traceback as text: exceptions of users may not travel."""

    def __init__(self, error: RegionSpotError, trace: str) -> None:
        super().__init__(error, trace)
        self.error, self.trace = error, trace

    def __str__(self) -> str:
        return f"\n{self.trace}"

    def outcome(self) -> RegionSpotError:
        """The error, with the traceback as its cause."""
        self.error.__cause__ = self
        return self.error


def run_here(unit: Unit, items: Iterable[int]) -> Iterator[Outcome]:
    """One item after the other, in this process."""
    return finish_here((item, partial(unit, item)) for item in items)


def finish_here(begun: Iterable[tuple[int, Callable[[], Any]]]) -> Iterator[Outcome]:
    """Items of this process, each with what waits for its result or raises its error."""
    for item, result in begun:
        try:
            outcome = _explained(result)
        except WorkerError as error:
            outcome = error.outcome()
        yield item, outcome


def run_on_workers(unit: Unit, items: list[int], *, workers: int, at_once: int = 1) -> Iterator[Outcome]:
    """`workers` local Dask worker processes, each at work on `at_once` items; a killed one is replaced."""
    import dask
    from distributed import Client, LocalCluster

    _silence()
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "DASK_LOGGING__DISTRIBUTED": "critical",  # errors come back with their tracebacks; see `WorkerError`
    }
    with dask.config.set({**DASK_CONFIG, "distributed.nanny.pre-spawn-environ": environment}):
        with _without_ctrl_c():
            cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=at_once,
                processes=True,
                memory_limit=0,
                dashboard_address="127.0.0.1:0",  # a free port; None takes 8787 and warns when it is taken
            )
        with cluster, Client(cluster) as client:
            cluster.scale(workers)
            client.wait_for_workers(workers)
            yield from _through(client, unit, items, window=WINDOW * workers)


@contextmanager
def _without_ctrl_c() -> Generator[None]:
    """Threads and processes that are started in here never see SIGINT: only the command acts on it."""
    resource_tracker.ensure_running()  # the first process to be started would start it, and unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _silence() -> None:
    # Lost and late workers are expected and handled, and so are calls that Ctrl-C takes back.
    for name in ("distributed", "distributed.nanny", "distributed.worker", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def run_on_scheduler(unit: Unit, items: list[int], *, address: str) -> Iterator[Outcome]:
    """The workers of a running scheduler, such as `tcp://10.0.0.1:8786`."""
    with _connect(address) as client:
        yield from _through(client, unit, items, window=WINDOW * len(_workers(client, address)))


@dataclass(frozen=True, kw_only=True)
class WorkerAnswer:
    """What one worker said: a result or a RegionSpotError, and who it is."""

    worker: str
    host: str
    answer: Any


def ask_every_worker(question: Callable[[], Any], *, address: str) -> list[WorkerAnswer]:
    """Runs `question` once on each worker that a scheduler has now; in the order of their names."""
    with _connect(address) as client:
        workers = _workers(client, address)
        asked = [
            client.submit(
                partial(_explained, _with_host, question),
                pure=False,
                workers=[worker],
                allow_other_workers=False,
                retries=RETRIES,
            )
            for worker in workers
        ]
        hosts = [str(workers[worker].get("host", worker)) for worker in workers]
        found = [_answer(client, worker, future) for worker, future in zip(workers, asked, strict=True)]
    return [
        WorkerAnswer(worker=worker, host=host, answer=outcome)
        if isinstance(outcome, RegionSpotError)
        else WorkerAnswer(worker=worker, host=outcome[0], answer=outcome[1])
        for worker, host, outcome in zip(workers, hosts, found, strict=True)
    ]


def _answer(client: Any, worker: str, future: Any) -> Any:
    """The outcome of a question to one worker, which may be gone before it has answered."""
    from distributed import wait

    while not future.done():
        try:
            wait(future, timeout=_LOOK_EVERY_SECONDS)
        except TimeoutError:
            if worker not in client.scheduler_info(n_workers=-1)["workers"]:
                return RegionSpotError(
                    "it left, or died, while it loaded the networks",
                    "workers with the memory that the networks need",
                    "see the worker's log, then run the same command again",
                )
    return _outcome(future)


def _with_host(question: Callable[[], Any]) -> tuple[str, Any]:
    return socket.gethostname(), question()


def _workers(client: Any, address: str) -> dict[str, Any]:
    """What the scheduler says of its workers, by their addresses. Raises InputError when there are none."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    if not workers:
        raise InputError(
            f"The scheduler at {address} has no workers.",
            "At least one.",
            f"dask worker {address} --nthreads 2",
        )
    return dict(sorted(workers.items()))


@contextmanager
def _connect(address: str) -> Generator[Any]:
    import dask
    from distributed import Client

    with dask.config.set(DASK_CONFIG):
        try:
            client = Client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address} ({type(error).__name__}).",
                "The address that `dask scheduler` prints, such as tcp://host:8786.",
                "dask scheduler --port 8786",
            ) from None
        with client:
            yield client


def _through(client: Any, unit: Unit, items: list[int], *, window: int) -> Iterator[Outcome]:
    """Keeps `window` items in flight; results are small, so nothing piles up in the scheduler."""
    from distributed import as_completed

    waiting = iter(items)
    futures = {}

    def submit(item: int) -> Any:
        future = client.submit(_explained, unit, item, pure=False, retries=RETRIES)
        futures[future] = item
        return future

    running = as_completed([submit(item) for item in islice(waiting, window)])
    for future in running:
        item = futures.pop(future)
        yield item, _outcome(future)
        for following in waiting:
            running.add(submit(following))
            break


def _outcome(future: Any) -> Any:
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, WorkerError):  # of Dask itself: a worker that was killed too often, ...
        error = _worker_error(error)
    return error.outcome()


def _explained(unit: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a unit of work where it runs; whatever it raises becomes a WorkerError."""
    try:
        return unit(*arguments)
    except Exception as error:
        raise _worker_error(error) from None


def _worker_error(error: BaseException) -> WorkerError:
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, RegionSpotError):
        return WorkerError(error, trace)
    where = _place(traceback.extract_tb(error.__traceback__))
    text = " ".join(str(error).split())
    return WorkerError(
        RegionSpotError(
            f"{type(error).__name__}: {text}{where}",
            "A partition without an error.",
            "RS_DEBUG=1 before the same command shows the whole traceback.",
        ),
        trace,
    )


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    """The innermost line of the user's own files; of any file when there is none."""
    foreign = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    foreign += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "regionspot_cache")]
    own = [f for f in frames if not any(f.filename.startswith(folder) for folder in foreign)]
    last = (own or list(frames))[-1:]
    return "".join(f" (line {frame.lineno} of {frame.filename}, in {frame.name})" for frame in last)
