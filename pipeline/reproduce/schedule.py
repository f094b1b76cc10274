"""From the plan and its caches to units of work: settings, folders and digests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.reproduce.inputs import (
    Inputs,
    Source,
    backbone_file,
    cache_folder,
    evaluation_source,
    training_sources,
)
from pipeline.reproduce.plan import Head, Measurement, Plan, heads_of, measurements_of
from pipeline.reproduce.settings import ReproduceSettings
from pipeline.reproduce.units import Evaluation, Unit, digest
from pipeline.settings import RESULTS, EvalSettings, TrainSettings
from regionspot_cache.training.head_config import HeadOptions

VERSION = 1  # raise when the same settings would give other numbers


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Knows where every head and every result of the plan lies."""

    settings: ReproduceSettings
    inputs: Inputs

    def units(self, plan: Plan) -> list[Unit]:
        """Everything that can run with the caches at hand, seed by seed."""
        measurements = [m for m in measurements_of(plan) if not self.blocked(m)]
        heads = [head for head in heads_of(plan) if not self.blocked(head)]
        units = [self._without_head(m) for m in measurements if m.head is None]
        for seed in range(self.settings.seeds):
            units += [
                self._with_head(head, [m for m in measurements if m.head == head], seed) for head in heads
            ]
        return units

    def blocked(self, wanted: Head | Measurement) -> str:
        """Why the caches that something needs are not there; "" when they are."""
        return next((self.inputs.reasons[s] for s in self._sources(wanted) if s in self.inputs.reasons), "")

    def head_folder(self, head: Head, seed: int) -> Path:
        """Where a trained head lies."""
        training = self._training(head, seed)
        identity = {k: v for k, v in training.training.identity().items() if k != "seed"}
        caches = [self.inputs.identities[s] for s in training_sources(head, self.settings)]
        key = digest(VERSION, identity, head.position, head.prompts, caches)
        return self.settings.out / "heads" / key / f"seed{training.training.seed}"

    def result(self, measurement: Measurement, seed: int) -> Path:
        """Where the result of a measurement lies; methods without a head have no seed."""
        head = measurement.head
        made = str(self.head_folder(head, seed)) if head else ""
        caches = [self.inputs.identities[source] for source in self._sources(measurement)]
        files = [_stamp(text) for text in (measurement.boxes.boxes, measurement.method)]
        shown = replace(measurement, head=None, boxes=replace(measurement.boxes, called=""))
        key = digest(VERSION, shown, Path(made).parts[-2:], self.settings.evaluation, caches, files)
        return self.settings.out / "results" / f"{key}.json"

    def _sources(self, wanted: Head | Measurement) -> list[Source]:
        if isinstance(wanted, Head):
            return training_sources(wanted, self.settings)
        own = [] if wanted.given else [evaluation_source(wanted.backbone, self.settings)]
        return own + (training_sources(wanted.head, self.settings) if wanted.head else [])

    def _without_head(self, measurement: Measurement) -> Unit:
        evaluation = self._evaluation(measurement, None, 0)
        log = self.settings.out / "logs" / f"{evaluation.result.stem}.log"
        return Unit(title=measurement.method, log=log, training=None, evaluations=(evaluation,))

    def _with_head(self, head: Head, measurements: Sequence[Measurement], seed: int) -> Unit:
        folder = self.head_folder(head, seed)
        training = replace(self._training(head, seed), out=folder)
        return Unit(
            title=f"{describe(head, self.settings.train.head)}, seed {seed}",
            log=self.settings.out / "logs" / f"{'-'.join(folder.parts[-2:])}.log",
            training=training,
            evaluations=tuple(self._evaluation(m, training, seed) for m in measurements),
        )

    def _training(self, head: Head, seed: int) -> TrainSettings:
        settings = self.settings
        caches = [cache_folder(source, settings) for source in training_sources(head, settings)]
        names = tuple(path.name for path in caches)
        first, second = settings.train.stages
        stages = (replace(first, sources=names[:1]), replace(second, sources=names))[: head.stages]
        return TrainSettings(
            caches=tuple(map(str, caches)),
            backbone=str(backbone_file(head.backbone, settings)),
            position=head.position,
            prompts=head.prompts,
            device=settings.device,
            training=replace(
                settings.train, head=head.options, stages=stages, seed=settings.train.seed + seed
            ),
        )

    def _evaluation(self, measurement: Measurement, training: TrainSettings | None, seed: int) -> Evaluation:
        settings, boxes, given = self.settings, measurement.boxes, measurement.given
        cache = cache_folder(evaluation_source(measurement.backbone, settings), settings)
        result = self.result(measurement, seed)
        return Evaluation(
            settings=EvalSettings(
                checkpoint=training.out if training else Path("none"),
                dataset=settings.evaluation,
                data=settings.data,
                cache=None if given else str(cache),
                backbone=None if given else str(backbone_file(measurement.backbone, settings)),
                proposals=boxes.boxes,
                top_n=boxes.top_n,
                methods=(measurement.method,),
                score_rule=boxes.score_rule,
                masks=measurement.masks,
                limit=boxes.images,
                prompts=measurement.prompts,
                out=settings.out / "scratch" / result.stem,
                pictures=0,
                details=False,
                device=settings.device,
            ),
            result=result,
        )


def describe(head: Head, usual: HeadOptions) -> str:
    """A head in words, for progress and dry runs; of its options those that differ from the usual ones."""
    options = [f"{key} {value}" for key, value in vars(head.options).items() if value != vars(usual)[key]]
    stages = "both stages" if head.stages == 2 else "stage one"
    return ", ".join(
        [head.backbone, "+".join(head.data), stages, head.position, head.prompts.templates, *options]
    )


def _stamp(text: str) -> Any:
    """Size and time of a file of boxes or results, so that a new file gives a new digest."""
    path = Path(text.removeprefix(RESULTS))
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.suffix and path.is_file() else None
