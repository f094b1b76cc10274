"""`rs-cache import` and `push`: heads from and to elsewhere."""

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
class PushSettings:
    """Which trained head, where it goes, and how."""

    run: Path = option(..., "RUN", "Model folder written by train.")
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
