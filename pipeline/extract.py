"""`rs-cache extract`: every partition that a cache lacks, through whatever executor, then the seal."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline import console, executors
from pipeline.console import counts
from pipeline.contents import Contents, waited
from pipeline.plan import backbone_spec, free_space, open_dataset, parts_of, plan_of
from pipeline.usual_caches import cache_path
from pipeline.verbs.extract import ExtractSettings
from regionspot_cache.backbones import BackboneSpec
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.errors import IdentityError, IncompleteError, InputError, RegionSpotError
from regionspot_cache.extraction.devices import resolve_device
from regionspot_cache.extraction.partition import (
    AT_ONCE,
    ExtractJob,
    PartitionReport,
    backbone_of,
    extract_partition,
    extract_partitions,
    require_same_networks,
    specs_of,
    tell_fetching,
)
from regionspot_cache.extraction.run import extract_job, has_cache, run_all, seal, segments_to_fill, todo
from regionspot_cache.identity import ARITHMETIC
from regionspot_cache.store import CacheWriter, PartSpec, missing_bytes, open_writer

MAX_FAILED = 3  # partitions in a row that fail before the run gives up: the cause is not in the images


def extract(settings: ExtractSettings, *, as_json: bool = False) -> dict[str, Any]:
    """Builds, completes or updates a cache; its summary. IncompleteError: the same command continues."""
    dataset, spec = open_dataset(settings), backbone_spec(settings)
    path = cache_path(settings.cache, dataset, spec)
    names = ("dtype", "batch_size", "decode_threads", "device", "decoder")
    how = {name: getattr(settings, name) for name in names}
    whole = extract_job(dataset, path, spec, parts_of(settings, spec), **how)
    specs = _describe(spec, settings)
    _say_arithmetic(spec, specs, settings)
    console.say(
        f"{path}: {_contents(dataset)}, {dataset.num_boxes} boxes; "
        f"dropped at reading: {counts(dict(dataset.dropped))}"
    )
    before = {} if not has_cache(path) else open_writer(path).parts
    started, computed = time.monotonic(), 0
    errors: dict[int, RegionSpotError] = {}
    segments = segments_to_fill(path, whole, dataset, specs, plan_of(settings), update=settings.update)
    for place, job in segments:
        if settings.rebuild:
            _say_replaced(path, before, specs)
            before = {}
        writer, partitions = open_writer(place), todo(place, job.parts)
        console.say(f"{place}: {writer.num_partitions} partitions; {len(partitions)} to do")
        _require_room(place, writer, specs)
        computed += _run(job, partitions, writer, errors, settings)
        if missing := seal(place, job.parts):
            raise _not_complete(place, open_writer(place).num_partitions, missing, errors)
    rate = computed / (time.monotonic() - started)
    return _finish(path, settings, computed, rate, as_json=as_json)


def _say_replaced(path: str, before: Mapping[str, PartSpec], specs: Sequence[PartSpec]) -> None:
    for spec in specs:
        if spec.name in before and before[spec.name].digest != spec.digest:
            console.say(f"Replaced the {spec.name} part of {path}.")


def _contents(dataset: DetectionDataset) -> str:
    if dataset.augmentation is None or dataset.views is None:
        return f"{len(dataset)} images"
    images = int((dataset.views.numbers == 0).sum())
    return f"{images} images in {len(dataset)} views ({', '.join(dataset.augmentation.names)})"


def _say_arithmetic(spec: BackboneSpec, specs: list[PartSpec], settings: ExtractSettings) -> None:
    if settings.scheduler:
        chosen = ", ".join(f"{part.name} in {part.fingerprint.get(ARITHMETIC)}" for part in specs)
        console.say(f"the workers compute {chosen}")
        return
    precisions = {part.name: spec.parts[part.name].precision for part in specs}
    device = resolve_device(settings.device)
    console.arithmetic(device, precisions, backbone_of(spec, tuple(precisions), device).compilation)


def _describe(spec: BackboneSpec, settings: ExtractSettings) -> list[PartSpec]:
    """Arrays and fingerprints of the parts, asked of the kind of machine that will do the work."""
    if not settings.scheduler:
        return describe_parts(spec, settings)
    question = partial(describe_parts, spec, settings)
    return _agreed(executors.ask_every_worker(question, address=settings.scheduler), settings.scheduler)


def describe_parts(spec: BackboneSpec, settings: ExtractSettings) -> list[PartSpec]:
    """Loads the networks here and says what they would store."""
    tell_fetching(console.fetching)
    device = resolve_device(settings.device)
    return [*specs_of(spec, parts_of(settings, spec), device, settings.dtype, settings.decoder)]


def _agreed(answers: list[executors.WorkerAnswer], scheduler: str) -> list[PartSpec]:
    """What all workers would store. Raises IdentityError, which names those that differ from the most."""
    for found in answers:
        if isinstance(found.answer, RegionSpotError):
            error = found.answer
            raise type(error)(
                f"worker {found.worker} on {found.host}: {error.found}", error.expected, error.remedy
            ) from error.__cause__
    groups: defaultdict[str, list[executors.WorkerAnswer]] = defaultdict(list)
    for found in answers:
        groups[" ".join(part.digest for part in found.answer)].append(found)
    most, *others = sorted(groups.values(), key=len, reverse=True)
    if others:
        odd = [f"{found.worker} ({found.host})" for group in others for found in group]
        by = f"{len(odd)} of {len(answers)} workers: {', '.join(odd[:8])}{' ...' if len(odd) > 8 else ''}"
        for theirs, ours in zip(most[0].answer, others[0][0].answer, strict=True):
            whose = f"{len(most)} other workers of {scheduler}, such as {most[0].worker} ({most[0].host}),"
            require_same_networks(theirs, ours, whose=whose, by=by)
    return most[0].answer


def _require_room(place: str, writer: CacheWriter, specs: Sequence[PartSpec]) -> None:
    free = free_space(place)
    missing = missing_bytes(writer.plan, specs, {part.name: writer.pending(part.name) for part in specs})
    if free is not None and missing > free:
        raise InputError(
            f"{place} needs {console.size(missing)} more and has {console.size(free)} free.",
            "Enough free space.",
            "Give another folder with --cache, fewer images with --limit, or one part with --part.",
        )


def _run(
    job: ExtractJob,
    partitions: list[int],
    writer: CacheWriter,
    errors: dict[int, RegionSpotError],
    settings: ExtractSettings,
) -> int:
    """How many images this run worked on; adds to `errors` by partition."""
    if not partitions:
        return 0
    with console.progress("extracting", sum(map(writer.record.shape.partition_images, partitions))) as ticker:
        meter = Meter(ticker)
        each = partial(_pass, job, meter=meter, errors=errors, settings=settings)
        run_all(job, partitions, each, _say_waiting)
    meter.say_steps()
    return meter.images


def _say_waiting(partitions: int) -> None:
    console.say(f"waiting for {partitions} partitions that another process works on")


def _pass(
    job: ExtractJob,
    partitions: Sequence[int],
    *,
    meter: "Meter",
    errors: dict[int, RegionSpotError],
    settings: ExtractSettings,
) -> list[int]:
    """Every partition once; adds to `errors`, and returns those that another process works on."""
    here = not (settings.workers or settings.scheduler)
    busy: list[int] = []
    in_a_row = 0
    for p, outcome in _outcomes(job, [*partitions], settings, meter):
        if isinstance(outcome, PartitionReport):
            in_a_row = 0
            meter.finish(outcome, counted=here)
            if outcome.busy:
                busy.append(p)
            continue
        if isinstance(outcome, IdentityError):
            raise outcome  # a worker with other networks would fail on all that it is given
        errors[p] = outcome
        in_a_row += 1
        console.warn(f"partition {p}: {outcome.found}")
        if in_a_row == MAX_FAILED:
            console.warn(
                f"{MAX_FAILED} partitions in a row failed: the run stops, {len(partitions)} were to do"
            )
            return []
    return busy


def _outcomes(
    job: ExtractJob, partitions: list[int], settings: ExtractSettings, meter: "Meter"
) -> Iterator[tuple[int, Any]]:
    unit = partial(extract_partition, job)
    if settings.scheduler:
        return executors.run_on_scheduler(unit, partitions, address=settings.scheduler)
    if settings.workers:
        return executors.run_on_workers(unit, partitions, workers=settings.workers, at_once=AT_ONCE)
    return executors.finish_here(extract_partitions(job, partitions, meter.add))


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
            console.say(f"seconds by step: {steps}; {waited(self.seconds)}")


def _finish(
    path: str, settings: ExtractSettings, computed: int, rate: float, *, as_json: bool
) -> dict[str, Any]:
    there = Contents(path)
    for failure in there.failures[:20]:
        console.warn(f"not in the cache: {failure['file_name']}: {failure['reason']}")
    if len(there.failures) > 20:
        console.warn(f"and {len(there.failures) - 20} more; rs-cache status {path} --json lists them all")
    summary = {
        "cache": path,
        "images": there.images,
        "boxes": there.boxes,
        "partitions": there.partitions,
        "failed_images": len(there.failures),
        "failures": there.failures_by_reason,
        "bytes": sum(there.bytes(part) for part in there.parts),
        "computed_images": computed,
        "images_per_second": float(f"{rate:.4g}"),
    }
    too_many = len(there.failures) > settings.max_failed * there.images
    text = (
        f"{path} is {'sealed' if too_many else 'complete'}: {there.told}, {there.boxes} boxes, "
        f"{there.partitions} partitions, parts {', '.join(there.parts)}, {console.size(summary['bytes'])}."
    )
    console.result(summary, text, as_json=as_json)
    if too_many:
        raise IncompleteError(
            f"{path} has features of {there.told}.",
            f"At most a share of {settings.max_failed:g} that fails (max_failed).",
            "Run the same command again once the files are there; it does these images alone. "
            "--set max_failed=1 takes the cache as it is.",
        )
    return summary


def _not_complete(
    path: str, partitions: int, missing: dict[str, int], errors: dict[int, RegionSpotError]
) -> IncompleteError:
    lacking = ", ".join(f"{count} of {partitions} partitions of {part}" for part, count in missing.items())
    first = next(iter(errors.values()), None)
    stopped = f" It stopped after {MAX_FAILED} failed in a row." if len(errors) >= MAX_FAILED else ""
    error = IncompleteError(
        f"{path} is not complete: {lacking} are missing.{stopped}" + (f" {first.found}" if first else ""),
        "Every partition committed.",
        "Run the same command again; it continues where it stopped."
        + (f" {first.remedy}" if first and "RS_DEBUG" in first.remedy else ""),
    )
    error.__cause__ = first
    return error
