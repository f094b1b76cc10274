"""Verbs that make caches and look into them: `extract`, `status`, `info`, `verify`."""

from typing import Annotated

import typer

from pipeline.verbs.options import Backbone, CacheDir, Config, Data, Images, Json, Set


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


def status(cache: CacheDir, as_json: Json = False) -> None:
    """Progress of an extraction: partitions, failures by reason, time spent in each step."""
    from pipeline.inspection import status as run

    run(cache, as_json=as_json)


def info(cache: CacheDir, as_json: Json = False) -> None:
    """What is in a cache: dataset, backbones, arrays, bytes, dropped boxes."""
    from pipeline.inspection import info as run

    run(cache, as_json=as_json)


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
