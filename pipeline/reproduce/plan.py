"""From rows to work: which heads to train and what to measure, each once, and why a row cannot be run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.reproduce.rows import BackboneRole, BoxesRole, DataRole, PaperTable, Row
from pipeline.reproduce.settings import BoxSource, ReproduceSettings
from pipeline.settings import RESULTS, PromptSettings
from regionspot_cache.backbones.presets import Position
from regionspot_cache.training.head_config import HeadOptions


@dataclass(frozen=True, kw_only=True)
class Head:
    """All that makes a trained head, apart from the seed; rows with equal heads share it."""

    backbone: BackboneRole
    data: tuple[DataRole, ...]
    stages: int
    options: HeadOptions
    position: Position
    prompts: PromptSettings


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One evaluation, apart from the seed; rows with equal measurements share it.

    Attributes:
        head: None for methods that are not trained.
        masks: mask AP beside that of boxes.
    """

    method: str
    backbone: BackboneRole
    prompts: PromptSettings
    boxes: BoxSource
    masks: bool
    head: Head | None

    @property
    def given(self) -> bool:
        """Whether the detections are those of a file; neither networks nor caches are needed then."""
        return self.method.startswith(RESULTS)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What becomes of a row.

    Attributes:
        measurements: the row's own first; empty for rows of hours and rows that are not run.
        head: of a row of hours.
        same_as: the row of the table that this world cannot tell from this one; "" for none.
        reason: why there is no number of ours; "" when there will be one.
    """

    row: Row
    measurements: tuple[Measurement, ...] = ()
    head: Head | None = None
    same_as: str = ""
    reason: str = ""


Plan = Mapping[tuple[str, str], Planned]  # by names of table and row


def make_plan(tables: Iterable[PaperTable], settings: ReproduceSettings) -> dict[tuple[str, str], Planned]:
    """What every row of the tables needs in this world."""
    plan: dict[tuple[str, str], Planned] = {}
    for table in tables:
        rows = _told_apart({name: _planned(row, settings) for name, row in table.rows.items()})
        plan |= {(table.name, name): planned for name, planned in rows.items()}
    return plan


def _told_apart(rows: Mapping[str, Planned]) -> dict[str, Planned]:
    """No measurement twice in a table: it belongs to the first row whose own it is."""
    owners: dict[Measurement, str] = {}
    for name, planned in rows.items():
        for own in planned.measurements[:1]:
            owners.setdefault(own, name)
    apart = {}
    for name, planned in rows.items():
        own, others = planned.measurements[:1], planned.measurements[1:]
        if own and owners[own[0]] != name:
            twin = owners[own[0]]
            reason = f"the same run as {rows[twin].row.row} on {own[0].boxes.called} boxes in this world"
            apart[name] = Planned(row=planned.row, same_as=twin, reason=reason)
        else:
            apart[name] = replace(planned, measurements=own + tuple(m for m in others if m not in owners))
    return apart


def heads_of(plan: Plan) -> list[Head]:
    """The heads to train, each once, in the order of the rows."""
    needed = [m.head for planned in plan.values() for m in planned.measurements] + [
        planned.head for planned in plan.values()
    ]
    return list(dict.fromkeys(head for head in needed if head))


def measurements_of(plan: Plan) -> list[Measurement]:
    """The evaluations, each once, in the order of the rows."""
    return list(dict.fromkeys(m for planned in plan.values() for m in planned.measurements))


def backbones_of(plan: Plan) -> list[BackboneRole]:
    """The backbones that the plan runs."""
    used = [m.backbone for m in measurements_of(plan) if not m.given] + [
        head.backbone for head in heads_of(plan)
    ]
    return list(dict.fromkeys(used))


def _planned(row: Row, settings: ReproduceSettings) -> Planned:
    if reason := _reason(row, settings):
        return Planned(row=row, reason=reason)
    head = _head(row, settings) if row.trained else None
    if row.measure == "hours":
        return Planned(row=row, head=head)
    roles: list[BoxesRole] = [row.proposals]
    if row.trained and settings.ground_truth_too and row.proposals != "gt":
        roles.append("gt")
    measurements = [
        Measurement(
            method=_method(row, settings),
            backbone=row.backbone,
            prompts=row.prompts,
            boxes=settings.boxes.of(role),
            masks=row.measure == "mask",
            head=head,
        )
        for role in roles
    ]
    return Planned(row=row, measurements=tuple(measurements))


def _reason(row: Row, settings: ReproduceSettings) -> str:
    """Why the row cannot be run in this world, as far as it is known before any work; "" if it can."""
    if row.measure == "hours" and not row.trained:
        return "another system, whose training is not part of this package"
    if row.method.startswith(RESULTS):
        path = results_file(row, settings)
        return "" if path.is_file() else f"no results file of this system; it goes to {path}"
    if row.backbone not in settings.backbones:
        return settings.no_backbone
    if row.position not in settings.positions:
        return f"the world's caches leave out the position {row.position}"
    boxes = Path(settings.boxes.of(row.proposals).boxes)
    if row.measure != "hours" and boxes.suffix and not boxes.is_file():
        return f"no boxes of the detector; the file goes to {boxes}"
    return ""


def results_file(row: Row, settings: ReproduceSettings) -> Path:
    """Where the results of another system lie."""
    return settings.results / f"{row.method.removeprefix(RESULTS)}.json"


def _method(row: Row, settings: ReproduceSettings) -> str:
    return f"{RESULTS}{results_file(row, settings)}" if row.method.startswith(RESULTS) else row.method


def _head(row: Row, settings: ReproduceSettings) -> Head:
    return Head(
        backbone=row.backbone,
        data=row.data,
        stages=row.stages,
        options=replace(settings.train.head, **row.head),
        position=row.position,
        prompts=row.prompts,
    )
