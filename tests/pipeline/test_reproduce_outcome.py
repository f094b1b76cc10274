"""Means, spreads and verdicts, and how tables are printed."""

import json
from types import SimpleNamespace

import pytest

from pipeline.reproduce.plan import Planned
from pipeline.reproduce.rows import Claim, PaperTable, Row
from pipeline.reproduce.tables import (
    SHORT,
    Measured,
    RowOutcome,
    Spread,
    TableOutcome,
    markdown,
    sections,
    summary,
    table_facts,
    trends_of,
)
from regionspot_cache.reporting.page import Table, render_report


def measured(values: list[float], boxes: str = "GT", figure: str = "AP") -> Measured:
    return Measured(boxes=boxes, figures={figure: Spread.of(values)})


def outcome(*found: Measured, reason: str = "", same_as: str = "", **row: object) -> RowOutcome:
    planned = Planned(row=Row(**{"row": "a row"} | row), reason=reason, same_as=same_as)
    return RowOutcome(planned=planned, measured=found, reason=reason)


def test_mean_and_deviation() -> None:
    spread = Spread.of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.n) == (3.0, 3)
    assert spread.sd == pytest.approx(7**0.5)
    assert Spread.of([4.0]) == Spread(mean=4.0, sd=None, n=1)


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [
        ([10, 11, 12], [4, 5, 6], "reproduced"),
        ([4, 5, 6], [10, 11, 12], "not reproduced"),
        ([10, 11, 12], [9, 10, 11], "within the spread"),
        ([10, 11, 12], [8, 9, 10], "within the spread"),  # exactly twice the spread
        ([10, 11, 12], [7.9, 8.9, 9.9], "reproduced"),
        ([10], [9.9], "reproduced"),  # one run each: nothing is known of the spread
        ([10, 11, 12], [8.0], "reproduced"),  # the spread of the one that has seeds
        ([10, 11, 12], [9.5], "within the spread"),
    ],
)
def test_verdicts(better: list[float], worse: list[float], verdict: str) -> None:
    rows = {"b": outcome(measured(better)), "w": outcome(measured(worse))}
    (trend,) = trends_of(Claim(better="b", worse="w"), rows)
    assert trend.verdict == verdict
    assert trend.difference == pytest.approx(sum(better) / len(better) - sum(worse) / len(worse))


def test_fewer_hours_are_better() -> None:
    rows = {"b": outcome(measured([1.0], "", "hours")), "w": outcome(measured([4.0], "", "hours"))}
    (trend,) = trends_of(Claim(better="b", worse="w", metric="hours"), rows)
    assert (trend.verdict, trend.difference) == ("reproduced", 3.0)


def test_a_claim_is_judged_on_every_kind_of_boxes_that_both_rows_have() -> None:
    rows = {
        "b": outcome(measured([5.0], "RPN"), measured([50.0], "GT")),
        "w": outcome(measured([4.0], "RPN"), measured([60.0], "GT")),
        "gt": outcome(measured([70.0], "GT")),
    }
    trends = trends_of(Claim(better="b", worse="w"), rows)
    assert [(t.boxes, t.verdict) for t in trends] == [("RPN", "reproduced"), ("GT", "not reproduced")]
    (trend,) = trends_of(Claim(better="gt", worse="b"), rows)
    assert (trend.boxes, trend.verdict) == ("GT against RPN", "reproduced")


def test_a_row_that_is_another_rows_run_takes_its_numbers_for_trends() -> None:
    rows = {
        "first": outcome(measured([5.0])),
        "twin": outcome(reason="the same run as first", same_as="first"),
        "low": outcome(measured([1.0])),
    }
    (trend,) = trends_of(Claim(better="twin", worse="low"), rows)
    assert trend.verdict == "reproduced"


def test_what_is_not_measured_proves_nothing() -> None:
    rows = {"b": outcome(measured([5.0])), "w": outcome(reason="no file")}
    (trend,) = trends_of(Claim(better="b", worse="w"), rows)
    assert (trend.verdict, trend.difference) == ("not measured", None)
    (trend,) = trends_of(Claim(better="b", worse="b", metric="APr"), rows)
    assert trend.verdict == "not measured"


