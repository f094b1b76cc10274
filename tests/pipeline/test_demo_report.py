"""The demo's page: the sections of an evaluation beside the paper's table, training, pictures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.demo import DemoFacts, write_demo_report
from pipeline.verbs.demo import DemoSettings
from tests.reporting.test_page import Page

RUN = Path("rs-cache-data/runs/small")
PROTOCOL = {"dataset": "shapes", "split": "val", "method": "regionspot on small", "proposals": "some boxes"}
GROUND_TRUTH = {"box": {"AP": 0.123, "APr": 0.456, "AP novel": 0.4}, "accuracy": {"top1": 0.789}}
PROPOSALS = {"box": {"AP": 0.222}, "recall": {"AR@100": 0.333, "R50@100": 0.444}}


def facts(metrics: dict) -> dict:
    return {"results": [{"protocol": PROTOCOL, "metrics": metrics}]}


@pytest.fixture
def demo() -> DemoFacts:
    cache = {"cache": "caches/a", "images": 2, "boxes": 9, "bytes": 2048, "images_per_second": 3.5}
    gt, rpn = facts(GROUND_TRUTH), facts(PROPOSALS)
    return DemoFacts(caches=[cache], run=RUN, gt=gt, rpn=rpn, seconds={"plan": 1.25})


def test_the_page(demo: DemoFacts, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    write_demo_report(tmp_path / "new" / "report.html", demo, replace(DemoSettings(), pictures=1))
    html = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == [
        "Recognition of ground-truth boxes",
        "Recognition of proposals",
        "Training",
        "What the head sees",
        "Protocol of ground-truth boxes",
        "Protocol of proposals",
        "Sizes",
        "Seconds by step",
        "Speeds",
    ]
    page = Page(html)
    for number in ("12.3", "45.6", "78.9", "22.2", "33.3", "44.4"):
        assert number in page.text
    assert "the paper's table 1" in page.text
    alts = [str(image["alt"]) for image in page.all("img")]
    starts = ("truly", "regionspot says", "clip-box says", "clip-mask says")
    for alt, start in zip(alts, starts, strict=False):
        assert alt.startswith(start)
    assert len(alts) == 4 + 1 + 2  # side by side, masks, attention of one box in both layers
