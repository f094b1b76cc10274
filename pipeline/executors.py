"""Places to run units of work: this process, local Dask workers, a running Dask scheduler.

An executor maps a function over items and yields `(item, result or exception)` as items finish. It knows
nothing of what an item is, and the scheduler's state is never trusted: what is done is what the cache says.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from regionspot_cache.errors import InputError, RegionSpotError

WINDOW = 2  # items in flight for each worker: enough to hide the scheduler, little to lose
RETRIES = 2
DASK_CONFIG = {
    "distributed.worker.daemon": False,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.worker-ttl": "30 minutes",
    "distributed.scheduler.allowed-failures": 20,
    "distributed.comm.timeouts.connect": "30s",
}

Outcome = tuple[int, Any]
Unit = Callable[[int], Any]


def run_here(unit: Unit, items: Iterable[int]) -> Iterator[Outcome]:
    """One item after the other, in this process."""
    for item in items:
        try:
            outcome = unit(item)
        except Exception as error:
            outcome = _failure(error)
        yield item, outcome


def run_on_workers(unit: Unit, items: list[int], *, workers: int) -> Iterator[Outcome]:
    """`workers` local Dask worker processes with one thread each; a killed worker is replaced."""
    import dask
    from distributed import Client, LocalCluster

    for name in ("distributed", "distributed.nanny", "distributed.worker"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # lost and late workers are expected and handled
    threads = max(1, (os.cpu_count() or 1) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with (
        dask.config.set({**DASK_CONFIG, "distributed.nanny.pre-spawn-environ": environment}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # a free port; None takes 8787 and warns when it is taken
        ) as cluster,
        Client(cluster) as client,
    ):
        yield from _through(client, unit, items, window=WINDOW * workers)


def run_on_scheduler(unit: Unit, items: list[int], *, address: str) -> Iterator[Outcome]:
    """The workers of a running scheduler, such as `tcp://10.0.0.1:8786`."""
    with _connect(address) as client:
        workers = len(client.scheduler_info(n_workers=-1)["workers"])
        if workers == 0:
            raise InputError(
                f"The scheduler at {address} has no workers.",
                "At least one.",
                f"dask worker {address} --nthreads 1",
            )
        yield from _through(client, unit, items, window=WINDOW * workers)


@contextmanager
def _connect(address: str) -> Iterator[Any]:
    import dask
    from distributed import Client

    with dask.config.set(DASK_CONFIG):
        try:
            client = Client(address, timeout=10)
        except (OSError, TimeoutError, ValueError) as error:
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
        future = client.submit(unit, item, pure=False, retries=RETRIES)
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
    return future.result() if error is None else _failure(error)


def _failure(error: BaseException) -> RegionSpotError:
    if isinstance(error, RegionSpotError):
        return error
    return RegionSpotError(
        f"{type(error).__name__}: {error}", "A partition without an error.", "Run the command again."
    )
