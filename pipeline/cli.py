"""The command line, `rs-cache VERB`: options to settings, errors to three lines and an exit code."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import console
from regionspot_cache.errors import RegionSpotError

INTERRUPTED = 130

app = typer.Typer(
    name="rs-cache",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Open-vocabulary region recognition from cached SAM tokens and CLIP maps. "
    "Two phases: **extract** runs the frozen networks once; **train** and **eval** read the cache. "
    "Every verb works without arguments on the built-in world. "
    "Exit codes: 0 done, 1 error, 2 usage, 3 incomplete (run it again), "
    "4 identity mismatch or damage, 130 interrupted.",
)

Config = Annotated[Path | None, typer.Option("--config", help="YAML file with settings (see configs/).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Data = Annotated[str | None, typer.Option("--dataset", help="NAME, NAME:SPLIT or a COCO-style FILE.json.")]
Images = Annotated[Path | None, typer.Option("--images", help="Image root of the dataset.")]
Backbone = Annotated[str | None, typer.Option("--backbone", help="tiny, bb, bl, bl336 or a YAML file.")]
CacheDir = Annotated[str, typer.Argument(help="Cache folder or object-store URL.")]


@app.command()
def extract(
    dataset: Data = None,
    images: Images = None,
    backbone: Backbone = None,
    cache: Annotated[str | None, typer.Option("--cache", help="Cache folder or object-store URL.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Local Dask workers; 0: this process.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Running Dask scheduler, tcp://...")
    ] = None,
    half: Annotated[str | None, typer.Option("--half", help="Only `sam` or `clip`.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Seeded sample of this many images.")] = None,
    rebuild: Annotated[
        bool | None, typer.Option("--rebuild", help="Replace a half of another backbone.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print images, boxes, bytes and hours only.")
    ] = False,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Run the frozen SAM and CLIP once over a dataset, into a cache. Resumes by default.

    Example: rs-cache extract --dataset o365 --backbone bl --workers 8
    """
    from pipeline.extract import extract as run
    from pipeline.plan import dry_run as plan
    from pipeline.settings import ExtractSettings
    from regionspot_cache.config import load_config

    settings = load_config(
        ExtractSettings,
        config,
        set_ or (),
        dataset=dataset,
        images=images,
        backbone=backbone,
        cache=cache,
        workers=workers,
        scheduler=scheduler,
        half=half,
        limit=limit,
        rebuild=rebuild,
    )
    (plan if dry_run else run)(settings, as_json=as_json)


@app.command()
def status(cache: CacheDir, as_json: Json = False) -> None:
    """Progress of an extraction: partitions, failures by reason, rates, time spent in each step."""
    from pipeline.inspection import status as run

    run(cache, as_json=as_json)


@app.command()
def info(cache: CacheDir, as_json: Json = False) -> None:
    """What is in a cache: dataset, backbones, arrays, bytes, dropped boxes."""
    from pipeline.inspection import info as run

    run(cache, as_json=as_json)


@app.command()
def verify(
    cache: CacheDir,
    full: Annotated[bool, typer.Option("--full", help="Read every byte; finds any flipped bit.")] = False,
    recompute: Annotated[int, typer.Option("--recompute", help="Run the encoders again on K images.")] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Uncommit what is damaged; extract redoes it.")
    ] = False,
    backbone: Annotated[
        str, typer.Option("--backbone", help="Preset of the encoders, for --recompute.")
    ] = "tiny",
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Prove that a cache is whole. Exit code 4 when damage is found."""
    from pipeline.inspection import verify as run

    run(
        cache,
        full=full,
        recompute=recompute,
        repair=repair,
        backbone=backbone,
        images=images,
        as_json=as_json,
    )


@app.command()
def train(
    cache: Annotated[
        list[str] | None, typer.Option("--cache", help="Cache folder or URL; repeat to mix caches.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of checkpoints, metrics and model.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Train the head on cached features. Resumes by default. Several processes: torchrun.

    Example: rs-cache train --config configs/train/bl.yaml --out runs/bl
    """
    from pipeline.places import shipped
    from pipeline.settings import TrainSettings
    from pipeline.train import train as run
    from regionspot_cache.config import load_config

    config = config or shipped("train/shapes.yaml")
    settings = load_config(TrainSettings, config, set_ or (), caches=cache or None, out=out)
    run(settings, as_json=as_json)


