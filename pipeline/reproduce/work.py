"""What rows read and leave: the networks with all that they store, caches, units of work and their records.

A unit runs in whatever process, keeps its messages in a log, and skips what is done: it leaves records, small
JSON files that are whole or not there.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline import console
from pipeline.captions import concepts, propose
from pipeline.evaluate.run import evaluate
from pipeline.extract import extract
from pipeline.reproduce.rows import BackboneRole, Row
from pipeline.train import train
from pipeline.verbs.captions import ConceptSettings, ProposeSettings
from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.reproduce import ReproduceSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.backbones import BackboneSpec, RegionClipSpec, SamSpec, load_preset, save_preset
from regionspot_cache.datasets import load_dataset
from regionspot_cache.datasets.caption_sources import load_captions
from regionspot_cache.errors import DamageError, RegionSpotError
from regionspot_cache.files import file_sha256, replacing
from regionspot_cache.recognition import with_networks_of
from regionspot_cache.store import open_cache

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A head of one seed with its evaluations, or one of these alone; `title`: the first row to need it."""

    title: str
    log: Path
    training: TrainSettings | None
    """The head that the evaluations need, if any."""
    evaluations: Mapping[Path, EvalSettings]
    """By the file of the result."""

    @property
    def seed(self) -> int:
        """Of the head; -1 without one."""
        return self.training.training.seed if self.training else -1

    @property
    def records(self) -> list[Path]:
        """The files that it leaves, that of the head first."""
        return [*([trained_record(self.training)] if self.training else []), *self.evaluations]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return all(map(is_record, self.records))


def run_unit(units: Sequence[Unit], index: int) -> str:
    """Does what a unit lacks; returns the error that ended it, "" if none did."""
    unit = units[index]
    unit.log.parent.mkdir(parents=True, exist_ok=True)
    with unit.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            _run(unit)
        except RegionSpotError as error:
            print(error)
            return f"{error.found} {error.expected}".strip()
        except Exception as error:  # one row must not end the others
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    return ""


def _run(unit: Unit) -> None:
    if unit.training and not is_record(trained_record(unit.training)):
        folder = train(unit.training).folder
        write_record(trained_record(unit.training), {"hours": _training_hours(folder / "metrics.jsonl")})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # three times the head, needed no more
    for file, settings in unit.evaluations.items():
        if not is_record(file) and settings.out:
            (scored,) = evaluate(settings)
            write_record(file, scored.result.to_json())
            shutil.rmtree(settings.out, ignore_errors=True)


def _training_hours(metrics: Path) -> float:
    """Hours that the steps of a run took, however often it was interrupted."""
    hours, last = 0.0, 0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        hours += (entry["step"] - last) / entry["steps_per_second"] / 3600
        last = entry["step"]
    return hours


def trained_record(training: TrainSettings) -> Path:
    """The record of a finished head."""
    return training.out / "trained.json"


def is_record(path: Path) -> bool:
    """Whether there is a whole record; one that a crash cut off is made again."""
    return read_record(path, bool) is not None


def read_record(path: Path, part: Callable[[dict[str, Any]], T]) -> T | None:
    """What `part` takes from a record; None where there is no whole one.

    Raises:
        DamageError: the record lacks the part.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    try:
        return part(values)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise DamageError(
            f"{path} is damaged ({type(error).__name__}: {error}).",
            "The record that an earlier run wrote.",
            f"rm -r {path}   and run the same command again",
        ) from None


def write_record(path: Path, values: dict[str, Any]) -> None:
    """Writes values as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as staging:
        staging.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


class Source(NamedTuple):
    """A dataset seen by a backbone: one cache."""

    dataset: str
    backbone: BackboneRole
    captioned: bool = False
    """Whether its boxes are regions that a teacher describes."""


def training_sources(row: Row, settings: ReproduceSettings) -> list[Source]:
    """The caches that the head of a row is trained on, stage by stage; none without a head."""
    data = row.data[:1] if row.stages == 1 else row.data
    boxes = [Source(settings.training[role], row.backbone) for role in data if row.learns != "captions"]
    captions = [Source(str(region_file(settings)), row.backbone, captioned=True)]
    return [*(captions if row.learns != "boxes" else []), *boxes] if row.trained else []


def region_file(settings: ReproduceSettings) -> Path:
    """The proposed regions of the captioned images."""
    return settings.caches / "captions" / "regions.json"


def pool_file(settings: ReproduceSettings) -> Path:
    """The concepts of their captions."""
    return settings.caches / "captions" / "concepts.txt"


def evaluation_sources(row: Row, settings: ReproduceSettings) -> list[Source]:
    """The cache that the evaluations of a row read, if they read any."""
    reads = row.measure != "hours" and not row.given
    return [Source(settings.evaluation, row.backbone)] if reads else []


def backbone_file(role: BackboneRole, settings: ReproduceSettings, *, captioned: bool = False) -> Path:
    """The backbone file of a role; it names all that the caches hold, those of regions with a teacher."""
    return settings.out / "backbones" / f"{role}{'-teacher' if captioned else ''}.yaml"


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


def stored_backbone(
    role: BackboneRole, settings: ReproduceSettings, *, captioned: bool = False
) -> BackboneSpec:
    """The networks of a role; their SAMs store all that the world's caches hold."""
    spec = load_preset(settings.backbones[role])
    sams = {name: part for name, part in spec.parts.items() if isinstance(part, SamSpec)}
    spec = spec.with_parts(**{name: replace(part, store=settings.store) for name, part in sams.items()})
    if not captioned:
        return spec
    teacher = with_networks_of(["regionclip"], spec, settings.regionclip).first(RegionClipSpec)
    return spec.with_parts(teacher=teacher)


def _extract(source: Source, settings: ReproduceSettings) -> None:
    backbone = backbone_file(source.backbone, settings, captioned=source.captioned)
    save_preset(stored_backbone(source.backbone, settings, captioned=source.captioned), backbone)
    with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to the tables
        images = _propose(backbone, settings) if source.captioned else None
        summary = extract(
            ExtractSettings(
                dataset=source.dataset,
                data=settings.data,
                images=images,
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


def _propose(backbone: Path, settings: ReproduceSettings) -> Path:
    """Regions and concepts of the captioned images, made once; the folder of these."""
    how, file = settings.captions, region_file(settings)
    made_from = {"source": how.source, "limit": how.limit, "top_n": how.top_n, "min_images": how.min_images}
    done = file.with_name("made.json")
    if read_record(done, lambda values: values["made_from"]) != made_from:
        where = {"source": how.source, "data": settings.data}
        concepts(ConceptSettings(**where, out=pool_file(settings), min_images=how.min_images))
        found = propose(
            ProposeSettings(
                **where,
                backbone=str(backbone),
                out=file,
                top_n=how.top_n,
                limit=how.limit,
                exclude=how.exclude,
                device=settings.device,
            )
        )
        write_record(done, {"made_from": made_from, "images": found["image_root"]})
    return Path(read_record(done, lambda values: str(values["images"])) or "")


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
    pool = {"pool": file_sha256(pool_file(settings))} if source.captioned else {}
    return {
        **pool,
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
    asked = settings.captions.source if source.captioned else source.dataset
    if asked.startswith("shapes"):  # drawn on first use
        return "to draw, propose and extract" if source.captioned else "to draw and extract"
    try:
        if source.captioned:
            captions = load_captions(asked, data_root=settings.data, required=False)
            return f"to propose and extract, {settings.captions.limit or len(captions)} images"
        dataset = load_dataset(source.dataset, data_root=settings.data)
    except RegionSpotError as error:
        return error
    return f"to extract, {len(dataset)} images"
