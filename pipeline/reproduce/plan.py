"""From rows to work: what to train and what to measure for every row, and why a row cannot be run.

Heads and results lie in folders and files named by a digest of all that decides them, so that equal work of
several rows is one piece of work, and work that is done is found again.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.reproduce.rows import PaperTable, Row
from pipeline.reproduce.work import (
    Source,
    Unit,
    backbone_file,
    cache_folder,
    cache_identity,
    evaluation_sources,
    pool_file,
    stored_backbone,
    training_sources,
)
from pipeline.verbs.evaluate import RESULTS, EvalSettings
from pipeline.verbs.reproduce import BoxSource, ReproduceSettings
from pipeline.verbs.train import CaptionSettings, HeadArrays, TrainSettings
from regionspot_cache.backbones import BackboneSpec, SamSpec
from regionspot_cache.datasets.regions import BOX_QUERY
from regionspot_cache.errors import RegionSpotError

VERSION = 1  # raise when the same settings would give other numbers


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What becomes of a row."""

    row: Row
    runs: Mapping[str, tuple[Unit, ...]] = field(default_factory=dict)
    """A unit a seed, by how tables name the boxes ("" for hours), the row's own first; the last record of a
    unit is the result. Empty for rows that are not run."""
    same_as: str = ""
    """The row of the table that this world cannot tell from this one."""
    reason: str = ""
    """Why there is no number of ours."""


Plan = Mapping[tuple[str, str], Planned]  # by names of table and row


def sources_of(tables: Iterable[PaperTable], settings: ReproduceSettings) -> list[Source]:
    """Every cache that rows of the tables read, each once."""
    rows = [row for table in tables for row in table.rows.values() if not reason(row, settings)]
    needed = [training_sources(row, settings) for row in rows]
    needed += [evaluation_sources(row, settings) for row in rows]
    return list(dict.fromkeys(chain.from_iterable(needed)))


def make_plan(
    tables: Iterable[PaperTable], settings: ReproduceSettings, missing: Mapping[Source, RegionSpotError]
) -> Plan:
    """What every row of the tables needs in this world; rows that read `missing` caches are not run."""
    planner = _Planner(settings, missing)
    plan = {}
    for table in tables:
        rows = {name: planner.planned(row, f"{table.name}, {row.row}") for name, row in table.rows.items()}
        plan |= {(table.name, name): planned for name, planned in _told_apart(rows).items()}
    return plan


def units_of(plan: Plan) -> list[Unit]:
    """All work of the plan, each piece once: what needs no head, then the heads seed by seed."""
    units: dict[Path, Unit] = {}
    for unit in (unit for planned in plan.values() for run in planned.runs.values() for unit in run):
        known = units.get(unit.log, unit)
        units[unit.log] = replace(known, evaluations={**known.evaluations, **unit.evaluations})
    return sorted(units.values(), key=lambda unit: unit.seed)


def reason(row: Row, settings: ReproduceSettings) -> str:
    """Why the row cannot be run in this world, as far as it is known before any work; "" if it can."""
    if row.measure == "hours" and not row.trained:
        return "another system, whose training is not part of this package"
    if row.given:
        path = _results_file(row, settings)
        return "" if path.is_file() else f"no results file of this system; it goes to {path}"
    if row.backbone not in settings.backbones:
        return settings.no_backbone
    network = settings.regionclip if row.method == "regionclip" else None
    if network and Path(network.weights).suffix and not Path(network.weights).is_file():
        return f"no weights of RegionCLIP; they go to {network.weights}"
    if row.query and not _is_stored(row.query, stored_backbone(row.backbone, settings)):
        return f"the world's caches leave out {row.query}"
    boxes = Path(settings.box_source(row.proposals).proposals)
    if row.measure != "hours" and boxes.suffix and not boxes.is_file():
        return f"no boxes of the detector; the file goes to {boxes}"
    return ""


def _is_stored(path: str, spec: BackboneSpec) -> bool:
    """Whether caches of a backbone hold the array PART/ARRAY, as far as its file says it."""
    name, _, array = path.partition("/")
    part = spec.parts.get(name)
    return path == BOX_QUERY or (part is not None and (not isinstance(part, SamSpec) or array in part.store))


def _results_file(row: Row, settings: ReproduceSettings) -> Path:
    return settings.results / f"{row.method.removeprefix(RESULTS)}.json"


def _told_apart(rows: Mapping[str, Planned]) -> dict[str, Planned]:
    """No result twice in a table: it belongs to the first row whose own it is."""
    results = {
        name: {boxes: units[0].records[-1] for boxes, units in planned.runs.items()}
        for name, planned in rows.items()
    }
    owners: dict[Path, str] = {}
    for name, found in results.items():
        for own in list(found.values())[:1]:
            owners.setdefault(own, name)
    apart = {}
    for name, planned in rows.items():
        own, *others = planned.runs or [""]
        twin = owners[results[name][own]] if planned.runs else name
        if twin != name:
            why = f"the same run as {rows[twin].row.row} on {own} boxes in this world"
            apart[name] = Planned(row=planned.row, same_as=twin, reason=why)
        else:
            twice = {boxes for boxes in others if results[name][boxes] in owners}
            runs = {boxes: units for boxes, units in planned.runs.items() if boxes not in twice}
            apart[name] = replace(planned, runs=runs)
    return apart


