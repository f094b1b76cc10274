"""What `rs-cache eval` leaves to look at: every class as CSV, and a page with tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.evaluate.per_class import ClassResults, class_results, hardest, write_per_class
from pipeline.evaluate.scoring import Scored
from pipeline.report_tables import group_tables, overall_tables, percent, protocol_sections
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.evaluation.confusion import NEIGHBOURS, ConfusedPair, Confusion
from regionspot_cache.reporting.page import Cell, ReportSection, Table, Text, write_report

PER_CLASS_FILE, REPORT_FILE = "per_class.csv", "report.html"
HARDEST, MIN_BOXES = 20, 5
NEAR_PAIRS = 20


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """What a pass of the package's own methods leaves for a report.

    Attributes:
        rows: one a method.
        text: float32 [K, E], embeddings of the class names.
        confusion: by name of the row; empty for proposals.
        pictures: sections that show a few images.
    """

    rows: list[Scored]
    text: NDArray[np.float32]
    confusion: Mapping[str, Confusion]
    pictures: list[ReportSection]


def write_evaluation_report(
    out: Path, dataset: DetectionDataset, scored: Sequence[Scored], own: OwnRows | None
) -> None:
    """Writes `per_class.csv` and `report.html` into the folder `out`.

    Args:
        scored: one row a method.
        own: what our own methods leave; None when all rows come from files.
    """
    confusion = own.confusion if own else {}
    classes = [class_results(row, dataset, confusion.get(row.name)) for row in scored]
    write_per_class(out / PER_CLASS_FILE, classes, dataset)
    results = [row.result.to_json() for row in scored]
    sections = [
        Text(title="How well each method does"),
        *overall_tables(results),
        *_titled("Groups of classes", group_tables(results)),
        *_titled("Hardest classes", _hardest(classes, dataset)),
    ]
    if own:
        sections += [*_titled("Confusion of near classes", _near(classes, dataset, own.text)), *own.pictures]
    protocol = results[0]["protocol"]
    title = f"Recognition on {protocol['dataset']} {protocol['split']}".strip()
    write_report(out / REPORT_FILE, title, "", [*sections, *protocol_sections(results)])
    console.say(f"Every class is in {out / PER_CLASS_FILE}, the report in {out / REPORT_FILE}.")


def _titled(title: str, sections: Sequence[ReportSection]) -> list[ReportSection]:
    return [Text(title=title), *sections] if sections else []


def _hardest(classes: Sequence[ClassResults], dataset: DetectionDataset) -> list[ReportSection]:
    """The classes with the lowest box AP of the first method, with the AP of the others beside it."""
    lead = classes[0]
    least = max(1, int(np.sort(lead.boxes)[::-1][:HARDEST].min(initial=MIN_BOXES)))  # less in small samples
    given = lead.confusion is not None
    rows: list[list[Cell]] = []
    for c in hardest(lead, top=HARDEST, min_boxes=least).tolist():
        aps = [percent(float(one.ap_box[c])) for one in classes]
        row = [_class_name(dataset, c), int(lead.boxes[c]), *aps]
        rows.append([*row, percent(float(lead.top1[c])), _taken(lead, dataset, c)] if given else row)
    columns = ["class", "boxes", *(f"AP {one.method}" for one in classes)]
    others = f"; top-1 and confusion are those of {lead.method}" if given else ""
    table = Table(
        caption=f"Hardest for {lead.method}",
        columns=[*columns, "top-1", "most often taken for"] if given else columns,
        rows=rows,
        note=f"Percent. The lowest box AP of {lead.method} among the classes with {least} or more boxes"
        f"{others}. All classes are in {PER_CLASS_FILE}.",
    )
    return [table] if rows else []


def _class_name(dataset: DetectionDataset, c: int) -> str:
    group = ", ".join(filter(None, (dataset.class_frequency[c], "novel" if dataset.class_novel[c] else "")))
    return f"{dataset.class_names[c]} ({group})" if group else dataset.class_names[c]


def _taken(one: ClassResults, dataset: DetectionDataset, c: int) -> str:
    other = int(one.taken_for[c])
    return f"{dataset.class_names[other]} ({one.taken[c]} of {one.boxes[c]})" if other >= 0 else ""


def _near(
    classes: Sequence[ClassResults], dataset: DetectionDataset, text: NDArray[np.float32]
) -> list[ReportSection]:
    """How much of each method's confusion is between near classes, and what the first confuses most."""
    confusion = {one.method: one.confusion for one in classes if one.confusion is not None}
    pairs = {method: one.near_pairs(text) for method, one in confusion.items()}
    if not pairs:
        return []
    shares: list[list[Cell]] = []
    for method, one in confusion.items():
        wrong, near = int(one.wrong.count.sum()), sum(pair.count for pair in pairs[method])
        shares.append([method, wrong, near, 100 * near / wrong if wrong else None])
    table = Table(
        caption="Boxes named wrongly",
        columns=["method", "wrong boxes", "taken for a near class", "percent"],
        rows=shares,
        note=f"Near: each class is among the other's {NEIGHBOURS} nearest by the cosine of their text "
        "embeddings.",
    )
    return [table, *_pair_table(pairs, dataset)]


def _pair_table(pairs: Mapping[str, list[ConfusedPair]], dataset: DetectionDataset) -> list[ReportSection]:
    lead, *others = pairs
    rates = [{(p.true, p.predicted): 100 * p.rate for p in pairs[method]} for method in others]
    rows: list[list[Cell]] = []
    for pair in pairs[lead][:NEAR_PAIRS]:
        names = [_class_name(dataset, c) for c in (pair.true, pair.predicted)]
        beside = [rate.get((pair.true, pair.predicted), 0.0) for rate in rates]
        rows.append([*names, pair.count, 100 * pair.rate, *beside, f"{pair.similarity:.3f}"])
    table = Table(
        caption=f"Near classes that {lead} confuses most often",
        columns=["class", "taken for", "boxes", lead, *others, "cosine"],
        rows=rows,
        note=f"Percent of the boxes of the class; the number of boxes is that of {lead}.",
    )
    return [table] if rows else []