@pytest.fixture
def table() -> TableOutcome:
    figures = {
        "AP": Spread.of([10.0, 12.0]),
        "APr": Spread.of([1.0, 1.0]),
        "top1 novel": Spread.of([7.0, 7.0]),
    }
    ours = Measured(boxes="small RPN", figures=figures)
    rows = {
        "1-ours": outcome(
            ours, measured([30.0]), row="Ours", paper={"AP": 14.1, "APr": 12.7}, paper_boxes="RPN"
        ),
        "2-other": outcome(row="Other", paper={"AP": 25.0}, source="a README", reason="no results file"),
        "3-new": outcome(row="New", reason="no results file"),
    }
    claims = (Claim(better="1-ours", worse="2-other"),)
    paper = PaperTable(
        name="table4a",
        title="A title",
        note="A note.",
        claimed_by="the paper",
        claims=claims,
        rows={name: row.planned.row for name, row in rows.items()},
    )
    return TableOutcome(table=paper, rows=rows, trends=tuple(trends_of(claims[0], rows)))


def test_a_table_as_text(table: TableOutcome) -> None:
    lines = markdown(table).splitlines()
    assert lines[0] == "### Table 4a: A title"
    header, _, ours, on_gt, other, new = [line.strip("| ").split("|") for line in lines[2:8]]
    cells = {name.strip(): i for i, name in enumerate(header)}
    assert ours[cells["paper AP (r/c/f)"]].strip() == "14.1 (12.7/–/–)"
    assert ours[cells["our AP"]].strip() == "11.0 ± 1.4"
    assert ours[cells["r / c / f"]].strip() == "1.0 / – / –"
    assert ours[cells["top-1 novel"]].strip() == "7.0 ± 0.0"
    assert on_gt[cells["paper AP (r/c/f)"]].strip() == "–"
    assert on_gt[cells["our AP"]].strip() == "30.0"
    assert other[cells["paper AP (r/c/f)"]].strip() == "25.0 *"
    assert new[cells["our AP"]].strip() == "–"
    text = "\n".join(lines[8:])
    assert "- A note." in text
    assert "- – Other, New: no results file." in text
    assert "- * a README." in text
    assert "- Ours > Other in AP: not measured." in text
    assert len({len(line) for line in lines[2:8]}) == 1


def test_short_tables_have_fewer_columns_and_the_same_rows(table: TableOutcome) -> None:
    assert len(markdown(table, SHORT).splitlines()) == len(markdown(table).splitlines())
    assert "paper data" not in markdown(table, SHORT)


def test_a_table_of_hours() -> None:
    row = outcome(measured([0.5], "", "hours"), row="RegionSpot", measure="hours", paper={"hours": 92100.0})
    paper = PaperTable(
        name="table2", title="Time", note="", claimed_by="the paper", claims=(), rows={"1": row.planned.row}
    )
    text = markdown(TableOutcome(table=paper, rows={"1": row}, trends=()))
    assert "92,100" in text
    assert "0.500" in text
    assert "AP" not in text


def test_a_table_on_the_page_and_for_programs(table: TableOutcome) -> None:
    found = sections(table)
    assert [len(s.rows) for s in found if isinstance(s, Table)] == [4]
    assert "11.0 ± 1.4" in render_report("t", "s", found)
    values = json.loads(json.dumps(table_facts(table)))
    assert values["rows"]["1-ours"]["ours"][0]["figures"]["AP"] == {
        "mean": 11.0,
        "sd": pytest.approx(2**0.5),
        "n": 2,
    }
    assert values["rows"]["2-other"]["reason"] == "no results file"
    assert values["trends"][0]["verdict"] == "not measured"


def test_only_the_papers_trends_are_counted(table: TableOutcome) -> None:
    ours = SimpleNamespace(table=SimpleNamespace(claimed_by="this package"), trends=table.trends)
    assert summary([table, ours]) == "Trends of the paper: 1 not measured."