@app.command(name="eval")
def evaluate(
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model folder written by train.")
    ] = None,
    dataset: Data = None,
    images: Images = None,
    proposals: Annotated[str | None, typer.Option("--proposals", help="gt, rpn, or a file of boxes.")] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="regionspot, clip-box, clip-mask; repeat.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Seeded sample of this many images.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for detections, metrics and report.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Recognise the regions of a dataset and score the result: AP, APr, APc, APf, accuracy, recall.

    Example: rs-cache eval --proposals rpn --method regionspot --method clip-box
    """
    from pipeline.evaluate import evaluate as run
    from pipeline.settings import EvalSettings
    from regionspot_cache.config import load_config

    settings = load_config(
        EvalSettings,
        config,
        set_ or (),
        checkpoint=checkpoint,
        dataset=dataset,
        images=images,
        proposals=proposals,
        methods=method or None,
        limit=limit,
        out=out,
    )
    run(settings, as_json=as_json)


@app.command()
def predict(
    image: Annotated[Path, typer.Argument(help="An image file.")],
    boxes: Annotated[
        str | None, typer.Option("--boxes", help="x0,y0,x1,y1;... in pixels, or a JSON file. None: the RPN.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Names separated by commas, or a file with one a line.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Model folder written by train.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Picture to write; default IMAGE-regions.png.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="Boxes that the RPN proposes.")] = 20,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Name the regions of one image; writes a picture with names, masks and attention.

    Example: rs-cache predict street.jpg --boxes "10,20,200,180" --classes "car,bus,tram"
    """
    from pipeline.predict import predict as run
    from pipeline.settings import PredictSettings
    from regionspot_cache.config import load_config

    settings = load_config(
        PredictSettings,
        config,
        set_ or (),
        image=image,
        boxes=boxes,
        classes=classes,
        checkpoint=checkpoint,
        out=out,
        top=top,
    )
    run(settings, as_json=as_json)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the demo.")] = None,
    config: Config = None,
    set_: Set = None,
) -> None:
    """The whole story on the built-in world in a few minutes, ending in one HTML report."""
    from pipeline.demo import demo as run
    from pipeline.settings import DemoSettings
    from regionspot_cache.config import load_config

    run(load_config(DemoSettings, config, set_ or (), out=out))


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(help="read, extract, train, evaluate, workers; all when not given.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Full sizes: minutes to an hour, gigabytes of disk.")
    ] = False,
    backbone: Backbone = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="FILE.md to write, and FILE.json beside it.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Measure speeds here, side by side with what people use for each part.

    Example: rs-cache bench read extract --out benchmarks/2030-01-31-workstation.md
    """
    from pipeline.bench.run import bench as run
    from pipeline.bench.settings import BenchSettings
    from regionspot_cache.config import load_config

    settings = load_config(BenchSettings, config, set_ or (), full=full or None, backbone=backbone)
    run(names or (), settings, out=out, as_json=as_json)


@app.command()
def env(as_json: Json = False) -> None:
    """Versions, devices and paths: what a bug report needs."""
    from pipeline.environment import environment as run

    run(as_json=as_json)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        return _code(app(args=arguments, standalone_mode=False))
    except RegionSpotError as error:
        return _report(error)
    except Exception as error:
        return _unexpected(error)


def _code(value: Any) -> int:
    if value == INTERRUPTED:  # what Typer makes of Ctrl-C
        console.say("Interrupted. What is committed is kept; the same command continues.")
    return value if isinstance(value, int) else 0


def _report(error: RegionSpotError) -> int:
    if os.environ.get("RS_DEBUG"):
        raise error
    for part, label in ((error.found, "error"), (error.expected, "expected"), (error.remedy, "next")):
        if part:
            console.say(f"{label}: {part}")
    return error.exit_code


def _unexpected(error: Exception) -> int:
    if hasattr(error, "format_message"):  # Typer's own usage errors
        console.say(f"error: {error.format_message()}")
        console.say("next: rs-cache --help")
        return int(getattr(error, "exit_code", 2))
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # an EOFError, which Typer takes for the user's
    if os.environ.get("RS_DEBUG"):
        raise error
    console.say(f"error: {type(error).__name__}: {error}")
    console.say("next: set RS_DEBUG=1 for the traceback, and add the output of `rs-cache env` to a report")
    return 1
