"""The unit of work: one partition of images through the frozen networks and into the cache.

A plain function of (job, partition), so that any executor runs it anywhere, and twice does no harm.
"""

import socket
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline import console
from pipeline.devices import resolve_device
from pipeline.features import Clock, Encoders, ImageLoader, PartitionFeatures
from regionspot_cache.backbones import BackboneSpec, load_clip, load_sam
from regionspot_cache.datasets.images import ExifRule
from regionspot_cache.errors import IdentityError
from regionspot_cache.identity import require_same
from regionspot_cache.store import (
    STATUS_OK,
    STATUS_REASONS,
    CacheWriter,
    HalfSpec,
    PartitionPlan,
    Quantised,
    make_clip_half,
    make_sam_half,
    open_writer,
)
from regionspot_cache.store.manifest import Marker

OnImages = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class ExtractJob:
    """What every partition of a run shares; small and picklable, because it travels to workers."""

    cache: str
    image_root: str
    exif: ExifRule
    spec: BackboneSpec
    halves: tuple[str, ...]
    dtype: Literal["int8", "float16"]
    batch_size: int
    decode_threads: int
    device: str


@dataclass(kw_only=True)
class PartitionReport:
    """What one partition did.

    Attributes:
        images, boxes: worked on, failed ones included.
        failures: failed images by reason.
        seconds: by step; "decode" and "prepare" are summed over threads.
        busy: another process works on what is missing.
    """

    partition: int
    images: int = 0
    boxes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    busy: bool = False


def extract_partition(job: ExtractJob, p: int, on_images: OnImages | None = None) -> PartitionReport:
    """Fills what partition `p` lacks in the halves of the job: all of it, or only images that failed before.

    Processes that know nothing of each other share the work: each claims what it is about to do, through the
    cache, and leaves alone what another has claimed.

    Args:
        job: shared by all partitions.
        p: index of the partition.
        on_images: told (images, boxes) after every batch.

    Raises:
        IdentityError: the networks of this process are not those of the cache; nothing is computed.
    """
    writer, report = open_writer(job.cache), PartitionReport(partition=p)
    part = writer.partition(p)
    with ExitStack() as claims:
        wanted = {}
        for half in job.halves:
            if not missing_slots(writer.marker(half, p), part):
                continue
            try:
                claims.enter_context(writer.claim(half, p))
            except BlockingIOError:
                report.busy = True
                continue
            # Asked again: whoever held the claim may have finished meanwhile.
            if slots := missing_slots(writer.marker(half, p), part):
                wanted[half] = slots
        if wanted:
            _fill(job, writer, part, wanted, report, on_images)
    return report


def _fill(
    job: ExtractJob,
    writer: CacheWriter,
    part: PartitionPlan,
    wanted: Mapping[str, list[int]],
    report: PartitionReport,
    on_images: OnImages | None,
) -> None:
    """Computes and commits the wanted slots of every claimed half."""
    device = resolve_device(job.device)
    clock, encoders = Clock(), encoders_of(job.spec, job.halves, device)
    _require_own_networks(writer, job, device)
    encoders = Encoders(**{half: getattr(encoders, half) for half in wanted})
    slots = sorted(set().union(*wanted.values()))
    loader = ImageLoader(root=Path(job.image_root), exif=job.exif, encoders=encoders, clock=clock)
    features = PartitionFeatures(part, encoders, clock, dtype=job.dtype)
    for batch in loader.batches(part, slots, size=job.batch_size, threads=job.decode_threads):
        features.add(batch)
        boxes = sum(len(item.boxes) for item in batch)
        report.images, report.boxes = report.images + len(batch), report.boxes + boxes
        if on_images:
            on_images(len(batch), boxes)
    for half, todo in wanted.items():
        with clock("write"):
            commit = _commit if writer.marker(half, part.index) is None else _recommit
            commit(writer, half, features, todo, clock.of(half, list(wanted)))
    report.failures = Counter(reason for reason, _ in features.failures.values())
    report.seconds = dict(clock.seconds)


def missing_slots(marker: Marker | None, part: PartitionPlan) -> list[int]:
    """Slots of a partition to work on: all when it is not committed, else the images that failed."""
    return list(range(part.num_images)) if marker is None else [slot for slot, _ in marker.failed]


