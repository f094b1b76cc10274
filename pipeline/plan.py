"""What an extraction will do, before it does it: dataset, parts, partitions, bytes, hours."""

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import console
from pipeline.console import counts
from pipeline.features import Clock, Encoders, ImageLoader, PartitionFeatures
from pipeline.partition import encoders_of, resolve_device
from pipeline.places import WORKPLACE
from pipeline.settings import ExtractSettings
from regionspot_cache.backbones import BackboneSpec, load_preset
from regionspot_cache.backbones.at_hand import clip_at_hand, sam_at_hand
from regionspot_cache.backbones.costs import clip_cost, sam_cost
from regionspot_cache.datasets import DetectionDataset, load_dataset, with_views
from regionspot_cache.store import (
    CachePlan,
    PartSpec,
    estimate,
    make_clip_half,
    make_sam_half,
    missing_bytes,
    open_writer,
)
from regionspot_cache.store.identity import CACHE_KEY, cache_identity, require_same_cache, require_same_part
from regionspot_cache.store.location import open_objects

MEASURED_IMAGES = 32
_APART = (
    "bytes",
    "free_bytes",
    "dropped",
    "bytes_without_extra_views",
    "images_left",
    "bytes_left",
    "weights_not_here",
    "images_per_second",
    "hours",
)  # not lines of their own


def dry_run(settings: ExtractSettings, *, as_json: bool = False) -> None:
    """Prints images, views, boxes, partitions, bytes of every array, free space, and what is still to do.

    Needs no weights: only the rate, and with it the hours, is measured where they are on this machine.

    Raises:
        IdentityError: the cache that is there holds another plan or other arrays.
    """
    plain, spec = open_plain_dataset(settings), backbone_spec(settings)
    dataset = with_views(plain, settings.augment)
    plan = CachePlan(dataset, partition_size=settings.partition_size, seed=settings.seed)
    parts, absent = described_parts(spec, settings), weights_not_here(spec, settings)
    sizes = estimate(plan, parts)
    path = cache_path(settings.cache, dataset, spec)
    pending = pending_partitions(path, plan, parts, rebuild=settings.rebuild)
    left = int(plan.image_counts[sorted(set().union(*pending.values()))].sum())
    rate = None
    if left and not absent:
        encoders = encoders_of(spec, settings.parts, resolve_device(settings.device))
        rate = measured_rate(plan, encoders, settings)
    facts = {
        "dataset": f"{dataset.name} {dataset.split}".strip(),
        "cache": path,
        "images": len(plain),
        **_view_facts(plain, dataset, parts, settings),
        "boxes": dataset.num_boxes,
        "dropped": dict(dataset.dropped),
        "classes": len(dataset.class_names),
        "partitions": plan.num_partitions,
        "bytes": sizes,
        "free_bytes": free_space(path),
        "images_left": left,
        "bytes_left": missing_bytes(plan, parts, pending),
        "weights_not_here": absent,
        "images_per_second": rate and float(f"{rate:.4g}"),
        "hours": rate and round(left / rate / 3600 / max(1, settings.workers), 3),
    }
    console.result(facts, _text(facts), as_json=as_json)


def _view_facts(
    plain: DetectionDataset, dataset: DetectionDataset, parts: list[PartSpec], settings: ExtractSettings
) -> dict[str, Any]:
    """What the extra views add; nothing without any."""
    if dataset is plain:
        return {}
    plan = CachePlan(plain, partition_size=settings.partition_size, seed=settings.seed)
    return {
        "views_an_image": ", ".join(settings.augment.names),
        "images_x_views": len(dataset),
        "bytes_without_extra_views": estimate(plan, parts)["total"],
    }


def open_dataset(settings: ExtractSettings) -> DetectionDataset:
    """The dataset of the settings with its extra views."""
    return with_views(open_plain_dataset(settings), settings.augment)


def open_plain_dataset(settings: ExtractSettings) -> DetectionDataset:
    """The dataset of the settings as annotated; draws the built-in world on first use."""
    with console.progress("drawing shapes", 1) as ticker:
        return load_dataset(
            settings.dataset,
            data_root=settings.data,
            images=settings.images,
            policy=settings.policy,
            limit=settings.limit,
            seed=settings.seed,
            progress=lambda done, total: ticker.update(done, "images", total=total),
        )


def backbone_spec(settings: ExtractSettings) -> BackboneSpec:
    """The backbone of the settings, with their token positions and arithmetic."""
    spec = load_preset(settings.backbone)
    if settings.positions:
        spec = replace(spec, sam=replace(spec.sam, positions=settings.positions))
    if settings.precision:
        sam = replace(spec.sam, precision=settings.precision)
        spec = replace(spec, sam=sam, clip=replace(spec.clip, precision=settings.precision))
    return spec


