"""What an extraction will do, before it does it: dataset, parts, partitions, bytes, hours."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import console
from pipeline.console import counts
from pipeline.usual_caches import cache_path
from pipeline.verbs.extract import ExtractSettings
from regionspot_cache.backbones import BackboneSpec, Encoder, load_preset
from regionspot_cache.backbones.at_hand import at_hand
from regionspot_cache.backbones.compiled import Compiled
from regionspot_cache.backbones.costs import without_values
from regionspot_cache.datasets import DetectionDataset, load_dataset, with_views
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.extraction.features import PartitionFeatures, part_spec, side_by_side
from regionspot_cache.extraction.loader import Clock, ImageLoader
from regionspot_cache.extraction.partition import backbone_of, specs_of
from regionspot_cache.extraction.run import Plan, has_cache, require_fitting, require_same_settings
from regionspot_cache.store import CachePlan, PartSpec, estimate, missing_bytes, open_writer
from regionspot_cache.store.identity import require_same_part
from regionspot_cache.store.segments import segment_places
from regionspot_cache.store.update import plan_update

MEASURED_IMAGES = 32
_PLAIN = "dataset cache images views_an_image images_x_views boxes classes partitions"  # lines of their own


def dry_run(settings: ExtractSettings, *, as_json: bool = False) -> None:
    """Prints images, views, boxes, partitions, bytes of every array, free space, and what is still to do.

    Needs no weights: only the rate, and with it the hours, is measured where they are on this machine.
    IdentityError when the cache that is there lacks images or boxes, or a part has other arrays.
    """
    plain, spec = open_plain_dataset(settings), backbone_spec(settings)
    dataset = with_views(plain, settings.augment)
    plan = CachePlan(dataset, partition_size=settings.partition_size, seed=settings.seed)
    parts, names = described_parts(spec, settings), parts_of(settings, spec)
    absent = [name for name in names if not at_hand(spec.parts[name])]  # weights that would be fetched first
    sizes = estimate(plan, parts)
    path = cache_path(settings.cache, dataset, spec)
    left, bytes_left = still_to_do(path, dataset, parts, settings)
    rate = measured_rate(plan, spec, settings) if left and not absent else None
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
        "bytes_left": bytes_left,
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
    """The backbone of the settings, with their arithmetic and compilation."""
    spec = load_preset(settings.backbone)
    said = {name: value for name in ("precision", "compile") if (value := getattr(settings, name))}
    return spec.with_parts(**{name: replace(part, **said) for name, part in spec.parts.items()})


def parts_of(settings: ExtractSettings, spec: BackboneSpec) -> tuple[str, ...]:
    """The parts that a run fills."""
    return (settings.part,) if settings.part else tuple(spec.parts)


def plan_of(settings: ExtractSettings) -> Plan:
    """How a new cache is laid out."""
    return Plan(partition_size=settings.partition_size, seed=settings.seed, rebuild=settings.rebuild)


def described_parts(spec: BackboneSpec, settings: ExtractSettings) -> list[PartSpec]:
    """Arrays of the parts from the shapes of the networks alone; they have no fingerprint."""
    return [
        part_spec(name, without_values(spec.parts[name]), settings.dtype, with_fingerprint=False)
        for name in parts_of(settings, spec)
    ]


def still_to_do(
    path: str, dataset: DetectionDataset, parts: list[PartSpec], settings: ExtractSettings
) -> tuple[int, int]:
    """Images that are missing in some part, and bytes that the missing partitions will take."""
    added, places = dataset, []
    if has_cache(path):
        places = segment_places(path)
        if settings.update:
            require_same_settings(path, dataset, plan_of(settings))
            added = plan_update(path, dataset).added
        else:
            require_fitting(path, dataset, plan_of(settings))
            added = None
    images = total = 0
    for place in places:
        writer = open_writer(place)
        pending = pending_partitions(place, parts, rebuild=settings.rebuild)
        images += sum(map(writer.record.shape.partition_images, set().union(*pending.values())))
        total += missing_bytes(writer.plan, parts, pending)
    if added is not None:
        plan = CachePlan(added, partition_size=settings.partition_size, seed=settings.seed)
        images, total = images + len(added), total + missing_bytes(plan, parts, {})
    return images, total


def pending_partitions(place: str, parts: list[PartSpec], *, rebuild: bool) -> dict[str, list[int]]:
    """Partitions that a segment lacks, by part: all where it is new or to be replaced."""
    writer = open_writer(place)
    lacking = {part.name: [*range(writer.num_partitions)] for part in parts}
    for part in parts:
        if part.name in writer.parts:
            found = replace(writer.parts[part.name], fingerprint={})
            if rebuild and found.digest != part.digest:
                continue
            require_same_part(found, part, place)
            lacking[part.name] = writer.pending(part.name)
    return lacking


def free_space(path: str) -> int | None:
    """Free bytes at a folder that may not exist yet; None for a URL."""
    if "://" in path:
        return None
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def measured_rate(plan: CachePlan, spec: BackboneSpec, settings: ExtractSettings) -> float | None:
    """Images a second of one process, from the first images of the plan; None when none can be read."""
    planned, parts, device = plan.partition(0), parts_of(settings, spec), resolve_device(settings.device)
    slots = np.arange(min(MEASURED_IMAGES, planned.num_images)).tolist()
    encoders = backbone_of(spec, parts, device).parts
    specs = {part.name: part for part in specs_of(spec, parts, device, settings.dtype)}
    root, exif = Path(plan.dataset.image_root), plan.dataset.exif
    loader = ImageLoader(root=root, exif=exif, encoders=encoders, clock=Clock(), decoder=settings.decoder)
    _compile(encoders, settings.batch_size)
    batches = loader.batches(planned, slots, size=settings.batch_size, threads=settings.decode_threads)
    done, start = 0, time.perf_counter()
    with side_by_side(encoders) as each:
        features = PartitionFeatures(planned, specs, encoders, loader.clock, each)
        for batch in batches:
            features.add(batch)
            done += sum(item.failure is None for item in batch)
            if time.perf_counter() - start > 60:
                break
        features.finish()
    return done / (time.perf_counter() - start) if done else None


def _compile(encoders: Mapping[str, Encoder], batch_size: int) -> None:
    """Runs each compiled network once, so that no measured batch waits for its compilation."""
    for encoder in encoders.values():
        if isinstance(getattr(encoder, "image_network", None), Compiled):
            blank = torch.stack([encoder.preprocess(np.zeros((64, 64, 3), np.uint8))] * batch_size)
            encoder.encode(blank, [np.zeros((0, 4), np.float32)] * batch_size, [(64, 64)] * batch_size)


def _text(facts: dict[str, Any]) -> str:
    sizes = facts["bytes"]
    lines = [f"{key:<18} {value}" for key, value in facts.items() if key in _PLAIN.split()]
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
