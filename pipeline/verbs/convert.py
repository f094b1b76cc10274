"""`rs-cache import`, `export` and `push`: heads from and to elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from pipeline import names
from pipeline.options import option, verb


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Whose head, and the networks that it was trained on."""

    checkpoint: Path = option(..., "CHECKPOINT", "A released file of RegionSpot, .pth or .safetensors.")
    backbone: names.Backbone = names.backbone_option(...)
    out: Path | None = option(
        None, "--out", "Model folder; rs-cache-data/runs/CHECKPOINT if not given.", "DIR"
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which trained head."""

    run: Path = option(..., "RUN", "Model folder written by train.")


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ModelSettings):
    """Where it goes."""

    out: Path = option(..., "--out", "FILE.pth to write.", "FILE")


@dataclass(frozen=True, kw_only=True)
class PushSettings(ModelSettings):
    """Where it goes, and how."""

    repository: str = option(..., "REPOSITORY", "ORG/NAME on the Hugging Face hub.")
    private: bool = option(False, "--private", "Make a new repository private.")
    metrics: Path | None = option(None, "--metrics", "metrics.json of an evaluation, for the card.", "FILE")


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