def cache_path(given: str | None, dataset: DetectionDataset, spec: BackboneSpec) -> str:
    """The given cache, or the usual place of the cache of this dataset and backbone."""
    views = "views" if dataset.augmentation else ""
    name = "-".join(part for part in (dataset.name, dataset.split, spec.name, views) if part)
    return given or str(WORKPLACE / "caches" / name)


def described_parts(spec: BackboneSpec, settings: ExtractSettings) -> list[PartSpec]:
    """Arrays of the parts from the shapes of the networks alone; they have no fingerprint."""
    parts = []
    if "sam" in settings.parts:
        parts.append(make_sam_half(sam_cost(spec.sam).token_dims, dtype=settings.dtype, fingerprint={}))
    if "clip" in settings.parts:
        cost = clip_cost(spec.clip)
        tokens = cost.prefix_tokens + cost.grid[0] * cost.grid[1]
        parts.append(make_clip_half(tokens, cost.width, dtype=settings.dtype, fingerprint={}))
    return parts


def weights_not_here(spec: BackboneSpec, settings: ExtractSettings) -> list[str]:
    """Parts whose weights an extraction would have to fetch first."""
    here = {"sam": lambda: sam_at_hand(spec.sam), "clip": lambda: clip_at_hand(spec.clip)}
    return [part for part in settings.parts if not here[part]()]


def pending_partitions(
    path: str, plan: CachePlan, parts: list[PartSpec], *, rebuild: bool
) -> dict[str, list[int]]:
    """Partitions that a cache lacks, by part: all where there is no cache, or a part is to be replaced.

    Raises:
        IdentityError: the cache holds another plan, or a part other arrays.
    """
    lacking = {part.name: [*range(plan.num_partitions)] for part in parts}
    if not has_cache(path):
        return lacking
    writer = open_writer(path)
    require_same_cache(writer.record.identity, cache_identity(plan), path)
    for part in parts:
        if part.name in writer.parts:
            found = replace(writer.parts[part.name], fingerprint={})
            if rebuild and found.digest != part.digest:
                continue
            require_same_part(found, part, path)
            lacking[part.name] = writer.pending(part.name)
    return lacking


def has_cache(path: str) -> bool:
    """Whether a cache was planned there already."""
    return open_objects(path).size(CACHE_KEY) is not None


def free_space(path: str) -> int | None:
    """Free bytes at a folder that may not exist yet; None for a URL."""
    if "://" in path:
        return None
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def measured_rate(plan: CachePlan, encoders: Encoders, settings: ExtractSettings) -> float | None:
    """Images a second of one process, from the first images of the plan; None when none can be read."""
    part = plan.partition(0)
    slots = np.arange(min(MEASURED_IMAGES, part.num_images))
    loader = ImageLoader(
        root=Path(plan.dataset.image_root), exif=plan.dataset.exif, encoders=encoders, clock=Clock()
    )
    features = PartitionFeatures(part, encoders, loader.clock, dtype=settings.dtype)
    batches = loader.batches(part, slots.tolist(), size=settings.batch_size, threads=settings.decode_threads)
    done, start = 0, time.perf_counter()
    for batch in batches:
        features.add(batch)
        done += sum(item.failure is None for item in batch)
        if time.perf_counter() - start > 60:
            break
    return done / (time.perf_counter() - start) if done else None


def _text(facts: dict[str, Any]) -> str:
    sizes = facts["bytes"]
    lines = [f"{key:<18} {value}" for key, value in facts.items() if key not in _APART]
    lines.insert(4, f"{'dropped':<18} {counts(facts['dropped'])}")
    left = f"{facts['images_left']} images, {console.size(facts['bytes_left'])}"
    lines.append(f"{'still to do':<18} {left if facts['images_left'] else 'nothing'}")
    if speed := facts["images_per_second"]:
        lines.append(f"{'measured here':<18} {console.rate(speed, 'image')} in one process")
        lines.append(f"{'hours':<18} {facts['hours']}")
    elif absent := facts["weights_not_here"]:
        lines.append(f"{'measured here':<18} nothing: the weights of {' and '.join(absent)} are not here yet")
    lines += [f"  {path:<24} {console.size(value):>12}" for path, value in sizes.items() if path != "total"]
    free = "unknown" if facts["free_bytes"] is None else console.size(facts["free_bytes"])
    lines.append(f"{'total':<26} {console.size(sizes['total']):>12}   free: {free}")
    if plain := facts.get("bytes_without_extra_views"):
        times = f"with them {sizes['total'] / plain:.2f} times that"
        lines.append(f"{'without extra views':<26} {console.size(plain):>12}   {times}")
    return "\n".join(lines)
