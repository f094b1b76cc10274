"""`rs-cache propose` and `concepts`: captioned images to regions, captions to a vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveInt

from pipeline import names
from pipeline.names import require_named_backbone, warn_of_photographs
from pipeline.options import option, verb
from pipeline.places import WORKPLACE
from regionspot_cache.errors import UsageError

SHAPES = "shapes:train"


def _check_source(source: str) -> str:
    from regionspot_cache.datasets.caption_sources import check_source

    check_source(source)
    return source


def _check_ending(out: Path | None, ending: str) -> None:
    if out is not None and out.suffix != ending:
        raise UsageError(f"--out {out}.", f"A file that ends in {ending}.")


@dataclass(frozen=True, kw_only=True)
class ProposeSettings:
    """Which images, which boxes, which file."""

    source: Annotated[str, AfterValidator(_check_source)] = option(
        SHAPES,
        "DATA",
        "Captions (COCO-style FILE.json, FILE.tsv, a WebDataset FILE.tar or a folder of them) or a dataset "
        "of the catalog.",
        complete=names.datasets,
    )
    images: Path | None = names.images_option(None)
    """For tar files the folder that images are unpacked into."""
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    backbone: names.Backbone = names.backbone_option("tiny")
    """Its proposer makes the boxes."""
    out: Path | None = option(
        None, "--out", "FILE.json to write; rs-cache-data/captions/DATA-regions.json if not given.", "FILE"
    )
    top_n: PositiveInt = option(300, "--top-n", "Most proposals of an image.")
    nms: Annotated[float, Field(gt=0, le=1)] = 0.5
    """IoU above which the lower-scored of two proposals is dropped; RegionCLIP's."""
    exclude: Path | None = option(
        None, "--exclude", "Annotations whose images are left out, such as those of LVIS val.", "FILE"
    )
    limit: PositiveInt | None = names.limit_option(None)
    seed: int = 0
    """Seed of the sample."""
    decode_threads: PositiveInt = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        _check_ending(self.out, ".json")


@dataclass(frozen=True, kw_only=True)
class ConceptSettings:
    """The vocabulary of which captions."""

    source: Annotated[str, AfterValidator(_check_source)] = option(
        SHAPES,
        "CAPTIONS",
        "COCO-style FILE.json, FILE.tsv, a WebDataset FILE.tar or a folder of them, or shapes.",
        complete=names.datasets,
    )
    data: Path = WORKPLACE / "datasets"
    """Folder of the catalog's datasets."""
    out: Path | None = option(
        None, "--out", "FILE.txt to write; rs-cache-data/captions/CAPTIONS-concepts.txt if not given.", "FILE"
    )
    min_images: PositiveInt = option(
        100, "--min-images", "Least number of images that a noun phrase must occur in."
    )
    overlap: names.Dataset | None = option(
        None,
        "--overlap",
        "Say which class names of a dataset are in the pool.",
        "ANNOTATIONS",
        names.datasets,
    )

    def __post_init__(self) -> None:
        _check_ending(self.out, ".txt")


def _known(source: str) -> str | Path:
    return source if source.partition(":")[0] in names.SHAPES else Path(source)


def _named_backbone(said: Mapping[str, Any], _: Path | None) -> Mapping[str, Any]:
    if "backbone" not in said and "source" in said:
        source = str(said["source"])
        _check_source(source)
        require_named_backbone(_known(source))
    return {}


@verb(ProposeSettings, defaults=_named_backbone)
def propose(settings: ProposeSettings, *, as_json: bool) -> None:
    """Propose regions of images with captions, into a file that extract takes. Resumes by default.

    Example: rs-cache propose captions_train2017.json --backbone bl --exclude lvis_v1_val.json
    """
    warn_of_photographs(settings.backbone, _known(settings.source))
    from pipeline.captions import propose as run

    run(settings, as_json=as_json)


@verb(ConceptSettings)
def concepts(settings: ConceptSettings, *, as_json: bool) -> None:
    """Make a concept pool of the noun phrases in captions.

    Example: rs-cache concepts captions_train2017.json --out pool.txt --overlap lvis_v1_val.json
    """
    from pipeline.captions import concepts as run

    run(settings, as_json=as_json)
