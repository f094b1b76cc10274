"""`rs-cache explore`, and which regions it and `export` are about."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveInt

from pipeline import names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from pipeline.verbs.evaluate import RECOGNISERS
from regionspot_cache.datasets.catalog import DATASET_NAMES
from regionspot_cache.errors import MissingFileError, UsageError, one_of
from regionspot_cache.models.hub import CONFIG_FILE


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """Which regions, embedded and named by what."""

    checkpoint: names.Model = names.checkpoint_option(WORKPLACE / "runs" / "shapes")
    method: str = option(
        "regionspot",
        "--method",
        "What embeds and names regions, as of eval; or PART/ARRAY, an array by box of the cache.",
        "NAME",
        lambda: RECOGNISERS,
    )
    backbone: names.Backbone | None = names.backbone_option(None)
    """The checkpoint's own when not given."""
    classes: str | None = option(
        None,
        "--classes",
        "Names separated by commas, or a file with one a line; those of the annotations if not given.",
        "NAMES",
    )
    images: Path | None = names.images_option(None)
    limit: PositiveInt | None = names.limit_option(None)
    map: Literal["pca", "umap"] = option("pca", "--map", "How the map of regions is laid out.")
    neighbours: NonNegativeInt = 10
    """Nearest regions of each; found exactly, in time that grows with the square of the regions."""
    top: PositiveInt = 5
    """Names of a region that are kept."""
    cache: str | None = None
    """Cached features of annotations; those in `rs-cache-data/caches` of the same pictures if not given."""
    data: Path = WORKPLACE / "datasets"
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if "/" not in self.method and self.method not in RECOGNISERS:
            expected = f"{one_of(self.method, RECOGNISERS).rstrip('.')}, or PART/ARRAY of the cache."
            raise UsageError(f"--method {self.method}.", expected)

    @property
    def array(self) -> str | None:
        """PART/ARRAY where the embeddings are an array of the cache."""
        return self.method if "/" in self.method else None


def is_cache(source: str) -> bool:
    """Whether a source is a folder or URL, not annotations; a name of the catalog never is a folder."""
    named = source.partition(":")[0] in DATASET_NAMES
    return "://" in source or (not named and Path(source).is_dir())


def check_source(source: str) -> None:
    """Refuses what is neither a cache nor annotations. MissingFileError, UsageError."""
    if is_cache(source):
        if (Path(source) / CONFIG_FILE).is_file():
            found = f"{source} is a trained head, which has no regions."
            raise UsageError(found, "A cache, or annotations.", "--checkpoint for the head")
        return
    path = Path(source)
    if path.suffix.lower() != ".json" and len(path.parts) > 1 and not path.exists():
        raise MissingFileError(
            f"There is no cache at {source}.",
            "The folder of a cache, or annotations: NAME, NAME:SPLIT or FILE.json.",
            "rs-cache extract",
        )
    names.check_dataset(source)


def named_networks(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    """Refuses a source that is none, and networks that nobody named for annotations of photographs."""
    source = said.get("source")
    if isinstance(source, str):
        check_source(source)
        named = bool({"backbone", "checkpoint"} & set(said)) or "/" in str(said.get("method", ""))
        if not named and not is_cache(source):  # of a cache the networks are compared
            require_named_backbone(source, "--checkpoint DIR")
    return {}


def warn_of_networks(source: str, settings: RegionSettings) -> None:
    """Says so where the built-in networks are about to see photographs."""
    if not settings.array and not is_cache(source):
        warn_of_photographs(settings.backbone or settings.checkpoint, settings.images or source)


@dataclass(frozen=True, kw_only=True)
class ExploreSettings(RegionSettings):
    """The page."""

    source: str = option(..., "SOURCE", "CACHE, or annotations: NAME, NAME:SPLIT or FILE.json.")
    out: Path | None = option(None, "--out", "Page to write; SOURCE-regions.html if not given.", "FILE")
    serve: bool = option(False, "--serve", "Serve all regions to this machine instead, until Ctrl-C.")
    port: NonNegativeInt = 0
    """Of --serve; 0 takes a free one."""
    save: Path | None = option(
        None, "--save", "COCO file for what --serve is told; SOURCE-reviewed.json if not given.", "FILE"
    )
    most: PositiveInt = 5000
    """Regions of a written page; of more, whole images are drawn by `seed`."""
    page_megabytes: PositiveInt = 30
    """Of pictures in a written page; images beyond are listed without their picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.serve and self.out is not None:
            raise UsageError("--serve with --out.", "A page that is written, or one that is served.")
        if self.save is not None and not self.serve:
            raise UsageError("--save without --serve.", "A written page offers its review as a download.")


@verb(ExploreSettings, defaults=named_networks)
def explore(settings: ExploreSettings, *, as_json: bool) -> None:
    """Look at regions: a page with their map, pictures, nearest regions and doubtful names, to be reviewed.

    Example: rs-cache explore rs-cache-data/caches/shapes-train-tiny

    Example: rs-cache explore labels.json --checkpoint runs/bl --serve
    """
    warn_of_networks(settings.source, settings)
    from pipeline.explore import explore as run

    run(settings, as_json=as_json)
