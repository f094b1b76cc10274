"""Verbs that make heads and carry them: `train`, `import`, `export`, `push`."""

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


def import_checkpoint(
    checkpoint: Annotated[Path, typer.Argument(help="A released file of RegionSpot, .pth or .safetensors.")],
    backbone: Annotated[
        str, typer.Option("--backbone", help="bb, bl, bl336, or a YAML file with the same networks.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Model folder; rs-cache-data/runs/CHECKPOINT by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a model folder of a checkpoint that RegionSpot's authors released.

    Example: rs-cache import regionspot_bl_336.pth --backbone bl336
    """
    from pipeline.convert import import_checkpoint as run

    run(checkpoint, backbone, out, as_json=as_json)


def export_checkpoint(
    run: Annotated[Path, typer.Argument(help="Model folder written by train.")],
    out: Annotated[Path, typer.Option("--out", help="FILE.pth to write.")],
    as_json: Json = False,
) -> None:
    """Write a head as a checkpoint that RegionSpot's own code loads.

    Example: rs-cache export runs/bl --out bl.pth
    """
    from pipeline.convert import export_checkpoint as export

    export(run, out, as_json=as_json)


def push(
    run: Annotated[Path, typer.Argument(help="Model folder written by train.")],
    repository: Annotated[str, typer.Argument(help="ORG/NAME on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    metrics: Annotated[
        Path | None, typer.Option("--metrics", help="metrics.json of an evaluation, for the card.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload a model folder, with its card, to the Hugging Face hub.

    Example: rs-cache push runs/bl me/street-regions --metrics eval/metrics.json
    """
    from pipeline.convert import push as upload

    upload(run, repository, private=private, metrics=metrics, as_json=as_json)