class _Planner:
    """Makes the settings of trainings and evaluations, and names what they leave."""

    def __init__(self, settings: ReproduceSettings, missing: Mapping[Source, RegionSpotError]) -> None:
        self.settings, self.missing = settings, missing
        self._identities: dict[Source, dict[str, Any]] = {}

    def planned(self, row: Row, title: str) -> Planned:
        settings = self.settings
        if why := reason(row, settings):
            return Planned(row=row, reason=why)
        sources = evaluation_sources(row, settings) + training_sources(row, settings)
        if why := next((self.missing[source].found for source in sources if source in self.missing), ""):
            return Planned(row=row, reason=why)
        kinds: list[BoxSource | None] = [settings.box_source(row.proposals)]
        if row.measure == "hours":
            kinds = [None]
        elif row.trained and settings.ground_truth_too and row.proposals != "gt":
            kinds.append(settings.box_source("gt"))
        heads = [self._training(row, seed) for seed in range(settings.seeds)] if row.trained else [None]
        runs = {
            boxes.called if boxes else "": tuple(self._unit(row, title, boxes, head) for head in heads)
            for boxes in kinds
        }
        return Planned(row=row, runs=runs)

    def _training(self, row: Row, seed: int) -> TrainSettings:
        settings = self.settings
        sources = training_sources(row, settings)
        captioned = [str(cache_folder(source, settings)) for source in sources if source.captioned]
        boxed = [source for source in sources if not source.captioned]
        caches = [cache_folder(source, settings) for source in boxed]
        names = tuple(path.name for path in caches)
        first, second = settings.train.stages
        stages = (replace(first, sources=names[:1]), replace(second, sources=names))[: row.stages]
        on_captions = replace(settings.captions.stage, sources=tuple(Path(path).name for path in captioned))
        training = replace(
            settings.train,
            head=replace(settings.train.head, **row.head),
            stages=(*([on_captions] if captioned else []), *(stages if boxed else [])),
            seed=settings.train.seed + seed,
        )
        captions = CaptionSettings(
            caches=tuple(captioned),
            pool=pool_file(settings) if captioned else None,
            regions=settings.captions.regions,
        )
        identity = {key: value for key, value in training.identity().items() if key != "seed"}
        key = _key(identity, row.query, row.prompts, captions.options, self._contents(sources))
        return TrainSettings(
            caches=tuple(map(str, caches)),
            captions=captions,
            backbone=str(backbone_file(row.backbone, settings, captioned=bool(captioned))),
            head=HeadArrays(query=row.query),
            datasets={name: source.dataset for name, source in zip(names, boxed, strict=True)},
            data=settings.data,
            prompts=row.prompts,
            device=settings.device,
            training=training,
            out=settings.out / "heads" / key / f"seed{training.seed}",
        )

    def _unit(self, row: Row, title: str, boxes: BoxSource | None, training: TrainSettings | None) -> Unit:
        """One result: of an evaluation, or of a training whose hours count."""
        evaluations = dict([self._evaluation(row, boxes, training)]) if boxes else {}
        name = "-".join(training.out.parts[-2:]) if training else next(iter(evaluations)).stem
        log = self.settings.out / "logs" / f"{name}.log"
        return Unit(title=title, log=log, training=training, evaluations=evaluations)

    def _evaluation(
        self, row: Row, boxes: BoxSource, training: TrainSettings | None
    ) -> tuple[Path, EvalSettings]:
        settings, sources = self.settings, evaluation_sources(row, self.settings)
        method = f"{RESULTS}{_results_file(row, settings)}" if row.given else row.method
        decides: dict[str, Any] = {
            **{key: value for key, value in vars(boxes).items() if key != "called"},
            "dataset": settings.evaluation,
            "methods": (method,),
            "prompts": row.prompts,
            "masks": row.measure == "mask",
        }
        head = training.out.parts[-2:] if training else ()
        files = [_stamp(boxes.proposals), _stamp(method.removeprefix(RESULTS))]
        key = _key(decides, row.backbone, head, self._contents(sources), files)
        return settings.out / "results" / f"{key}.json", EvalSettings(
            checkpoints=(training.out if training else Path("none"),),
            data=settings.data,
            cache=str(cache_folder(sources[0], settings)) if sources else None,
            backbone=str(backbone_file(row.backbone, settings)) if sources else None,
            regionclip=settings.regionclip,
            out=settings.out / "scratch" / key,
            pictures=0,
            details=False,
            device=settings.device,
            **decides,
        )

    def _contents(self, sources: Iterable[Source]) -> list[dict[str, Any]]:
        """What decides the content of caches, each read once."""
        for source in set(sources) - set(self._identities):
            try:
                self._identities[source] = cache_identity(source, self.settings)
            except RegionSpotError:  # in a dry run
                self._identities[source] = {"to extract": cache_folder(source, self.settings)}
        return [self._identities[source] for source in sources]


def _key(*values: Any) -> str:
    """A digest of plain values, and dataclasses of such."""
    return hashlib.sha256(repr((VERSION, *values)).encode()).hexdigest()[:16]


def _stamp(text: str) -> tuple[int, int] | None:
    """Size and time of a file of boxes or results, so that a new file gives a new digest."""
    path = Path(text)
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.suffix and path.is_file() else None
