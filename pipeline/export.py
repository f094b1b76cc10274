"""`rs-cache export`: regions as Parquet, a head as ONNX or as an official checkpoint."""

from pathlib import Path
from typing import Any

from pipeline import console
from pipeline.regions import find_regions
from pipeline.verbs.export import ExportSettings
from regionspot_cache.backbones import ClipSpec, load_preset
from regionspot_cache.models.hub import BACKBONE_FILE
from regionspot_cache.models.official import export_official, released_backbone
from regionspot_cache.models.onnx_head import export_onnx
from regionspot_cache.reporting.regions_table import region_table, write_regions
from regionspot_cache.training.head import RegionHead, read_model_config


def export_regions(settings: ExportSettings, *, as_json: bool = False) -> None:
    """Writes the table of regions of a cache or of annotations; errors as of `find_regions`."""
    found = find_regions(settings.source, settings)
    table = region_table(found.regions, found.facts)
    write_regions(table, settings.out)
    facts: dict[str, Any] = {"file": str(settings.out), **found.facts, "bytes": settings.out.stat().st_size}
    text = (
        f"Wrote {facts['regions']:,} regions of {facts['images']:,} images with embeddings of "
        f"{found.regions.embeddings.shape[1]} numbers to {settings.out} ({console.size(facts['bytes'])})."
    )
    console.result(facts, text, as_json=as_json)


def export_head(run: Path, out: Path, *, as_json: bool = False) -> None:
    """A trained head as a file of another format, by its ending.

    UsageError for an official checkpoint of other networks than the official code has, and for ONNX where
    its packages are not installed; IdentityError as of `export_official`.
    """
    head = RegionHead.from_pretrained(run)
    if out.suffix == ".onnx":
        config = read_model_config(run)
        out.parent.mkdir(parents=True, exist_ok=True)
        export_onnx(head, out, {key: config[key] for key in ("inputs", "text") if key in config})
    else:
        _check_official(run)
        out.parent.mkdir(parents=True, exist_ok=True)
        export_official(head, out)
    facts = {"file": str(out), "tensors": len(head.state_dict())}
    console.result(facts, f"Wrote {facts['tensors']} tensors to {out}.", as_json=as_json)


def _check_official(run: Path) -> None:
    spec = load_preset(run / BACKBONE_FILE, from_model_folder=True)
    released_backbone(spec)
    if (resize := spec.first(ClipSpec).resize) != "bilinear-noantialias":
        console.warn(f"the official code squashes images without antialias; this head has seen them {resize}")
