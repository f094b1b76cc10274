"""Tables of a report: what was measured, by which protocol, side by side for every method."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

from regionspot_cache.evaluation.metrics import NOT_MEASURED
from regionspot_cache.reporting.page import KeyValues, ReportSection, Table

# The form of a result in metrics.json: {"protocol": {...}, "metrics": {"box": {"AP": 0.3, ...}, ...}}.
Result = Mapping[str, Any]

KINDS = {"box": "Box AP", "mask": "Mask AP"}
OVERALL = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")
GROUPS = ("APr", "APc", "APf", "AP novel", "AP base")
ACCURACY = ("top1", "top5", "top1 mean over classes")
ACCURACY_GROUPS = tuple(f"top1 {group}" for group in ("r", "c", "f", "novel", "base"))
GROUP_NOTE = (
    "Percent. r, c, f: classes that are rare, common, frequent in the training set; novel: held out of it."
)


def percent(value: float | None) -> float | None:
    """A fraction as per cent; None where nothing was measured."""
    return None if value is None or value == NOT_MEASURED or isnan(value) else 100 * value


def method_name(result: Result) -> str:
    """The method without its backbone and checkpoint, or the file without its digest."""
    return str(result["protocol"]["method"]).split(" on ")[0].split(", ")[0]


def metric_table(
    caption: str, results: Sequence[Result], group: str, names: Sequence[str], note: str = "Percent."
) -> list[Table]:
    """One row a method; columns that no method has are left out, and so is a table without any.

    Args:
        group: of the metrics, such as "box".
        names: of the metrics, in this order.
    """
    columns = ["method", *(name.replace("top", "top-") for name in names)]
    measured = [[percent(r["metrics"].get(group, {}).get(name)) for name in names] for r in results]
    rows = [
        [method_name(result), *values]
        for result, values in zip(results, measured, strict=True)
        if any(value is not None for value in values)
    ]
    kept = [c for c in range(len(columns)) if any(row[c] is not None for row in rows)]
    kept_rows = [[row[c] for c in kept] for row in rows]
    table = Table(caption=caption, columns=[columns[c] for c in kept], rows=kept_rows, note=note)
    return [table] if rows else []


def overall_tables(results: Sequence[Result]) -> list[ReportSection]:
    """AP of boxes and masks, accuracy of given boxes, recall of proposals, which all methods share."""
    sections: list[ReportSection] = []
    for group, title in KINDS.items():
        sections += metric_table(title + _ap_type(results), results, group, OVERALL)
    sections += metric_table("Accuracy of the given boxes", results, "accuracy", ACCURACY)
    for result in [result for result in results if "recall" in result["metrics"]][:1]:
        recall = {n: v for n, v in result["metrics"]["recall"].items() if n.startswith(("AR@", "R50@"))}
        caption, note = "Recall of the proposals, class-agnostic", result["protocol"]["proposals"]
        row = ["proposals", *map(percent, recall.values())]
        sections.append(Table(caption=caption, columns=["", *recall], rows=[row], note=f"Percent. {note}"))
    return sections


def group_tables(results: Sequence[Result]) -> list[ReportSection]:
    """The same by frequency of the class in training (rare, common, frequent), and novel against base."""
    sections: list[ReportSection] = []
    for group, title in KINDS.items():
        if metric_table(title, results, group, GROUPS):
            caption = f"{title}{_ap_type(results)} by group of classes"
            sections += metric_table(caption, results, group, ("AP", *GROUPS), GROUP_NOTE)
    caption = "Top-1 by group of classes"
    return [*sections, *metric_table(caption, results, "accuracy", ACCURACY_GROUPS, GROUP_NOTE)]


def _ap_type(results: Sequence[Result]) -> str:
    """Named where it is not the usual one: numbers of two kinds of AP are never compared."""
    kind = results[0]["protocol"].get("ap_type", "standard")
    return "" if kind == "standard" else f", {kind}"


def protocol_sections(results: Sequence[Result], title: str = "Protocol") -> list[ReportSection]:
    """What all methods share, one fact a line; where they differ, a table."""
    protocols = [result["protocol"] for result in results]
    names = {key: key.replace("_", " ") for key in protocols[0]}
    differing = [key for key in names if any(p[key] != protocols[0][key] for p in protocols)]
    same = {n: protocols[0][k] for k, n in names.items() if k not in differing and protocols[0][k] != ""}
    sections: list[ReportSection] = [KeyValues(title=title, items=same)]
    if differing:
        rows = [[str(protocol[key]) for key in differing] for protocol in protocols]
        columns = [names[key] for key in differing]
        sections.append(Table(caption="Where the methods differ", columns=columns, rows=rows))
    return sections
