"""`rs-cache demo`: plan, extract, verify, train, evaluate and report on the built-in world.

Every step is the function that its verb calls: extractions and training continue where they were interrupted.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.demo_report import DemoFacts, write_demo_report
from pipeline.evaluate.run import evaluate
from pipeline.extract import extract
from pipeline.inspection import verify
from pipeline.places import shipped
from pipeline.plan import dry_run
from pipeline.train import train
from pipeline.verbs.demo import DemoSettings
from pipeline.verbs.evaluate import EvalSettings
from pipeline.verbs.extract import ExtractSettings
from pipeline.verbs.train import TrainSettings
from regionspot_cache.config import load_config

METHODS = ("regionspot", "clip-box", "clip-mask")


def demo(settings: DemoSettings) -> Path:
    """Runs everything and returns the path of the report."""
    started = time.monotonic()
    seconds: dict[str, float] = {}

    def step(title: str, verb: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        console.say(f"== {title}")
        start = time.monotonic()
        result = verb(*arguments, **options)
        seconds[title] = seconds.get(title, 0.0) + time.monotonic() - start
        return result

    def evaluated(title: str, proposals: str, **options: Any) -> dict[str, Any]:
        out = settings.out / f"eval-{proposals}"
        # No pictures: the demo's page has its own.
        common = {"checkpoint": training.out, "methods": METHODS, "pictures": 0, "device": settings.device}
        step(title, evaluate, EvalSettings(proposals=proposals, out=out, **common, **options))
        return json.loads((out / "metrics.json").read_text())

    common: dict[str, Any] = {"workers": settings.workers, "device": settings.device}
    train_set = ExtractSettings(limit=settings.train_images, **common)
    val_set = ExtractSettings(dataset="shapes:val", limit=settings.val_images, **common)
    training = load_config(TrainSettings, shipped("train/shapes.yaml"), device=settings.device)
    step("1/6 plan", dry_run, train_set)
    caches = [
        step("2/6 extract the training images", extract, train_set),
        step("2/6 extract the validation images", extract, val_set),
    ]
    for cache in caches:
        step("3/6 verify", verify, cache["cache"], full=True)
    step("4/6 train the head", train, training)
    rpn = {"limit": settings.rpn_images, "top_n": settings.rpn_top_n}
    facts = DemoFacts(
        caches=caches,
        run=training.out,
        gt=evaluated("5/6 evaluate on ground-truth boxes", "gt", limit=settings.gt_images),
        rpn=evaluated("5/6 evaluate on RPN boxes", "rpn", **rpn),
        seconds=seconds,
    )
    report = settings.out / "report.html"
    step("6/6 report", write_demo_report, report, facts, settings)
    console.say(f"Done in {console.clock(time.monotonic() - started)}.")
    console.result({}, f"Report: {report}")
    return report