def _commit(
    writer: CacheWriter, half: str, features: PartitionFeatures, slots: list[int], timings: dict[str, float]
) -> None:
    """The whole partition; nothing happens when another extractor was faster."""
    failures = _failures(features, half, [s for s in slots if features.status[half][s] != STATUS_OK])
    writer.commit(
        half,
        features.part.index,
        features.arrays[half],
        features.status[half],
        failures=failures,
        timings=timings,
    )


def _recommit(
    writer: CacheWriter, half: str, features: PartitionFeatures, slots: list[int], timings: dict[str, float]
) -> None:
    """Only images that had failed, as far as no other extractor has mended them meanwhile."""
    part, status, arrays = features.part, features.status[half], features.arrays[half]
    still_missing = set(missing_slots(writer.marker(half, part.index), part))
    slots = [slot for slot in slots if slot in still_missing]
    if not (status[slots] == STATUS_OK).any():
        return  # every retry failed again: nothing new to store
    rows: Any = slots
    if half == "sam":
        rows = np.concatenate([np.arange(part.offsets[s], part.offsets[s + 1]) for s in slots])
    chosen = {name: _take(values, rows) for name, values in arrays.items()}
    still = _failures(features, half, [slot for slot in slots if status[slot] != STATUS_OK])
    writer.recommit(half, part.index, slots, chosen, status[slots], failures=still, timings=timings)


def _take(values: Any, rows: Any) -> Any:
    return (
        Quantised(values.values[rows], values.scale[rows]) if isinstance(values, Quantised) else values[rows]
    )


def _failures(features: PartitionFeatures, half: str, slots: Any) -> list[dict[str, Any]]:
    part, status = features.part, features.status[half]
    return [
        {
            "image_id": part.image_ids[slot],
            "file_name": part.file_names[slot],
            "reason": STATUS_REASONS[int(status[slot])],
            "detail": features.failures[int(slot)][1],
        }
        for slot in slots
    ]


@lru_cache(maxsize=1)
def encoders_of(spec: BackboneSpec, halves: tuple[str, ...], device: str) -> Encoders:
    """Networks are loaded once a process, not once a partition."""
    return Encoders(
        sam=load_sam(spec.sam, device=device, progress=console.fetching) if "sam" in halves else None,
        clip=load_clip(spec.clip, device=device) if "clip" in halves else None,
    )


@lru_cache(maxsize=4)
def specs_of(
    spec: BackboneSpec, halves: tuple[str, ...], device: str, dtype: Literal["int8", "float16"]
) -> tuple[HalfSpec, ...]:
    """Arrays and identity of what the networks of this process would store."""
    return tuple(half_specs(encoders_of(spec, halves, device), dtype))


def half_specs(encoders: Encoders, dtype: Literal["int8", "float16"]) -> list[HalfSpec]:
    """Arrays and identity of the halves that the encoders fill."""
    specs = []
    if encoders.sam:
        sam = encoders.sam
        specs.append(make_sam_half(sam.token_dims, dtype=dtype, fingerprint=sam.fingerprint()))
    if encoders.clip:
        clip = encoders.clip
        specs.append(make_clip_half(*clip.map_shape, dtype=dtype, fingerprint=clip.fingerprint()))
    return specs


def require_same_networks(found: HalfSpec, wanted: HalfSpec, *, whose: str, by: str) -> None:
    """Refuses networks that would store something else than a half holds, wherever they run.

    Args:
        found: the half.
        wanted: what the networks would store.
        whose: the half's place, "DIR".
        by: where the networks are, "HOST".

    Raises:
        IdentityError: names place, key and both values.
    """
    require_same(
        found.to_dict(),
        wanted.to_dict(),
        what=f"the {found.name} half of {whose}",
        wanted_by=f"the networks on {by}",
        remedy=f"give {by} the same weights and all one arithmetic (--set precision=fp32), or take it "
        "out, and run the same command again; committed partitions are kept",
    )


def _require_own_networks(writer: CacheWriter, job: ExtractJob, device: str) -> None:
    """Whoever computes features proves that they are those of the cache. Raises IdentityError."""
    for ours in specs_of(job.spec, job.halves, device, job.dtype):
        if ours.name not in writer.halves:
            raise IdentityError(
                f"{job.cache} has no {ours.name} half any more",
                "the halves that this run started with",
                "run the same command again",
            )
        theirs = writer.halves[ours.name]
        require_same_networks(theirs, ours, whose=job.cache, by=socket.gethostname())
