"""`rs-cache import`, `export` and `push`: heads from and to elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.options import Option
from pipeline.shared_options import Backbone
from pipeline.verbs.command import verb


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """`rs-cache import`."""

    checkpoint: Annotated[
        Path, Option(name="CHECKPOINT", help="A released file of RegionSpot, .pth or .safetensors.")
    ]
    backbone: Backbone
    out: (
        Annotated[
            Path,
            Option(
                name="--out", metavar="DIR", help="Model folder; rs-cache-data/runs/CHECKPOINT if not given."
            ),
        ]
        | None
    ) = None


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which trained head."""

    run: Annotated[Path, Option(name="RUN", help="Model folder written by train.")]


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ModelSettings):
    """`rs-cache export`."""

    out: Annotated[Path, Option(name="--out", metavar="FILE", help="FILE.pth to write.")]


@dataclass(frozen=True, kw_only=True)
class PushSettings(ModelSettings):
    """`rs-cache push`."""

    repository: Annotated[str, Option(name="REPOSITORY", help="ORG/NAME on the Hugging Face hub.")]
    private: Annotated[bool, Option(name="--private", help="Make a new repository private.")] = False
    metrics: (
        Annotated[
            Path,
            Option(name="--metrics", metavar="FILE", help="metrics.json of an evaluation, for the card."),
        ]
        | None
    ) = None


@verb(ImportSettings)
def import_checkpoint(settings: ImportSettings, *, as_json: bool) -> None:
    """Make a model folder of a checkpoint that RegionSpot's authors released.

    Example: rs-cache import regionspot_bl_336.pth --backbone bl336
    """
    from pipeline.convert import import_checkpoint as run

    run(settings.checkpoint, settings.backbone, settings.out, as_json=as_json)


@verb(ExportSettings)
def export_checkpoint(settings: ExportSettings, *, as_json: bool) -> None:
    """Write a head as a checkpoint that RegionSpot's own code loads.

    Example: rs-cache export runs/bl --out bl.pth
    """
    from pipeline.convert import export_checkpoint as run

    run(settings.run, settings.out, as_json=as_json)


@verb(PushSettings)
def push(settings: PushSettings, *, as_json: bool) -> None:
    """Upload a model folder, with its card, to the Hugging Face hub.

    Example: rs-cache push runs/bl me/street-regions --metrics eval/metrics.json
    """
    from pipeline.convert import push as run

    run(
        settings.run,
        settings.repository,
        private=settings.private,
        metrics=settings.metrics,
        as_json=as_json,
    )
