"""What `rs-cache eval` leaves to look at: every class as CSV, and a page with tables and pictures."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import console
from pipeline.evaluate.scoring import Scored
from pipeline.report_tables import group_tables, overall_tables, percent, protocol_sections
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.evaluation import IouType
from regionspot_cache.evaluation.answers import ObjectAnswers
from regionspot_cache.evaluation.confusion import NEIGHBOURS, ConfusedPair, Confusion
from regionspot_cache.files import replacing
from regionspot_cache.reporting.page import Cell, ReportSection, Table, Text, write_report

PER_CLASS_FILE, REPORT_FILE = "per_class.csv", "report.html"
BOXES_FILE = "boxes"  # .parquet and .csv
HARDEST, MIN_BOXES = 20, 5
NEAR_PAIRS = 20
MEASURED = ("AP box", "AP mask", "top-1", "most often confused with")
COLUMNS = ("method", "category id", "name", "frequency", "novel", "boxes", *MEASURED)


@dataclass(frozen=True, kw_only=True)
class ClassResults:
    """One method, class by class: [K] in the order of the dataset; fractions are NaN where not measured."""

    method: str
    boxes: NDArray[np.int64]
    ap_box: NDArray[np.float64]
    ap_mask: NDArray[np.float64]
    top1: NDArray[np.float64]
    taken_for: NDArray[np.int64]
    """The class it is most often taken for, -1 for none, ..."""
    taken: NDArray[np.int64]
    """... and how many of its boxes are."""
    confusion: Confusion | None
    """Of given boxes."""


def class_results(scored: Scored, dataset: DetectionDataset, confusion: Confusion | None) -> ClassResults:
    """The classes of one method; `confusion` where boxes were given."""
    num_classes = len(dataset.class_names)
    nothing = np.full(num_classes, -1), np.zeros(num_classes, np.int64)
    taken_for, taken = nothing if confusion is None else confusion.most_often()
    return ClassResults(
        method=scored.name,
        boxes=np.bincount(dataset.labels, minlength=num_classes),
        ap_box=class_ap(scored, "bbox", dataset.category_ids),
        ap_mask=class_ap(scored, "segm", dataset.category_ids),
        top1=np.full(num_classes, np.nan) if confusion is None else 1 - confusion.top1_error(),
        taken_for=taken_for,
        taken=taken,
        confusion=confusion,
    )


def class_ap(scored: Scored, kind: IouType, category_ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """AP of every category of a method, f64 [K]; NaN where not measured."""
    ap = scored.average_precision.get(kind)
    found = dict(zip(ap.category_ids.tolist(), ap.per_category.tolist(), strict=True)) if ap else {}
    values = np.array([found.get(category, -1.0) for category in category_ids.tolist()])
    return np.where(values < 0, np.nan, values)


def write_per_class(path: Path, results: Sequence[ClassResults], dataset: DetectionDataset) -> None:
    """Writes one row a method and class as CSV (RFC 4180, UTF-8); what was not measured is empty."""
    with replacing(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # ends lines with CR LF and quotes where needed, as RFC 4180 asks
        writer.writerow(COLUMNS)
        for result in results:
            writer.writerows(_row(result, dataset, c) for c in range(len(dataset.class_names)))


def _row(result: ClassResults, dataset: DetectionDataset, c: int) -> list[str | int]:
    fractions = [values[c] for values in (result.ap_box, result.ap_mask, result.top1)]
    return [
        result.method,
        int(dataset.category_ids[c]),
        dataset.class_names[c],
        dataset.class_frequency[c],
        "yes" if dataset.class_novel[c] else "no",
        int(result.boxes[c]),
        *("" if np.isnan(value) else f"{value:.6f}" for value in fractions),
        dataset.class_names[result.taken_for[c]] if result.taken_for[c] >= 0 else "",
    ]


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """What a pass of the package's own methods leaves for a report: a row a method, pictures, and more."""

    rows: list[Scored]
    text: NDArray[np.float32]
    """[K, E], embeddings of the class names."""
    confusion: Mapping[str, Confusion]
    """By name of the row; empty for proposals."""
    objects: Mapping[str, ObjectAnswers]
    """By name of the row."""
    pictures: list[ReportSection]


def write_evaluation_report(
    out: Path,
    dataset: DetectionDataset,
    scored: Sequence[Scored],
    own: OwnRows | None,
    compared: Sequence[ReportSection],
) -> None:
    """Writes `per_class.csv` and `report.html`; `own` is None when all rows come from files."""
    confusion = own.confusion if own else {}
    classes = [class_results(row, dataset, confusion.get(row.name)) for row in scored]
    write_per_class(out / PER_CLASS_FILE, classes, dataset)
    results = [row.result.to_json() for row in scored]
    sections = [
        Text(title="How well each method does"),
        *overall_tables(results),
        *_titled(f"Compared with {scored[0].name}", compared),
        *_titled("Groups of classes", group_tables(results)),
        *_titled("Hardest classes", _hardest(classes, dataset)),
    ]
    if own:
        sections += [*_titled("Confusion of near classes", _near(classes, dataset, own.text)), *own.pictures]
    protocol = results[0]["protocol"]
    title = f"Recognition on {protocol['dataset']} {protocol['split']}".strip()
    write_report(out / REPORT_FILE, title, "", [*sections, *protocol_sections(results)])
    console.say(f"Every class is in {out / PER_CLASS_FILE}, the report in {out / REPORT_FILE}.")
    if own:
        console.say(f"Every box is in {out / BOXES_FILE}.parquet and, as text, in .csv.")


def _titled(title: str, sections: Sequence[ReportSection]) -> list[ReportSection]:
    return [Text(title=title), *sections] if sections else []


def _hardest(classes: Sequence[ClassResults], dataset: DetectionDataset) -> list[ReportSection]:
    """The classes with the lowest box AP of the first method, with the AP of the others beside it."""
    lead = classes[0]
    least = max(1, int(np.sort(lead.boxes)[::-1][:HARDEST].min(initial=MIN_BOXES)))  # less in small samples
    given = lead.confusion is not None
    rows: list[list[Cell]] = []
    enough = np.flatnonzero((lead.boxes >= least) & ~np.isnan(lead.ap_box))
    # Of equal ones the wrong more often.
    order = np.lexsort((-lead.boxes[enough], np.nan_to_num(lead.top1[enough]), lead.ap_box[enough]))
    for c in enough[order][:HARDEST].tolist():
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
