"""The unit of work: one partition of images through the frozen networks and into the cache.

A plain function of (job, partition), so that any executor runs it anywhere, and twice does no harm.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore, Lock

import numpy as np

from regionspot_cache.backbones import Backbone, BackboneSpec, load_backbone
from regionspot_cache.backbones.weights import Progress
from regionspot_cache.datasets.images import Decoder, ExifRule
from regionspot_cache.errors import IdentityError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.extraction.features import PartitionFeatures, part_spec, side_by_side
from regionspot_cache.extraction.loader import Clock, ImageLoader, jpeg_decoder
from regionspot_cache.identity import require_same
from regionspot_cache.store import (
    STATUS_OK,
    CacheWriter,
    PartitionPlan,
    PartSpec,
    StorageName,
    open_writer,
)
from regionspot_cache.store.manifest import Marker

OnImages = Callable[[int, int], None]

AT_ONCE = 2
"""Partitions that a process has in memory: one is encoded, while another is committed."""
# However many threads of the process work on partitions, such as those of a Dask worker.
_ENCODING = Lock()
_IN_MEMORY = BoundedSemaphore(AT_ONCE)


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """What every partition of a run shares; small and picklable, because it travels to workers."""

    cache: str
    image_root: str
    exif: ExifRule
    spec: BackboneSpec
    parts: tuple[str, ...]
    dtype: StorageName = "int8"
    batch_size: int = 8
    decode_threads: int = 4
    device: str = "auto"
    decoder: Decoder = "pillow"


@dataclass(kw_only=True)
class PartitionReport:
    """What one partition did.

    Attributes:
        images, boxes: worked on, failed ones included.
        failures: failed images by reason.
        seconds: by step. "read", "decode" and "prepare" are summed over threads. Of whoever encodes, "wait"
            is the time without images to work on, "encode" all other time; that holds the networks by part,
            "store" (stored form, copies) and, on a GPU, "device": waiting until it has done earlier batches.
            "write" runs beside the next partition.
        busy: another process works on what the partition lacks.
    """

    partition: int
    images: int = 0
    boxes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    busy: bool = False


def extract_partition(job: ExtractJob, p: int, on_images: OnImages | None = None) -> PartitionReport:
    """Fills what partition `p` lacks in the parts of the job: all of it, or only images that failed before.

    Processes that know nothing of each other share the work: each claims what it is going to do, through the
    cache, and leaves alone what another has claimed. Of two threads of a process, one commits while the other
    encodes. `on_images` is told (images, boxes) after every batch.

    Raises:
        IdentityError: the networks of this process are not those of the cache; nothing is computed.
    """
    return _encode_partition(job, p, on_images)()


def extract_partitions(
    job: ExtractJob, partitions: Iterable[int], on_images: OnImages | None = None
) -> Iterator[tuple[int, Callable[[], PartitionReport]]]:
    """As `extract_partition` of each; a thread commits one while the next is encoded.

    Memory holds the stored bytes of two partitions.

    Yields:
        the partition, and a function that waits for its end and gives its report or raises its error.
    """
    with ThreadPoolExecutor(1, "commit") as committer:
        before: tuple[int, Future[PartitionReport]] | None = None
        for p in partitions:
            try:
                ended = committer.submit(_encode_partition(job, p, on_images))
            except Exception as error:
                ended = Future()
                ended.set_exception(error)
            if before:
                yield before[0], before[1].result
            before = p, ended
        if before:
            yield before[0], before[1].result


def _encode_partition(job: ExtractJob, p: int, on_images: OnImages | None) -> Callable[[], PartitionReport]:
    """Encodes what partition `p` lacks; what commits it, which keeps claim and memory until then."""
    writer, report = open_writer(job.cache), PartitionReport(partition=p)
    planned = writer.partition(p)
    if not _lacking(job, writer, planned):
        return lambda: report
    with ExitStack() as stack:
        stack.enter_context(_IN_MEMORY)
        with _ENCODING:
            try:
                stack.enter_context(writer.claim(p))
            except BlockingIOError:
                report.busy = True
                return lambda: report
            # Asked again: whoever held the claim may have finished meanwhile.
            wanted, clock = _lacking(job, writer, planned), Clock()
            if not wanted:
                return lambda: report
            features = _encode(job, writer, planned, wanted, report, on_images, clock)
        held = stack.pop_all()

    def commit() -> PartitionReport:
        with held:
            for part, slots in wanted.items():
                with clock("write"):
                    _commit(writer, part, features, slots, clock.of(part, list(wanted)))
        report.failures = Counter(reason for reason, _ in features.failures.values())
        report.seconds = dict(clock.seconds)
        return report

    return commit


def _lacking(job: ExtractJob, writer: CacheWriter, planned: PartitionPlan) -> dict[str, list[int]]:
    """Slots to work on by part, of parts that lack some."""
    slots = {part: missing_slots(writer.marker(part, planned.index), planned) for part in job.parts}
    return {part: lacking for part, lacking in slots.items() if lacking}


def _encode(
    job: ExtractJob,
    writer: CacheWriter,
    planned: PartitionPlan,
    wanted: Mapping[str, list[int]],
    report: PartitionReport,
    on_images: OnImages | None,
    clock: Clock,
) -> PartitionFeatures:
    device = resolve_device(job.device)
    specs = {spec.name: spec for spec in specs_of(job.spec, job.parts, device, job.dtype, job.decoder)}
    _require_own_networks(writer, job, specs)
    networks = backbone_of(job.spec, job.parts, device).parts
    encoders = {part: networks[part] for part in wanted}
    loader = ImageLoader(
        root=Path(job.image_root), exif=job.exif, encoders=encoders, clock=clock, decoder=job.decoder
    )
    slots = sorted(set().union(*wanted.values()))
    with side_by_side(encoders) as each:
        features = PartitionFeatures(planned, {part: specs[part] for part in wanted}, encoders, clock, each)
        for batch in loader.batches(planned, slots, size=job.batch_size, threads=job.decode_threads):
            with clock("encode"):
                features.add(batch)
            boxes = sum(len(item.boxes) for item in batch)
            report.images, report.boxes = report.images + len(batch), report.boxes + boxes
            if on_images:
                on_images(len(batch), boxes)
        with clock("encode"):
            features.finish()
    return features


def missing_slots(marker: Marker | None, planned: PartitionPlan) -> list[int]:
    """Slots of a partition to work on: all when it is not committed, else the images that failed."""
    return list(range(planned.num_images)) if marker is None else [slot for slot, _ in marker.failed]


def _commit(
    writer: CacheWriter, part: str, features: PartitionFeatures, slots: list[int], timings: dict[str, float]
) -> None:
    """The whole partition, or of one that was committed the images that had failed and still lack."""
    index, details = features.planned.index, {slot: text for slot, (_, text) in features.failures.items()}
    if writer.marker(part, index) is None:
        arrays, status = features.arrays[part], features.status[part]
        writer.commit(part, index, arrays, status, files=features.files, details=details, timings=timings)
        return
    planned, status, arrays = features.planned, features.status[part], features.arrays[part]
    still_missing = set(missing_slots(writer.marker(part, index), planned))
    slots = [slot for slot in slots if slot in still_missing]
    if not (status[slots] == STATUS_OK).any():
        return  # every retry failed again: nothing new to store
    chosen = {}
    for array in features.specs[part].arrays:
        places = [features.rows_of(array, slot) for slot in slots]
        rows = [row for place in places for row in range(place.start, place.stop)]
        chosen[array.name] = arrays[array.name].take(np.array(rows, np.int64))
    files = features.files[slots]
    writer.recommit(part, index, slots, chosen, status[slots], files=files, details=details, timings=timings)


_on_fetch: list[Progress] = []  # told while weights are fetched


def tell_fetching(progress: Progress) -> None:
    """Has `progress` told of weights that are fetched in this process."""
    _on_fetch[:] = [progress]


@lru_cache(maxsize=1)
def backbone_of(spec: BackboneSpec, parts: tuple[str, ...], device: str) -> Backbone:
    """Networks are loaded once a process, not once a partition."""
    return load_backbone(spec, device, _on_fetch[0] if _on_fetch else None, parts)


@lru_cache(maxsize=4)
def specs_of(
    spec: BackboneSpec, parts: tuple[str, ...], device: str, dtype: StorageName, decoder: Decoder = "pillow"
) -> tuple[PartSpec, ...]:
    """Arrays and identity of what the networks of this process would store."""
    jpeg_decoder(decoder)  # refuses one that is not here before any image is read
    networks = backbone_of(spec, parts, device).parts
    return tuple(part_spec(name, networks[name], dtype, decoder) for name in parts)


def require_same_networks(found: PartSpec, wanted: PartSpec, *, whose: str, by: str) -> None:
    """Refuses networks that would store something else than a part holds. Raises IdentityError.

    `whose` is the part's place, "DIR", and `by` where the networks are, "HOST".
    """
    require_same(
        asdict(found),
        asdict(wanted),
        what=f"part {found.name} of {whose}",
        wanted_by=f"the networks on {by}",
        remedy=f"give {by} the same weights and all one arithmetic (--set precision=fp32), or take it "
        "out, and run the same command again; committed partitions are kept",
    )


def _require_own_networks(writer: CacheWriter, job: ExtractJob, specs: Mapping[str, PartSpec]) -> None:
    """Whoever computes features proves that they are those of the cache. Raises IdentityError."""
    for ours in specs.values():
        if ours.name not in writer.parts:
            raise IdentityError(
                f"{job.cache} has no part {ours.name} any more",
                "the parts that this run started with",
                "run the same command again",
            )
        theirs = writer.parts[ours.name]
        require_same_networks(theirs, ours, whose=job.cache, by=socket.gethostname())
