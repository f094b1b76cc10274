"""Phase 1 as a whole: what a cache lacks of a dataset, partition by partition, and the seal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

from regionspot_cache.backbones.presets import BackboneSpec, load_preset
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.datasets.images import Decoder
from regionspot_cache.errors import IdentityError, IncompleteError, InputError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.extraction.partition import ExtractJob, OnImages, extract_partitions, specs_of
from regionspot_cache.identity import require_same
from regionspot_cache.store import CacheWriter, PartSpec, StorageName, create_cache, open_writer
from regionspot_cache.store.create import add_parts
from regionspot_cache.store.identity import CACHE_KEY
from regionspot_cache.store.labelled import match
from regionspot_cache.store.objects import open_objects
from regionspot_cache.store.reader import open_as_it_is
from regionspot_cache.store.segments import UpdateRecord, segment_places
from regionspot_cache.store.update import abandon_update, begin_update, finish_update, plan_update

POLL_SECONDS = 0.5  # while another process works on the last partitions


def has_cache(path: str | Path) -> bool:
    """Whether a cache was planned there already."""
    return open_objects(path).size(CACHE_KEY) is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a cache is laid out where there is none yet; `rebuild` replaces parts that other networks made."""

    partition_size: int = 512
    seed: int = 0
    rebuild: bool = False


def require_fitting(path: str, dataset: DetectionDataset, plan: Plan) -> None:
    """Refuses a cache that lacks images or boxes of a dataset; errors as of `segments_to_fill`."""
    require_same_settings(path, dataset, plan)
    if UpdateRecord.read(open_objects(path)) is not None:
        raise IncompleteError(
            f"an update of {path} is not finished",
            "a finished one",
            f"rs-cache extract --cache {path} --update ...",
        )
    cache = open_as_it_is(path, ())
    found = match(dataset, cache, cache.live)
    lacking, fits = int((found.images < 0).sum()), found.fits(dataset.offsets)
    if not fits.all():
        boxes = int((~fits).sum()) - lacking
        raise IdentityError(
            f"{path} lacks {lacking} of {len(dataset)} images of {dataset.name}, and boxes of {boxes} more",
            "a cache of all its images and boxes",
            f"rs-cache extract --cache {path} --update adds what is new; or choose another --cache",
        )


def require_same_settings(path: str, dataset: DetectionDataset, plan: Plan) -> None:
    """Refuses another order, other views, or images turned otherwise. Raises IdentityError."""
    found = open_writer(path).record.identity
    wanted = {
        "augmentation": dataset.augmentation.to_dict() if dataset.augmentation else "none",
        "exif": dataset.exif,
        "partition_size": plan.partition_size,
        "seed": plan.seed,
    }
    require_same(
        {key: found[key] for key in wanted} | {"augmentation": found["augmentation"] or "none"},
        wanted,
        what=f"the cache at {path}",
        wanted_by="this dataset and these settings",
        remedy=f"choose another --cache, or delete {path} and run the same command again",
    )


def extract_job(
    dataset: DetectionDataset, path: str | Path, spec: BackboneSpec, parts: Sequence[str], **how: Any
) -> ExtractJob:
    """The job of a whole cache, wherever workers run; `how` are the other fields of `ExtractJob`."""
    return ExtractJob(
        cache=_absolute(path),
        image_root=str(Path(dataset.image_root).absolute()),
        exif=dataset.exif,
        spec=spec,
        parts=tuple(parts),
        **how,
    )


def _absolute(path: str | Path) -> str:
    return str(path) if "://" in str(path) else str(Path(path).absolute())


def segments_to_fill(
    path: str | Path,
    job: ExtractJob,
    dataset: DetectionDataset,
    specs: Sequence[PartSpec],
    plan: Plan,
    *,
    update: bool,
) -> Iterator[tuple[str, ExtractJob]]:
    """Place and job of each segment to fill; fill and seal each before the next is asked for.

    Args:
        path: folder or URL of the cache, planned here where there is none.
        job: of the whole cache.
        dataset: what it shall hold.
        specs: parts, added where they are missing.
        plan: of a new cache.
        update: bring a cache up to date with the dataset, instead of refusing one that lacks some of it.

    Raises:
        IdentityError: the cache lacks images or boxes, or has parts of other networks.
        IncompleteError: an update was begun and not finished.
        InputError: an update, and the cache has parts that are not among `specs`.
    """
    for place in _places(str(path), dataset, specs, plan, update=update):
        yield place, replace(job, cache=_absolute(place))


