"""Work done by threads ahead of whoever asks for its results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

BATCHES = 2  # that are done or at work before they are asked for

T = TypeVar("T")
R = TypeVar("R")


def batches_ahead(
    work: Callable[[T], R], items: Iterable[T], *, size: int, threads: int
) -> Iterator[list[R]]:
    """Results of `work` in batches of `size`, the last one smaller, in the order of the items.

    Memory: the results of `BATCHES` batches beside the one given. What was not begun when nobody asks any
    more is not done; an error of an item is raised in its turn.
    """
    pool, waiting = ThreadPoolExecutor(threads), iter(items)
    ahead = deque[Future[R]]()
    try:
        while True:
            batch: list[R] = []
            while len(batch) < size:
                ahead.extend(pool.submit(work, item) for item in islice(waiting, BATCHES * size - len(ahead)))
                if not ahead:
                    break
                batch.append(ahead.popleft().result())
            if not batch:
                return
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
