"""Verbs about the whole: `demo`, `bench`, `backbones`, `env`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.verbs.options import Backbone, Config, Json, Set


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


def backbones(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Presets, YAML files, or names of networks; all that are known when not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the frozen networks: operations and stored bytes of each for one image. Needs no weights.

    Example: rs-cache backbones bl configs/backbones/siglip2-so400m.yaml ViT-B-32 sam2.1-hiera-large
    """
    from pipeline.backbones import backbones as run

    run(names or [], as_json=as_json)


def env(as_json: Json = False) -> None:
    """Versions, devices and paths: what a bug report needs."""
    from pipeline.environment import environment as run

    run(as_json=as_json)
