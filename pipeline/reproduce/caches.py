"""What the rows read: the networks with all that they store, and the caches of the world's datasets."""

import contextlib
import hashlib
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import console
from pipeline.extract import extract
from pipeline.reproduce.rows import BackboneRole, Row
from pipeline.reproduce.units import read_record, write_record
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.reproduce import ReproduceSettings
from regionspot_cache.backbones import BackboneSpec, SamSpec, load_preset, save_preset
from regionspot_cache.datasets import load_dataset
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import open_cache


class Source(NamedTuple):
    """A dataset seen by a backbone: one cache."""

    dataset: str
    backbone: BackboneRole


def training_sources(row: Row, settings: ReproduceSettings) -> list[Source]:
    """The caches that the head of a row is trained on, the one of stage one first; none without a head."""
    data = row.data[:1] if row.stages == 1 else row.data
    return [Source(settings.training[role], row.backbone) for role in data if row.trained]


def evaluation_sources(row: Row, settings: ReproduceSettings) -> list[Source]:
    """The cache that the evaluations of a row read, if they read any."""
    reads = row.measure != "hours" and not row.given
    return [Source(settings.evaluation, row.backbone)] if reads else []


def backbone_file(role: BackboneRole, settings: ReproduceSettings) -> Path:
    """The backbone file of a role; it names all that the caches hold."""
    return settings.out / "backbones" / f"{role}.yaml"


def cache_folder(source: Source, settings: ReproduceSettings) -> Path:
    """Where its cache lies; named as `rs-cache extract` names it."""
    path = Path(source.dataset)
    dataset = path.stem if path.suffix else source.dataset.replace(":", "-")
    return settings.caches / f"{dataset}-{Path(settings.backbones[source.backbone]).stem}"


def prepare(sources: Iterable[Source], settings: ReproduceSettings) -> dict[Source, RegionSpotError]:
    """Makes or completes the caches, and the backbone files they need; returns why some are not there."""
    problems = {}
    for source in sources:
        try:
            _extract(source, settings)
            open_cache(cache_folder(source, settings))
        except RegionSpotError as error:
            problems[source] = error
            console.warn(f"{source.dataset}: {error.found} {error.expected}".strip())
    return problems


def stored_backbone(role: BackboneRole, settings: ReproduceSettings) -> BackboneSpec:
    """The networks of a role; their SAMs store all that the world's caches hold."""
    spec = load_preset(settings.backbones[role])
    sams = {name: part for name, part in spec.parts.items() if isinstance(part, SamSpec)}
    return spec.with_parts(**{name: replace(part, store=settings.store) for name, part in sams.items()})


def _extract(source: Source, settings: ReproduceSettings) -> None:
    backbone = backbone_file(source.backbone, settings)
    save_preset(stored_backbone(source.backbone, settings), backbone)
    with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the tables
        summary = extract(
            ExtractSettings(
                dataset=source.dataset,
                data=settings.data,
                backbone=str(backbone),
                cache=str(cache_folder(source, settings)),
                workers=settings.workers,
                partition_size=settings.partition_size,
                batch_size=settings.batch_size,
                decode_threads=settings.decode_threads,
                device=settings.device,
            )
        )
    if summary["images_per_second"]:
        seconds = summary["images"] / summary["images_per_second"] * max(1, settings.workers)
        write_record(_hours_file(source, settings), {"hours": seconds / 3600})


def extraction_hours(source: Source, settings: ReproduceSettings) -> float | None:
    """Hours of one process that the cache took; None when it was made elsewhere."""
    return read_record(_hours_file(source, settings), lambda values: float(values["hours"]))


def _hours_file(source: Source, settings: ReproduceSettings) -> Path:
    return settings.out / "extraction" / f"{cache_folder(source, settings).name}.json"


def cache_identity(source: Source, settings: ReproduceSettings) -> dict[str, Any]:
    """All that decides what is learned and measured with a sealed cache: images, boxes, features and labels.

    Raises:
        RegionSpotError: there is no such cache, or no such dataset.
    """
    cache = open_cache(cache_folder(source, settings))
    dataset = load_dataset(source.dataset, data_root=settings.data, require_images=False)
    return {
        "images": int(cache.live.sum()),
        "content": [segment.plan_digest for segment in cache.segments],
        "live": hashlib.sha256(cache.live.tobytes()).hexdigest(),
        "labels": dataset.annotation_sha256,
        "parts": {name: part.digest for name, part in cache.parts.items()},
    }


def state(source: Source, settings: ReproduceSettings) -> str | RegionSpotError:
    """For a dry run: whether the cache is there or can be made, or why it cannot."""
    with contextlib.suppress(RegionSpotError):
        return f"ready, {open_cache(cache_folder(source, settings)).live.sum()} images"
    if source.dataset.startswith("shapes"):  # drawn on first use
        return "to draw and extract"
    try:
        dataset = load_dataset(source.dataset, data_root=settings.data)
    except RegionSpotError as error:
        return error
    return f"to extract, {len(dataset)} images"
