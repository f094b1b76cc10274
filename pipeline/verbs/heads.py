"""Verbs that make heads: `train`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.verbs.options import Config, Json, Set


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
