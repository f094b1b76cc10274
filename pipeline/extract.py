"""`rs-cache extract`: every partition that a cache lacks, through whatever executor, then the seal."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import console, executors
from pipeline.console import counts
from pipeline.partition import ExtractJob, PartitionReport, encoders_of, extract_partition, resolve_device
from pipeline.plan import backbone_spec, cache_path, free_space, half_specs, open_dataset
from pipeline.settings import ExtractSettings
from regionspot_cache.backbones import BackboneSpec
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import IdentityError, IncompleteError, InputError, RegionSpotError
from regionspot_cache.store import (
    CachePlan,
    CacheWriter,
    HalfSpec,
    create_cache,
    estimate,
    open_writer,
    rebuild_half,
)

MAX_FAILED = 3  # partitions in a row that fail before the run gives up: the cause is not in the images


def extract(settings: ExtractSettings, *, as_json: bool = False) -> dict[str, Any]:
    """Builds or completes a cache and returns its summary.

    Raises:
        IncompleteError: partitions are missing at the end; the same command continues.
    """
    dataset, spec = open_dataset(settings), backbone_spec(settings)
    path = cache_path(settings.cache, dataset, spec)
    specs = _describe(spec, settings)
    writer = _prepare(path, dataset, specs, settings)
    job = ExtractJob(
        cache=path if "://" in path else str(Path(path).absolute()),  # workers may run in another folder
        image_root=str(dataset.image_root.absolute()),
        exif=dataset.exif,
        spec=spec,
        halves=settings.halves,
        batch_size=settings.batch_size,
        decode_threads=settings.decode_threads,
        device=settings.device,
    )
    todo = _todo(writer, settings.halves)
    console.say(
        f"{path}: {_contents(dataset)}, {dataset.num_boxes} boxes, {writer.num_partitions} partitions; "
        f"{len(todo)} to do; dropped at reading: {counts(dict(dataset.dropped))}"
    )
    started = time.monotonic()
    errors = _run(job, todo, writer, settings)
    done = sum(writer.record.shape.partition_images(p) for p in todo) - sum(
        writer.record.shape.partition_images(p) for p in errors
    )
    rate = done / (time.monotonic() - started)
    return _finish(path, settings.halves, errors, rate, as_json=as_json)


def _contents(dataset: DetectionDataset) -> str:
    if dataset.augmentation is None or dataset.views is None:
        return f"{len(dataset)} images"
    images = int((dataset.views.numbers == 0).sum())
    return f"{images} images in {len(dataset)} views ({', '.join(dataset.augmentation.names)})"


def _describe(spec: BackboneSpec, settings: ExtractSettings) -> list[HalfSpec]:
    """Arrays and fingerprints of the halves, asked of the kind of machine that will do the work."""
    if settings.scheduler:
        described = partial(describe_halves, spec, settings)
        ((_, specs),) = executors.run_on_scheduler(described, [0], address=settings.scheduler)
        if isinstance(specs, RegionSpotError):
            raise specs
        return specs
    return describe_halves(spec, settings, 0)


def describe_halves(spec: BackboneSpec, settings: ExtractSettings, _: int) -> list[HalfSpec]:
    """Loads the networks here and says what they would store; a unit of work for an executor."""
    return half_specs(encoders_of(spec, settings.halves, resolve_device(settings.device)), settings)


def _prepare(
    path: str, dataset: DetectionDataset, specs: list[HalfSpec], settings: ExtractSettings
) -> CacheWriter:
    plan = CachePlan(dataset, partition_size=settings.partition_size, seed=settings.seed)
    needed, free = estimate(plan, specs)["total"], free_space(path)
    try:
        writer = create_cache(
            path, dataset, halves=specs, partition_size=settings.partition_size, seed=settings.seed
        )
    except IdentityError:
        if not settings.rebuild:
            raise
        writer = _rebuild(path, specs)
    done = sum(len(writer.markers(half)) for half in settings.halves) / (writer.num_partitions * len(specs))
    if free is not None and needed * (1 - done) > free:
        raise InputError(
            f"{path} needs {console.size(needed * (1 - done))} more and has {console.size(free)} free.",
            "Enough free space.",
            "Give another folder with --cache, fewer images with --limit, or one half with --half.",
        )
    return writer


def _rebuild(path: str, specs: list[HalfSpec]) -> CacheWriter:
    """Replaces only the halves whose identity differs."""
    writer = open_writer(path)
    for spec in specs:
        if spec.name in writer.halves and writer.halves[spec.name].digest != spec.digest:
            console.say(f"Replacing the {spec.name} half of {path}.")
            writer = rebuild_half(path, spec)
    return writer


def _todo(writer: CacheWriter, halves: tuple[str, ...]) -> list[int]:
    """Partitions that are not committed in every half, or hold failed images."""
    return sorted(set().union(*(set(writer.pending(half)) | set(writer.failed(half)) for half in halves)))


def _run(
    job: ExtractJob, todo: list[int], writer: CacheWriter, settings: ExtractSettings
) -> dict[int, Exception]:
    if not todo:
        return {}
    shape = writer.record.shape
    total = sum(shape.partition_images(p) for p in todo)
    errors: dict[int, Exception] = {}
    in_a_row = 0
    with console.progress("extracting", total) as ticker:
        meter = Meter(ticker)
        unit: Callable[[int], Any] = partial(extract_partition, job)
        if not (settings.workers or settings.scheduler):
            unit = partial(extract_partition, job, on_images=meter.add)
        for p, outcome in _outcomes(unit, todo, settings):
            if isinstance(outcome, PartitionReport):
                in_a_row = 0
                meter.finish(outcome, counted=not (settings.workers or settings.scheduler))
                continue
            errors[p] = outcome
            in_a_row += 1
            console.warn(f"partition {p}: {outcome.found}")
            if in_a_row == MAX_FAILED:
                break
    meter.say_steps()
    return errors


def _outcomes(
    unit: Callable[[int], Any], todo: list[int], settings: ExtractSettings
) -> Iterator[tuple[int, Any]]:
    if settings.scheduler:
        return executors.run_on_scheduler(unit, todo, address=settings.scheduler)
    if settings.workers:
        return executors.run_on_workers(unit, todo, workers=settings.workers)
    return executors.run_here(unit, todo)


class Meter:
    """Counts images and boxes for the ticker, and sums the seconds of every step."""

    def __init__(self, ticker: console.Ticker) -> None:
        self.ticker = ticker
        self.images = self.boxes = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, images: int, boxes: int) -> None:
        """More images are done."""
        self.images, self.boxes = self.images + images, self.boxes + boxes
        elapsed = max(self.ticker.elapsed, 1e-9)
        rates = (
            console.rate(self.images / elapsed, "image"),
            console.rate(self.boxes / elapsed, "box", "boxes"),
        )
        self.ticker.update(self.images, "  ".join(rates))

    def finish(self, report: PartitionReport, *, counted: bool) -> None:
        """A partition is done; `counted` when its images were already reported by `add`."""
        if not counted:
            self.add(report.images, report.boxes)
        for step, seconds in report.seconds.items():
            self.seconds[step] += seconds

    def say_steps(self) -> None:
        """Where the time went."""
        if self.seconds:
            steps = "  ".join(f"{step} {seconds:.1f}" for step, seconds in self.seconds.items())
            console.say(f"seconds by step (decode and prepare are summed over threads): {steps}")


def _finish(
    path: str, halves: tuple[str, ...], errors: dict[int, Exception], rate: float, *, as_json: bool
) -> dict[str, Any]:
    writer = open_writer(path)
    missing = {half: len(writer.pending(half)) for half in halves}
    failures = [f for half in halves for m in writer.markers(half).values() for f in m.failures]
    if any(missing.values()):
        first = next(iter(errors.values()), None)
        raise IncompleteError(
            f"{path} is not complete: "
            + ", ".join(
                f"{count} of {writer.num_partitions} partitions of {half}" for half, count in missing.items()
            )
            + f" are missing. {first or ''}".rstrip(),
            "Every partition committed.",
            "Run the same command again; it continues where it stopped.",
        )
    writer.seal()
    writer.collect_garbage()
    reasons = Counter(f"{f['file_name']}: {f['reason']}" for f in failures)
    for text in list(reasons)[:20]:
        console.warn(f"not in the cache: {text}")
    if len(reasons) > 20:
        console.warn(f"and {len(reasons) - 20} more; rs-cache status {path} --json lists them all")
    stored = sum(m.stored_bytes for half in halves for m in writer.markers(half).values())
    summary = {
        "cache": path,
        "images": writer.record.shape.num_images,
        "boxes": writer.record.shape.num_boxes,
        "partitions": writer.num_partitions,
        "failed_images": len(reasons),
        "bytes": stored,
        "images_per_second": float(f"{rate:.4g}"),
    }
    text = (
        f"{path} is complete: {summary['images']} images, {summary['boxes']} boxes, "
        f"{summary['partitions']} partitions, {console.size(stored)}, {len(reasons)} images failed."
    )
    console.result(summary, text, as_json=as_json)
    return summary
