"""`rs-cache export`: regions as a table, a head for other programs; the ending of the file says which."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pipeline.options import option, verb
from pipeline.verbs.explore import RegionSettings, named_networks, warn_of_networks
from regionspot_cache.errors import UsageError, one_of
from regionspot_cache.models.hub import model_folder

TABLE = ".parquet"
HEADS = (".pth", ".onnx")


@dataclass(frozen=True, kw_only=True)
class ExportSettings(RegionSettings):
    """What is written where; the settings of regions count for a table alone."""

    source: str = option(
        ...,
        "SOURCE",
        "For .parquet a CACHE, or annotations: NAME or FILE.json; else a RUN, written by train.",
    )
    out: Path = option(
        ..., "--out", "FILE.parquet of regions, or of a head FILE.onnx or (official) FILE.pth.", "FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.out.suffix not in (TABLE, *HEADS):
            raise UsageError(f"--out {self.out}.", one_of(self.out.suffix, (TABLE, *HEADS)))
        if self.out.suffix in HEADS:
            for one in fields(RegionSettings):
                if getattr(self, one.name) != one.default:
                    raise UsageError(
                        f"{one.name} is given for --out {self.out}.", f"It is for {TABLE} alone."
                    )


def _named_networks(said: Mapping[str, Any], config: Path | None) -> Mapping[str, Any]:
    return named_networks(said, config) if str(said.get("out", "")).endswith(TABLE) else {}


@verb(ExportSettings, defaults=_named_networks)
def export(settings: ExportSettings, *, as_json: bool) -> None:
    """Write regions with embeddings and names as Parquet, or a head as ONNX or an official checkpoint.

    Example: rs-cache export rs-cache-data/caches/shapes-train-tiny --out regions.parquet

    Example: rs-cache export runs/bl --out bl.onnx
    """
    if settings.out.suffix in HEADS:
        from pipeline.export import export_head

        export_head(model_folder(settings.source), settings.out, as_json=as_json)
        return
    warn_of_networks(settings.source, settings)
    from pipeline.export import export_regions

    export_regions(settings, as_json=as_json)
