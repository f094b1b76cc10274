"""`rs-cache demo`: plan, extract, verify, train, evaluate and report on the built-in world.

Every step is the same function that its verb calls, and each continues where it was interrupted.
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
from pipeline.settings import DemoSettings, EvalSettings, ExtractSettings, TrainSettings
from pipeline.train import train
from regionspot_cache.config import load_config

METHODS = ("regionspot", "clip-box", "clip-mask")


def demo(settings: DemoSettings) -> Path:
    """Runs everything and returns the path of the report."""
    started = time.monotonic()
    seconds: dict[str, float] = {}
    train_set = ExtractSettings(workers=settings.workers, limit=settings.train_images, device=settings.device)
    val_set = ExtractSettings(
        dataset="shapes:val", workers=settings.workers, limit=settings.val_images, device=settings.device
    )
    training = load_config(TrainSettings, shipped("train/shapes.yaml"), device=settings.device)
    _step("1/6 plan", seconds, lambda: dry_run(train_set))
    caches = [
        _step("2/6 extract the training images", seconds, lambda: extract(train_set)),
        _step("2/6 extract the validation images", seconds, lambda: extract(val_set)),
    ]
    for cache in caches:
        _step("3/6 verify", seconds, lambda path=cache["cache"]: verify(path, full=True))
    _step("4/6 train the head", seconds, lambda: train(training))
    gt = _evaluation(settings, training.out, "gt", limit=settings.gt_images)
    rpn = _evaluation(settings, training.out, "rpn", limit=settings.rpn_images, top_n=settings.rpn_top_n)
    facts = DemoFacts(
        caches=caches,
        run=training.out,
        gt=_step("5/6 evaluate on ground-truth boxes", seconds, lambda: _evaluated(gt)),
        rpn=_step("5/6 evaluate on RPN boxes", seconds, lambda: _evaluated(rpn)),
        seconds=seconds,
    )
    report = settings.out / "report.html"
    _step("6/6 report", seconds, lambda: write_demo_report(report, facts, settings))
    console.say(f"Done in {console.clock(time.monotonic() - started)}.")
    console.result({}, f"Report: {report}")
    return report


def _step(title: str, seconds: dict[str, float], work: Callable[[], Any]) -> Any:
    console.say(f"== {title}")
    start = time.monotonic()
    result = work()
    seconds[title] = seconds.get(title, 0.0) + time.monotonic() - start
    return result


def _evaluation(settings: DemoSettings, run: Path, proposals: str, **options: Any) -> EvalSettings:
    return EvalSettings(
        checkpoint=run,
        proposals=proposals,
        methods=METHODS,
        out=settings.out / f"eval-{proposals}",
        pictures=0,  # the demo's page has its own
        device=settings.device,
        **options,
    )


def _evaluated(settings: EvalSettings) -> dict[str, Any]:
    """Metrics of an evaluation; those on disk when they are newer than the head and of the same settings."""
    assert settings.out is not None
    metrics, stamp = settings.out / "metrics.json", settings.out / "settings.txt"
    head = settings.checkpoint / "model.safetensors"
    fresh = stamp.is_file() and stamp.read_text() == repr(settings) and metrics.is_file()
    if fresh and metrics.stat().st_mtime > head.stat().st_mtime:
        console.say(f"already evaluated: {metrics}")
    else:
        evaluate(settings)
        stamp.write_text(repr(settings))
    return json.loads(metrics.read_text())
