"""What a worker process does, without any network: runs in children that the fault tests kill."""

import os
import resource
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import CacheWriter, create_cache, open_writer, rebuild_part
from regionspot_cache.store.convert import convert
from tests.store.small_world import clip_part, features, make_dataset, sam_part, status_of

FAILING = {"train/000003.jpg": "missing", "train/000017.jpg": "undecodable"}


def fill(writer: CacheWriter, *, shift: float = 0, backwards: bool = False) -> None:
    """Commit all that is pending; `shift` is added to every feature."""
    for part in sorted(writer.parts, reverse=backwards):
        for partition in sorted(writer.pending(part), reverse=backwards):
            plan = writer.partition(partition)
            arrays = {name: values + shift for name, values in features(part, plan).items()}
            writer.commit(part, partition, arrays, status_of(plan, FAILING))


def run(path: Path, shift: float = 0, backwards: bool = False) -> None:
    """Plan or resume a cache of 15 partitions of 2 images, fill and seal it."""
    writer = create_cache(path, make_dataset(30), partition_size=2, parts=[sam_part(), clip_part()])
    fill(writer, shift=shift, backwards=backwards)
    writer.seal()
    writer.collect_garbage()


def retry(path: Path) -> None:
    """Try the failed images again and seal."""
    writer = open_writer(path)
    for part in writer.parts:
        for partition, slots in writer.failed(part).items():
            plan = writer.partition(partition)
            arrays = {}
            for name, values in features(part, plan).items():
                ragged = part == "sam"
                rows = (
                    [r for s in slots for r in range(plan.offsets[s], plan.offsets[s + 1])]
                    if ragged
                    else slots
                )
                arrays[name] = values[rows]
            writer.recommit(part, partition, slots, arrays, status_of(plan, {})[slots])
    writer.seal()


def rebuild(path: Path) -> None:
    """Replace the clip part."""
    rebuild_part(path, clip_part(model="other"))


def plan_small(path: Path) -> CacheWriter:
    """Plan or open a cache of two partitions of 2 images."""
    return create_cache(path, make_dataset(4), partition_size=2, parts=[sam_part(), clip_part()])


def run_small(path: Path) -> None:
    """Plan or resume the small cache, fill and seal it; two images fail."""
    writer = plan_small(path)
    failing = {"train/000001.jpg": "missing", "train/000002.jpg": "undecodable"}
    for part in writer.parts:
        for partition in writer.pending(part):
            plan = writer.partition(partition)
            writer.commit(part, partition, features(part, plan), status_of(plan, failing))
    writer.seal()


def dying(work: Callable[[Path], None], path: Path, step: int) -> None:
    """Run `work`, but SIGKILL this process just before its n-th change to the file system."""
    steps = count(1)

    def doomed(change: Callable) -> Callable:
        def wrapper(*args, **kwargs):
            if next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*args, **kwargs)

        return wrapper

    for name in ("replace", "link", "unlink", "fsync", "write", "mkdir"):
        setattr(os, name, doomed(getattr(os, name)))
    work(path)


def report_error(path: Path, work: Callable[[Path], None], limit: int | None, queue) -> None:
    """Put the three parts of the error that `work` ends in on a queue; files may not grow beyond `limit`."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        work(path)
    except RegionSpotError as error:
        queue.put((error.found, error.expected, error.remedy))
    else:
        queue.put(None)


def convert_beside(path: Path) -> None:
    """Convert the cache "source" in the same folder."""
    convert(path.with_name("source"), path, "int4")
