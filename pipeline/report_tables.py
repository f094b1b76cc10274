"""Tables of a report: what was measured, by which protocol, side by side for every method."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from regionspot_cache.evaluation.metrics import NOT_MEASURED
from regionspot_cache.reporting.page import Cell, KeyValues, ReportSection, Table

# The form of a result in metrics.json: {"protocol": {...}, "metrics": {"box": {"AP": 0.3, ...}, ...}}.
Result = Mapping[str, Any]

KINDS = {"box": "Box AP", "mask": "Mask AP"}
OVERALL = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
GROUPS = ("AP", "APr", "APc", "APf", "AP novel", "AP base")
ACCURACY = ("top1", "top5", "top1 mean over classes")
ACCURACY_GROUPS = tuple(f"top1 {group}" for group in ("r", "c", "f", "novel", "base"))
GROUP_NOTE = (
    "Percent. r, c, f: classes that are rare, common, frequent in the training set; novel: held out of it."
)
PERCENT = "Percent"  # the unit of every table


def percent(value: float | None) -> float | None:
    """A fraction as per cent; None where nothing was measured."""
    return None if value is None or value == NOT_MEASURED or isnan(value) else 100 * value


def method_name(result: Result) -> str:
    """The method without its backbone and checkpoint, or the file without its digest."""
    return str(result["protocol"]["method"]).split(" on ")[0].split(", ")[0]


def metric_table(
    caption: str, results: Sequence[Result], group: str, names: Sequence[str], note: str = PERCENT
) -> list[Table]:
    """One row a method; columns that no method has are left out, and so is a table without any.

    Args:
        group: of the metrics, such as "box".
        names: of the metrics, in this order.
    """
    cells = {
        r: [percent(result["metrics"].get(group, {}).get(name)) for name in names]
        for r, result in enumerate(results)
    }
    kept = [c for c in range(len(names)) if any(row[c] is not None for row in cells.values())]
    rows: list[list[Cell]] = [
        [method_name(result), *(cells[r][c] for c in kept)]
        for r, result in enumerate(results)
        if any(cells[r][c] is not None for c in kept)
    ]
    columns = ["method", *(names[c].replace("top", "top-") for c in kept)]
    return [Table(caption=caption, columns=columns, rows=rows, note=note)] if rows else []


def overall_tables(results: Sequence[Result]) -> list[ReportSection]:
    """AP of boxes and masks, accuracy of given boxes, recall of proposals."""
    sections: list[ReportSection] = []
    for group, title in KINDS.items():
        sections += metric_table(title + _ap_type(results), results, group, OVERALL)
    sections += metric_table("Accuracy of the given boxes", results, "accuracy", ACCURACY)
    return [*sections, *recall_table(results)]


def group_tables(results: Sequence[Result]) -> list[ReportSection]:
    """The same by frequency of the class in training (rare, common, frequent), and novel against base."""
    sections: list[ReportSection] = []
    for group, title in KINDS.items():
        if any(_has_groups(result["metrics"].get(group, {})) for result in results):
            caption = f"{title}{_ap_type(results)} by group of classes"
            sections += metric_table(caption, results, group, GROUPS, GROUP_NOTE)
    return [
        *sections,
        *metric_table("Top-1 by group of classes", results, "accuracy", ACCURACY_GROUPS, GROUP_NOTE),
    ]


def _ap_type(results: Sequence[Result]) -> str:
    """Named where it is not the usual one: numbers of two kinds of AP are never compared."""
    kind = results[0]["protocol"].get("ap_type", "standard")
    return "" if kind == "standard" else f", {kind}"


def _has_groups(metrics: Mapping[str, float]) -> bool:
    return any(metrics.get(name, NOT_MEASURED) != NOT_MEASURED for name in GROUPS[1:])


def recall_table(results: Sequence[Result]) -> list[Table]:
    """Class-agnostic recall of the proposals, which all methods share."""
    with_recall = [result for result in results if "recall" in result["metrics"]][:1]
    if not with_recall:
        return []
    recall, boxes = with_recall[0]["metrics"]["recall"], with_recall[0]["protocol"]["proposals"]
    names = [name for name in recall if name.startswith(("AR@", "R50@"))]
    return [
        Table(
            caption="Recall of the proposals, class-agnostic",
            columns=["", *names],
            rows=[["proposals", *(percent(recall[name]) for name in names)]],
            note=f"{PERCENT}. {boxes}",
        )
    ]


def protocol_sections(results: Sequence[Result], title: str = "Protocol") -> list[ReportSection]:
    """What all methods share, one fact a line; where they differ, a table."""
    protocols = [result["protocol"] for result in results]
    same = {key: value for key, value in protocols[0].items() if all(p[key] == value for p in protocols)}
    differing = [key for key in protocols[0] if key not in same]
    sections: list[ReportSection] = [
        KeyValues(
            title=title, items={key.replace("_", " "): value for key, value in same.items() if value != ""}
        )
    ]
    if differing:
        columns = [key.replace("_", " ") for key in differing]
        rows = [[str(protocol[key]) for key in differing] for protocol in protocols]
        sections.append(Table(caption="Where the methods differ", columns=columns, rows=rows))
    return sections