def _places(
    path: str, dataset: DetectionDataset, specs: Sequence[PartSpec], plan: Plan, *, update: bool
) -> Iterator[str]:
    planned = partial(create_cache, parts=specs, partition_size=plan.partition_size, seed=plan.seed)
    if not has_cache(path):
        planned(path, dataset)
        yield path
        return
    if not update:
        require_fitting(path, dataset, plan)
    places = segment_places(path)
    for place in places:
        add_parts(place, specs, rebuild=plan.rebuild)
    yield from places
    if not update:
        return
    require_same_settings(path, dataset, plan)
    changes, name = plan_update(path, dataset), None
    ours = {spec.name for spec in specs}
    if others := [name for name in changes.cache.parts if name not in ours]:
        raise InputError(
            f"{path} has part {', '.join(others)}, which would stay behind",
            f"an update of all its parts; asked for {', '.join(sorted(ours))}",
            "a --backbone that lists every part of the cache, and no --part",
        )
    if changes.added is not None:
        name = changes.name(plan.seed)
        place = begin_update(path, name)
        planned(place, changes.added)
        yield place
    if changes.is_empty and changes.cache.source == dataset.source:
        abandon_update(path)
    else:  # also for other labels alone: they are read from the latest annotations
        finish_update(path, changes, name)


def todo(place: str, parts: Sequence[str]) -> list[int]:
    """Partitions of a segment that are not committed in every part, or hold failed images."""
    writer = open_writer(place)
    found: set[int] = set()
    for part in parts:
        markers = writer.markers(part)
        found |= {p for p in range(writer.num_partitions) if p not in markers or markers[p].failed}
    return sorted(found)


def seal(place: str, parts: Sequence[str]) -> dict[str, int]:
    """Seals a segment, or says how many partitions each part lacks."""
    writer = open_writer(place)
    missing = {part: len(writer.pending(part)) for part in parts}
    if not any(missing.values()):
        writer.seal()
        writer.collect_garbage()
        return {}
    return missing


def run_all(
    job: ExtractJob,
    partitions: Sequence[int],
    run: Callable[[Sequence[int]], Sequence[int]],
    on_wait: Callable[[int], None] | None = None,
) -> None:
    """Works on partitions until none is left to this process.

    `run` works on some and gives those that other processes are at work on; `on_wait` is told how many are
    left.
    """
    while partitions:
        partitions = _given_up(job, run(partitions), on_wait)


def _given_up(job: ExtractJob, busy: Sequence[int], on_wait: Callable[[int], None] | None) -> list[int]:
    """Waits for other processes: partitions that one of them left undone; none once all are committed."""
    writer = open_writer(job.cache)
    while left := [p for p in busy if any(writer.marker(part, p) is None for part in job.parts)]:
        if free := [p for p in left if _is_free(writer, p)]:
            return free
        if on_wait:
            on_wait(len(left))
            on_wait = None
        sleep(POLL_SECONDS)
    return []


def _is_free(writer: CacheWriter, p: int) -> bool:
    try:
        with writer.claim(p):
            return True
    except BlockingIOError:
        return False


def extract(
    dataset: DetectionDataset,
    path: str | Path,
    *,
    backbone: BackboneSpec | str | Path = "tiny",
    parts: Sequence[str] | None = None,
    update: bool = False,
    plan: Plan | None = None,
    dtype: StorageName = "int8",
    batch_size: int = 8,
    decode_threads: int = 4,
    decoder: Decoder = "pillow",
    device: str = "auto",
    on_images: OnImages | None = None,
) -> None:
    """Builds, completes or updates a cache in this process; others that do the same share the work with it.

    Args:
        dataset: images and boxes.
        path: folder or URL of the cache.
        backbone: spec, preset name or YAML file.
        parts: those to fill; all of the backbone when left out.
        update: bring a complete cache up to date with the dataset.
        plan: layout of a new cache.
        dtype: of stored features.
        batch_size: images in one pass of a network.
        decode_threads: threads that read images.
        decoder: of RGB JPEG files.
        device: "auto", "cpu", "cuda:0" and so on.
        on_images: told (images, boxes) after every batch.

    Raises:
        IdentityError, IncompleteError, InputError: as of `segments_to_fill`.
    """
    spec = backbone if isinstance(backbone, BackboneSpec) else load_preset(backbone)
    how = {"dtype": dtype, "batch_size": batch_size, "decode_threads": decode_threads, "decoder": decoder}
    whole = extract_job(dataset, path, spec, parts or tuple(spec.parts), device=device, **how)
    specs = specs_of(spec, whole.parts, resolve_device(device), dtype, decoder)
    for place, job in segments_to_fill(path, whole, dataset, specs, plan or Plan(), update=update):

        def run(partitions: Sequence[int], job: ExtractJob = job) -> list[int]:
            return [p for p, report in extract_partitions(job, partitions, on_images) if report().busy]

        run_all(job, todo(place, job.parts), run)
        if missing := seal(place, job.parts):
            lacking = ", ".join(f"{count} partitions of {part}" for part, count in missing.items())
            raise IncompleteError(f"{place} lacks {lacking}", "every partition committed", "extract again")
