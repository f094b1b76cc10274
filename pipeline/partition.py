"""The unit of work: one partition of images through the frozen networks and into the cache.

A plain function of (job, partition), so that any executor runs it anywhere, and twice does no harm.
"""

import socket
from collections import Counter
from collections.abc import Callable
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
    PartitionPlan,
    PartSpec,
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
    parts: tuple[str, ...]
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
    """

    partition: int
    images: int = 0
    boxes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


def extract_partition(job: ExtractJob, p: int, on_images: OnImages | None = None) -> PartitionReport:
    """Fills what partition `p` lacks in the parts of the job: all of it, or only images that failed before.

    Args:
        job: shared by all partitions.
        p: index of the partition.
        on_images: told (images, boxes) after every batch.

    Raises:
        IdentityError: the networks of this process are not those of the cache; nothing is computed.
    """
    writer = open_writer(job.cache)
    planned = writer.partition(p)
    markers = {part: writer.marker(part, p) for part in job.parts}
    wanted = {part: missing_slots(marker, planned) for part, marker in markers.items()}
    slots = sorted(set().union(*wanted.values()))
    report = PartitionReport(partition=p)
    if not slots:
        return report
    device = resolve_device(job.device)
    clock, encoders = Clock(), encoders_of(job.spec, job.parts, device)
    _require_own_networks(writer, job, device)
    loader = ImageLoader(root=Path(job.image_root), exif=job.exif, encoders=encoders, clock=clock)
    features = PartitionFeatures(planned, encoders, clock, dtype=job.dtype)
    for batch in loader.batches(planned, slots, size=job.batch_size, threads=job.decode_threads):
        features.add(batch)
        boxes = sum(len(item.boxes) for item in batch)
        report.images, report.boxes = report.images + len(batch), report.boxes + boxes
        if on_images:
            on_images(len(batch), boxes)
    worked = [part for part, todo in wanted.items() if todo]
    for part in worked:
        with clock("write"):
            commit = _commit if markers[part] is None else _recommit
            commit(writer, part, features, wanted[part], clock.of(part, worked))
    report.failures = Counter(reason for reason, _ in features.failures.values())
    report.seconds = dict(clock.seconds)
    return report


def missing_slots(marker: Marker | None, planned: PartitionPlan) -> list[int]:
    """Slots of a partition to work on: all when it is not committed, else the images that failed."""
    return list(range(planned.num_images)) if marker is None else [slot for slot, _ in marker.failed]


def _commit(
    writer: CacheWriter, part: str, features: PartitionFeatures, slots: list[int], timings: dict[str, float]
) -> None:
    """The whole partition; nothing happens when another extractor was faster."""
    failures = _failures(features, part, [s for s in slots if features.status[part][s] != STATUS_OK])
    writer.commit(
        part,
        features.planned.index,
        features.arrays[part],
        features.status[part],
        failures=failures,
        timings=timings,
    )


def _recommit(
    writer: CacheWriter, part: str, features: PartitionFeatures, slots: list[int], timings: dict[str, float]
) -> None:
    """Only images that had failed, as far as no other extractor has mended them meanwhile."""
    planned, status, arrays = features.planned, features.status[part], features.arrays[part]
    still_missing = set(missing_slots(writer.marker(part, planned.index), planned))
    slots = [slot for slot in slots if slot in still_missing]
    if not (status[slots] == STATUS_OK).any():
        return  # every retry failed again: nothing new to store
    rows: Any = slots
    if part == "sam":
        rows = np.concatenate([np.arange(planned.offsets[s], planned.offsets[s + 1]) for s in slots])
    chosen = {name: _take(values, rows) for name, values in arrays.items()}
    still = _failures(features, part, [slot for slot in slots if status[slot] != STATUS_OK])
    writer.recommit(part, planned.index, slots, chosen, status[slots], failures=still, timings=timings)


def _take(values: Any, rows: Any) -> Any:
    return (
        Quantised(values.values[rows], values.scale[rows]) if isinstance(values, Quantised) else values[rows]
    )


def _failures(features: PartitionFeatures, part: str, slots: Any) -> list[dict[str, Any]]:
    planned, status = features.planned, features.status[part]
    return [
        {
            "image_id": planned.image_ids[slot],
            "file_name": planned.file_names[slot],
            "reason": STATUS_REASONS[int(status[slot])],
            "detail": features.failures[int(slot)][1],
        }
        for slot in slots
    ]


@lru_cache(maxsize=1)
def encoders_of(spec: BackboneSpec, parts: tuple[str, ...], device: str) -> Encoders:
    """Networks are loaded once a process, not once a partition."""
    return Encoders(
        sam=load_sam(spec.sam, device=device, progress=console.fetching) if "sam" in parts else None,
        clip=load_clip(spec.clip, device=device) if "clip" in parts else None,
    )


@lru_cache(maxsize=4)
def specs_of(
    spec: BackboneSpec, parts: tuple[str, ...], device: str, dtype: Literal["int8", "float16"]
) -> tuple[PartSpec, ...]:
    """Arrays and identity of what the networks of this process would store."""
    return tuple(part_specs(encoders_of(spec, parts, device), dtype))


def part_specs(encoders: Encoders, dtype: Literal["int8", "float16"]) -> list[PartSpec]:
    """Arrays and identity of the parts that the encoders fill."""
    specs = []
    if encoders.sam:
        sam = encoders.sam
        specs.append(make_sam_half(sam.token_dims, dtype=dtype, fingerprint=sam.fingerprint()))
    if encoders.clip:
        clip = encoders.clip
        specs.append(make_clip_half(*clip.map_shape, dtype=dtype, fingerprint=clip.fingerprint()))
    return specs


def require_same_networks(found: PartSpec, wanted: PartSpec, *, whose: str, by: str) -> None:
    """Refuses networks that would store something else than a part holds, wherever they run.

    Args:
        found: the part.
        wanted: what the networks would store.
        whose: the part's place, "DIR".
        by: where the networks are, "HOST".

    Raises:
        IdentityError: names place, key and both values.
    """
    require_same(
        found.to_dict(),
        wanted.to_dict(),
        what=f"the {found.name} part of {whose}",
        wanted_by=f"the networks on {by}",
        remedy=f"give {by} the same weights and all one arithmetic (--set precision=fp32), or take it "
        "out, and run the same command again; committed partitions are kept",
    )


def _require_own_networks(writer: CacheWriter, job: ExtractJob, device: str) -> None:
    """Whoever computes features proves that they are those of the cache. Raises IdentityError."""
    for ours in specs_of(job.spec, job.parts, device, job.dtype):
        if ours.name not in writer.parts:
            raise IdentityError(
                f"{job.cache} has no {ours.name} part any more",
                "the parts that this run started with",
                "run the same command again",
            )
        theirs = writer.parts[ours.name]
        require_same_networks(theirs, ours, whose=job.cache, by=socket.gethostname())
