"""Rows of an evaluation against its first one: as lines, as JSON, and for the report."""

from collections.abc import Sequence
from math import isnan, nan

from pipeline.evaluate.report import OwnRows, class_ap
from pipeline.evaluate.scoring import Scored
from pipeline.report_tables import percent
from pipeline.verbs.evaluate import EvalSettings
from regionspot_cache.datasets import DetectionDataset
from regionspot_cache.evaluation.comparison import ClassChange, Compared, Comparison, compare
from regionspot_cache.evaluation.metrics import NOT_MEASURED
from regionspot_cache.evaluation.significance import Difference
from regionspot_cache.reporting.page import Cell, ReportSection, Table

INTERVALS = (
    "Percent. The bounds hold the difference with 95% confidence: percentiles over {resamples:,} draws of "
    "the images with replacement (seed {seed}), the same for both methods. Where 0 is outside, the "
    "difference is more than the choice of images."
)
MCNEMAR = (
    "McNemar's exact test: how probable so uneven a split of the objects that changed is, if both methods "
    "are equally good. It takes objects of one image for independent; the interval of top-1 does not."
)


def compare_rows(
    scored: Sequence[Scored], dataset: DetectionDataset, own: OwnRows | None, settings: EvalSettings
) -> list[Comparison]:
    """Every other row against the first."""
    answers = own.objects if own else {}
    first, *others = [
        Compared(
            name=row.name,
            ap=_measured(row.result.metrics["box"]["AP"]),
            ap_samples=row.ap_samples,
            right=answers[row.name].right(dataset.labels) if row.name in answers else None,
            class_ap=class_ap(row, "bbox", dataset.category_ids),
        )
        for row in scored
    ]
    return [compare(first, other, dataset, settings.seed) for other in others]


def _measured(value: float) -> float:
    return nan if value == NOT_MEASURED else value


def line(found: Comparison) -> str:
    """A comparison in one line, such as `b against a: box AP +1.2 (-0.3 to 2.5), ...`."""
    parts = [f"{name} {_change(one)}" for name, one in found.measures.items()]
    if found.objects is not None:
        right, wrong = int(found.objects.became_right.sum()), int(found.objects.became_wrong.sum())
        parts.append(f"{right} objects became right and {wrong} wrong (p = {found.objects.p_value:.2g})")
    return f"{found.second} against {found.first}: {', '.join(parts)}"


def _change(one: Difference) -> str:
    bounds = "" if isnan(one.low) else f" ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return f"{100 * one.difference:+.1f}{bounds}"


def sections(comparisons: Sequence[Comparison], settings: EvalSettings) -> list[ReportSection]:
    """Tables of a report; none without comparisons."""
    if not comparisons:
        return []
    note = INTERVALS.format(resamples=settings.resamples, seed=settings.seed)
    found: list[ReportSection] = [_differences(comparisons, note)]
    if any(one.objects for one in comparisons):
        found.append(_objects(comparisons))
    for one in comparisons:
        for what, classes in (("gained", one.gained), ("lost", one.lost)):
            if classes:
                found.append(_classes(f"Classes that {what} most with {one.second}", one, classes))
    return found


def _differences(comparisons: Sequence[Comparison], note: str) -> Table:
    rows: list[list[Cell]] = [
        [one.second, name, *(100 * value for value in (d.first, d.second, d.difference, d.low, d.high))]
        for one in comparisons
        for name, d in one.measures.items()
    ]
    columns = ["method", "measure", comparisons[0].first, "its own", "difference", "from", "to"]
    return Table(caption="Differences", columns=columns, rows=rows, note=note)


def _objects(comparisons: Sequence[Comparison]) -> Table:
    rows: list[list[Cell]] = []
    for one in comparisons:
        if one.objects is not None:
            *counts, p = one.objects.to_json().values()
            rows.append([one.second, *counts, f"{p:.2g}"])
    columns = ["method", "right in both", "became right", "became wrong", "wrong in both", "p"]
    return Table(caption="Annotated objects", columns=columns, rows=rows, note=MCNEMAR)


def _classes(caption: str, one: Comparison, classes: Sequence[ClassChange]) -> Table:
    columns = ["class", f"AP {one.first}", f"AP {one.second}", "became right", "became wrong"]
    rows: list[list[Cell]] = [
        [c.name, percent(c.ap_first), percent(c.ap_second), c.became_right, c.became_wrong] for c in classes
    ]
    by = "objects that became right less those that became wrong" if one.objects else "AP"
    return Table(caption=caption, columns=columns, rows=rows, note=f"By {by}; AP in percent.")
