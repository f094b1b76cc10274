"""What the rows read: the networks with every token position, and the caches of the world's datasets."""

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.extract import extract
from pipeline.reproduce.plan import Head, Plan, backbones_of, heads_of, measurements_of
from pipeline.reproduce.rows import BackboneRole
from pipeline.reproduce.settings import ReproduceSettings
from pipeline.reproduce.units import read_record, write_record
from pipeline.settings import ExtractSettings
from regionspot_cache.backbones import load_preset, save_preset
from regionspot_cache.datasets import load_dataset
from regionspot_cache.errors import RegionSpotError
from regionspot_cache.store import open_cache


@dataclass(frozen=True, kw_only=True)
class Source:
    """A dataset seen by a backbone: one cache."""

    dataset: str
    backbone: BackboneRole


@dataclass(kw_only=True)
class Inputs:
    """The caches of a run.

    Attributes:
        identities: of the caches that are ready, by source: all that decides what rows get from them.
        reasons: why the others are not.
    """

    identities: dict[Source, dict[str, Any]] = field(default_factory=dict)
    reasons: dict[Source, str] = field(default_factory=dict)


def training_sources(head: Head, settings: ReproduceSettings) -> list[Source]:
    """The caches that a head is trained on, the one of stage one first."""
    data = head.data[:1] if head.stages == 1 else head.data
    return [Source(dataset=settings.training[role], backbone=head.backbone) for role in data]


def evaluation_source(backbone: BackboneRole, settings: ReproduceSettings) -> Source:
    """The cache that evaluations read."""
    return Source(dataset=settings.evaluation, backbone=backbone)


def sources_of(plan: Plan, settings: ReproduceSettings) -> list[Source]:
    """Every cache that the plan reads, each once."""
    needed = [source for head in heads_of(plan) for source in training_sources(head, settings)]
    needed += [evaluation_source(m.backbone, settings) for m in measurements_of(plan) if not m.given]
    return list(dict.fromkeys(needed))


def backbone_file(role: BackboneRole, settings: ReproduceSettings) -> Path:
    """The backbone file of a role; it names the token positions that the caches hold."""
    return settings.out / "backbones" / f"{role}.yaml"


def cache_folder(source: Source, settings: ReproduceSettings) -> Path:
    """Where the cache of a source lies; named as `rs-cache extract` names it."""
    path = Path(source.dataset)
    dataset = path.stem if path.suffix else source.dataset.replace(":", "-")
    return settings.caches / f"{dataset}-{Path(settings.backbones[source.backbone]).stem}"


def write_backbones(plan: Plan, settings: ReproduceSettings) -> None:
    """One backbone file a role that the plan runs."""
    for role in backbones_of(plan):
        spec = load_preset(settings.backbones[role])
        spec = replace(spec, sam=replace(spec.sam, positions=settings.positions))
        save_preset(spec, backbone_file(role, settings))


def prepare(sources: Iterable[Source], settings: ReproduceSettings) -> Inputs:
    """Makes or completes the caches; one that cannot be made leaves the others alone."""
    inputs = Inputs()
    for source in sources:
        try:
            _extract(source, settings)
            inputs.identities[source] = cache_identity(cache_folder(source, settings))
        except RegionSpotError as error:
            inputs.reasons[source] = error.found
            console.warn(f"{source.dataset}: {error.found} {error.expected}".strip())
    return inputs


def _extract(source: Source, settings: ReproduceSettings) -> None:
    path = cache_folder(source, settings)
    with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the tables
        summary = extract(
            ExtractSettings(
                dataset=source.dataset,
                data=settings.data,
                backbone=str(backbone_file(source.backbone, settings)),
                cache=str(path),
                workers=settings.workers,
                partition_size=settings.partition_size,
                batch_size=settings.batch_size,
                decode_threads=settings.decode_threads,
                device=settings.device,
            )
        )
    if summary["images_per_second"]:
        processes = max(1, settings.workers)
        hours = summary["images"] / summary["images_per_second"] * processes / 3600
        write_record(_hours_file(source, settings), {"hours": hours})


def extraction_hours(source: Source, settings: ReproduceSettings) -> float | None:
    """Hours of one process that the cache took; None when it was made elsewhere."""
    path = _hours_file(source, settings)
    return read_record(path, lambda values: float(values["hours"])) if path.is_file() else None


def _hours_file(source: Source, settings: ReproduceSettings) -> Path:
    return settings.out / "extraction" / f"{cache_folder(source, settings).name}.json"


def cache_identity(path: Path) -> dict[str, Any]:
    """All that decides what a sealed cache holds."""
    cache = open_cache(str(path))
    parts = {name: part.digest for name, part in cache.parts.items()}
    return {"images": cache.num_images, "annotations": cache.dataset.annotation_sha256, **parts}


def state(source: Source, settings: ReproduceSettings) -> str | RegionSpotError:
    """For a dry run: whether the cache is there or can be made, or why it cannot."""
    try:
        return f"ready, {cache_identity(cache_folder(source, settings))['images']} images"
    except RegionSpotError:
        pass
    if source.dataset.startswith("shapes"):  # drawn on first use
        return "to draw and extract"
    try:
        dataset = load_dataset(source.dataset, data_root=settings.data)
    except RegionSpotError as error:
        return error
    return f"to extract, {len(dataset)} images"
